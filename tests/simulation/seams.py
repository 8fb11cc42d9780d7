"""What the simulated process uses in place of sockets and the disk: the models, with the faults of their transport."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from requests.structures import CaseInsensitiveDict
from simulation.jumpcloud import Answer, JumpCloud
from simulation.receiver import Connection

from in_jumpcloud.errors import InJumpCloudError, PageTooLarge, RequestTimeout, Retryable
from in_jumpcloud.insights.http_exchange import HttpResponse

if TYPE_CHECKING:
    from simulation.machine import Process


class _Headers:
    """What an authentication adds its headers to."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = dict(headers)


class SimExchange:
    """HTTP: the request and the answer each take a while, or never arrive."""

    def __init__(self, process: Process, api: JumpCloud) -> None:
        self._process = process
        self._api = api

    def __call__(self, url: str, body: bytes | None, headers: Mapping[str, str], auth: Any) -> HttpResponse:
        """Send the request, and wait for the answer."""
        world, faults = self._process.world, self._process.world.faults
        is_ahead = world.scheduler.current.name == "fetch-ahead"
        try:
            response = self._exchange(url, body or b"", headers, auth)
        except InJumpCloudError:
            faults.landmarks["a page ahead fails"] += is_ahead
            raise
        faults.landmarks["a page ahead fails" if response.status != 200 else "a page is ahead"] += is_ahead
        return response

    def _exchange(self, url: str, body: bytes, headers: Mapping[str, str], auth: Any) -> HttpResponse:
        world, faults = self._process.world, self._process.world.faults
        self._process.point("exchange")
        self._process.unsettled.pop(world.scheduler.current, None)
        request = auth(_Headers(headers))
        seconds = world.random.uniform(0.02, 0.5)
        if random := faults.hits("slow API", world.now):
            seconds = random.uniform(1, 40)
        if faults.hits("hang", world.now):
            self._process.sleep(world.settings.jumpcloud.read_timeout)
            raise RequestTimeout("no answer")
        self._process.sleep(seconds / 2)
        if faults.hits("reset", world.now):
            raise Retryable("connection reset")
        answer = self._api.answer(url, body, request.headers, world.now)
        world.trace("request", url.rpartition("/v1/")[2], body.decode(), request.headers.get("x-org-id"), answer.status)
        self._process.sleep(seconds / 2)
        content = self._content(answer)
        self._process.point("exchange")
        if len(content) > 2 * world.settings.jumpcloud.page_bytes:
            raise PageTooLarge("too large")
        return HttpResponse(answer.status, "", CaseInsensitiveDict(answer.headers), content, request.headers)

    def close(self) -> None:
        """Nothing to close."""

    def _content(self, answer: Answer) -> bytes:
        faults, now = self._process.world.faults, self._process.world.now
        content = bytes(answer.body)
        if answer.status == 200:
            if random := faults.hits("cut body", now):
                if random.random() < 0.5:
                    raise Retryable("the response is incomplete")
                return content[: random.randrange(len(content))]
            if faults.hits("broken JSON", now):
                return content[:-1] + b',{"id":}'
        return content


class SimNetwork:
    """Connections to the receivers, as `in_jumpcloud.forward.connection` makes real ones."""

    TICK_SECONDS = 1.0

    def __init__(self, process: Process) -> None:
        self._process = process

    def resolve(self, server: Any) -> list[Any]:
        """The receiver of this name."""
        self._process.point("receiver")
        return [server.host]

    def connect(self, addresses: Sequence[Any], deadline: Any) -> tuple[Connection, Any]:
        """A connection, unless the receiver refuses it."""
        self._process.point("receiver")
        self._process.sleep(0.01)
        deadline.check()
        if self._process.world.faults.hits("no more descriptors", self._process.world.now):
            raise OSError(errno.EMFILE, "Too many open files")
        for receiver in self._process.world.receivers:
            if receiver.name == addresses[0]:
                connection = receiver.connect()
                if connection:
                    connection.event = self._process.runtime.event()
                    connection.on_output = connection.event.set
                    return connection, addresses[0]
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    def send(self, connection: Connection, message: bytes, deadline: Any) -> None:
        """Send all of it."""
        self._process.point("receiver")
        self._process.sleep(0.01)
        deadline.check()
        if not connection.open:
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        self._process.unsettled.pop(self._process.world.scheduler.current, None)
        self._process.world.trace("sent", len(message))
        connection.feed(message)

    def receive(self, connection: Connection, deadline: Any) -> bytes:
        """The next bytes; empty at the end."""
        self._process.point("receiver")
        while not connection.outbox and connection.open:
            deadline.check()
            connection.event.clear()
            connection.event.wait(self.TICK_SECONDS)
        return self.received(connection) or b""

    def received(self, connection: Connection) -> bytes | None:
        """What is there; None for nothing, empty at the end."""
        if not connection.outbox:
            return None if connection.open else b""
        data = connection.outbox.pop(0)
        if data is None:
            return b""
        if delivery := connection.acks.get(data):
            delivery.ack_arrived = True
            self._process.unsettled.setdefault(self._process.world.scheduler.current, []).append(delivery)
        return data

    def close(self, connection: Connection, *, abruptly: bool = False) -> None:  # noqa: ARG002 - the same here
        """Close it."""
        connection.open = False
        connection.event.set()


class SimConnection(sqlite3.Connection):
    """A database on a disk that has faults."""

    process: Process
    is_synced = False
    """Whether a COMMIT is known to be on the disk when it returns."""
    _has_keys = False

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Execute a statement, unless the disk refuses it."""
        self.process.point("disk")
        is_commit = sql == "COMMIT"
        if sql.startswith("BEGIN"):
            self._has_keys = False
        late = self._refuse(sql)
        cursor = super().execute(sql, parameters)
        self._has_keys |= "INTO ledger" in sql and cursor.rowcount != 0
        if is_commit:
            self.process.committed(self, has_keys=self._has_keys)
            self.process.point("disk")
        if late:
            raise late
        return cursor

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        """Execute a statement several times, unless the disk refuses it."""
        self.process.point("disk")
        self._refuse(sql)
        self._has_keys |= "INTO ledger" in sql and bool(parameters)
        return super().executemany(sql, parameters)

    def close(self) -> None:
        """Close the file, unless the process has been killed: then the world does."""
        if not self.process.group.dead:
            super().close()

    def rows(self, query: str) -> list[Any]:
        """Rows for the world, without faults."""
        return sqlite3.Connection.execute(self, query).fetchall()

    def _refuse(self, sql: str) -> sqlite3.OperationalError | None:
        """Raise the fault of the disk, if any; returns one that comes after a COMMIT took effect."""
        faults, now = self.process.world.faults, self.process.world.now
        writes = sql.split(None, 1)[0] in {"BEGIN", "INSERT", "UPDATE", "DELETE", "COMMIT", "CREATE", "DROP"}
        if random := faults.hits("EIO", now):
            error = _disk_error("disk I/O error", sqlite3.SQLITE_IOERR)
            if sql == "COMMIT" and random.random() < 0.5:
                return error
            raise error
        if sql.startswith("BEGIN") and faults.hits("no more descriptors", now):
            raise _disk_error("unable to open database file", sqlite3.SQLITE_CANTOPEN)
        if writes and sql != "ROLLBACK":
            if faults.hits("read-only", now):
                raise _disk_error("attempt to write a readonly database", sqlite3.SQLITE_READONLY)
            if not sql.startswith("BEGIN") and faults.hits("disk is full", now):
                raise _disk_error("database or disk is full", sqlite3.SQLITE_FULL)
        return None


def _disk_error(message: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    return error


def connect_factory(process: Process) -> Callable[..., sqlite3.Connection]:
    """`sqlite3.connect` on the disk of the simulation."""

    def connect(target: str, **options: Any) -> sqlite3.Connection:
        process.point("disk")
        connection = sqlite3.connect(target, factory=SimConnection, **options)
        connection.process = process
        process.connections.append(connection)
        return connection

    return connect
