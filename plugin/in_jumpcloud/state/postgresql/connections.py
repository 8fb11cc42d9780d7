"""Connections to the server: a few for all threads, each statement within a time limit."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

import psycopg
from psycopg import IsolationLevel, RawCursor
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.waiting import Ready, Wait

from in_jumpcloud.config.schema import StateSettings
from in_jumpcloud.errors import ConfigError, Problem
from in_jumpcloud.state.postgresql.errors import NotConnected, one_line

STATEMENT_SECONDS = 10.0
"""How long a statement may take. psycopg has no limit of its own: a frozen server would hold the thread for ever."""
MOST, MOST_APART = 8, 2
"""Connections of one process: a commit is short, so many workers can share them. Those apart are for its heartbeat."""
_IDLE_SECONDS = 300.0
_OPTIONS: dict[str, Any] = {  # https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 10_000,
    "application_name": "in_jumpcloud",
}
_R = TypeVar("_R")


class Connection(psycopg.Connection[Any]):
    """A connection whose statements end in time."""

    used_at = 0.0
    seconds = STATEMENT_SECONDS
    """How long a statement may take."""

    def wait(self, gen: Generator[Any, Any, _R], interval: float = 0.1, timeout: float | None = None) -> _R:
        """Drive a generator of psycopg until it is done.

        Raises:
            OperationalError: it took too long. What the server does of it is not known.
        """
        ends_at = time.monotonic() + min(timeout or self.seconds, self.seconds)
        poll = select.poll()
        try:
            wanted = next(gen)
            while True:
                poll.register(self.pgconn.socket, _events(wanted))
                seconds = min(interval, ends_at - time.monotonic())
                if seconds <= 0:
                    raise psycopg.OperationalError(f"no answer within {self.seconds:.3g} s")
                found = poll.poll(1 + seconds * 1000)
                wanted = gen.send(_ready(found[0][1], wanted)) if found else (gen.send(Ready.NONE), wanted)[1]
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # it is what the generator returns

    def is_alive(self) -> bool:
        """Whether the server has not closed it, as far as this machine knows: it has sent nothing."""
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN)
        return not poll.poll(0)


def _events(wanted: int) -> int:
    return (select.POLLIN if wanted & Wait.R else 0) | (select.POLLOUT if wanted & Wait.W else 0)


def _ready(found: int, wanted: int) -> int:
    """What is ready; after an error or the end, all that is waited for: to read it says what is wrong."""
    ready = (Ready.R if found & select.POLLIN else 0) | (Ready.W if found & select.POLLOUT else 0)
    return ready or wanted


class Connections:
    """The connections of one process. Threads may share it.

    A connection that failed is closed, and the next use makes another one: in the thread that needs it, which then
    knows why that fails.
    """

    def __init__(self, settings: StateSettings, *, most: int = MOST) -> None:
        self.seconds = STATEMENT_SECONDS
        """How long a statement may take on connections that are new."""
        self._settings = settings
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._free = threading.Semaphore(most)
        self._closed = False

    @contextlib.contextmanager
    def use(self) -> Iterator[Connection]:
        """A connection for one statement or transaction.

        Raises:
            psycopg.Error: there is none, or what the body does fails.
            ConfigError: the URL is wrong.
        """
        if not self._free.acquire(timeout=STATEMENT_SECONDS):
            raise psycopg.OperationalError("all connections are in use")
        try:
            connection = self._take() or self._connect()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._give_back(connection)
        finally:
            self._free.release()

    def close(self) -> None:
        """Close them all; those in use when they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> Connection | None:
        """An idle connection that is probably alive."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                found = self._idle.pop()
            if found.used_at > time.monotonic() - _IDLE_SECONDS and found.is_alive():
                return found
            found.close()

    def _give_back(self, connection: Connection) -> None:
        connection.used_at = time.monotonic()
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self) -> Connection:
        url, password = self._settings.url, self._settings.password
        given = {"password": password.read_again().reveal()} if password else {}
        try:
            conninfo = make_conninfo(url.read_again().reveal() if url else "", **given)
            options = {name: value for name, value in _OPTIONS.items() if name not in conninfo_to_dict(conninfo)}
        except psycopg.ProgrammingError as error:
            raise ConfigError(Problem("state.url", one_line(error))) from None
        try:
            connection = Connection.connect(
                conninfo, autocommit=True, prepare_threshold=None, cursor_factory=RawCursor, **options
            )
        except psycopg.OperationalError as error:
            raise NotConnected(*error.args, pgconn=error.pgconn) from None
        connection.isolation_level = IsolationLevel.READ_COMMITTED  # of the transactions that psycopg begins
        connection.seconds = self.seconds
        return connection
