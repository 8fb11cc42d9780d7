"""The partitions of the ledger, one for each day of commits: made before they are needed, dropped when they are old.

The day of a commit is not before that of its events, so a day is old when no stream asks for events of it. A stream
that is refused for weeks still asks for some: its rows are copied to the present day, and the old day goes.
"""

from __future__ import annotations

from collections.abc import Iterable

from in_jumpcloud.state.database import Transaction
from in_jumpcloud.state.postgresql.database import PostgresDatabase
from in_jumpcloud.state.postgresql.schema import quoted
from in_jumpcloud.timestamps import DAY_MS

_FORGOTTEN_MS = 90 * DAY_MS
"""How long JumpCloud keeps events: a stream that left longer ago can ask for none of those it has."""
_PARTITIONS = (
    "SELECT substr(c.relname, 8)::int FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid "
    "JOIN pg_catalog.pg_class p ON p.oid = i.inhparent JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace "
    "WHERE p.relname = 'ledger' AND n.nspname = ?1"
)
_ONE_AT_A_TIME = "SELECT pg_try_advisory_xact_lock(hashtextextended('in_jumpcloud days ' || ?1, 0))"
_ASKS_FROM = (
    # Not as JSON: a cursor may have what PostgreSQL refuses in it, such as \\u0000.
    f"""SELECT number, coalesce(kept_from_ms, substring(position from '"origin_ms":(-*[0-9]+)')::bigint, 0) """  # noqa: S608 - our own
    f"/ {DAY_MS} FROM stream WHERE wanted OR updated_ms > ?"  # the time of a commit is that of the clock of a member
)


def create_days(database: PostgresDatabase, transaction: Transaction, days: Iterable[int]) -> None:
    """Make the partitions of these days, unless they are there. Commits go on meanwhile."""
    schema = quoted(database.schema)
    transaction.execute("SELECT pg_advisory_xact_lock(hashtextextended('in_jumpcloud new day ' || ?1, 0))", (schema,))
    present = {day for (day,) in transaction.execute(_PARTITIONS, (database.schema,)).fetchall()}
    for day in sorted(set(days) - present):
        transaction.execute(f"CREATE TABLE {schema}.ledger_{day} (LIKE {schema}.ledger)")
        transaction.execute(f"CREATE UNIQUE INDEX ON {schema}.ledger_{day} (stream, minute, id)")
        transaction.execute(f"ALTER TABLE {schema}.ledger ATTACH PARTITION {schema}.ledger_{day} FOR VALUES IN ({day})")


def keep_days(database: PostgresDatabase, now_ms: int, days: int) -> list[int]:
    """Make the partitions of today and tomorrow, and drop those that are old; `days` is how long events are asked for.

    A `now_ms` that is ahead drops days that are in use, once it has copied what is asked for: costly, but not wrong.

    Returns:
        The days that were dropped. None while another process does it.

    Raises:
        StateUnavailable, StateCorrupt: it is to be tried again.
    """
    today = now_ms // DAY_MS
    with database.transaction() as transaction:
        create_days(database, transaction, [today, today + 1])
        present = {day for (day,) in transaction.execute(_PARTITIONS, (database.schema,)).fetchall()}
        asks_from = dict(transaction.execute(_ASKS_FROM, (now_ms - _FORGOTTEN_MS,)).fetchall())
        units = [-unit for (unit,) in transaction.execute("SELECT unit FROM job WHERE condition = 'open'").fetchall()]
    floor = max(min(asks_from.values(), default=today), today - days)
    dropped: list[int] = []
    for day in sorted(each for each in present if each < floor):
        late = [number for number, asks in asks_from.items() if asks <= day] + units
        with database.transaction() as transaction:
            if not transaction.execute(_ONE_AT_A_TIME, (database.schema,)).fetchone()[0]:
                return dropped
            if (day,) not in transaction.execute(_PARTITIONS, (database.schema,)).fetchall():
                continue
            transaction.execute("SET LOCAL lock_timeout = '2s'")
            old = f"{quoted(database.schema)}.ledger_{day}"
            transaction.execute(f"LOCK TABLE {old} IN ACCESS EXCLUSIVE MODE")  # what is written meanwhile would be lost
            if late:
                copy = f"INSERT INTO ledger SELECT stream, minute, id, ?1::int FROM {old} WHERE stream = ANY(?2::int[])"  # noqa: S608 - quoted
                transaction.execute(f"{copy} ON CONFLICT DO NOTHING", (today, late))
            transaction.execute(f"DROP TABLE {old}")
        dropped.append(day)
    return dropped
