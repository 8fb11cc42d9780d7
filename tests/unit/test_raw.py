"""Profile `raw`: the event as JumpCloud sent it, cleaned only as far as msgpack and stores need."""

from __future__ import annotations

import json
import random
from typing import Any

import msgpack
import pytest
from support.command import ROOT
from support.hostile_events import DOCUMENTED, events

from in_jumpcloud.config.schema import EcsSettings
from in_jumpcloud.ecs.encoder import RecordEncoder
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.ecs.record import Record
from in_jumpcloud.insights.event import parse_event
from in_jumpcloud.simulator.events import EventSource

RECEIVED_NS = 1_788_264_000_000_000_000  # 2026-09-01T12:00:00Z
GEO = GeoIPLookup(ROOT / "geoip" / "demo-city.mmdb", ROOT / "geoip" / "demo-asn.mmdb", extended=True)
SIMULATED = [item.raw for item in EventSource(start_ms=0, end_ms=240_000).between(0, 240_000, now_ms=240_000)]
NOTHING_ADDED: dict[str, Any] = {"raw_fields": ()}
DEEP = "[" * 40 + "]" * 40


def record(raw: bytes, **settings: Any) -> Record:
    """The record of an event."""
    mapper = Mapper(EcsSettings(profile="raw", **settings), GEO, agent_id="a", ephemeral_id="b")
    return mapper.map(parse_event(raw), RECEIVED_NS)


def test_every_known_event() -> None:
    """Every documented, sampled and simulated event is sent as it is, with its names, types and empty values."""
    texts = [json.dumps(event) for event in DOCUMENTED]
    raws = [*SIMULATED, *(text.encode() for text in texts if '"a..b"' not in text)]  # see test_cleaned
    assert len(raws) > 300
    changed = []
    for raw in raws:
        made = record(raw, **NOTHING_ADDED)
        if made.has_problems or json.dumps(made.body) != json.dumps(json.loads(raw)):
            changed.append((raw, made.body))
    assert [body.get("in_jumpcloud") for _, body in changed] == []


def test_added() -> None:
    """`@timestamp` and `client.geo` are added, each only if it is set; nothing else is."""
    event = {
        "id": "1",
        "@version": "1",
        "timestamp": "2026-08-14T10:00:14.014999Z",
        "client_ip": "81.2.69.144",
        "x": None,
    }
    raw = json.dumps(event).encode()
    place = record(raw, raw_fields=("client.geo",)).body["client"]["geo"]
    assert (place["country_iso_code"], place["continent_code"]) == ("GB", "EU")
    moment = {"@timestamp": "2026-08-14T10:00:14.014Z"}
    for fields, expected in {
        (): event,
        ("@timestamp",): event | moment,
        ("client.geo",): event | {"client": {"geo": place}},
        ("@timestamp", "client.geo"): event | moment | {"client": {"geo": place}},
    }.items():
        made = record(raw, raw_fields=fields)
        assert (made.body, made.geo_found) == (expected, "client.geo" in fields)
    assert record(raw).body == event | moment | {"client": {"geo": place}}
    made = record(b'{"client_ip": "10.0.0.1", "service": "sso", "organization": "o"}')
    assert made.body.keys() == {"client_ip", "service", "organization", "@timestamp"}
    assert (made.body["@timestamp"], made.service, made.organization) == ("2026-09-01T12:00:00.000Z", "sso", "o")
    assert record(b'{"client_ip": "81.2.69.144:443, 10.0.0.1"}').geo_found


CLEANED: list[tuple[str, dict[str, Any], list[str]]] = [
    ('{"a": 18446744073709551616, "b": [-9223372036854775808]}', {"a": "18446744073709551616", "b": [-(2**63)]}, ["a"]),
    ('{"a": "\\ud800"}', {"a": "\ufffd"}, ["event.a"]),
    ('{"a": NaN}', {"a": "nan"}, ["event.a"]),
    (f'{{"a": {DEEP}}}', {}, ["a"]),
    ('{"": 1, "a..b": 2}', {"_": 1, "a._.b": 2}, ["", "a..b"]),
    ('{"organization": {"a": [1, null]}}', {"organization": '{"a":[1,null]}'}, ["organization"]),
    ('{"system": "text", "changes": ["x", {"to": ""}]}', {"changes": [{"to": ""}]}, ["system", "changes"]),
    (
        '{"system": null, "changes": [null], "id": [], "x": ""}',
        {"system": None, "changes": [None], "id": [], "x": ""},
        [],
    ),
    (
        '{"success.x": null, "mfa.x": [], "id.x": {}, "resource.id": 1}',
        {"resource.id": 1},
        ["success.x", "mfa.x", "id.x"],
    ),
    ('{"client": "x", "in_jumpcloud": {}, "@timestamp": 1}', {}, ["@timestamp", "client", "in_jumpcloud"]),
    ('{"success": "yes", "error_code": "49", "mfa": 1}', {"success": "yes", "error_code": "49", "mfa": 1}, []),
    ("[1]", {}, ["the event is not a JSON object"]),
    ('{"a": ', {}, ["the event is not valid JSON"]),
]


@pytest.mark.parametrize(("text", "expected", "problems"), CLEANED)
def test_cleaned(text: str, expected: dict[str, Any], problems: list[str]) -> None:
    """What msgpack or a store cannot hold is changed or left out, the reason is given, and the original is kept."""
    made = record(text.encode(), **NOTHING_ADDED)
    own = made.body.pop("in_jumpcloud", {"problems": []})
    if DEEP in text:
        assert json.loads(json.dumps(made.body).replace('"[', "[").replace(']"', "]")) == json.loads(text)
        expected = made.body
    assert made.body == expected
    assert [problem.partition(": ")[0] for problem in own["problems"]] == problems
    assert made.has_problems == bool(problems)
    if problems:
        assert own["original"] == text


def test_timestamp() -> None:
    """A timestamp that cannot be read stays, and is a problem only where it should become `@timestamp`."""
    raw = b'{"timestamp": "yesterday"}'
    assert record(raw, **NOTHING_ADDED).body == {"timestamp": "yesterday"}
    body = record(raw).body
    assert (body["timestamp"], body["@timestamp"]) == ("yesterday", "2026-09-01T12:00:00.000Z")
    assert body["in_jumpcloud"]["original"] == raw.decode()


def test_any_event(dice: random.Random) -> None:
    """Every event becomes a record that msgpack can hold: the event itself, or with its original and the reason."""
    encoder = RecordEncoder(Mapper(EcsSettings(profile="raw", raw_fields=()), GEO, agent_id="a", ephemeral_id="b"))
    unchanged = 0
    for raw in events(500, dice.randrange(2**32)):
        packed, made = encoder.encode(parse_event(raw), RECEIVED_NS)
        (_, body) = msgpack.unpackb(packed, strict_map_key=False)
        if made.has_problems:
            assert body["in_jumpcloud"]["problems"]
            assert body["in_jumpcloud"]["original"] == raw.decode(errors="replace")
        else:
            unchanged += 1
            assert repr(body) == repr(json.loads(raw, strict=False))
    assert 0 < unchanged < 500
