"""Build the Debian package, with dpkg-deb alone: `python conf/debian/build.py [amd64 | arm64]…`, or `make deb`.

One package for an architecture serves Debian 12 and 13 and Ubuntu 24.04 and 26.04. It has its own virtual environment
in /opt/in-jumpcloud, whose interpreter is the /usr/bin/python3 of the system, and extension modules for each version of
Python below. Their names contain the version, so all are in one directory, and an upgrade of the system to the next
Python needs no other package.

The same sources and the same requirements.txt give the same bytes. SOURCE_DATE_EPOCH is the time of all files; without
it, that of the last commit.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
"""`Depends:` in the file control has the same limits."""
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Debian's architectures, as the names of wheels have them."""
PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
"""Wheels for a glibc that every system above has."""
HOME = "opt/in-jumpcloud"
UNITS = ("in-jumpcloud.service", "in-jumpcloud-geoip.service", "in-jumpcloud-geoip.timer")
FILES = {
    "conf/systemd/jumpcloud.yaml": "etc/in-jumpcloud/jumpcloud.yaml",
    **{f"conf/systemd/{unit}": f"usr/lib/systemd/system/{unit}" for unit in UNITS},
    "conf/systemd/in-jumpcloud.sysusers": "usr/lib/sysusers.d/in-jumpcloud.conf",
    "conf/debian/copyright": "usr/share/doc/in-jumpcloud/copyright",
    "README.md": "usr/share/doc/in-jumpcloud/README.md",
    "conf": "usr/share/doc/in-jumpcloud/conf",
}
"""Source in the repository → place in the package."""
NOT_ON_A_HOST = ("debian", "docker", "helm", "kubernetes", "*.png", "requirements.txt")
SCRIPT = f"""\
#!/{HOME}/bin/python3
import sys

from in_jumpcloud.__main__ import main

sys.exit(main())
"""


def main() -> int:
    """Build a package for each architecture that is named, by default for all."""
    parser = argparse.ArgumentParser(description="Build the Debian package.")
    parser.add_argument("architectures", nargs="*", metavar="architecture", help=" or ".join(MACHINES))
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIRECTORY")
    arguments = parser.parse_args()
    architectures = arguments.architectures or list(MACHINES)
    if unknown := set(architectures) - MACHINES.keys():
        parser.error(f"unknown architecture: {', '.join(sorted(unknown))}; known: {', '.join(MACHINES)}")
    if not shutil.which("dpkg-deb"):
        parser.error("dpkg-deb is not installed; it is in the package dpkg")
    arguments.output.mkdir(exist_ok=True)
    moment = source_date()
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder) / "wheels"
        pip("wheel", "--no-deps", "--wheel-dir", wheels, ROOT)
        own = list(wheels.glob("*.whl"))
        for architecture in architectures:
            work = Path(folder) / architecture
            print(build(architecture, [*own, *download(architecture, work)], work / "tree", arguments.output, moment))
    return 0


def source_date() -> int:
    """The time of all files, in epoch seconds."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else int((ROOT / "CHANGELOG.md").stat().st_mtime)


def pip(*arguments: object) -> None:
    """Run pip."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    subprocess.run(command, check=True)


def build(architecture: str, wheels: list[Path], tree: Path, output: Path, moment: int) -> Path:
    """Build the package of one architecture from its files in `tree`, and return its path in `output`."""
    packages = tree / HOME / "lib" / "python3" / "site-packages"
    packages.mkdir(parents=True)
    for wheel in wheels:
        unpack(wheel, packages)
    make_environment(tree)
    copy_files(tree)
    settle(tree, moment)
    version = re.sub(r"(?=(?:a|b|rc)\d)", "~", read_version())  # 1.0rc1 comes before 1.0
    write_control(tree, architecture, version)
    settle(tree, moment)
    package = output / f"in-jumpcloud_{version}_{architecture}.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(tree), str(package)]
    environ = {**os.environ, "SOURCE_DATE_EPOCH": str(moment)}
    subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)
    return package


def download(architecture: str, folder: Path) -> list[Path]:
    """The wheels of requirements.txt for every version of Python, each with a digest that the file names."""
    platforms = [f"--platform={each}_{MACHINES[architecture]}" for each in PLATFORMS]
    requirements = ["--no-deps", "--require-hashes", "--requirement", ROOT / "conf" / "requirements.txt"]

    def download_for(python: str) -> None:
        limits = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *platforms]
        pip("download", "--dest", folder / python, *requirements, *limits)

    with ThreadPoolExecutor() as pool:  # pip waits for the package index most of the time
        list(pool.map(download_for, PYTHONS))
    return sorted(folder.glob("*/*.whl"))


def unpack(wheel: Path, packages: Path) -> None:
    """Unpack a wheel over those before it.

    Wheels of one distribution differ in their extension modules, whose names differ, and in their metadata.
    """
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            target = packages / name
            if name.endswith(("/RECORD", "/")):  # RECORD is pip's; here dpkg owns the files
                continue
            content = archive.read(name)
            if target.exists() and ".dist-info/" not in name and target.read_bytes() != content:
                sys.exit(f"{wheel.name}: {name} differs from that of another wheel")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.write_bytes(content)


def make_environment(tree: Path) -> None:
    """Make the virtual environment around the unpacked wheels, and the command."""
    home = tree / HOME
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    for python in PYTHONS:
        (home / "lib" / f"python{python}").symlink_to("python3")
    (home / "bin").mkdir()
    (home / "bin" / "python3").symlink_to("/usr/bin/python3")
    (home / "bin" / "in-jumpcloud").write_text(SCRIPT)
    (home / "bin" / "in-jumpcloud").chmod(0o755)
    (tree / "usr" / "bin").mkdir(parents=True)
    (tree / "usr" / "bin" / "in-jumpcloud").symlink_to(f"/{HOME}/bin/in-jumpcloud")


def copy_files(tree: Path) -> None:
    """Copy what the package has besides the program."""
    for source, place in FILES.items():
        target = tree / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns(*NOT_ON_A_HOST))
        else:
            shutil.copyfile(ROOT / source, target)
    changes = gzip.compress((ROOT / "CHANGELOG.md").read_bytes(), mtime=0)
    (tree / "usr/share/doc/in-jumpcloud/changelog.gz").write_bytes(changes)


def write_control(tree: Path, architecture: str, version: str) -> None:
    """Write the control files. Everything in /etc is a conffile: dpkg keeps what an administrator changed."""
    files = [path for path in sorted(tree.rglob("*")) if path.is_file() and not path.is_symlink()]
    names = {path: str(path.relative_to(tree)) for path in files}
    size = sum(path.stat().st_size for path in files) // 1024
    control = tree / "DEBIAN"
    control.mkdir()
    text = (HERE / "control").read_text()
    (control / "control").write_text(text.format(version=version, architecture=architecture, size=size))
    (control / "conffiles").write_text("".join(f"/{name}\n" for name in names.values() if name.startswith("etc/")))
    sums = (f"{hashlib.md5(path.read_bytes()).hexdigest()}  {name}\n" for path, name in names.items())  # noqa: S324
    (control / "md5sums").write_text("".join(sums))
    for script in ("postinst", "prerm", "postrm"):
        shutil.copyfile(HERE / script, control / script)
        (control / script).chmod(0o755)


def settle(tree: Path, moment: int) -> None:
    """Give every file the same time and mode, whoever builds the package."""
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (moment, moment), follow_symlinks=False)


def read_version() -> str:
    """The version of the package."""
    text = (ROOT / "plugin" / "in_jumpcloud" / "__init__.py").read_text()
    match = re.search(r'__version__ = "(.+)"', text)
    if not match:
        sys.exit("plugin/in_jumpcloud/__init__.py: there is no __version__")
    return match[1]


if __name__ == "__main__":
    sys.exit(main())
