"""A group of processes on one PostgreSQL server, between the simulators; what happens to them is up to the test."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from support.command import Command
from support.fluent_bit import free_port
from support.postgres import Server, started
from support.proxy import Proxy

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms

_HOURS_MS = 3 * 60 * MINUTE_MS


class Failed(Exception):
    """A mark was not reached."""


class Member:
    """One process of the group. It reaches the server through `proxy`, and the receiver through `way`."""

    def __init__(self, name: str, settings: list[str], command: Command, proxy: Proxy, way: Proxy) -> None:
        self.name = name
        self.proxy = proxy
        self.way = way
        self._settings = settings
        self._command = command
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        self.process = self._command.start("run", *self._settings)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; wait for its end, if that ends it."""
        assert self.process is not None
        self.process.send_signal(number)
        if number in {signal.SIGKILL, signal.SIGTERM}:
            self.process.wait(60)
            self.process = None

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._command.log.read_text()


class Cluster:
    """The server, the simulators and the members. Every organization has an event each `every` seconds."""

    def __init__(
        self,
        directory: Path,
        *,
        streams: int,
        every: float = 10.0,
        lease: float = 5.0,
        interval: float = 1.0,
        slack: float = 0.0,
    ) -> None:
        """`slack`: the seconds that everything may take longer, on a busy machine."""
        self._directory = directory
        self._interval = interval
        self.lease, self.slack = lease, slack
        self.streams = streams
        self.takeovers: list[float] = []
        """The seconds that each take-over took."""
        self.chunk = 100
        """So many records a chunk of one member has at most: all that its workers may send between two commits."""
        now = now_ms() // MINUTE_MS * MINUTE_MS
        self._sources = {
            f"org-{number:05}": EventSource(
                seed=number,
                start_ms=now - MINUTE_MS,
                end_ms=now + _HOURS_MS,
                per_minute=60 / every,
                organization=f"org-{number:05}",
            )
            for number in range(streams)
        }
        self.members: list[Member] = []

    @contextlib.contextmanager
    def running(self, members: int, *, server: Server | None = None) -> Iterator[None]:
        """Start it all, and wait until the streams are divided and have caught up; at the end, stop all."""
        with contextlib.ExitStack() as stack:
            self.server = server or stack.enter_context(started())
            self.api = stack.enter_context(SimulatedApi(self._sources))
            self.receiver = stack.enter_context(SimulatedReceiver(keep=False))
            stack.callback(self._kill_all)
            for _ in range(members):
                self.add(stack)
            self.wait("the streams are not divided", self.is_balanced, 60)
            wanted, lost, duplicates = self.result()
            if lost or duplicates:
                raise Failed(f"{wanted} events at the start: lost {lost}, duplicates {duplicates}")
            yield

    def add(self, stack: contextlib.ExitStack) -> Member:
        """Start one more member."""
        name = f"member-{len(self.members)}"
        proxy, way = stack.enter_context(Proxy(self.server.port)), stack.enter_context(Proxy(self.receiver.port))
        folder = self._directory / name
        folder.mkdir()
        command = Command(folder)
        url = self.server.url.replace(f":{self.server.port}/", f":{proxy.port}/")
        settings = command.settings(
            *(self.api, way.port),
            jumpcloud__organizations=list(self._sources),
            jumpcloud__interval=f"{self._interval}s",
            jumpcloud__start="2m",
            jumpcloud__requests_per_second=1000,
            state__path=None,
            state__url=url,
            members__name=name,
            members__lease=f"{self.lease}s",
            http__listen=f"127.0.0.1:{free_port()}",
        )
        member = Member(name, settings, command, proxy, way)
        self.members.append(member)
        member.start()
        return member

    def _kill_all(self) -> None:
        for member in self.members:
            if member.process and member.process.poll() is None:
                member.process.send_signal(signal.SIGCONT)
                member.signal(signal.SIGKILL)

    def query(self, sql: str) -> list[Any]:
        """The rows of a query in the schema of the group."""
        with psycopg.connect(self.server.url, connect_timeout=5) as connection:
            connection.execute("SET search_path TO in_jumpcloud")
            return connection.execute(sql.encode()).fetchall()

    def held(self) -> dict[str, int]:
        """How many streams each living member has, by its name; those without owner under the empty name."""
        rows = self.query(
            "SELECT coalesce(m.name, ''), count(*) FROM stream s LEFT JOIN member m ON m.id = s.owner "
            "WHERE wanted GROUP BY 1"
        )
        return dict(rows)

    def is_balanced(self) -> bool:
        """Whether each process that runs has its share, and no stream is without owner."""
        try:
            held = self.held()
        except psycopg.Error:
            return False
        alive = [each.name for each in self.members if each.process and each.process.poll() is None]
        counts = [held.get(name, 0) for name in alive]
        return sum(counts) == self.streams and max(counts) - min(counts) <= 1 and "" not in held

    def moves(self) -> int:
        """How often streams have changed their owner: the sum of their tokens."""
        return int(self.query("SELECT sum(token) FROM stream")[0][0])

    @staticmethod
    def wait(what: str, condition: Callable[[], bool], seconds: float) -> float:
        """Wait until the condition holds; returns the seconds that took.

        Raises:
            Failed: it does not hold in time.
        """
        began = time.monotonic()
        while not condition():
            if time.monotonic() > began + seconds:
                raise Failed(f"{what} after {seconds:g} s")
            time.sleep(0.05)
        return time.monotonic() - began

    def taken_over(self, name: str) -> bool:
        """Whether no stream belongs to the member of that name, or to none."""
        with contextlib.suppress(psycopg.Error):
            held = self.held()
            return name not in held and "" not in held
        return False

    def result(self) -> tuple[int, int, int]:
        """Wait until every event up to now has arrived; returns how many, lost and sent twice.

        Those that have not arrived a minute later are lost.
        """
        until_ms = now_ms()
        wanted = {
            item.event_id for source in self._sources.values() for item in source.between(0, until_ms, now_ms=until_ms)
        }
        with contextlib.suppress(Failed):
            self.wait("not all have arrived", lambda: wanted <= self.receiver.ids.keys(), 60)
        ids = dict(self.receiver.ids)
        lost = len(wanted - ids.keys())
        return len(wanted), lost, sum(ids.values()) - len(ids)
