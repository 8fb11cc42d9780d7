"""The tables in PostgreSQL, and how those of older versions become the present ones.

A program of version N also works on tables of a newer version whose `reads_from` is at most N: so members of two
versions run together while they are upgraded one after the other.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import psycopg

from in_jumpcloud.errors import ConfigError, Problem, StateCorrupt, StateMissing, StateOutdated
from in_jumpcloud.state.postgresql.connections import Connection
from in_jumpcloud.state.postgresql.errors import RIGHTS_ADVICE

VERSION = 3
_READS_FROM = 1
"""The oldest version whose program can use the tables as they are now."""
_OLDEST_SERVER = 130_000
"""https://www.postgresql.org/support/versioning/: ON CONFLICT and partitions as they are used here are older."""
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('in_jumpcloud ' || $1, 0))"
_CREATE = """
CREATE TABLE {0}.identity (
    agent_id text NOT NULL,
    version int NOT NULL,
    reads_from int NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE {0}.member (                -- the processes that use the state
    id uuid PRIMARY KEY,
    name text NOT NULL,
    version text NOT NULL,
    address text,                        -- http.listen as others reach it
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    renewed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease interval NOT NULL,             -- how long it may be silent
    alone boolean NOT NULL DEFAULT false, -- it lets no other process change the state
    able boolean NOT NULL,               -- it can reach JumpCloud and a receiver; otherwise its share is 0
    held int NOT NULL DEFAULT 0,         -- how many streams it has
    settings_hash text NOT NULL,         -- a digest of the settings that all should share
    streams text[]                       -- those that it lists; NULL: it leaves that to others
);
CREATE TABLE {0}.rate_limit (            -- of requests to JumpCloud, for each API key
    key_hash text PRIMARY KEY,
    held_until timestamptz NOT NULL      -- it has asked for a pause
);
CREATE TABLE {0}.stream (
    number int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    wanted boolean NOT NULL DEFAULT true,
    owner uuid,                          -- member.id; without a foreign key: to remove a member changes no stream
    token bigint NOT NULL DEFAULT 0,     -- raised whenever the owner changes: what an earlier owner writes is refused
    owned_at timestamptz,
    position text NOT NULL,              -- insights.window.Position as JSON
    acknowledged bigint NOT NULL DEFAULT 0,
    late bigint NOT NULL DEFAULT 0,
    dead_lettered bigint NOT NULL DEFAULT 0,
    error text,                          -- the last error; NULL: the last step succeeded
    error_ms bigint,
    updated_ms bigint,                   -- time of the last commit
    kept_from_ms bigint,                 -- the ledger has all ids from then on; NULL: none was removed
    reconciliation text,                 -- the reconciler's own JSON
    organization text,                   -- the one that the events of the key name
    services text                        -- from when on each is fetched, in epoch ms, as JSON
) WITH (fillfactor = 70);                -- so that a changed row stays on its page
CREATE TABLE {0}.organization (          -- the names that one member lists for all
    id text PRIMARY KEY,
    name text NOT NULL
);
CREATE INDEX stream_owner ON {0}.stream (owner);
CREATE TABLE {0}.ledger (
    stream int NOT NULL,                 -- its number, or that of a unit of a backfill, below zero
    minute int NOT NULL,                 -- of the event, since the epoch; -2: not in the window that returned it
    id uuid NOT NULL,                    -- insights.event.EventKey.digest
    day int NOT NULL                     -- of the commit, since the epoch
) PARTITION BY LIST (day);               -- see postgresql/days.py
CREATE TABLE {0}.dead_letter (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream text NOT NULL,                -- its name
    state text NOT NULL,                 -- 'dead', or 'suspect': it is sent once more
    minute bigint NOT NULL,
    digest bytea NOT NULL,
    id text NOT NULL,
    reason text NOT NULL,
    time_ms bigint NOT NULL,             -- when it was refused
    tag text NOT NULL,
    bytes bigint NOT NULL,
    event bytea NOT NULL                 -- as JumpCloud sent it
);
CREATE INDEX dead_letter_size ON {0}.dead_letter (stream, state, bytes);
CREATE TABLE {0}.job (                   -- one stream of a backfill, as in sqlite/schema.py
    unit int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    number int NOT NULL,
    stream text NOT NULL,
    since_ms bigint NOT NULL,
    until_ms bigint NOT NULL,
    services text NOT NULL,
    again boolean NOT NULL,
    created_ms bigint NOT NULL,
    condition text NOT NULL,
    position text NOT NULL,
    expected bigint,
    read bigint NOT NULL DEFAULT 0,
    acknowledged bigint NOT NULL DEFAULT 0,
    dead_lettered bigint NOT NULL DEFAULT 0,
    error text,
    error_ms bigint,
    updated_ms bigint NOT NULL
);
"""
_MIGRATIONS: dict[int, str] = {
    1: """
ALTER TABLE {0}.member ADD COLUMN streams text[];
CREATE TABLE {0}.rate_limit (LIKE {0}.budget INCLUDING ALL);
""",  # members of version 1 go on with their table, which is dropped with the others
    2: "CREATE TABLE {0}.organization (id text PRIMARY KEY, name text NOT NULL)",
}
"""From each older version to the next one. `{0}` is the schema. Within a release they only add."""
TABLES = ("ledger", "dead_letter", "job", "member", "rate_limit", "budget", "organization", "stream", "identity")
"""Their names; `budget` is of version 1. Those of the partitions of `ledger` end in a number."""
_OF_SCHEMA = "pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1"
_NO_CREATE = f"SELECT n.nspname FROM {_OF_SCHEMA} AND NOT has_schema_privilege(n.oid, 'CREATE') LIMIT 1"  # noqa: S608 - our own
_NOT_OWNED = f"""
SELECT c.relname FROM {_OF_SCHEMA} AND c.relname LIKE 'ledger%' AND c.relkind IN ('r', 'p')
    AND NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1 LIMIT 1
"""  # noqa: S608 - our own
_NO_RIGHT = f"""
SELECT c.relname, p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p, {_OF_SCHEMA}
    AND c.relkind IN ('r', 'p') AND NOT has_table_privilege(c.oid, p) ORDER BY 1, 2 LIMIT 1
"""  # noqa: S608 - our own
_RIGHTS = (
    (_NO_CREATE, "may not create tables in the schema, and each day needs one"),
    (_NOT_OWNED, "does not own the table {0}, and each day adds and drops one"),
    (_NO_RIGHT, "has not the right to {1} in the table {0}"),
)
"""What a user may not do, and how to say it. Each query has a row if there is such a thing."""


class Identity(NamedTuple):
    """What identifies the state: the agent id of the records, and the version of the tables."""

    agent_id: str
    version: int
    reads_from: int


def quoted(name: str) -> str:
    """The name of a schema, as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def identity(connection: Connection, schema: str, where: str) -> Identity | None:
    """What is in the schema; None if there are no tables.

    Raises:
        ConfigError: the server is too old, or the database has another encoding.
        StateCorrupt: the tables are not ours, or of a newer version.
    """
    server = connection.info.server_version
    if server < _OLDEST_SERVER:
        oldest = _OLDEST_SERVER // 10_000
        text = f"{where}: the server is PostgreSQL {server // 10_000}; version {oldest} or later is needed"
        raise ConfigError(Problem("state.url", text))
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in {None, "UTF8"}:
        text = f"{where}: the encoding of the database is {encoding}, which cannot hold every name; UTF8 is needed"
        raise ConfigError(
            Problem("state.url", text), advice="create a database WITH ENCODING 'UTF8' TEMPLATE template0"
        )
    query = (
        "SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = $1 AND c.relkind IN ('r', 'p')"
    )
    tables = {name for (name,) in connection.execute(query, (schema,))}
    if not tables:
        return None
    advice = "set another state.schema"
    if not {"identity", "stream", "ledger"} <= tables:
        raise StateCorrupt(f"{where}: has tables of another program, such as {min(tables)}", advice=advice)
    row = connection.execute(f"SELECT agent_id, version, reads_from FROM {quoted(schema)}.identity").fetchone()  # noqa: S608 - quoted
    if row is None:
        raise StateCorrupt(f"{where}: its content is not what in-jumpcloud writes: no identity", advice=advice)
    found = Identity(*row)
    if found.reads_from > VERSION:
        text = f"{where}: of version {found.version}, newer than version {VERSION} of this program"
        raise StateCorrupt(text, advice=f"upgrade in-jumpcloud, or {advice}")
    return found


def missing(where: str) -> StateMissing:
    """The error for a schema without tables."""
    problem = Problem("state.schema", f"{where}: has no tables")
    return StateMissing(problem, advice="the first `in-jumpcloud run` creates the state")


def require(found: Identity | None, where: str) -> Identity:
    """What is in the schema, if this program can read it.

    Raises:
        StateMissing, StateOutdated: it cannot.
    """
    if found is None:
        raise missing(where)
    if found.version < VERSION:
        raise StateOutdated(
            f"{where}: of version {found.version}, older than version {VERSION} of this program",
            advice="the next start of `in-jumpcloud run` brings it up to date and keeps what is in it",
        )
    return found


def prepare(connection: Connection, schema: str, where: str, new_agent_id: str) -> tuple[Identity, int | None]:
    """Create the tables, or bring those of an older version up to date, in one transaction.

    Returns:
        What is in the schema now, and the version that was there before; None if it was empty.

    Raises:
        ConfigError, StateCorrupt: as `identity`; or the user may not use the tables.
    """
    found = identity(connection, schema, where)
    if found:
        _require_rights(connection, schema, where)
        if found.version >= VERSION:
            return found, found.version
    with connection.transaction():
        connection.execute(_LOCK, (schema,))
        found = identity(connection, schema, where)  # another process may have been first
        if found is None:
            _create(connection, schema, new_agent_id)
        elif found.version < VERSION:
            for version in range(found.version, VERSION):
                connection.execute(_MIGRATIONS[version].format(quoted(schema)))
            change = f"UPDATE {quoted(schema)}.identity SET version = $1, reads_from = $2"  # noqa: S608 - quoted
            connection.execute(change, (VERSION, _READS_FROM))
    now: Any = identity(connection, schema, where)
    return now, found.version if found else None


def _require_rights(connection: Connection, schema: str, where: str) -> None:
    """Check at the start what else is missing only at the first commit, or of the next day.

    Raises:
        ConfigError: the user may not do all that a process does.
    """
    for query, lacks in _RIGHTS:
        if found := connection.execute(query, (schema,)).fetchone():
            problem = Problem("state.url", f"{where}: its user {lacks.format(*found)}")
            raise ConfigError(problem, advice=RIGHTS_ADVICE)


def drop(connection: Connection, schema: str) -> None:
    """Remove the tables, and the schema if nothing else is in it."""
    with connection.transaction():
        for table in TABLES:
            connection.execute(f"DROP TABLE IF EXISTS {quoted(schema)}.{table}")
    with contextlib.suppress(psycopg.Error):  # it has other tables, or is not ours to remove
        connection.execute(f"DROP SCHEMA {quoted(schema)}")


def _create(connection: Connection, schema: str, agent_id: str) -> None:
    query = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1"
    if not connection.execute(query, (schema,)).fetchone():  # whoever may use it may not be allowed to create it
        connection.execute(f"CREATE SCHEMA {quoted(schema)}")
    connection.execute(_CREATE.format(quoted(schema)))
    insert = f"INSERT INTO {quoted(schema)}.identity (agent_id, version, reads_from) VALUES ($1, $2, $3)"  # noqa: S608 - quoted
    connection.execute(insert, (agent_id, VERSION, _READS_FROM))
