"""The tables of the state's database, and how those of older versions become the present ones."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

VERSION = 7
APPLICATION = 0x696E6A63
"""The application id, "injc": it distinguishes our file from other SQLite databases."""

_TABLES = """
CREATE TABLE identity (agent_id TEXT NOT NULL);
CREATE TABLE stream (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    position TEXT NOT NULL,              -- insights.window.Position as JSON
    acknowledged INTEGER NOT NULL DEFAULT 0,
    late INTEGER NOT NULL DEFAULT 0,
    dead_lettered INTEGER NOT NULL DEFAULT 0,
    error TEXT,                          -- the last error; NULL: the last step succeeded
    error_ms INTEGER,
    updated_ms INTEGER                   -- time of the last commit
);
"""
_ADDED_IN_3 = """
ALTER TABLE stream ADD COLUMN kept_from_ms INTEGER;      -- the ledger has all ids from then on; NULL: none was removed
ALTER TABLE stream ADD COLUMN reconciliation TEXT;       -- the reconciler's own JSON
ALTER TABLE stream ADD COLUMN v2_read_ms INTEGER;        -- the end of what version 2 had read
CREATE TABLE ledger (
    stream INTEGER NOT NULL,
    minute INTEGER NOT NULL,             -- of the event's timestamp, since the epoch
    digest BLOB NOT NULL,                -- insights.event.EventKey
    PRIMARY KEY (stream, minute, digest)
) WITHOUT ROWID;
CREATE TABLE outside (                   -- delivered events whose timestamp is not in the window that returned them
    stream INTEGER NOT NULL,
    digest BLOB NOT NULL,
    read_ms INTEGER NOT NULL,            -- the end of the newest window that returned it
    PRIMARY KEY (stream, digest)
) WITHOUT ROWID;
CREATE TABLE dead_letter (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    stream TEXT NOT NULL,                -- its name
    state TEXT NOT NULL,                 -- 'dead', or 'suspect': it is sent once more
    minute INTEGER NOT NULL,
    digest BLOB NOT NULL,
    id TEXT NOT NULL,
    reason TEXT NOT NULL,
    time_ms INTEGER NOT NULL,            -- when it was refused
    tag TEXT NOT NULL,
    bytes INTEGER NOT NULL,              -- the length of `event`
    event BLOB NOT NULL                  -- as JumpCloud sent it
);
CREATE INDEX dead_letter_size ON dead_letter (stream, state, bytes);
"""
_ADDED_IN_4 = """
ALTER TABLE stream ADD COLUMN organization TEXT;         -- the one that the events of the key name
ALTER TABLE stream ADD COLUMN services TEXT;             -- from when on each is fetched, in epoch ms, as JSON
ALTER TABLE identity ADD COLUMN in_use TEXT;             -- the run that has the file open; NULL: it was closed
"""
_ADDED_IN_5 = """
CREATE TABLE last_commit (               -- written by each transaction; its row keeps its size, see state/log_file.py
    id TEXT NOT NULL,
    before TEXT NOT NULL                 -- the id of the one before
);
INSERT INTO last_commit VALUES (lower(hex(randomblob(16))), '00000000000000000000000000000000');
"""
_ADDED_IN_6 = """
CREATE TABLE job (                       -- one stream of a backfill, a span that is delivered next to the streams
    unit INTEGER PRIMARY KEY AUTOINCREMENT,  -- what it delivered is in the ledger of stream -unit while it is open
    number INTEGER NOT NULL,             -- of the backfill
    stream TEXT NOT NULL,                -- its name
    since_ms INTEGER NOT NULL,
    until_ms INTEGER NOT NULL,
    services TEXT NOT NULL,              -- a JSON array
    again INTEGER NOT NULL,              -- 1: also what the ledger of the stream has
    created_ms INTEGER NOT NULL,
    condition TEXT NOT NULL,             -- 'open', 'done', 'failed' or 'cancelled'
    position TEXT NOT NULL,              -- insights.window.Position as JSON
    expected INTEGER,                    -- how many events JumpCloud counts in the span; NULL: not known
    read INTEGER NOT NULL DEFAULT 0,     -- different events
    acknowledged INTEGER NOT NULL DEFAULT 0,
    dead_lettered INTEGER NOT NULL DEFAULT 0,
    error TEXT,                          -- the last error, or why it failed
    error_ms INTEGER,
    updated_ms INTEGER NOT NULL          -- time of the last commit
);
"""
_ADDED_IN_7 = """
CREATE TABLE organization (              -- the names on the lists so far
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL
) WITHOUT ROWID;
"""
NEXT_COMMIT = "UPDATE last_commit SET before = id, id = lower(hex(randomblob(16)))"
"""The last statement of each transaction."""
_KEPT_IN_2_MS = 72 * 3_600_000
"""How long version 2 kept ids, unless configured otherwise. Older rows may be single events with a wrong date."""
_MIGRATIONS = {
    1: """
ALTER TABLE stream ADD COLUMN late INTEGER NOT NULL DEFAULT 0;
ALTER TABLE stream ADD COLUMN dead_lettered INTEGER NOT NULL DEFAULT 0;
ALTER TABLE stream ADD COLUMN error TEXT;
ALTER TABLE stream ADD COLUMN error_ms INTEGER;
ALTER TABLE stream ADD COLUMN updated_ms INTEGER;
""",
    # The old ledger stays as a table of its own: hashes cannot be computed from ids alone. `delivered` and `counts`
    # look into both until `prune` has passed all that version 2 had read.
    2: f"""
UPDATE OR IGNORE stream SET name = 'default' WHERE name = 'own organization';
ALTER TABLE ledger RENAME TO ledger_v2;
{_ADDED_IN_3}
UPDATE stream SET v2_read_ms = max(
    json_extract(position, '$.watermark_ms'), coalesce(json_extract(position, '$.window.end_ms'), 0));
UPDATE stream SET kept_from_ms = coalesce(max(
    json_extract(position, '$.watermark_ms') - {_KEPT_IN_2_MS},
    (SELECT min(minute) * 60000 FROM ledger_v2 WHERE stream = number AND minute > 0)),
    json_extract(position, '$.watermark_ms'));
""",  # noqa: S608 - our own
    3: _ADDED_IN_4,
    4: _ADDED_IN_5,
    5: _ADDED_IN_6,
    6: _ADDED_IN_7,
}
"""From each older version to the next one."""


class ForeignContent(Exception):
    """The tables have not what in-jumpcloud writes."""


def create(database: sqlite3.Connection, agent_id: str) -> None:
    """Create the tables in an empty database, in one transaction."""
    pragmas = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};"
    tables = f"{_TABLES} {_ADDED_IN_3} {_ADDED_IN_4} {_ADDED_IN_5} {_ADDED_IN_6} {_ADDED_IN_7}"
    database.executescript(f"BEGIN IMMEDIATE; {tables} {pragmas}")
    database.execute("INSERT INTO identity (agent_id) VALUES (?)", (agent_id,))
    database.execute("COMMIT")


def migrate(database: sqlite3.Connection, version: int) -> None:
    """Turn the tables of an older `version` into the present ones, in one transaction. Nothing large is copied."""
    steps = "".join(_MIGRATIONS[each] for each in range(version, VERSION))
    database.executescript(f"BEGIN IMMEDIATE; {steps} {NEXT_COMMIT}; PRAGMA user_version = {VERSION}; COMMIT")


class Identity(NamedTuple):
    """What identifies the state: the agent id of the records, and the run that has it open (None: it was closed)."""

    agent_id: str
    run: str | None


def identity(database: sqlite3.Connection) -> Identity:
    """Read it.

    Raises:
        ForeignContent: there is none.
    """
    row = database.execute("SELECT agent_id, in_use FROM identity").fetchone()
    if row is None:
        raise ForeignContent("its content is not what in-jumpcloud writes: no identity")
    return Identity(*row)
