"""The measured processes, and the processes that serve them."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple, Self

ROOT = Path(__file__).parents[2]
KEY = "simulated-key"


class Failed(Exception):
    """A process did not do its work."""


class Cost(NamedTuple):
    """The cost of one process: CPU seconds, wall seconds, peak memory in bytes (0 if unknown)."""

    cpu: float
    wall: float
    peak: int


class Version(NamedTuple):
    """An installed version of the plugin: its source tree, and the directory of its commands."""

    root: Path
    bin: Path

    @property
    def command(self) -> Path:
        """Its `in-jumpcloud`."""
        return self.bin / "in-jumpcloud"

    @property
    def python(self) -> Path:
        """The Python that it is installed in."""
        return self.bin / "python"


HERE = Version(ROOT, Path(sys.executable).parent)


def install(commit: str, directory: Path) -> Version:
    """Install this commit in an environment of its own, below `directory`.

    Raises:
        Failed: there is no such commit, or it cannot be installed.
    """
    root = directory / "before"
    root.mkdir()
    archive = directory / "before.tar"
    commands: list[list[object]] = [
        ["git", "-C", ROOT, "archive", "--output", archive, commit],
        ["tar", "-x", "-C", root, "-f", archive],
        [sys.executable, "-m", "venv", root / ".venv"],
        [root / ".venv" / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", root],
    ]
    for command in commands:
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)  # noqa: S603 - our own
        if done.returncode:
            raise Failed(f"{commit} cannot be installed: {' '.join(map(str, command))}: {done.stderr.strip()[-1000:]}")
    return Version(root, root / ".venv" / "bin")


def environment() -> dict[str, str]:
    """The environment of every process: the key, the path of our modules, and no proxy, since all is on loopback."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, "JUMPCLOUD_API_KEY": KEY, "PYTHONPATH": str(ROOT / "tests")}


def started(command: Sequence[object], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a command to measure; its output goes to `log`."""
    return subprocess.Popen(  # noqa: S603 - our own commands
        [*map(str, command)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, env=environment()
    )


def ended(process: subprocess.Popen[bytes], began: float) -> tuple[int, Cost]:
    """Wait for the process: its exit code, and its cost since `began`, in monotonic seconds.

    The kernel includes the memory of the parent at the fork, so a peak below our own is unknown.
    """
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    cost = Cost(usage.ru_utime + usage.ru_stime, time.monotonic() - began, usage.ru_maxrss * 1024)
    if cost.peak <= _our_peak():
        cost = cost._replace(peak=0)
    return process.returncode, cost


def _our_peak() -> int:
    """Our own peak memory in bytes. getrusage would include the time before exec."""
    try:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    except (OSError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(line.split()[1]) * 1024


def measured(command: Sequence[object], directory: Path) -> Cost:
    """Run a command to its end.

    Raises:
        Failed: the exit code is not 0.
    """
    log = directory / "log"
    with log.open("wb") as file:
        began = time.monotonic()
        code, cost = ended(started(command, file), began)
    if code:
        raise Failed(f"{Path(str(command[0])).name} ended with exit code {code}: {log.read_text()[-2000:]}")
    return cost


def acknowledged(state: Path) -> int:
    """The number of acknowledged events in a state."""
    with contextlib.closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT sum(acknowledged) FROM stream").fetchone()[0])


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a running process so far, from its CPU clock in Linux."""
    return time.clock_gettime((~pid << 3) | 2)


def peak_bytes(pid: int) -> int:
    """Peak memory of a running process so far, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


class Helper:
    """One of our modules as a helper process; its first line of output is its port."""

    def __init__(self, module: str, *arguments: object) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", f"bench.{module}", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment(),
        )
        self.port = int(self._line())

    def ask(self, question: int) -> int:
        """Send a line and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{question}\n".encode())
        self._process.stdin.flush()
        return int(self._line())

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"{self._process.args!r} ended unexpectedly")
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its standard input, which ends it


def write_events(directory: Path, count: int, *, bytes_each: int = 0) -> Path:
    """Make a file of events in a separate process, see bench.events.write; returns its path."""
    path = directory / f"events-{count}-{bytes_each}"
    subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "bench.events", path, str(count), "--bytes-each", str(bytes_each)],
        cwd=ROOT,
        env=environment(),
        check=True,
    )
    return path


def plugin(
    url: str, port: int, directory: Path, *arguments: str, version: Version = HERE, **overrides: object
) -> list[object]:
    """The arguments of the plugin with default settings, except for addresses, paths and the rate limit.

    The default of 5 requests a second is JumpCloud's limit, not the plugin's. An override is `section__key=value`.
    """
    values = {
        "jumpcloud.url": url,
        "jumpcloud.requests_per_second": 1000,
        "http.listen": "127.0.0.1:0",
        "forward.servers": [{"host": "127.0.0.1", "port": port}],
        "state.path": str(directory / "state.db"),
        **{name.replace("__", "."): value for name, value in overrides.items()},
    }
    options = [part for name, value in values.items() for part in ("-o", f"{name}={json.dumps(value)}")]
    return ["run", "-c", version.root / "conf" / "jumpcloud.yaml", *options, *arguments]
