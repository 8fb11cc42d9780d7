"""What passes, or what somebody else can repair, never ends the process: it waits, or does without, visibly."""

from __future__ import annotations

import http.client
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import certifi
import pytest
from support.command import ROOT, Command, wait_until

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.state.sqlite.store import SqliteStore
from in_jumpcloud.timestamps import MINUTE_MS, now_ms

CITY = ROOT / "geoip" / "demo-city.mmdb"


@pytest.fixture
def api() -> Iterator[SimulatedApi]:
    """JumpCloud with a hundred events a second, from a minute ago on and without end."""
    with SimulatedApi(EventSource(start_ms=now_ms() - MINUTE_MS, per_minute=6000)) as api:
        yield api


@pytest.fixture
def receiver() -> Iterator[SimulatedReceiver]:
    """A receiver that keeps the records."""
    with SimulatedReceiver() as receiver:
        yield receiver


NO_PRIVILEGES = """
import ctypes
for number in range(64):
    ctypes.CDLL(None).prctl(24, number, 0, 0, 0)  # PR_CAPBSET_DROP: without capabilities file modes bind root too
"""
FEW_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (7, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
"""
SMALL_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
"""


class Running:
    """A plugin that polls ten times a second."""

    def __init__(self, command: Command, api: SimulatedApi, receiver: SimulatedReceiver, **settings: object) -> None:
        self._command = command
        self._receiver = receiver
        values = {"jumpcloud__interval": "100ms", "jumpcloud__lag": "0s", "jumpcloud__overlap": "1m", **settings}
        self.settings = command.settings(api, receiver, **values)
        self.process: subprocess.Popen[bytes]

    def start(self, *more: str, prelude: str = "", **environ: str) -> None:
        """Start it, with more options."""
        self.process = self._command.start("run", *self.settings, *more, prelude=prelude, **environ)

    def wait_for(self, *texts: str) -> None:
        """Wait until all of the texts are in the log, while the process runs."""
        wait_until(lambda: self._ended() or all(text in self.log for text in texts))

    def next_records(self, count: int = 100) -> list[dict[str, Any]]:
        """The next records that arrive."""
        before = len(self._receiver.records)
        wait_until(lambda: self._ended() or len(self._receiver.records) >= before + count)
        return [each.record for each in self._receiver.records[before:]]

    def readiness(self, path: str = "/readyz") -> tuple[int, str]:
        """The answer of /readyz, whose address is in the log."""
        address = self.log.partition("status page at http://")[2].partition("/")[0]
        connection = http.client.HTTPConnection(address, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    @property
    def log(self) -> str:
        """The log so far."""
        return self._command.log.read_text()

    def end(self) -> None:
        """Stop it: it ends soon, and as intended."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 0, self.log

    def _ended(self) -> bool:
        assert self.process.poll() is None, self.log
        return False


def _swap(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def test_a_database_that_is_cut_in_place(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path
) -> None:
    """A database that is emptied while it is in use stays in use; at a restart events are delivered without it.

    Then /readyz names it, until the file is whole again.
    """
    database = tmp_path / "city.mmdb"
    database.write_bytes(CITY.read_bytes())
    running = Running(
        command, api, receiver, geoip__city=str(database), geoip__asn=None, geoip__cache=1, http__listen="127.0.0.1:0"
    )
    running.start()
    assert any("client" in record and "geo" in record["client"] for record in running.next_records())

    os.truncate(database, 0)

    running.wait_for(f"geoip.city: {database} has changed: not a MaxMind database, or truncated")
    assert any("geo" in record.get("client", {}) for record in running.next_records())
    running.end()
    command.log.write_text("")
    running.start()
    running.wait_for(f"geoip.city: {database}: not a MaxMind database, or truncated; events are delivered without")
    assert not any("geo" in record.get("client", {}) for record in running.next_records())
    status, reasons = running.readiness()
    assert status == 503
    trouble = f"trouble: geoip.city: {database}: not a MaxMind database, or truncated; "
    assert any(line.startswith(trouble) for line in reasons.splitlines()), reasons

    _swap(database, CITY.read_bytes())

    running.wait_for(f"geoip.city: {database} is in use")
    assert any("geo" in record.get("client", {}) for record in running.next_records())
    assert "trouble: " not in running.readiness()[1]
    assert running.log.count("not a MaxMind database") == 2  # when it begins, and when it ends
    running.end()


def _lift(process: subprocess.Popen[bytes], limit: int) -> None:
    _, most = resource.prlimit(process.pid, limit)
    resource.prlimit(process.pid, limit, (most, most))


class Cause(NamedTuple):
    """What keeps the plugin from starting. `begin` makes it happen, `end` repairs it; `reason` is what the log says."""

    reason: str
    begin: Callable[[Command, Path], object] = lambda *_: None
    end: Callable[[Command, Path, Running], object] = lambda *_: None
    prelude: str = ""
    settings: Mapping[str, str] = MappingProxyType({})
    has_page: bool = True


def _lock(command: Command, _: Path) -> None:
    """Create a state, and lock it as another program."""
    SqliteStore(command.state, new_agent_id="x").close()
    database = sqlite3.connect(command.state, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    LOCKS.append(database)


LOCKS: list[sqlite3.Connection] = []
CAUSES = {
    "read-only": Cause(
        "state.path: .*state.db: cannot be written: Permission denied",
        begin=lambda command, _: command.state.parent.mkdir(mode=0o555),
        end=lambda command, *_: command.state.parent.chmod(0o755),
        prelude=NO_PRIVILEGES,
    ),
    "full": Cause(
        "state.path: .*state.db: cannot be used: .*; the start waits until it works",
        end=lambda _, __, running: _lift(running.process, resource.RLIMIT_FSIZE),
        prelude=SMALL_FILES,
    ),
    "too many files": Cause(
        "Too many open files|too many files are open",
        end=lambda _, __, running: _lift(running.process, resource.RLIMIT_NOFILE),
        prelude=FEW_FILES,
        has_page=False,
    ),
    "locked": Cause(
        "database is locked; another program is using it; stop that program; the start waits",
        begin=_lock,
        end=lambda *_: LOCKS.pop().close(),
    ),
    "missing secret": Cause(
        r"forward.shared_key_file: \S+file: cannot be read: No such file or directory; the start waits",
        end=lambda _, path, __: path.write_text("key"),
        settings={"forward.shared_key_file": "file"},
    ),
    "damaged certificates": Cause(
        r"jumpcloud.ca_file: \S+file does not contain usable certificates: .*; the start waits",
        begin=lambda _, path: path.write_text("half"),
        end=lambda _, path, __: path.write_bytes(Path(certifi.where()).read_bytes()),
        settings={"jumpcloud.ca_file": "file"},
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_the_start_waits(
    command: Command,
    api: SimulatedApi,
    receiver: SimulatedReceiver,
    tmp_path: Path,
    manager: socket.socket,
    name: str,
) -> None:
    """It says so once, in the log and at /readyz, survives SIGHUP, is no failure for systemd, and then it starts."""
    cause = CAUSES[name]
    cause.begin(command, tmp_path / "file")
    options = [f"-o{key}={tmp_path / value}" for key, value in cause.settings.items()]
    running = Running(command, api, receiver, http__listen="127.0.0.1:0")
    running.start(*options, prelude=cause.prelude, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="3000000")
    messages = {manager.recv(4096).decode().partition("=")[0] for _ in range(4)}
    assert messages == {"EXTEND_TIMEOUT_USEC", "WATCHDOG"}
    assert re.search(cause.reason, running.log), running.log
    if cause.has_page:
        status, reasons = running.readiness()
        assert status == 503
        assert re.search(cause.reason, reasons)
        assert reasons.startswith("trouble: ")
        assert running.readiness("/healthz") == (200, "alive\n")
    running.process.send_signal(signal.SIGHUP)
    while b"RELOADING=1" not in manager.recv(4096):
        pass

    cause.end(command, tmp_path / "file", running)

    running.process.send_signal(signal.SIGHUP)  # it need not wait for the next try
    running.wait_for("recovered from: ", "in_jumpcloud 0")
    while b"READY=1" not in manager.recv(4096):
        pass
    if name != "missing secret":  # the receiver has no key
        running.next_records()
    if name != "too many files":  # which keeps one part after the other from its start
        assert len(re.findall(cause.reason, running.log)) <= 2, running.log
    running.end()


@pytest.mark.parametrize("name", ["locked", "missing secret"])
def test_a_stop_while_the_start_waits(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path, name: str
) -> None:
    """SIGTERM ends it within a second or so, as intended."""
    cause = CAUSES[name]
    cause.begin(command, tmp_path / "file")
    running = Running(command, api, receiver)
    running.start(*(f"-o{key}={tmp_path / value}" for key, value in cause.settings.items()))
    running.wait_for("the start waits")
    began = time.monotonic()
    running.end()
    assert time.monotonic() - began < 2
    assert running.log.count("\n") <= 3, running.log
    cause.end(command, tmp_path / "file", running)


def test_a_start_that_hangs(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path, manager: socket.socket
) -> None:
    """A file that cannot be read for long, as on a disk that hangs: systemd is asked for time, and SIGTERM ends it."""
    file = tmp_path / "file"
    os.mkfifo(file)
    writer = os.open(file, os.O_RDWR)  # which writes nothing
    running = Running(command, api, receiver)
    running.start(f"-oforward.shared_key_file={file}", NOTIFY_SOCKET=str(tmp_path / "notify"))
    assert manager.recv(4096) == b"EXTEND_TIMEOUT_USEC=60000000\nSTATUS=waiting: the start takes long"
    began = time.monotonic()
    running.end()
    os.close(writer)
    assert time.monotonic() - began < 2


def test_the_port_of_the_status_page_is_taken(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Events are delivered without the page; it is served once the port is free."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        running = Running(command, api, receiver, http__listen=listen)
        running.start()
        running.wait_for(f"http.listen: {listen}: Address already in use; the plugin works without its status page")
        running.next_records()
    running.wait_for(f"status page at http://{listen}/")
    assert running.readiness() == (200, "ready\n")
    assert running.log.count("Address already in use") == 2  # when it begins, and when it ends
    running.end()


def test_what_waiting_does_not_repair(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """A path that is a directory, or below a file, and an unknown key end the start: one line, and exit code 2.

    So does a pipe.
    """
    directory = command.directory / "directory"
    directory.mkdir()
    file = command.directory / "file"
    file.touch()
    pipe = command.directory / "pipe"
    os.mkfifo(pipe)
    for option, reason in {
        f"state.path={directory}": "cannot be written: Is a directory",
        f"state.path={file}/state.db": "cannot be written: ",
        f"state.path={pipe}": "not a regular file",
        f"jumpcloud.api_key_file={pipe}": "it is a pipe that nothing writes to",
        f"jumpcloud.api_key_file={directory}": "cannot be read: Is a directory",
        f"forward.tls={{enabled: true, ca_file: {directory}}}": "forward.tls.ca_file: no such file",
        "jumpcloud.intervall=1s": "unknown key",
    }.items():
        no_key = ["-o", "jumpcloud.api_key=null"] if "api_key_file" in option else []
        done = command("run", *command.settings(api, receiver), "-o", option, *no_key)
        (line,) = [line for line in done.stderr.decode().splitlines() if line.startswith("in-jumpcloud: ")][:1]
        assert done.returncode == 2, option
        assert reason in done.stderr.decode(), line


def test_too_many_open_files_while_running(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path, manager: socket.socket
) -> None:
    """Collection, the status page and a reload continue once there are file descriptors again.

    Meanwhile nothing spins, and the watchdog does not end the process.
    """
    running = Running(command, api, receiver, http__listen="127.0.0.1:0")
    running.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="1500000")
    running.next_records()
    pid = running.process.pid
    _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, most))
    host, _, port = running.log.partition("status page at http://")[2].partition("/")[0].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("configuration not reloaded: ", "Too many open files")
        for line in (b"RELOADING=1", b"READY=1"):
            while line not in manager.recv(4096):
                pass
        used, began = _cpu_seconds(pid), time.monotonic()
        for _ in range(3):
            assert manager.recv(4096) == b"WATCHDOG=1"
        assert _cpu_seconds(pid) - used < 0.5 * (time.monotonic() - began)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    running.wait_for("configuration reloaded: ")
    running.next_records()
    running.end()
    assert sum(receiver.ids.values()) == len(receiver.ids)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
