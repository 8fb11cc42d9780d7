"""A group of processes on one PostgreSQL server, between the simulators; what happens to them is up to the test."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
from support.command import Command
from support.fluent_bit import free_port
from support.member import Asked, Member, Requests
from support.postgres import Server, started
from support.proxy import Proxy

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.simulator.receiver_wire import Entry
from in_jumpcloud.timestamps import HOUR_MS, MINUTE_MS, now_ms

_HOURS_MS = 6 * HOUR_MS


class Failed(Exception):
    """A mark was not reached."""


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
        workers: int = 8,
        standby_port: int | None = None,
        **settings: object,
    ) -> None:
        """`slack`: the seconds that everything may take longer, on a busy machine. `settings`: as for Command.

        `standby_port`: where the server is that takes the place of the first one.
        """
        self._directory = directory
        self._settings: dict[str, object] = {
            "jumpcloud__interval": f"{interval}s",
            "jumpcloud__start": "2m",
            "jumpcloud__requests_per_second": 1000,
            "jumpcloud__workers": workers,
            **settings,
        }
        self.workers = workers
        self.interval, self.lease, self.slack = interval, lease, slack
        self.streams = streams
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
        self.asked: list[Asked] = []
        """Every request to JumpCloud."""
        self.duplicate_chunks = 0
        """How many chunks had an event that had come before."""
        self.biggest_chunk = 0
        """The records of the biggest chunk."""
        self._standby_port = standby_port
        self._counting = threading.Lock()
        self._stack = contextlib.ExitStack()

    @contextlib.contextmanager
    def running(self, members: int, *, server: Server | None = None) -> Iterator[None]:
        """Start it all, and wait until the streams are divided and have caught up; at the end, stop all."""
        with self._stack:
            self.server = server or self._stack.enter_context(started())
            self.receiver = self._stack.enter_context(SimulatedReceiver(keep=False, on_records=self._count))
            self._stack.callback(self._kill_all)
            for _ in range(members):
                self.add()
            self.wait("the streams are not divided", self.is_balanced, 60)
            self.wait("a member has not started", lambda: all(each.is_started for each in self.members), 60)
            wanted, lost, duplicates = self.result()
            if lost or duplicates:
                raise Failed(f"{wanted} events at the start: lost {lost}, duplicates {duplicates}")
            yield

    def add(self, *, environ: dict[str, str] | None = None, together: threading.Barrier | None = None) -> Member:
        """Start one more member, with these environment variables. It waits for others before it reaches the server."""
        name = f"member-{len(self.members)}"
        proxy, way = (self._stack.enter_context(Proxy(port)) for port in (self.server.port, self.receiver.port))
        api = SimulatedApi(self._sources)
        api.requests = Requests(name, self.asked)
        api.sources = self._sources
        self._stack.enter_context(api)
        if together:
            proxy.to_server = _after(together)
        folder = self._directory / name
        folder.mkdir()
        command = Command(folder)
        command.environ = environ or {}
        port = free_port()
        options = {
            "jumpcloud__organizations": list(self._sources),
            "state__path": None,
            "state__url": self._url(proxy),
            "members__name": name,
            "members__lease": f"{self.lease}s",
            "http__listen": f"127.0.0.1:{port}",
        }
        settings = command.settings(api, way.port, **options, **self._settings)
        member = Member(name, settings, command, proxy=proxy, way=way, api=api, port=port)
        self.members.append(member)
        member.start()
        return member

    def _url(self, proxy: Proxy) -> str:
        """Of the state, for a member with this proxy."""
        if self._standby_port is None:
            return self.server.url.replace(f":{self.server.port}/", f":{proxy.port}/")
        hosts = f":{proxy.port},127.0.0.1:{self._standby_port}/"
        return self.server.url.replace(f":{self.server.port}/", hosts) + "?target_session_attrs=read-write"

    def stop(self, members: Sequence[Member] | None = None) -> None:
        """End these members, or all, in order; what they have delivered is written then."""
        living = [each for each in (self.members if members is None else members) if each.is_alive]
        for member in living:
            member.ask_to_end()
        for member in living:
            member.wait()

    def _kill_all(self) -> None:
        for member in self.members:
            if member.is_alive:
                member.signal(signal.SIGCONT)
                member.signal(signal.SIGKILL)

    def _count(self, _tag: str, records: list[Entry]) -> None:
        with self._counting:
            self.biggest_chunk = max(self.biggest_chunk, len(records))
            self.duplicate_chunks += any(record["event"]["id"] in self.receiver.ids for _, record in records)

    def query(self, sql: str) -> list[Any]:
        """The rows of a query in the schema of the group."""
        with psycopg.connect(self.server.url, connect_timeout=5) as connection:
            connection.execute("SET search_path TO in_jumpcloud")
            return connection.execute(sql.encode()).fetchall()

    def held(self) -> dict[str, int]:
        """How many streams each member has, by its name; those without owner under the empty name."""
        rows = self.query(
            "SELECT coalesce(m.name, ''), count(*) FROM stream s LEFT JOIN member m ON m.id = s.owner "
            "WHERE wanted GROUP BY 1"
        )
        return dict(rows)

    def is_balanced(self) -> bool:
        """Whether the members are the processes that run, each has its share, and no stream is without owner."""
        try:
            held, joined = self.held(), self.joined()
        except psycopg.Error:
            return False
        alive = sorted(each.name for each in self.members if each.is_alive)
        counts = [held.get(name, 0) for name in alive]
        return joined == alive and sum(counts) == self.streams and max(counts) - min(counts) <= 1 and "" not in held

    def joined(self) -> list[str]:
        """The names of the members; one may be there twice, while it is not known yet that the former one is dead."""
        return sorted(name for (name,) in self.query("SELECT name FROM member"))

    def tokens(self) -> dict[str, int]:
        """How often each stream has been given an owner."""
        return dict(self.query("SELECT name, token FROM stream"))

    def moves(self) -> int:
        """How often streams have been given an owner."""
        return sum(self.tokens().values())

    def polled_since(self, began: float) -> bool:
        """Whether each stream has been polled since then, by the monotonic clock."""
        return len({each.stream for each in self.asked if each.at > began}) == self.streams

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

    def acknowledged(self) -> int:
        """How many events the state counts."""
        return int(self.query("SELECT sum(acknowledged) FROM stream")[0][0])


def _after(barrier: threading.Barrier) -> Callable[[bytes], bytes]:
    """Forwards bytes, the first ones after all of the barrier have some."""
    passed: list[int] = []

    def forward(data: bytes) -> bytes:
        if not passed:
            passed.append(barrier.wait(30))
        return data

    return forward
