"""From event to record, profile `elastic`: the documented example, and each rule of the base mapping."""

from __future__ import annotations

import copy
import itertools
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import in_jumpcloud
from in_jumpcloud.config.schema import EcsSettings
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.mapper import Mapper, Record, new_id
from in_jumpcloud.insights.event import parse_event

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
CITY, ASN = ROOT / "geoip" / "demo-city.mmdb", ROOT / "geoip" / "demo-asn.mmdb"
RECEIVED_NS = 1_698_303_449_823_999_999  # 2023-10-26T06:57:29.823999999Z
RECEIVED = "2023-10-26T06:57:29.823Z"
ABSENT = "(absent)"


@pytest.fixture(scope="module", name="geo")
def _geo() -> Iterator[GeoIPLookup]:
    geo = GeoIPLookup(CITY, ASN)
    yield geo
    geo.close()


@pytest.fixture(scope="module", name="no_geo")
def _no_geo() -> GeoIPLookup:
    return GeoIPLookup(None, None)


def record(event: Any, geo: GeoIPLookup, **settings: Any) -> Record:
    """The record of an event, given as its JSON text or as what it says."""
    raw = event if isinstance(event, bytes) else json.dumps(event).encode()
    mapper = Mapper(EcsSettings(profile="elastic", **settings), geo, agent_id="the agent", ephemeral_id="the process")
    return mapper.map(parse_event(raw), RECEIVED_NS)


def at(body: dict[str, Any], path: str) -> Any:
    """What a record holds at a dotted path."""
    value: Any = body
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return ABSENT
        value = value[name]
    return value


class TestDocumentedExample:
    """The one event whose record the documentation shows."""

    @staticmethod
    def expected() -> dict[str, Any]:
        """The documented record with our own name in the place of Filebeat's, and without what Elasticsearch adds."""
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

    def test_value_for_value(self) -> None:
        """With both originals preserved the record is the documented one, value for value."""
        settings = {"preserve_original_event": True, "preserve_duplicate_custom_fields": True, "namespace": "ep"}
        made = record((DATA / "seed_event.json").read_bytes(), GeoIPLookup(CITY, None), **settings)
        assert made.body == self.expected()
        assert made.time_ns == 1_673_684_166_495_000_000
        assert made.geo_found

    def test_default_settings(self) -> None:
        """With the default settings the duplicates, the original and their tags are missing, and nothing else."""
        expected = self.expected()
        del expected["event"]["original"]
        expected["tags"] = ["forwarded"]
        kept = expected["jumpcloud"]["event"]
        for name in ("version", "timestamp", "client_ip", "id", "event_type", "service", "useragent"):
            del kept[name]
        kept["initiated_by"] = {"type": "admin"}
        made = record((DATA / "seed_event.json").read_bytes(), GeoIPLookup(CITY, None), namespace="ep")
        assert made.body == expected

    def test_twice(self) -> None:
        """Mapping the same event again makes the same record and leaves the event as it was."""
        mapper = Mapper(EcsSettings(profile="elastic"), GeoIPLookup(CITY, ASN), agent_id="a", ephemeral_id="b")
        event = parse_event((DATA / "seed_event.json").read_bytes())
        before = copy.deepcopy(event)
        first = copy.deepcopy(mapper.map(event, RECEIVED_NS))
        assert mapper.map(event, RECEIVED_NS) == first
        assert event == before


USERAGENT = {
    "device": "Mac",
    "name": "Chrome",
    "version": "109.0",
    "os_name": "Mac OS X",
    "os_full": "Mac OS X 10.15.7",
    "os_version": "10.15.7",
    "major": "109",
}
ACTOR = {"id": "5d", "email": "a@example.com", "username": "ann", "type": "user"}
LONDON = {
    "city_name": "London",
    "continent_name": "Europe",
    "country_iso_code": "GB",
    "country_name": "United Kingdom",
    "location": {"lat": 51.5142, "lon": -0.0931},
    "region_iso_code": "GB-ENG",
    "region_name": "England",
}
BROADBAND = {"number": 64496, "organization": {"name": "Example Broadband Ltd"}}

ROWS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("1 version", {}, {"ecs": {"version": "8.11.0"}}),
    ("3 milliseconds", {"timestamp": "2023-01-14T08:16:06.495Z"}, {"@timestamp": "2023-01-14T08:16:06.495Z"}),
    ("3 cut", {"timestamp": "2025-06-18T01:40:48.953962371Z"}, {"@timestamp": "2025-06-18T01:40:48.953Z"}),
    ("3 whole second", {"timestamp": "2025-06-18T01:40:48Z"}, {"@timestamp": "2025-06-18T01:40:48.000Z"}),
    ("3 one digit", {"timestamp": "2025-06-18T01:40:48.9Z"}, {"@timestamp": "2025-06-18T01:40:48.900Z"}),
    ("3 zone", {"timestamp": "2019-04-09T05:01:18.123+09:30"}, {"@timestamp": "2019-04-08T19:31:18.123Z"}),
    ("3 missing", {}, {"@timestamp": RECEIVED, "event.kind": ABSENT}),
    ("3 null", {"timestamp": None}, {"@timestamp": RECEIVED, "event.kind": ABSENT}),
    ("4 client", {"client_ip": "192.0.2.77"}, {"client.ip": "192.0.2.77", "source": ABSENT}),
    ("4 source", {"src_ip": "2001:db8::7"}, {"source.ip": "2001:db8::7", "client": ABSENT}),
    ("6 id", {"id": "63c264c6"}, {"event.id": "63c264c6"}),
    ("6 no id", {}, {"event.id": ABSENT}),
    ("7 action", {"event_type": "sso_auth"}, {"event.action": "sso_auth"}),
    ("8 module", {"service": "sso"}, {"event.module": "sso"}),
    ("9 success", {"success": True}, {"event.outcome": "success"}),
    ("9 failure", {"success": False}, {"event.outcome": "failure"}),
    ("9 text", {"success": "FALSE"}, {"event.outcome": "failure"}),
    ("9 token", {"sso_token_success": True}, {"event.outcome": "success"}),
    ("9 no token", {"sso_token_success": False}, {"event.outcome": "failure"}),
    ("9 success wins", {"success": True, "sso_token_success": False}, {"event.outcome": "success"}),
    ("9 failure wins", {"success": False, "sso_token_success": True}, {"event.outcome": "failure"}),
    ("9 null does not win", {"success": None, "sso_token_success": True}, {"event.outcome": "success"}),
    ("9 neither", {"result": "ok"}, {"event.outcome": "unknown"}),
    ("10 message", {"message": "User vagrant logged in"}, {"message": "User vagrant logged in"}),
    ("11 host", {"system": {"id": "5c", "hostname": "h", "displayName": "H"}}, {"host": {"id": "5c", "hostname": "h"}}),
    ("11 half a host", {"system": {"hostname": "h"}}, {"host": {"hostname": "h"}}),
    ("11 no host", {"system": {"displayName": "H"}}, {"host": ABSENT}),
    ("12 actor", {"initiated_by": ACTOR}, {"source": {"user": {"id": "5d", "email": "a@example.com", "name": "ann"}}}),
    ("12 with address", {"initiated_by": {"id": "5d"}, "src_ip": "10.0.2.2"}, {"source.ip": "10.0.2.2"}),
    ("12 beside address", {"initiated_by": {"id": "5d"}, "src_ip": "10.0.2.2"}, {"source.user": {"id": "5d"}}),
    ("12 only a type", {"initiated_by": {"type": "system"}}, {"source": ABSENT}),
    ("12 list", {"initiated_by": [None, [{"id": "0"}], {"id": "1"}, {"id": "2"}]}, {"source.user": {"id": "1"}}),
    ("13 user", {"username": "vagrant"}, {"user": {"name": "vagrant"}}),
    ("14 process", {"process_name": "sshd"}, {"process": {"name": "sshd"}}),
    (
        "15 user agent",
        {"useragent": USERAGENT},
        {
            "user_agent": {
                "device": {"name": "Mac"},
                "name": "Chrome",
                "version": "109.0",
                "os": {"name": "Mac OS X", "full": "Mac OS X 10.15.7", "version": "10.15.7"},
            }
        },
    ),
    ("15 part", {"useragent": {"os_name": "Fedora", "minor": "0"}}, {"user_agent": {"os": {"name": "Fedora"}}}),
    ("15 nothing of it", {"useragent": {"minor": "0"}}, {"user_agent": ABSENT}),
    ("16 client", {"client_ip": "81.2.69.144"}, {"client.geo": LONDON}),
    ("16 source", {"src_ip": "81.2.69.144"}, {"source.geo": LONDON}),
    ("16 narrowest", {"client_ip": "2.125.160.216"}, {"client.geo.region_iso_code": "GB-WBK"}),
    ("16 no entry", {"client_ip": "8.8.8.8"}, {"client": {"ip": "8.8.8.8"}}),
    ("16 private", {"client_ip": "10.1.2.3"}, {"client": {"ip": "10.1.2.3"}}),
    ("17 client", {"client_ip": "81.2.69.144"}, {"client.as": BROADBAND}),
    ("17 source", {"src_ip": "81.2.69.144"}, {"source.as": BROADBAND}),
    ("18 tags", {}, {"tags": ["forwarded"]}),
    ("19 no original", {"id": "1"}, {"event.original": ABSENT}),
    ("21 created", {"timestamp": "2023-01-14T08:16:06.495Z"}, {"event.created": RECEIVED}),
    ("22 dataset", {}, {"event.dataset": "jumpcloud.events"}),
    (
        "22 data stream",
        {},
        {"data_stream": {"type": "logs", "dataset": "jumpcloud.events", "namespace": "default"}},
    ),
    ("23 input", {}, {"input": {"type": "in_jumpcloud"}}),
    ("24 agent", {}, {"agent.type": "in_jumpcloud", "agent.id": "the agent", "agent.ephemeral_id": "the process"}),
    ("24 host and version", {}, {"agent.name": socket.gethostname(), "agent.version": in_jumpcloud.__version__}),
]


@pytest.mark.parametrize(("event", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_row(geo: GeoIPLookup, event: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each row of the base mapping holds, and none of these events is reported as faulty."""
    body = record(event, geo).body
    assert {path: at(body, path) for path in expected} == expected
    assert "error" not in body


def test_removal_of_what_is_empty(no_geo: GeoIPLookup) -> None:
    """Row 2: null, empty text, objects and lists go, with parents that become empty; false and 0 stay."""
    event: dict[str, Any] = {
        "a": None,
        "b": "",
        "c": {},
        "d": [],
        "no": False,
        "zero": 0,
        "blank": " ",
        "@version": "1",
        "list": [None, "", {}, [], {"x": [{"y": None}]}, 0, False, "x"],
        "deep": {"deeper": {"deepest": [[]]}},
    }
    body = record(event, no_geo, preserve_duplicate_custom_fields=True).body
    expected = {"no": False, "zero": 0, "blank": " ", "list": [0, False, "x"], "version": "1"}
    assert json.dumps(body["jumpcloud"]["event"], sort_keys=True) == json.dumps(expected, sort_keys=True)


def test_removal_of_everything(no_geo: GeoIPLookup) -> None:
    """Row 2: an event of which nothing is left has no jumpcloud.event at all."""
    assert "jumpcloud" not in record({"a": None, "b": {"c": [{}]}}, no_geo).body


@pytest.mark.parametrize(
    ("timestamp", "nanoseconds"),
    [("2025-06-18T01:40:48.953962371Z", 953_962_371), ("2025-06-18T01:40:48.9Z", 900_000_000)],
)
def test_time_of_the_record(no_geo: GeoIPLookup, timestamp: str, nanoseconds: int) -> None:
    """Row 3: the time that goes over the wire keeps all nanoseconds."""
    assert record({"timestamp": timestamp}, no_geo).time_ns == 1_750_210_848_000_000_000 + nanoseconds


def test_time_of_collection(no_geo: GeoIPLookup) -> None:
    """Row 3: without a timestamp the record's time is when its page was received."""
    assert record({}, no_geo).time_ns == RECEIVED_NS


@pytest.mark.parametrize(
    ("action", "category"),
    [
        *((name, "authentication") for name in ("ldap_bind", "user_login_attempt", "sso_auth", "admin_login_attempt")),
        *((f"user_{name}", "iam") for name in ("password_warning_email", "password_reset_request")),
        *((f"user_{name}", "iam") for name in ("activation_email", "unlocked")),
    ],
)
def test_category(no_geo: GeoIPLookup, action: str, category: str) -> None:
    """Row 5: eight event types have a category and a type."""
    event = record({"event_type": action}, no_geo).body["event"]
    assert (event["category"], event["type"]) == ([category], ["info"])


@pytest.mark.parametrize("event", [{}, {"event_type": "user_update"}, {"event_type": ["sso_auth"]}, {"event_type": 1}])
def test_no_category(no_geo: GeoIPLookup, event: dict[str, Any]) -> None:
    """Row 5: all others have neither."""
    assert {"category", "type"}.isdisjoint(record(event, no_geo).body["event"])


def test_without_databases(no_geo: GeoIPLookup) -> None:
    """Rows 16 and 17: without databases an address is there, and nothing about it."""
    made = record({"client_ip": "81.2.69.144", "src_ip": "81.2.69.144"}, no_geo)
    assert (made.body["client"], made.body["source"]) == ({"ip": "81.2.69.144"}, {"ip": "81.2.69.144"})
    assert not made.geo_found


@pytest.mark.parametrize(("original", "duplicates"), [*itertools.product([False, True], repeat=2)])
def test_tags(no_geo: GeoIPLookup, original: bool, duplicates: bool) -> None:
    """Row 18: the configured tags stand behind those of the two settings that are on."""
    settings = {"preserve_original_event": original, "preserve_duplicate_custom_fields": duplicates}
    expected = [name for name, on in settings.items() if on] + ["a", "b"]
    assert record({}, no_geo, tags=("a", "b"), **settings).body["tags"] == expected


def test_original(no_geo: GeoIPLookup) -> None:
    """Row 19: the original is the event's text exactly as it was sent, with its blanks, escapes and double keys."""
    raw = '{ "id":"1",  "n":1.50, "a":"\\u00e9 é \\/", "a":null }'
    body = record(raw.encode(), no_geo, preserve_original_event=True).body
    assert body["event"]["original"] == raw


FULL = {
    "@version": "1",
    "timestamp": "2023-01-14T08:16:06.495Z",
    "client_ip": "192.0.2.1",
    "src_ip": "192.0.2.2",
    "id": "1",
    "message": "m",
    "username": "u",
    "event_type": "e",
    "service": "s",
    "process_name": "p",
    "system": {"id": "2", "hostname": "h", "displayName": "d"},
    "initiated_by": ACTOR,
    "useragent": USERAGENT,
    "success": True,
}


def test_removal_of_duplicates(no_geo: GeoIPLookup) -> None:
    """Row 20: what the record holds elsewhere is removed below jumpcloud.event, and all the rest stays."""
    kept = record(FULL, no_geo).body["jumpcloud"]["event"]
    assert kept == {"system": {"displayName": "d"}, "initiated_by": {"type": "user"}, "success": True}


def test_duplicates_preserved(no_geo: GeoIPLookup) -> None:
    """Row 20: with preserve_duplicate_custom_fields all of it stays."""
    kept = record(FULL, no_geo, preserve_duplicate_custom_fields=True).body["jumpcloud"]["event"]
    assert kept == {"version" if name == "@version" else name: value for name, value in FULL.items()}


def test_duplicates_change_nothing_else(no_geo: GeoIPLookup) -> None:
    """Row 20: outside jumpcloud.event and tags the record is the same with and without duplicates."""
    bodies = [record(FULL, no_geo, preserve_duplicate_custom_fields=on).body for on in (False, True)]
    assert len({json.dumps({**body, "jumpcloud": 0, "tags": 0}) for body in bodies}) == 1


def test_parents_of_duplicates(no_geo: GeoIPLookup) -> None:
    """Row 20: a parent that becomes empty goes too, up to jumpcloud itself."""
    event = {"id": "1", "system": {"id": "2", "hostname": "h"}, "initiated_by": {"username": "u"}}
    assert "jumpcloud" not in record(event, no_geo).body


def test_actors_as_a_list(no_geo: GeoIPLookup) -> None:
    """Where initiated_by is a list, the list itself stays below jumpcloud.event."""
    event = {"initiated_by": [{"id": "1", "email": ""}, {"id": "2"}]}
    assert record(event, no_geo).body["jumpcloud"]["event"] == {"initiated_by": [{"id": "1"}, {"id": "2"}]}


def test_other_settings(no_geo: GeoIPLookup) -> None:
    """The namespace of the data stream is the configured one."""
    assert record({}, no_geo, namespace="ep").body["data_stream"]["namespace"] == "ep"


def test_pages(no_geo: GeoIPLookup) -> None:
    """Event after event has the time of its own page as event.created."""
    mapper = Mapper(EcsSettings(profile="elastic"), no_geo, agent_id="a", ephemeral_id="b")
    times = [mapper.map(parse_event(b"{}"), ns).body["event"]["created"] for ns in (0, 10**9, 0)]
    assert times == ["1970-01-01T00:00:00.000Z", "1970-01-01T00:00:01.000Z", "1970-01-01T00:00:00.000Z"]


def test_new_id() -> None:
    """Ids for an agent are UUIDs, a new one each time."""
    first, second = new_id(), new_id()
    assert first != second
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", each) for each in (first, second))
