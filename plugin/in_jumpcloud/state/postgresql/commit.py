"""The statements that move a stream: each is one round trip, refused unless this process owns the stream.

Each may be repeated after its answer was lost: what was written before is not counted again.
"""

from __future__ import annotations

from in_jumpcloud.state.postgresql.ledger import id_at, keys_in

COMMIT = f"""
WITH held AS (
    SELECT number FROM stream WHERE name = ?1 AND owner = ?2::uuid AND token = ?3::bigint FOR UPDATE
), put AS (
    INSERT INTO ledger (stream, minute, id, day)
    SELECT held.number, k.m, {id_at("?5")}, ?6::int FROM held, {keys_in("?4")}
    ON CONFLICT DO NOTHING RETURNING 1
), news AS (
    SELECT (count(*) > 0)::int AS are_any FROM put
), done AS (
    UPDATE stream s SET position = ?7, acknowledged = acknowledged + news.are_any * ?8::bigint,
        late = late + news.are_any * ?9::bigint, dead_lettered = dead_lettered + news.are_any * ?10::bigint,
        updated_ms = ?11::bigint, organization = coalesce(organization, ?12::text),
        reconciliation = coalesce(?13::text, reconciliation), kept_from_ms = coalesce(?14::bigint, kept_from_ms)
    FROM held, news WHERE s.number = held.number RETURNING s.number
)
SELECT news.are_any FROM done, news
"""  # noqa: S608 - our own
"""What returned no row did nothing: another process owns the stream. 0: nothing of it is new.

?4 to ?6 are the minutes, digests and day of the keys, ?8 to ?10 what is counted.
"""

NOTES = """
UPDATE stream s SET position = coalesce(n.position, s.position), updated_ms = ?8::bigint,
    organization = coalesce(s.organization, n.organization),
    reconciliation = coalesce(n.reconciliation, s.reconciliation),
    kept_from_ms = coalesce(n.kept_from_ms, s.kept_from_ms)
FROM unnest(?2::text[], ?3::bigint[], ?4::text[], ?5::text[], ?6::text[], ?7::bigint[])
    AS n (name, token, position, organization, reconciliation, kept_from_ms)
WHERE s.name = n.name AND s.owner = ?1::uuid AND s.token = n.token
RETURNING s.name
"""
"""The notes of streams, see state/notes.py, and the time. It returns the names of those that this process owns."""

BEGIN = """
INSERT INTO stream (name, position, services, updated_ms)
SELECT n.name, n.position, n.services, ?4::bigint
FROM unnest(?1::text[], ?2::text[], ?3::text[]) AS n (name, position, services)
ON CONFLICT (name) DO NOTHING RETURNING name
"""
"""The first positions of streams, unless they are there."""
