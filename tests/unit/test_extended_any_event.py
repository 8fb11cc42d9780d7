"""Profile `extended` with any event: declared types, no exceptions, and all values of profile `elastic`."""

from __future__ import annotations

import copy
import ipaddress
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from in_jumpcloud.config.schema import EcsSettings
from in_jumpcloud.ecs import fields
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.forward.wire import pack_entry
from in_jumpcloud.insights.event import decode_event, parse_event
from in_jumpcloud.simulator.events import EventSource

ROOT = Path(__file__).resolve().parents[2]
GEO = GeoIPLookup(ROOT / "geoip" / "demo-city.mmdb", ROOT / "geoip" / "demo-asn.mmdb", extended=True)
PLAIN_GEO = GeoIPLookup(ROOT / "geoip" / "demo-city.mmdb", ROOT / "geoip" / "demo-asn.mmdb")
EXTENDED, ELASTIC = (
    Mapper(settings_, geo, agent_id="a", ephemeral_id="b")
    for settings_, geo in (
        (EcsSettings(profile="extended", preserve_duplicate_custom_fields=True), GEO),
        (EcsSettings(profile="elastic", preserve_duplicate_custom_fields=True), PLAIN_GEO),
    )
)
DOCUMENTED = [
    json.loads(line) for line in (ROOT / "tests" / "data" / "documented_events.ndjson").read_bytes().splitlines()
]
SIMULATED = [item.raw for item in EventSource(start_ms=0, end_ms=600_000).between(0, 600_000, now_ms=600_000)]

Path_ = tuple[str, ...]
TYPES = {tuple(field.name.split(".")): field.type for field in fields.table()}
TEXTS = {"keyword", "constant_keyword", "wildcard", "match_only_text"}
NEWER = {tuple(field.name.split(".")) for field in fields.table() if field.origin == "jumpcloud"}
NEWER_PARENTS = {path[:length] for path in NEWER for length in range(3, len(path))}
NAMES = sorted({path[2] for path in TYPES if path[:2] == ("jumpcloud", "event") and len(path) > 2})

TEXT = st.text(st.characters(exclude_categories=()), max_size=6)
LIKELY = st.sampled_from(
    [
        *(
            "true",
            "12",
            "nan",
            "",
            "192.0.2.1",
            "::1",
            "::ffff:81.2.69.144",
            "81.2.69.144:5",
            "[2001:db8::1]:443",
            "1.2.3",
        ),
        *("user", "admin", "system", "user_group", "Success", "Error", "High", "email", "2025-06-18T01:40:48Z"),
        *("alert_created", "rule_created", "sso_auth", "user_update", "software_add", "user_login_attempt", "alerts"),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | TEXT | LIKELY
KEYS = TEXT | st.sampled_from(["id", "type", "name", "username", "email", "ip", "from", "to", "field", "geoip", *NAMES])
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in `value`, with each of its keys or indexes."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A documented event with some values removed, wrapped in a list, or replaced by any other."""
    event: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(DOCUMENTED)))
    for _ in range(draw(st.integers(0, 4))):
        every = list(places(event))
        container, key = every[draw(st.integers(0, len(every) - 1))]
        how = draw(st.sampled_from(["value", "likely", "list", "lists", "gone"]))
        if how == "gone" and isinstance(container, dict) and len(event) > 1:
            del container[key]
        elif how in {"list", "lists"}:
            container[key] = [draw(SCALARS), container[key]] if how == "list" else [[container[key]], container[key]]
        else:
            container[key] = draw(JSON if how == "value" else LIKELY)
    return event | draw(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=2))


def leaves(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every value with a declared type, and every other scalar."""
    if isinstance(value, list):
        for each in value:
            yield from leaves(each, path)
    elif isinstance(value, dict) and path not in TYPES:
        for key, each in value.items():
            yield from leaves(each, (*path, key))
    else:
        yield path, value


def conforms(value: Any, kind: str) -> bool:
    """Whether a store accepts the value for this type."""
    if kind in TEXTS:
        return type(value) is str
    if kind == "ip":
        return bool(ipaddress.ip_address(value))
    if kind == "date":
        return re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value) is not None
    if kind == "geo_point":
        return {name: type(degrees) for name, degrees in value.items()} == {"lat": float, "lon": float}
    if kind == "long":
        return type(value) is int and -(2**63) <= value < 2**63
    return type(value) is {"float": float, "boolean": bool, "flattened": dict}[kind]


def same_types(value: Any, path: Path_ = ("jumpcloud", "event")) -> Any:
    """An event's data without the fields that only profile extended declares; None if nothing is left."""
    if path in NEWER or (path in NEWER_PARENTS and not isinstance(value, dict | list)):
        return None
    if isinstance(value, dict):
        value = {key: kept for key, each in value.items() if (kept := same_types(each, (*path, key))) is not None}
        return value or None
    if isinstance(value, list):
        return [kept for each in value if (kept := same_types(each, path)) is not None] or None
    return value


def missing(less: Any, more: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The paths at which `more` lacks a value of `less`; lists of categories, types and tags may be longer."""
    if isinstance(less, dict):
        for key, each in less.items():
            if isinstance(more, dict) and key in more:
                yield from missing(each, more[key], (*path, key))
            else:
                yield (*path, key)
    elif path in {("event", "category"), ("event", "type"), ("tags",)}:
        if more[: len(less)] != less:
            yield path
    elif repr(less) != repr(more):
        yield path


def check_types(raw: bytes) -> None:
    """The record can be packed, and its values have their declared types; only the event has undeclared fields."""
    made = EXTENDED.map(parse_event(raw), 0)
    assert msgpack.unpackb(pack_entry(made.time_ns, made.body))[1] == made.body
    json.dumps(made.body, allow_nan=False, ensure_ascii=False).encode()
    for path, value in leaves(made.body):
        if path in TYPES:
            assert conforms(value, TYPES[path]), (path, value)
        else:
            assert path[:2] == ("jumpcloud", "event"), path


def check_superset(raw: bytes) -> None:
    """Profile extended has all values of profile elastic, with the exceptions below."""
    event = parse_event(raw)
    elastic, extended = (copy.deepcopy(mapper.map(event, 0).body) for mapper in (ELASTIC, EXTENDED))
    data = elastic.pop("jumpcloud", {}).get("event", {})
    assert same_types(data) == same_types(extended.pop("jumpcloud", {}).get("event", {}))
    # A single sign-on that waits for a second factor is not a failure; status and result as text give an outcome.
    outcome = elastic["event"].pop("outcome", None)
    if (outcome, extended["event"].get("outcome")) == ("failure", "unknown"):
        assert data["event_type"] == "sso_auth"
        assert "error_message" not in data
    else:
        assert outcome in {"unknown", extended["event"].get("outcome")}
    # IPv4 written as IPv6 becomes IPv4; both profiles look it up as IPv4.
    for side in ("client", "source"):
        if (ip := elastic.get(side, {}).get("ip")) and (mapped := getattr(ipaddress.ip_address(ip), "ipv4_mapped", 0)):
            assert extended[side]["ip"] == str(mapped)
            assert extended[side]["address"] == elastic[side].pop("ip")
    # An address with a port is no problem. Fields that only this profile declares have problems of their own.
    messages = [body.pop("error", {"message": []})["message"] for body in (elastic, extended)]
    unreported = [line for line in messages[0] if line not in messages[1] and not line.startswith(("client_", "src_"))]
    assert [
        line for line in unreported if tuple(line.partition(":")[0].split(".")[:3]) not in NEWER | NEWER_PARENTS
    ] == []
    if elastic["event"].get("kind") == "pipeline_error" and not messages[1]:
        del elastic["event"]["kind"], elastic["event"]["original"], elastic["tags"][-1]
    assert list(missing(elastic, extended)) == []


class TestAnyEvent:
    """Properties of all events."""

    @settings(max_examples=250, deadline=None)
    @given(mutated() | st.dictionaries(KEYS, JSON, max_size=6) | JSON)
    def test_types(self, value: Any) -> None:
        """Every event becomes a record, whose declared fields have their declared types."""
        check_types(json.dumps(value).encode())

    @settings(max_examples=250, deadline=None)
    @given(mutated() | st.dictionaries(KEYS, JSON, max_size=6) | JSON)
    def test_superset(self, value: Any) -> None:
        """For every event, profile extended has all values of profile elastic."""
        check_superset(json.dumps(value).encode())


@pytest.mark.parametrize("event", DOCUMENTED, ids=lambda event: event["event_type"])
def test_documented(event: dict[str, Any]) -> None:
    """Every documented event has both properties and is mapped without problems."""
    raw = json.dumps(event).encode()
    check_types(raw)
    check_superset(raw)
    assert "error" not in EXTENDED.map(parse_event(raw), 0).body


def test_simulated() -> None:
    """So does every simulated event, and the table of event types has all their types."""
    for raw in SIMULATED:
        check_types(raw)
        check_superset(raw)
        assert "error" not in EXTENDED.map(parse_event(raw), 0).body
        assert decode_event(raw).data is not None
    named = {json.loads(raw)["event_type"] for raw in SIMULATED}
    assert len(named) > 10
    assert named.isdisjoint(EXTENDED.unknown_types)


def test_every_field() -> None:
    """Every declared field of ECS is in the record of some event."""
    raws = [*SIMULATED, *(json.dumps(event).encode() for event in [*DOCUMENTED, *RARE])]
    mapper = Mapper(EcsSettings(preserve_original_event=True, hash_original=True), GEO, agent_id="a", ephemeral_id="b")
    seen = {path for raw in raws for path, _ in leaves(mapper.map(parse_event(raw), 0).body)}
    assert {".".join(path) for path, _ in TYPES.items() if path[0] != "jumpcloud" and path not in seen} == set()


RARE: list[dict[str, Any]] = [
    {"client_ip": "81.2.69.144:1", "src_ip": "[::ffff:81.2.69.144]:1", "scope": "x"},
    {"src_ip": "216.160.83.56", "client_ip": "216.160.83.56"},
    {"system": {"os": "Windows", "version": "10"}, "resource": {"type": "user_group", "id": "1", "name": "G"}},
    {
        "event_type": "user_update",
        "changes": [{"field": name, "to": "x"} for name in ("email", "username", "displayName")],
    },
]
