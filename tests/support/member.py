"""One process of a group in tests, and what it asked JumpCloud for."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.request
from collections import deque
from pathlib import Path
from typing import NamedTuple

from support import kill_at
from support.command import Command
from support.proxy import Proxy

from in_jumpcloud.simulator.api import Request, SimulatedApi


class Asked(NamedTuple):
    """A request: the monotonic time of its answer, the member that sent it, the stream, the status, what it is for."""

    at: float
    member: str
    stream: str
    status: int
    is_poll: bool


class Requests(deque[Request]):
    """Of the API of one member: it keeps what the trials look at, of any number of requests."""

    def __init__(self, member: str, log: list[Asked]) -> None:
        super().__init__(maxlen=100)
        self._member = member
        self._log = log

    def append(self, request: Request) -> None:
        """Note a request."""
        super().append(request)
        stream, is_poll = request.headers.get("x-org-id", ""), request.path.endswith("/events")
        self._log.append(Asked(time.monotonic(), self._member, stream, request.status, is_poll))


class Member:
    """It reaches the server through `proxy`, the receiver through `way`, and JumpCloud at `api`, which are its own."""

    def __init__(
        self,
        name: str,
        settings: list[str],
        command: Command,
        *,
        proxy: Proxy,
        way: Proxy,
        api: SimulatedApi,
        port: int,
    ) -> None:
        """`port` is that of its pages."""
        self.name = name
        self.proxy = proxy
        self.way = way
        self.api = api
        self.settings = settings
        self.command = command
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        """By the monotonic clock."""
        self._port = port

    def start(self) -> None:
        """Start it."""
        self.started_at = time.monotonic()
        self.process = self.command.start("run", *self.settings)

    def start_to_kill(self, instant: str) -> None:
        """Start it; it kills itself at this instant, see kill_at.py."""
        program = [sys.executable, Path(kill_at.__file__), instant]
        self.process = self.command.start("run", *self.settings, program=program)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; wait for its end, if that ends it."""
        assert self.process is not None
        self.process.send_signal(number)
        if number in {signal.SIGKILL, signal.SIGTERM}:
            self.wait()

    def ask_to_end(self) -> None:
        """Send SIGTERM, once: a second one would end it at once."""
        assert self.process is not None
        self.process.terminate()

    def wait(self) -> None:
        """Wait for its end."""
        assert self.process is not None
        self.process.wait(60)
        self.process = None

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def metrics(self, prefix: str = "in_jumpcloud_") -> dict[str, float]:
        """Its metrics whose names begin so, by name and labels."""
        lines = [line.rpartition(" ") for line in self.page("/metrics").decode().splitlines()]
        return {name: float(value) for name, _, value in lines if name.startswith(prefix)}

    @property
    def is_started(self) -> bool:
        """Whether its pages have more than that it starts; streams are divided before."""
        try:
            return bool(self.page("/status.json"))
        except OSError:
            return False

    @property
    def log(self) -> str:
        """What it has logged."""
        return self.command.log.read_text()

    @property
    def rss_mib(self) -> float:
        """Its memory now."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def page(self, path: str) -> bytes:
        """One of its pages."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=30) as answer:
            return bytes(answer.read())
