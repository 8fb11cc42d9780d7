"""The Debian package: the same bytes each time, with every file and extension module, and a program that starts.

`make package-trial` installs, upgrades, removes and purges it in a clean root file system.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from support.command import ROOT

from in_jumpcloud import __version__

FOLDER = ROOT / "conf" / "debian"
LOCK = ROOT / "conf" / "requirements.txt"
EXTENSIONS = ("maxminddb", "msgpack", "msgspec", "psycopg_binary", "yaml")
PYTHON = Path("/usr/bin/python3")
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
DPKG = shutil.which("dpkg-deb")
needs_dpkg = pytest.mark.skipif(DPKG is None, reason="no dpkg-deb (package dpkg)")


def output(*command: object) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_requirements_are_those_of_the_project() -> None:
    """Each dependency is pinned to a version that pyproject.toml allows, and every pin has digests."""
    entries = re.split(r"\n(?=\w)", re.sub(r"^#.*\n", "", LOCK.read_text(), flags=re.MULTILINE))
    pins = dict(entry.split()[0].split("==") for entry in entries)
    assert all("--hash=sha256:" in entry for entry in entries)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for each in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["postgresql"]]):
        assert each.specifier.contains(pins[each.name.lower()]), f"{each}: run make lock"


def test_the_versions_of_python_agree() -> None:
    """Those that the package has modules for, those that it depends on, and those that the project supports."""
    (versions,) = re.findall(r"^PYTHONS = \((.*)\)$", (FOLDER / "build.py").read_text(), re.MULTILINE)
    built = re.findall(r"\d\.\d+", versions)
    first, after = re.findall(r"python3 \([>=<]+ (\S+)\)", (FOLDER / "control").read_text())
    assert (first, after) == (built[0], f"3.{int(built[-1].split('.')[1]) + 1}")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [f"Programming Language :: Python :: {each}" in project["classifiers"] for each in built] == [True] * 4


def load_builder() -> Any:
    """The script that builds the packages, as a module."""
    spec = importlib.util.spec_from_file_location("build_debian_package", FOLDER / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_dpkg
@pytest.mark.timeout(1200)  # pip asks the package index about 100 times
def test_the_packages(tmp_path: Path) -> None:
    """Both have the units, the user, the configuration as a conffile and modules for every Python; amd64 is tried."""
    builder = load_builder()
    builder.pip("wheel", "--no-deps", "--wheel-dir", tmp_path / "own", ROOT)
    wheels = {
        each: [*(tmp_path / "own").iterdir(), *builder.download(each, tmp_path / each)] for each in builder.MACHINES
    }

    def build(architecture: str, name: str) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        tree = tmp_path / name / architecture
        return Path(builder.build(architecture, wheels[architecture], tree, tmp_path / name, 1_700_000_000))

    built = {each: build(each, "first") for each in ("amd64", "arm64")}
    amd64 = built["amd64"]
    assert amd64.read_bytes() == build("amd64", "second").read_bytes()

    for architecture, machine in (("amd64", "x86_64"), ("arm64", "aarch64")):
        fields = output(DPKG, "--field", built[architecture], "Package", "Version", "Architecture").splitlines()
        assert fields == ["Package: in-jumpcloud", f"Version: {__version__}", f"Architecture: {architecture}"]
        assert output(DPKG, "--info", built[architecture], "conffiles") == "/etc/in-jumpcloud/jumpcloud.yaml\n"
        listing = [line.split() for line in output(DPKG, "--contents", built[architecture]).splitlines()]
        assert {fields[1] for fields in listing} == {"root/root"}
        assert {fields[0] for fields in listing} == {"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x", "lrwxrwxrwx"}
        names = {fields[5].removeprefix(".") for fields in listing}
        units = [
            f"/usr/lib/systemd/system/{path.name}"
            for pattern in ("*.service", "*.timer")
            for path in (ROOT / "conf" / "systemd").glob(pattern)
        ]
        assert names >= {"/usr/bin/in-jumpcloud", "/usr/lib/sysusers.d/in-jumpcloud.conf", *units}
        modules = {re.sub(r".*/site-packages/(\w+)/.*cpython-(\d+)-(\w+)-.*", r"\1 \2 \3", name) for name in names}
        assert modules >= {f"{name} {python} {machine}" for name in EXTENSIONS for python in (311, 312, 313, 314)}

    output(DPKG, "--extract", amd64, tmp_path / "root")
    home = tmp_path / "root" / "opt" / "in-jumpcloud"
    if PYTHON.exists() and output("dpkg", "--print-architecture") == "amd64\n":
        code = (
            "import in_jumpcloud, maxminddb.extension, msgspec, psycopg, sys; print(in_jumpcloud.__file__, sys.prefix)"
        )
        package, prefix = output(home / "bin" / "python3", "-c", code).split()
        assert Path(package).is_relative_to(home)
        assert Path(prefix) == home
        command = home / "bin" / "in-jumpcloud"
        assert output(home / "bin" / "python3", command, "--version") == f"in-jumpcloud {__version__}\n"
        assert "client.geo.city_name" in output(home / "bin" / "python3", command, "fields", "--format", "csv")


@pytest.mark.skipif(SHELLCHECK is None, reason="no shellcheck")
def test_the_scripts() -> None:
    """A shell checker accepts the maintainer scripts and the trial."""
    scripts = [*(FOLDER / name for name in ("postinst", "prerm", "postrm")), ROOT / "tests/tools/package_trial.sh"]
    output(SHELLCHECK, *scripts)
