"""Which member of a group owns which stream: the statements.

Each process is a member, which renews its row while it lives. Each stream has an owner and a token, which is raised
when its owner changes: a statement of an earlier owner, which may be frozen for any time before it arrives, changes
nothing. Only the clock of the server says who is silent, so the clocks of the members do not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import msgspec

from in_jumpcloud.errors import StateUnavailable
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state.database import Holder, Transaction
from in_jumpcloud.state.group import GroupReport, GroupView, Member
from in_jumpcloud.state.postgresql.database import PostgresDatabase

_AGAIN_SECONDS = 1.0
"""How soon a process that waits for others to end looks again. Their leases say nothing of that: they renew them."""
_JOIN = (
    "INSERT INTO member (id, name, version, address, lease, able, settings_hash, alone) "
    "VALUES (?, ?, ?, ?, make_interval(secs => ?), ?, ?, ?)"
)
_RENEW = """
UPDATE member m SET renewed_at = clock_timestamp(), able = ?2, held = ?3, settings_hash = ?4
FROM (SELECT renewed_at FROM member WHERE id = ?1::uuid) before WHERE m.id = ?1::uuid
RETURNING extract(epoch FROM clock_timestamp() - before.renewed_at)::float
"""
_JUDGE = """
DELETE FROM member WHERE renewed_at + lease < clock_timestamp() AND id <> ?::uuid
RETURNING id::text, name, extract(epoch FROM clock_timestamp() - renewed_at)::float
"""
_MEMBERS = """
SELECT id::text, name, version, address, extract(epoch FROM clock_timestamp() - started_at)::float,
    extract(epoch FROM clock_timestamp() - renewed_at)::float, extract(epoch FROM lease)::float, able, held,
    settings_hash
FROM member ORDER BY id
"""
_HOLDERS = """
SELECT name, alone FROM member WHERE renewed_at + lease > clock_timestamp() ORDER BY alone DESC, name
"""
"""The living."""
_COUNT = """
SELECT count(*), count(*) FILTER (WHERE owner IS NULL OR NOT EXISTS (SELECT 1 FROM member WHERE member.id = owner))
FROM stream WHERE wanted
"""
_CLAIM = """
WITH free AS (
    SELECT number, owner FROM stream WHERE wanted AND NOT name = ANY(?3::text[])
        AND (owner IS NULL OR NOT EXISTS (SELECT 1 FROM member WHERE member.id = stream.owner))
    ORDER BY number LIMIT ?2 FOR UPDATE SKIP LOCKED
)
UPDATE stream s SET owner = ?1::uuid, token = token + 1, owned_at = clock_timestamp()
FROM free WHERE s.number = free.number
RETURNING s.name, s.token, s.position, free.owner::text
"""
_CHECKSUM = (
    "SELECT coalesce(sum(('x' || left(md5(name), 8))::bit(32)::bigint * token::numeric), 0) FROM stream "
    "WHERE owner = ? AND wanted"
)
_MINE = "SELECT name, token, position, NULL FROM stream WHERE owner = ? AND wanted"
_RELEASE = "UPDATE stream SET owner = NULL WHERE owner = ? AND name = ANY(?::text[])"
_LIST = "UPDATE member SET streams = ?2::text[] WHERE id = ?1::uuid"
_WANT = """
WITH listed AS (SELECT DISTINCT unnest(streams) AS name FROM member)
UPDATE stream SET wanted = NOT wanted WHERE wanted <> (name IN (SELECT name FROM listed)) RETURNING wanted
"""
_OWNERS = """
SELECT s.name, m.id::text FROM stream s LEFT JOIN member m ON m.id = s.owner WHERE wanted ORDER BY s.name
"""
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('in_jumpcloud members ' || ?, 0))"
_HELD = "SELECT extract(epoch FROM held_until - clock_timestamp())::float FROM rate_limit WHERE key_hash = ?"
_HOLD = """
INSERT INTO rate_limit (key_hash, held_until) VALUES (?1, clock_timestamp() + make_interval(secs => ?2))
ON CONFLICT (key_hash) DO UPDATE SET held_until = greatest(rate_limit.held_until, excluded.held_until)
"""


class Claimed(NamedTuple):
    """A stream that this process owns now; `former` is the member that had it, None if none did."""

    name: str
    token: int
    position: Position
    former: str | None = None


class Silent(NamedTuple):
    """A member that was silent for longer than its lease, for so many seconds."""

    id: str
    name: str
    seconds: float


def holder(database: PostgresDatabase) -> Holder | None:
    """The processes that use the state, as one; None if no process does."""
    found = database.read(_HOLDERS)
    return Holder(", ".join(name for name, *_ in found), found[0][1]) if found else None


def join(database: PostgresDatabase, member: Member, *, alone: bool = False) -> None:
    """Become a member; `database.member` is its id. `alone`: the only one, see Holder.

    Raises:
        StateUnavailable: a member is alone; or another one lives, and this one is to be alone.
    """
    values = (database.member, member.name, member.version, member.address, member.lease, member.able, member.settings)
    with database.transaction() as transaction:
        transaction.execute(_LOCK, (database.schema,))
        others = transaction.execute(_HOLDERS).fetchall()
        if others and (alone or others[0][1]):
            what = "only one process at a time can do this" if alone else "it lets no other process change the state"
            text = f"{database.where}: in use by {', '.join(name for name, *_ in others)}; {what}"
            raise StateUnavailable(text, after=_AGAIN_SECONDS)
        transaction.execute(_JOIN, (*values, alone))


def renew(database: PostgresDatabase, *, able: bool, held: int, settings: str) -> float | None:
    """Show that this member lives. Returns the seconds since the last time; None: it is no member any more."""
    rows = database.read(_RENEW, (database.member, able, held, settings))
    return float(rows[0][0]) if rows else None


def judge(database: PostgresDatabase) -> list[Silent]:
    """Remove the members that are silent: others may take their streams."""
    return [Silent(*row) for row in database.read(_JUDGE, (database.member,))]


def members(database: PostgresDatabase) -> tuple[Member, ...]:
    """All members, by id."""
    return tuple(Member(*row) for row in database.read(_MEMBERS))


def members_in(transaction: Transaction) -> tuple[Member, ...]:
    """The same, in a transaction."""
    return tuple(Member(*row) for row in transaction.execute(_MEMBERS).fetchall())


def count(database: PostgresDatabase) -> tuple[int, int]:
    """How many streams are wanted, and how many of them no member owns."""
    ((total, unowned),) = database.read(_COUNT)
    return total, unowned


def claim(database: PostgresDatabase, most: int, *, but: Collection[str] = ()) -> list[Claimed]:
    """Take streams that no member owns, except these."""
    return [_claimed(database, *row) for row in database.read(_CLAIM, (database.member, most, list(but)))]


def owns(database: PostgresDatabase, tokens: Mapping[str, int]) -> bool:
    """Whether this member owns the streams with these tokens, and no others. It is cheaper than `mine`."""
    ((checksum,),) = database.read(_CHECKSUM, (database.member,))
    return int(checksum) == sum(_digest(name) * token for name, token in tokens.items())


@cache
def _digest(name: str) -> int:
    """As in _CHECKSUM."""
    return int(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()[:8], 16)


def mine(database: PostgresDatabase) -> list[Claimed]:
    """The streams that this member owns."""
    return [_claimed(database, *row) for row in database.read(_MINE, (database.member,))]


def release(database: PostgresDatabase, streams: Sequence[str]) -> None:
    """Give streams back."""
    with database.transaction() as transaction:
        transaction.execute(_RELEASE, (database.member, list(streams)))


def leave(database: PostgresDatabase) -> None:
    """Give back all streams, and be no member any more."""
    with database.transaction() as transaction:
        transaction.execute("UPDATE stream SET owner = NULL WHERE owner = ?", (database.member,))
        transaction.execute("DELETE FROM member WHERE id = ?", (database.member,))


def want(database: PostgresDatabase, streams: Collection[str]) -> int:
    """These streams are to be collected, besides those that other members list. The others keep their positions.

    None: this member lists none any more, which changes no stream. Returns how many are no longer collected.
    """
    with database.transaction() as transaction:
        transaction.execute(_LOCK, (database.schema,))  # of two at the same time the later one sees the lists of both
        transaction.execute(_LIST, (database.member, list(streams) or None))
        changed = transaction.execute(_WANT).fetchall() if streams else []
        return sum(not wanted for (wanted,) in changed)


def wanted(database: PostgresDatabase) -> list[str]:
    """The streams that are to be collected."""
    return [name for (name,) in database.read("SELECT name FROM stream WHERE wanted ORDER BY number")]


def report(database: PostgresDatabase) -> GroupReport:
    """The group as the tables have it now."""
    with database.snapshot():
        found, rows = members(database), database.read(_OWNERS)
    owners = dict[str, str | None](rows)
    living = {each.id for each in found if each.silent <= each.lease}
    unowned = sum(owner not in living for owner in owners.values())
    return GroupReport(GroupView(found, len(owners), unowned), owners)


def held_for(database: PostgresDatabase, key: str) -> float:
    """The seconds for which no member may send requests with this key; 0 or less: they may."""
    rows = database.read(_HELD, (key,))
    return float(rows[0][0]) if rows else 0.0


def hold(database: PostgresDatabase, key: str, seconds: float) -> None:
    """No member is to send requests with this key for so long."""
    with database.transaction() as transaction:
        transaction.execute(_HOLD, (key, seconds))


def _claimed(database: PostgresDatabase, name: str, token: int, position: str, former: str | None) -> Claimed:
    try:
        return Claimed(name, token, msgspec.json.decode(position, type=Position), former)
    except msgspec.DecodeError as error:
        raise database.corrupt(f"a position is not what in-jumpcloud writes: {error}") from None
