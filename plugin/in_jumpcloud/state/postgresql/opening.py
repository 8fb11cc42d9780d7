"""How a state in PostgreSQL is opened to be read, and what is known of it without that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from in_jumpcloud.config.schema import StateSettings
from in_jumpcloud.errors import Fatal
from in_jumpcloud.state.group import GroupReport
from in_jumpcloud.state.postgresql import ownership, schema
from in_jumpcloud.state.postgresql.connections import Connection
from in_jumpcloud.state.postgresql.database import PostgresDatabase
from in_jumpcloud.state.postgresql.facts import facts
from in_jumpcloud.state.postgresql.ledger import PostgresLedger
from in_jumpcloud.state.postgresql.store import PostgresStore
from in_jumpcloud.state.postgresql.upkeep import size
from in_jumpcloud.state.reader import StateReader
from in_jumpcloud.state.server import Server
from in_jumpcloud.timestamps import now_ms

__all__ = [
    "PostgresStore",
    "bytes_of",
    "changing_dead_letters",
    "exists",
    "keeping_dead_letters",
    "open_reader",
    "open_shared",
    "require_state",
    "try_out",
]


@contextlib.contextmanager
def open_reader(settings: StateSettings) -> Iterator[StateReader]:
    """Open the state to read it, or to change its dead letters or backfills, also while another process uses it.

    Raises:
        StateMissing: there is no state yet.
        ConfigError, StateUnavailable: it cannot be opened.
        StateOutdated: an older program wrote it.
        StateCorrupt: it is not ours, or of a newer version.
    """
    opened = PostgresDatabase(settings)

    def look(connection: Connection) -> tuple[schema.Identity, int]:
        found = schema.require(schema.identity(connection, settings.schema, opened.where), opened.where)
        return found, found.version

    with contextlib.closing(opened):
        opened.open(look)
        yield _Reader(opened, PostgresLedger(opened, now_ms), ownership.holder(opened))


class _Reader(StateReader):
    _database: PostgresDatabase

    def group_report(self) -> GroupReport:
        """As StateReader.group_report."""
        return ownership.report(self._database)


@contextlib.contextmanager
def open_shared(settings: StateSettings) -> Iterator[StateReader]:
    """`open_reader`, to change its dead letters or backfills.

    Raises:
        Fatal: another process holds it alone.
    """
    with open_reader(settings) as state:
        if state.holder and state.holder.is_alone:
            raise Fatal(f"{state.where}: in use by {state.holder} alone; try again when it has ended")
        yield state


@contextlib.contextmanager
def changing_dead_letters(settings: StateSettings) -> Iterator[StateReader]:
    """`open_shared`, for one command at a time: two replays would deliver each event twice.

    Raises:
        Fatal: another command is changing them.
    """
    with open_shared(settings) as state, keeping_dead_letters(settings):
        yield state


@contextlib.contextmanager
def keeping_dead_letters(settings: StateSettings) -> Iterator[None]:
    """No other command changes the dead letters meanwhile.

    Raises:
        Fatal: another command is changing them.
    """
    opened = PostgresDatabase(settings)
    with contextlib.closing(opened), opened.exclusive("dead letters") as is_ours:
        if not is_ours:
            raise Fatal(f"{opened.where}: another command is using its dead letters; try again when it has ended")
        yield


def try_out(settings: StateSettings) -> Server:
    """Do what a start does, and undo it. Returns what the server says of itself.

    Raises:
        ConfigError, StateUnavailable, StateCorrupt: it cannot be used.
    """
    opened = PostgresDatabase(settings)
    with contextlib.closing(opened):
        return opened.try_out(
            lambda connection: schema.prepare(connection, settings.schema, opened.where, ""),
            lambda transaction, version: facts(opened, transaction, version),
        )


def exists(settings: StateSettings) -> bool:
    """Whether there are tables."""
    opened = PostgresDatabase(settings)
    with contextlib.closing(opened):
        return opened.has_tables()


def require_state(settings: StateSettings) -> None:
    """Raise StateMissing if there are no tables; they may be of an older version."""
    if not exists(settings):
        raise schema.missing(settings.place)


def bytes_of(settings: StateSettings) -> int:
    """The bytes of the state on the server."""
    opened = PostgresDatabase(settings)
    with contextlib.closing(opened):
        return size(opened)
