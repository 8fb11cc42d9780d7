CREATE TABLE identity (agent_id TEXT NOT NULL);
CREATE TABLE stream (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    position TEXT NOT NULL,              -- insights.window.Position as JSON
    acknowledged INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE ledger (
    stream INTEGER NOT NULL,
    minute INTEGER NOT NULL,             -- of the event's timestamp, since the epoch
    id TEXT NOT NULL,
    PRIMARY KEY (stream, minute, id)
) WITHOUT ROWID;
