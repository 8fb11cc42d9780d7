-- A state as version 1 of the schema kept it: two streams, five ids.
PRAGMA application_id = 1768843875;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE identity (agent_id TEXT NOT NULL);
INSERT INTO "identity" VALUES('0b8f5f0e-agent');
CREATE TABLE ledger (
    stream INTEGER NOT NULL,
    minute INTEGER NOT NULL,             -- of the event's timestamp, since the epoch
    id TEXT NOT NULL,
    PRIMARY KEY (stream, minute, id)
) WITHOUT ROWID;
INSERT INTO "ledger" VALUES(1,0,'sha256:00');
INSERT INTO "ledger" VALUES(1,29453760,'a');
INSERT INTO "ledger" VALUES(1,29453760,'b');
INSERT INTO "ledger" VALUES(1,29453761,'a');
INSERT INTO "ledger" VALUES(2,29453762,'it''s');
CREATE TABLE stream (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    position TEXT NOT NULL,              -- insights.window.Position as JSON
    acknowledged INTEGER NOT NULL DEFAULT 0
);
INSERT INTO "stream" VALUES(1,'own organization','{"origin_ms":1767225600000,"watermark_ms":1767225600000,"window":{"start_ms":1767225600000,"end_ms":1767312000000,"services":["sso","ldap"],"limit":1000,"cursor":"[\"é\", 17, null]"}}',4);
INSERT INTO "stream" VALUES(2,'organization 5a2af2','{"origin_ms":5,"watermark_ms":1767312000000,"window":null}',1);
COMMIT;
