"""The database of a state in PostgreSQL: how it is opened, read and written."""

from __future__ import annotations

import contextlib
import functools
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import psycopg

from in_jumpcloud.config.schema import StateSettings
from in_jumpcloud.errors import ConfigError, Fenced, StateCorrupt, StateUnavailable
from in_jumpcloud.state.database import Rows
from in_jumpcloud.state.postgresql import schema
from in_jumpcloud.state.postgresql.connections import MOST_APART, STATEMENT_SECONDS, Connection, Connections
from in_jumpcloud.state.postgresql.errors import translated

_TABLE = re.compile(rf"\b(FROM|INTO|UPDATE|JOIN|TABLE) ((?:{'|'.join(schema.TABLES)})(?:_\d+)?)\b")
_PARAMETER = re.compile(r"\?(\d*)")
_BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '5s'; "
    "SET LOCAL idle_in_transaction_session_timeout = '4s'"
)
"""What waits for a lock must see what its holder wrote, whatever the default of the server. A process that is frozen
within a transaction must not keep a stream, or a new day, from the others: less than the shortest lease."""
_T = TypeVar("_T")
_LONG = "SET LOCAL idle_in_transaction_session_timeout = 0"
_BEGIN_SNAPSHOT = f"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; {_LONG}"


class Transaction:
    """An open transaction."""

    def __init__(self, connection: Connection, translate: Callable[[str], str]) -> None:
        self._connection = connection
        self._translate = translate

    def execute(self, query: str, parameters: Sequence[Any] = (), /) -> Rows:
        """Execute a statement."""
        return self._connection.execute(self._translate(query), parameters)

    def executemany(self, query: str, parameters: Iterable[Sequence[Any]], /) -> Rows:
        """Execute a statement with each of these parameters."""
        cursor = self._connection.cursor()
        translated_query = self._translate(query)
        for each in parameters:
            cursor.execute(translated_query, each)
        return cursor


class PostgresDatabase:
    """An open database. Threads may share it.

    `tokens` has the token of each stream that this process, `member`, owns; `days` the partitions that are known.
    """

    newest_version = schema.VERSION

    def __init__(self, settings: StateSettings) -> None:
        """Nothing is opened yet."""
        self.where = settings.place
        self.schema = settings.schema
        self.agent_id = ""
        self.version = schema.VERSION
        self.is_new = False
        self.member = uuid.uuid4()
        self.tokens: dict[str, int] = {}
        self.days: set[int] = set()
        self.lock = threading.RLock()
        self._of_thread = threading.local()
        self._connections = Connections(settings)
        self._connections_apart = Connections(settings, most=MOST_APART)
        self._is_open = False
        self.translate = functools.cache(self._translate)

    def open(self, prepare: Callable[[Connection], tuple[schema.Identity, int | None]]) -> None:
        """Open it: `prepare` looks what is there.

        Raises:
            ConfigError, StateUnavailable, StateCorrupt, StateMissing, StateOutdated: it cannot be used.
        """
        with self._errors(), self._connections.use() as connection:
            found, before = prepare(connection)
        self.agent_id = found.agent_id
        self.is_new = before is None
        self.version = schema.VERSION if before is None else before
        self._is_open = True

    def read(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query. It may also be a statement that is a transaction of its own.

        Raises:
            StateUnavailable, StateCorrupt: it failed. What it writes may be written all the same.
        """
        shared: Connection | None = getattr(self._of_thread, "snapshot", None)
        with self._errors(), nullcontext(shared) if shared else self._pool.use() as connection:
            return connection.execute(self.translate(query), parameters).fetchall()

    def now_ms(self) -> int:
        """The time by the clock of the server, in epoch milliseconds."""
        ((milliseconds,),) = self.read("SELECT (1000 * extract(epoch FROM clock_timestamp()))::bigint")
        return int(milliseconds)

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """What this thread does in its body waits for no connection of other threads."""
        self._of_thread.is_apart = True
        try:
            yield
        finally:
            self._of_thread.is_apart = False

    def limit_apart(self, seconds: float) -> None:
        """How long a statement of `apart` may take, if that is less than the others may."""
        self._connections_apart.seconds = min(seconds, STATEMENT_SECONDS)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The transactions of this thread in its body may wait for others than the server."""
        self._of_thread.waits = True
        try:
            yield
        finally:
            self._of_thread.waits = False

    @property
    def _pool(self) -> Connections:
        return self._connections_apart if getattr(self._of_thread, "is_apart", False) else self._connections

    def read_if_idle(self, query: str) -> list[Any]:
        """None: to read it would wait for the server."""
        del query
        return []

    @contextlib.contextmanager
    def transaction(self, stream: str | None = None) -> Iterator[Transaction]:
        """A transaction; on behalf of a stream, only while this process owns it.

        Raises:
            StateUnavailable, StateCorrupt: it failed. If that was its end, it may be written all the same.
            Fenced: another process owns the stream.
        """
        with self._errors(), self._pool.use() as connection:
            connection.execute(_BEGIN)
            if getattr(self._of_thread, "waits", False):
                connection.execute(_LONG)
            if stream is not None:
                query = self.translate("SELECT 1 FROM stream WHERE name = ? AND owner = ? AND token = ? FOR UPDATE")
                if not connection.execute(query, (stream, self.member, self.token(stream))).fetchone():
                    raise self.fenced(stream)
            yield Transaction(connection, self.translate)  # an error closes the connection, which ends the transaction
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """As Database.snapshot, for the reads of this thread. Other processes go on, unless the holder is alone."""
        with self._errors(), self._connections.use() as connection:
            connection.execute(_BEGIN_SNAPSHOT)
            self._of_thread.snapshot = connection
            try:
                yield
            finally:
                del self._of_thread.snapshot
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def exclusive(self, what: str) -> Iterator[bool]:
        """Whether no other process does this in its body. A transaction, which a pooler keeps on one connection."""
        with self.transaction() as transaction:
            transaction.execute(_LONG)
            query = "SELECT pg_try_advisory_xact_lock(hashtextextended('in_jumpcloud ' || ?, 0))"
            yield bool(transaction.execute(query, (f"{what} {self.schema}",)).fetchone()[0])

    def discard(self) -> None:
        """Remove the tables."""
        with self._errors(), self._connections.use() as connection:
            schema.drop(connection, self.schema)

    def token(self, stream: str) -> int:
        """The token of a stream.

        Raises:
            Fenced: this process does not own it.
        """
        token = self.tokens.get(stream)
        if token is None:
            raise self.fenced(stream)
        return token

    def fenced(self, stream: str) -> Fenced:
        """The error for a stream that another process owns. This one knows it then."""
        self.tokens.pop(stream, None)
        return Fenced(f"{self.where}: this process no longer has stream {stream}")

    def corrupt(self, what: object) -> StateCorrupt:
        """The error for content that in-jumpcloud does not write."""
        return StateCorrupt(f"{self.where}: {what}", advice="restore its tables, or set another state.schema")

    def try_out(
        self,
        prepare: Callable[[Connection], tuple[schema.Identity, int | None]],
        look: Callable[[Transaction, str], _T],
    ) -> _T:
        """Do what `open` and a first commit do, and undo it. Returns what `look` does, which gets the server's version.

        Raises:
            ConfigError, StateUnavailable, StateCorrupt: it cannot be used.
        """
        with self._errors(), self._connections.use() as connection, connection.transaction(force_rollback=True):
            prepare(connection)
            connection.execute(self.translate("UPDATE identity SET agent_id = agent_id"))
            version = f"PostgreSQL {connection.info.parameter_status('server_version')}"
            return look(Transaction(connection, self.translate), version)

    def has_tables(self) -> bool:
        """Whether there are any in the schema.

        Raises:
            ConfigError, StateUnavailable, StateCorrupt: that cannot be found out.
        """
        with self._errors(), self._connections.use() as connection:
            return schema.identity(connection, self.schema, self.where) is not None

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()
        self._connections_apart.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            self.days.clear()  # one of them may be gone, after the failover to a replica that is behind
            raise translated(error, self.where, at_start=not self._is_open) from None
        except ConfigError as error:
            if not self._is_open:
                raise
            # The file of the URL has changed. What was acknowledged waits until it is right.
            raise StateUnavailable(error.message, advice=error.advice) from None

    def _translate(self, query: str) -> str:
        """SQL of this package as PostgreSQL has it: qualified names, and parameters as `$1`."""
        counter = iter(range(1, 1000))
        query = _PARAMETER.sub(lambda match: f"${match[1] or next(counter)}", query)
        return _TABLE.sub(lambda match: f"{match[1]} {schema.quoted(self.schema)}.{match[2]}", query)
