"""Which process owns the streams.

Each process is a member, which renews its row while it lives. Each stream has an owner and a token, which is raised
when its owner changes: a statement of an earlier owner, which may be frozen for any time before it arrives, changes
nothing. For now one member owns all streams; another one waits until its lease is over.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import msgspec

from in_jumpcloud import __version__
from in_jumpcloud.errors import StateUnavailable
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state.database import Holder
from in_jumpcloud.state.postgresql.database import PostgresDatabase

LEASE_SECONDS = 15
"""A member that has been silent for so long, by the clock of the server, is dead."""
_A_MOMENT = 0.2
_ALIVE = "renewed_at + lease > clock_timestamp()"
_HOLDER = (
    "SELECT name, alone, extract(epoch FROM renewed_at + lease - clock_timestamp())::float "  # noqa: S608 - our own
    f"FROM member WHERE {_ALIVE} LIMIT 1"
)
"""Its name, and the seconds that are left of its lease."""
_CLAIM = (
    "UPDATE stream SET owner = ?1::uuid, token = token + 1, owned_at = clock_timestamp() "
    "WHERE owner IS DISTINCT FROM ?1::uuid RETURNING name, token, position"
)


class Claimed(NamedTuple):
    """A stream that this process owns now."""

    name: str
    token: int
    position: Position


def holder(database: PostgresDatabase) -> Holder | None:
    """The process that uses the state; None if no process does."""
    return next((Holder(name, is_alone) for name, is_alone, _ in database.read(_HOLDER)), None)


def join(database: PostgresDatabase, *, alone: bool = False) -> list[Claimed]:
    """Become the member that owns all streams. `alone`: see Holder.

    Raises:
        StateUnavailable: another member lives.
    """
    with database.transaction() as transaction:
        lock = "SELECT pg_advisory_xact_lock(hashtextextended('in_jumpcloud members ' || ?, 0))"
        transaction.execute(lock, (database.schema,))
        other = transaction.execute(_HOLDER).fetchone()
        if other:
            raise StateUnavailable(
                f"{database.where}: in use by {other[0]}; only one process at a time can use it",
                after=other[2] + _A_MOMENT,
            )
        transaction.execute("DELETE FROM member")
        insert = "INSERT INTO member (id, name, version, alone, lease) VALUES (?, ?, ?, ?, make_interval(secs => ?))"
        name = f"process {os.getpid()} on {os.uname().nodename}"
        transaction.execute(insert, (database.member, name, __version__, alone, LEASE_SECONDS))
        rows = transaction.execute(_CLAIM, (database.member,)).fetchall()
    return [_claimed(database, *row) for row in rows]


def renew(database: PostgresDatabase) -> bool:
    """Show that this member lives. Returns whether it is still a member: others may have taken it for dead."""
    change = "UPDATE member SET renewed_at = clock_timestamp(), held = ? WHERE id = ? RETURNING 1"
    return bool(database.read(change, (len(database.tokens), database.member)))


def leave(database: PostgresDatabase) -> None:
    """Give back all streams, and be no member any more."""
    with database.transaction() as transaction:
        transaction.execute("UPDATE stream SET owner = NULL WHERE owner = ?", (database.member,))
        transaction.execute("DELETE FROM member WHERE id = ?", (database.member,))


def _claimed(database: PostgresDatabase, name: str, token: int, position: str) -> Claimed:
    try:
        return Claimed(name, token, msgspec.json.decode(position, type=Position))
    except msgspec.DecodeError as error:
        raise database.corrupt(f"a position is not what in-jumpcloud writes: {error}") from None
