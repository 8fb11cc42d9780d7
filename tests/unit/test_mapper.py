"""The mapper: the documented example, its settings, and what it keeps between events.

Rules from an event to its record are data: see test_samples.py.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import in_jumpcloud
from in_jumpcloud.config.schema import Config, EcsSettings, GeoIPSettings
from in_jumpcloud.ecs import event_types
from in_jumpcloud.ecs.geoip import GeoIPLookup, open_databases
from in_jumpcloud.ecs.mapper import OTHER, Mapper, new_id
from in_jumpcloud.ecs.record import Record
from in_jumpcloud.insights.event import parse_event
from in_jumpcloud.runtime import SYSTEM

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
CITY, ASN = ROOT / "geoip" / "demo-city.mmdb", ROOT / "geoip" / "demo-asn.mmdb"
EXAMPLE = (DATA / "seed_event.json").read_bytes()
DOCUMENTED = (DATA / "documented_events.ndjson").read_bytes().splitlines()
RECEIVED_NS = 1_698_303_449_823_999_999  # 2023-10-26T06:57:29.823999999Z
NO_GEO = GeoIPLookup(None, None)


@pytest.fixture(scope="module", name="geo")
def _geo() -> Iterator[GeoIPLookup]:
    geo = GeoIPLookup(CITY, None)
    yield geo
    geo.close()


def new_mapper(geo: GeoIPLookup = NO_GEO, **settings: Any) -> Mapper:
    """A mapper with these settings."""
    return Mapper(EcsSettings(**settings), geo, agent_id="the agent", ephemeral_id="the process")


def record(event: Any, mapper: Mapper | None = None) -> Record:
    """The record of an event, given as its bytes or as its value."""
    raw = event if isinstance(event, bytes) else json.dumps(event).encode()
    return (mapper or new_mapper()).map(parse_event(raw), RECEIVED_NS)


class TestDocumentedExample:
    """The event whose record is documented."""

    @staticmethod
    def documented() -> dict[str, Any]:
        """The documented record, without what Elasticsearch adds and with our name instead of Filebeat's."""
        body: dict[str, Any] = json.loads((DATA / "seed_record.json").read_text(encoding="utf-8"))
        del body["elastic_agent"], body["event"]["ingested"], body["event"]["agent_id_status"]
        body["input"]["type"] = "in_jumpcloud"
        body["agent"] = {
            "type": "in_jumpcloud",
            "name": socket.gethostname(),
            "version": in_jumpcloud.__version__,
            "id": "the agent",
            "ephemeral_id": "the process",
        }
        return body

    def test_all_preserved(self, geo: GeoIPLookup) -> None:
        """With the original and duplicates preserved, the record is the documented one, value for value."""
        settings = {"preserve_original_event": True, "preserve_duplicate_custom_fields": True, "namespace": "ep"}
        made = record(EXAMPLE, new_mapper(geo, profile="elastic", **settings))
        assert made.body == self.documented()
        assert made.time_ns == 1_673_684_166_495_000_000
        assert made.geo_found

    def test_defaults(self, geo: GeoIPLookup) -> None:
        """With the default settings the duplicates, the original and their tags are absent, and nothing else."""
        expected = self.documented()
        del expected["event"]["original"]
        expected["tags"] = ["forwarded"]
        kept = expected["jumpcloud"]["event"]
        for name in ("version", "timestamp", "client_ip", "id", "event_type", "service", "useragent"):
            del kept[name]
        kept["initiated_by"] = {"type": "admin"}
        assert record(EXAMPLE, new_mapper(geo, profile="elastic", namespace="ep")).body == expected

    def test_extended(self) -> None:
        """Profile extended has every value of the documented record too."""
        geo = GeoIPLookup(CITY, None, extended=True)
        settings = {"preserve_original_event": True, "preserve_duplicate_custom_fields": True, "namespace": "ep"}
        body = record(EXAMPLE, new_mapper(geo, **settings)).body
        geo.close()
        expected = self.documented()
        assert expected["event"].pop("type") == body["event"].pop("type")[:1]

        def contains(more: Any, less: Any) -> bool:
            if isinstance(less, dict):
                return all(name in more and contains(more[name], each) for name, each in less.items())
            return bool(more == less)

        assert contains(body, expected)


def test_time() -> None:
    """A record's time has all nanoseconds of the timestamp, or is when the page was received, as is event.created."""
    second = 1_750_210_848_000_000_000
    assert record({"timestamp": "2025-06-18T01:40:48.953962371Z"}).time_ns == second + 953_962_371
    assert record({}).time_ns == RECEIVED_NS
    mapper = new_mapper()
    times = [mapper.map(parse_event(b"{}"), ns).body["event"]["created"] for ns in (0, 10**9, 0)]
    assert times == ["1970-01-01T00:00:00.000Z", "1970-01-01T00:00:01.000Z", "1970-01-01T00:00:00.000Z"]


def test_original() -> None:
    """The original is the event's text as it was sent. event.hash is the SHA-256 of its bytes, even if unreadable."""
    raw = '{ "id":"1",  "n":1.50, "a":"\\u00e9 é \\/", "a":null }'
    assert record(raw.encode(), new_mapper(preserve_original_event=True)).body["event"]["original"] == raw
    fields = record(b"{", new_mapper(hash_original=True)).body["event"]
    assert fields["hash"] == hashlib.sha256(b"{").hexdigest()


def test_addresses() -> None:
    """Without databases an address is kept. Databases are opened for the profile of the settings."""
    without = record({"client_ip": "81.2.69.144", "src_ip": "81.2.69.144"})
    assert (without.body["client"], without.body["source"]) == ({"ip": "81.2.69.144"}, {"ip": "81.2.69.144"})
    assert not without.geo_found
    continents = []
    for ecs in (EcsSettings(), EcsSettings(profile="elastic")):
        geo = open_databases(Config(geoip=GeoIPSettings(city=CITY), ecs=ecs))
        found = record({"src_ip": "81.2.69.144"}, Mapper(ecs, geo, agent_id="a", ephemeral_id="b"))
        geo.close()
        assert found.geo_found
        continents.append(found.body["source"]["geo"].get("continent_code"))
    assert continents == ["EU", None]
    body = record({"client_ip": "1" * 999}).body
    assert "client" not in body
    assert [message.partition(":")[0] for message in body["error"]["message"]] == ["client_ip"]


class TestEventTypes:
    """Event types with and without a row in the table."""

    def test_categories(self) -> None:
        """Every event type with a category gets it, and its types."""
        mapper = new_mapper()
        rows = [row for row in event_types.table() if row.categories]
        assert len(rows) > 300
        wrong = []
        for row in rows:
            event_fields = record({"service": row.service, "event_type": row.name}, mapper).body["event"]
            if (event_fields["category"], event_fields["type"]) != (list(row.categories), list(row.types)):
                wrong.append(row)
        assert wrong == []

    def test_unknown(self) -> None:
        """Event types without a row have no category and are counted, at most 100 by name, of which 100 characters."""
        mapper = new_mapper()
        for number in range(150):
            assert "category" not in record({"event_type": f"new_{number}"}, mapper).body["event"]
        for known in ({"event_type": "user_create"}, {}, {"event_type": ""}):
            record(known, mapper)
        record({"event_type": "new_1"}, mapper)
        counts = mapper.unknown_types
        assert (len(counts), counts["new_1"], counts["new_99"], counts[OTHER]) == (101, 2, 1, 50)
        mapper = new_mapper()
        record({"event_type": "x" * 10_000, "service": "y" * 10_000}, mapper)
        assert mapper.unknown_types == {"x" * 100: 1}


def test_records_stay_unchanged() -> None:
    """Mapping changes neither the event nor earlier records, and gives the same record again."""
    for profile in ("extended", "elastic", "raw"):
        mapper = new_mapper(profile=profile)
        events = [parse_event(line) for line in [*DOCUMENTED, EXAMPLE]]
        before = copy.deepcopy(events)
        bodies = [mapper.map(event, RECEIVED_NS).body for event in events]
        kept = [json.dumps(body) for body in bodies]
        for event in reversed(events):
            mapper.map(event, 1)
        assert [json.dumps(body) for body in bodies] == kept
        assert [json.dumps(mapper.map(event, RECEIVED_NS).body) for event in events] == kept
        assert events == before


def test_new_id() -> None:
    """Ids of an agent are random UUIDs."""
    first, second = new_id(SYSTEM.random), new_id(SYSTEM.random)
    assert first != second
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", each) for each in (first, second))


@pytest.mark.parametrize(
    ("profile", "event", "name"),
    [
        ("extended", {"organization": "o1"}, "Alpha"),
        ("extended", {"organization": "o2"}, None),
        ("extended", {"organization": ["o1"]}, None),
        (
            "extended",
            {"event_type": "organization_update", "organization": "o1", "resource": {"id": "o1", "name": "New"}},
            "New",
        ),
        ("elastic", {"organization": "o1"}, None),
    ],
)
def test_the_name_of_the_organization(profile: str, event: dict[str, Any], name: str | None) -> None:
    """That of the list, unless the event says it itself; only in the profile that goes beyond Elastic's mapping."""
    names = {"o1": "Alpha"}
    settings = msgspec.convert({"profile": profile}, EcsSettings)
    mapper = Mapper(settings, NO_GEO, agent_id="a", ephemeral_id="b", organizations=names)
    assert record(event, mapper).body.get("organization", {}).get("name") == name
