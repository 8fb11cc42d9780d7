"""Profile `extended`: addresses, the catalogue, settings, and what it leaves as it was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from in_jumpcloud.config.schema import Config, EcsSettings, GeoIPSettings
from in_jumpcloud.ecs import event_types
from in_jumpcloud.ecs.geoip import GeoIPLookup, open_databases
from in_jumpcloud.ecs.mapper import OTHER, Mapper
from in_jumpcloud.insights.event import parse_event

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
CITY = ROOT / "geoip" / "demo-city.mmdb"
NO_GEO = GeoIPLookup(None, None)
ABSENT = "(absent)"


def new_mapper(geo: GeoIPLookup = NO_GEO, **settings: Any) -> Mapper:
    """A mapper of these settings."""
    return Mapper(EcsSettings(**settings), geo, agent_id="a", ephemeral_id="b")


def mapped(event: Any, mapper: Mapper | None = None) -> dict[str, Any]:
    """The record's body of what an event says."""
    return (mapper or new_mapper()).map(parse_event(json.dumps(event).encode()), 0).body


def at(body: dict[str, Any], path: str) -> Any:
    """What a record holds at a dotted path."""
    value: Any = body
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return ABSENT
        value = value[name]
    return value


@pytest.mark.parametrize(
    ("sent", "ip", "port"),
    [
        ("::ffff:1.2.3.4", "1.2.3.4", ABSENT),
        ("::FFFF:102:304", "1.2.3.4", ABSENT),
        ("1.2.3.4:5678", "1.2.3.4", 5678),
        ("::ffff:1.2.3.4:5678", "1.2.3.4", 5678),
        ("[2001:db8::1]:443", "2001:db8::1", 443),
        ("[2001:db8::1]", "2001:db8::1", ABSENT),
        ("[::ffff:1.2.3.4]:0", "1.2.3.4", 0),
    ],
)
@pytest.mark.parametrize(("field", "side"), [("client_ip", "client"), ("src_ip", "source")])
def test_address(field: str, side: str, sent: str, ip: str, port: Any) -> None:
    """An address with a port, or IPv4 written as IPv6, becomes plain, and what was sent is kept beside it."""
    body = mapped({field: sent})
    assert [at(body, f"{side}.{name}") for name in ("ip", "address", "port")] == [ip, sent, port]
    assert at(body, "related.ip") == [ip]
    assert "error" not in body


@pytest.mark.parametrize("sent", ["1.2.3.4", "2001:DB8::1", "::", "::1.2.3.4"])
def test_plain_address(sent: str) -> None:
    """A plain address stays as it was sent, and no other is beside it."""
    assert mapped({"client_ip": sent})["client"] == {"ip": sent}


@pytest.mark.parametrize(
    "sent",
    ["", "1.2.3.4:65536", "1.2.3.4:", "1.2.3:4", "[1.2.3.4", "[fe80::1%eth0]:1", "fe80::1%1", "x:1", "[]:1", "1" * 999],
)
def test_no_address(sent: str) -> None:
    """What is no address is reported, and costs nothing else; empty text is as if it were not there."""
    body = mapped({"id": "1", "client_ip": sent})
    assert "client" not in body
    assert [line.partition(":")[0] for line in body.get("error", {}).get("message", [])] == ["client_ip"] * bool(sent)


def test_address_in_profile_elastic() -> None:
    """Profile elastic reports an address with a port, and keeps IPv4 written as IPv6 as it was sent."""
    mapper = new_mapper(profile="elastic")
    assert mapped({"client_ip": "1.2.3.4:5678"}, mapper)["event"]["kind"] == "pipeline_error"
    assert mapped({"client_ip": "::ffff:1.2.3.4"}, mapper)["client"] == {"ip": "::ffff:1.2.3.4"}


def test_geo() -> None:
    """The databases are opened for the profile, and find an address that was sent with a port."""
    settings = Config(geoip=GeoIPSettings(city=CITY))
    geo = open_databases(settings)
    found = mapped({"client_ip": "81.2.69.144:443"}, new_mapper(geo))["client"]["geo"]
    geo.close()
    assert found["city_name"] == "London"
    assert {"continent_code", "timezone"} <= found.keys()
    plain = open_databases(Config(geoip=GeoIPSettings(city=CITY), ecs=EcsSettings(profile="elastic")))
    assert {"continent_code", "timezone"}.isdisjoint(
        mapped({"client_ip": "81.2.69.144"}, new_mapper(plain))["client"]["geo"]
    )
    plain.close()


@pytest.mark.parametrize(
    "row", [row for row in event_types.table() if row.categories], ids=lambda row: f"{row.service}-{row.name}"
)
def test_category(row: event_types.EventType) -> None:
    """Every event type of the catalogue that has a category leaves with it and its types."""
    about = mapped({"service": row.service, "event_type": row.name})["event"]
    assert (about["category"], about["type"]) == (list(row.categories), list(row.types))


def test_unknown_types() -> None:
    """Event types that the catalogue lacks pass without category and are counted by name, at most 100 names."""
    mapper = new_mapper()
    for number in range(150):
        assert "category" not in mapped({"event_type": f"new_{number}"}, mapper)["event"]
    for known in ({"event_type": "user_create"}, {}, {"event_type": ""}):
        mapped(known, mapper)
    mapped({"event_type": "new_1"}, mapper)
    assert len(mapper.unknown_types) == 101
    assert (mapper.unknown_types["new_1"], mapper.unknown_types["new_99"], mapper.unknown_types[OTHER]) == (2, 1, 50)


def test_unknown_types_of_any_length() -> None:
    """A name of any length fills no memory, and an odd service changes nothing."""
    mapper = new_mapper()
    mapped({"event_type": "x" * 10_000, "service": "y" * 10_000}, mapper)
    assert mapper.unknown_types == {"x" * 100: 1}


def test_hash() -> None:
    """On request event.hash is the SHA-256 of the event's bytes, whether or not they can be read."""
    for raw in (b'{ "id":"1" }', b"{"):
        about = new_mapper(hash_original=True).map(parse_event(raw), 0).body["event"]
        assert about["hash"] == hashlib.sha256(raw).hexdigest()
        assert "hash" not in new_mapper().map(parse_event(raw), 0).body["event"]
        assert "hash" not in new_mapper(hash_original=True, profile="elastic").map(parse_event(raw), 0).body["event"]


def test_faulty_event() -> None:
    """An alert of which something cannot be mapped is a pipeline error above all."""
    assert mapped({"event_type": "alert_created", "scope": "x"})["event"]["kind"] == "pipeline_error"


def test_duplicates() -> None:
    """What extended reads it reads before duplicates go, and the same of them go in both profiles."""
    actor = {"id": "1", "username": "ann"}
    event = {"event_type": "user_create", "initiated_by": actor, "system": {"id": "h1", "displayName": "Build 7"}}
    body = mapped(event)
    assert body["user"] == {"id": "1", "name": "ann"}
    assert body["jumpcloud"] == mapped(event, new_mapper(profile="elastic"))["jumpcloud"]


def test_records_share_nothing_that_changes() -> None:
    """Event after event leaves the records before it as they were."""
    mapper = new_mapper()
    lines = (DATA / "documented_events.ndjson").read_bytes().splitlines()
    bodies = [mapper.map(parse_event(line), 0).body for line in lines]
    kept = [json.dumps(body) for body in bodies]
    for line in reversed(lines):
        mapper.map(parse_event(line), 1)
    assert [json.dumps(body) for body in bodies] == kept


def test_documented_example() -> None:
    """The one event whose record the documentation shows has every value of it in profile extended too."""
    geo = GeoIPLookup(CITY, None, extended=True)
    mapper = new_mapper(geo, preserve_original_event=True, preserve_duplicate_custom_fields=True, namespace="ep")
    body = mapper.map(parse_event((DATA / "seed_event.json").read_bytes()), 1_698_303_449_823_000_000).body
    geo.close()
    documented = json.loads((DATA / "seed_record.json").read_text(encoding="utf-8"))
    del documented["agent"], documented["elastic_agent"], documented["input"]
    del documented["event"]["agent_id_status"], documented["event"]["ingested"]
    assert documented["event"].pop("type") == body["event"].pop("type")[:1]

    def holds(more: Any, less: Any) -> bool:
        if isinstance(less, dict):
            return all(name in more and holds(more[name], each) for name, each in less.items())
        return bool(more == less)

    assert holds(body, documented)
