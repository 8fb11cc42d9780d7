"""What the server says of itself: its settings, its clock, its connections, and who uses the state."""

from __future__ import annotations

import time

from in_jumpcloud.state.database import Transaction
from in_jumpcloud.state.postgresql import ownership
from in_jumpcloud.state.postgresql.connections import MOST, MOST_APART
from in_jumpcloud.state.postgresql.database import PostgresDatabase
from in_jumpcloud.state.postgresql.upkeep import SIZE
from in_jumpcloud.state.server import Server

_TRIES = 3
"""How often the clock is asked; the fastest answer is the most exact."""
_SETTINGS = """
SELECT current_setting('default_transaction_isolation'), current_setting('synchronous_commit'),
    pg_catalog.pg_database_size(pg_catalog.current_database())
"""
_CONNECTIONS = """
SELECT count(*) FILTER (WHERE application_name LIKE 'in_jumpcloud%'),
    least(
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0)
            - (SELECT sum(numbackends) FROM pg_catalog.pg_stat_database),
        (SELECT nullif(rolconnlimit, -1) FROM pg_catalog.pg_roles WHERE rolname = current_user)
            - count(*) FILTER (WHERE usename = current_user),
        (SELECT nullif(datconnlimit, -1) FROM pg_catalog.pg_database WHERE datname = current_database())
            - count(*) FILTER (WHERE datname = current_database())
    )::int
FROM pg_catalog.pg_stat_activity
"""
"""Those of this program, and how many more the server, the user and the database have; a limit of -1 is none.

Whose connections they are a user sees of its own ones only.
"""


def facts(database: PostgresDatabase, transaction: Transaction, version: str) -> Server:
    """Ask the server, whose tables are there."""
    round_trip, ahead = min(_clock(transaction) for _ in range(_TRIES))
    isolation, synchronous_commit, database_bytes = transaction.execute(_SETTINGS).fetchone()
    connections, free = transaction.execute(_CONNECTIONS).fetchone()
    (size,) = transaction.execute(SIZE, (database.schema,)).fetchone()
    return Server(
        version=version,
        round_trip=round_trip,
        ahead=ahead,
        isolation=isolation,
        synchronous_commit=synchronous_commit,
        connections=connections,
        free=max(0, free),
        connections_each=MOST + MOST_APART,
        bytes=size,
        database_bytes=database_bytes,
        members=ownership.members_in(transaction),
    )


def _clock(transaction: Transaction) -> tuple[float, float]:
    """The time of a statement, and how far the server's clock is ahead, in seconds."""
    before, began = time.time(), time.monotonic()
    (there,) = transaction.execute("SELECT extract(epoch FROM clock_timestamp())::float").fetchone()
    took = time.monotonic() - began
    return took, there - before - took / 2
