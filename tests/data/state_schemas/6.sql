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
ALTER TABLE stream ADD COLUMN organization TEXT;         -- the one that the events of the key name
ALTER TABLE stream ADD COLUMN services TEXT;             -- from when on each is fetched, in epoch ms, as JSON
ALTER TABLE identity ADD COLUMN in_use TEXT;             -- the run that has the file open; NULL: it was closed
CREATE TABLE last_commit (               -- written by each transaction; its row keeps its size, see state/log_file.py
    id TEXT NOT NULL,
    before TEXT NOT NULL                 -- the id of the one before
);
INSERT INTO last_commit VALUES (lower(hex(randomblob(16))), '00000000000000000000000000000000');
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
