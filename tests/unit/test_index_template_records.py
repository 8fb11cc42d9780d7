"""With the index templates no record is refused: a small model of how a store parses documents, and records for it."""

from __future__ import annotations

import contextlib
import copy
import ipaddress
import json
import random
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from support.hostile_events import events

from in_jumpcloud.config.schema import EcsSettings
from in_jumpcloud.ecs.fields import Profile
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.index_template import Dialect, TemplateOptions, index_template
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.insights.event import parse_event
from in_jumpcloud.simulator.events import EventSource

ROOT = Path(__file__).resolve().parents[2]
DIALECTS: tuple[Dialect, ...] = ("elasticsearch", "opensearch")
PROFILES: tuple[Profile, ...] = ("extended", "elastic", "raw")
TEMPLATES = {
    (dialect, profile): index_template(dialect, TemplateOptions(profile=profile))
    for dialect in DIALECTS
    for profile in PROFILES
}
LONGEST_TERM = 32766  # bytes
DATE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d))?")

Mapping = dict[str, Any]


class Refused(Exception):
    """The store refuses the document with status 400."""


class Store:
    """A model of an index that accepts or refuses documents; where stores differ, the stricter one.

    `ignored`: paths of the last document with a value that was not indexed, because it is too long or malformed.
    """

    def __init__(self, template: dict[str, Any]) -> None:
        made = copy.deepcopy(template["template"])
        self.mapping: Mapping = made["mappings"]
        limits = made["settings"]["index"]["mapping"]
        self._ignore_malformed = limits.get("ignore_malformed", False)
        self._deepest = limits.get("depth", {}).get("limit", 20)
        self.ignored: list[str] = []

    def put(self, document: dict[str, Any]) -> None:
        """Index one document.

        Raises:
            Refused: a part of it does not fit the mapping.
        """
        self.ignored = []
        self._object(document, self.mapping, "", 1, dynamic=True)

    def _object(self, value: dict[str, Any], mapping: Mapping, path: str, depth: int, *, dynamic: bool) -> None:
        if depth > self._deepest:
            raise Refused(f"{path}: deeper than depth.limit")
        dynamic = mapping.get("dynamic", dynamic)
        for name, each in value.items():
            names = name.rstrip(".").split(".")
            if not all(part.strip() for part in names):
                raise Refused(f"{path}{name!r}: a name has no text next to a dot")
            for outer in reversed(names[1:]):
                each = {outer: each}  # noqa: PLW2901 - a dot means an object in an object
            self._field(each, names[0], mapping, path, depth, 1, dynamic=dynamic)

    def _field(
        self, value: Any, name: str, parent: Mapping, path: str, depth: int, lists: int, *, dynamic: bool
    ) -> None:
        known: Mapping | None = parent.setdefault("properties", {}).get(name)
        here = path + name
        if isinstance(value, list):
            if lists > self._deepest:
                raise Refused(f"{here}: lists deeper than depth.limit")
            for each in value:
                self._field(each, name, parent, path, depth, lists + 1, dynamic=dynamic)
        elif value is None or (known is None and not dynamic):
            return
        elif known is None:
            parent["properties"][name] = _guessed(value)
            self._field(value, name, parent, path, depth, lists, dynamic=dynamic)
        elif not known.get("enabled", True):
            return
        elif "properties" in known:
            if not isinstance(value, dict):
                raise Refused(f"{here}: an object is mapped, {value!r:.40} came")
            self._object(value, known, f"{here}.", depth + 1, dynamic=dynamic)
        elif known["type"] == "flattened":
            if not isinstance(value, dict):
                raise Refused(f"{here}: an object is mapped, {value!r:.40} came")
            _flattened(value, known, (), here)
        elif isinstance(value, dict) and known["type"] != "geo_point":
            raise Refused(f"{here}: {known['type']} is mapped, an object came")
        else:
            self._leaf(value, known, here)

    def _leaf(self, value: Any, mapping: Mapping, path: str) -> None:
        kind = mapping["type"]
        text = value if isinstance(value, str) else json.dumps(value)
        if kind in {"keyword", "wildcard"}:
            if len(text.encode("utf-16-le")) / 2 > mapping.get("ignore_above", float("inf")):
                self.ignored.append(path)
            elif mapping.get("index", True) and len(text.encode()) > LONGEST_TERM:
                raise Refused(f"{path}: a term above {LONGEST_TERM} bytes")
        elif kind == "constant_keyword":
            if text != mapping.setdefault("value", text):
                raise Refused(f"{path}: another value than {mapping['value']}")
        elif kind == "match_only_text":
            for name, each in mapping.get("fields", {}).items():
                self._leaf(value, each, f"{path}.{name}")
        elif not _well_formed(value, kind):
            if kind == "boolean" or not mapping.get("ignore_malformed", self._ignore_malformed):
                raise Refused(f"{path}: {text:.40} is no {kind}")
            self.ignored.append(path)


def _flattened(value: Any, mapping: Mapping, path: tuple[str, ...], field: str) -> None:
    if isinstance(value, dict):
        if len(path) + 1 > mapping.get("depth_limit", 20):
            raise Refused(f"{field}: deeper than depth_limit")
        for name, each in value.items():
            _flattened(each, mapping, (*path, name), field)
    elif isinstance(value, list):
        for each in value:
            _flattened(each, mapping, path, field)
    else:
        text = value if isinstance(value, str) else json.dumps(value)
        key = ".".join(path)
        if "\0" in key:
            raise Refused(f"{field}: NUL in a name")
        if len(text.encode("utf-16-le")) / 2 <= mapping.get("ignore_above", float("inf")):
            term = f"{key}\0{text}".encode()
            if len(term) > LONGEST_TERM:
                raise Refused(f"{field}: a term above {LONGEST_TERM} bytes")


def _guessed(value: Any) -> Mapping:
    """The mapping that dynamic mapping makes from the first value."""
    if isinstance(value, dict):
        return {"properties": {}}
    if isinstance(value, str):
        return {"type": "date"} if DATE.fullmatch(value) else {"type": "keyword", "ignore_above": 256}
    return {"type": {bool: "boolean", int: "long", float: "float"}[type(value)]}


def _well_formed(value: Any, kind: str) -> bool:
    """Whether a store can parse the value for this type."""
    try:
        match kind:
            case "long":
                return not isinstance(value, bool) and -(2**63) <= int(value) < 2**63
            case "float":
                return not isinstance(value, bool) and bool(struct.pack("<f", float(value)))
            case "ip":
                return isinstance(value, str) and "%" not in value and bool(ipaddress.ip_address(value))
            case "geo_point":
                return bool(value.keys() == {"lat", "lon"} and abs(value["lat"]) <= 90 and abs(value["lon"]) <= 180)
            case "boolean":
                return isinstance(value, bool) or value in {"true", "false", ""}
            case "date" | "date_nanos":
                return isinstance(value, str) and DATE.fullmatch(value) is not None
    except (TypeError, ValueError, OverflowError):
        return False
    raise AssertionError(kind)


GEO = {
    profile: GeoIPLookup(
        ROOT / "geoip" / "demo-city.mmdb", ROOT / "geoip" / "demo-asn.mmdb", extended=profile != "elastic"
    )
    for profile in PROFILES
}
MAPPERS: dict[Profile, list[Mapper]] = {
    profile: [
        Mapper(chosen, GEO[profile], agent_id="a", ephemeral_id="b")
        for chosen in (
            EcsSettings(profile=profile),
            EcsSettings(profile=profile, preserve_duplicate_custom_fields=True, preserve_original_event=True),
            EcsSettings(profile=profile, hash_original=True, namespace="another", raw_fields=()),
        )
    ]
    for profile in PROFILES
}
DOCUMENTED = (ROOT / "tests" / "data" / "documented_events.ndjson").read_bytes().splitlines()
SIMULATED = [item.raw for item in EventSource(start_ms=0, end_ms=240_000).between(0, 240_000, now_ms=240_000)]
BIG = "é" * 40_000
CHANGES: Any = {"a": "x"}
LISTS: Any = "x"
for _ in range(40):
    CHANGES, LISTS = {"a": CHANGES}, [LISTS]
ODD: list[dict[str, Any]] = [
    {"message": BIG, "error_message": BIG, "application": {"sso_url": "https://" + BIG}, "undeclared": BIG},
    {"event_type": "policy_update", "changes": [{"field": "payload", "from": BIG, "to": CHANGES}]},
    {"changes": [{"field": {"a": 1}, "to": "x"}, {"field": "a", "to": [1, "x", {"": None, ".": "x"}]}]},
    {"undeclared": {"a": 1}},
    {"undeclared": "text"},
    {"undeclared": [1, "x", {"a": LISTS}, LISTS], "tags": {"a": CHANGES}, "2025-01-01": True},
    {"resource": "text", "system": 5, "username": {"a": 1}, "success": "perhaps", "deref": "x", "geoip": [["x"]]},
    {"timestamp": "never", "client_ip": "fe80::1%eth0", "src_ip": "1.2.3", "geoip": {"latitude": 1e300}},
    {"resource": LISTS, "auth_context": {"policies_applied": [[{"id": LISTS}]]}},
    {"a.b": {"c": 1}, "a": "x", "resource": {"size.kind": [1, {"x": 2}]}},
    {"": 1, "a..b": 1, "resource": {" .a": 1}, "resource.id": {"a": 1}, "username.a": 1, "system.": "x"},
    {"category": {"a": 1}, "correlation": "x"},
    {"@timestamp": "x", "client": "x", "in_jumpcloud": "x", "@version": {}, "id": {}, "organization": [[], {}, None]},
    {"success.x": None, "mfa.x": [], "id.x": {}, "resource.id.x": 1, "changes.x": [None]},
    {"client": {"geo": "x"}, "in_jumpcloud": {"problems": {}}, "resource": "", "changes": "", "system": [LISTS]},
]


def put(store: Store, event: bytes, profile: Profile) -> list[str]:
    """Put every record of an event, with the key that the outputs add; returns the paths that were not indexed."""
    ignored: list[str] = []
    for mapper in MAPPERS[profile]:
        record = mapper.map(parse_event(event), 0).body
        store.put({**record, "fluent_bit.time": "2025-06-18T01:40:48.953462371Z"})
        ignored += store.ignored
    return ignored


def put_odd(template: dict[str, Any], profile: Profile) -> Store:
    """Put the odd events into one index, in either order."""
    store = Store(template)
    for event in [*ODD, *reversed(ODD)]:
        put(store, json.dumps(event).encode(), profile)
    return store


@pytest.mark.parametrize(("dialect", "profile"), TEMPLATES)
def test_indexed(dialect: Dialect, profile: Profile) -> None:
    """One index accepts every documented and simulated event, and indexes every declared value except a long one.

    It also accepts undocumented events: huge and deep values, and values of the wrong type.
    """
    template = TEMPLATES[dialect, profile]
    store = Store(template)
    ignored = {path for event in [*DOCUMENTED, *SIMULATED] for path in put(store, event, profile)}
    assert {path.removeprefix("jumpcloud.event.") for path in ignored} <= {"command.payload"}
    for each in (store, put_odd(template, profile)):
        assert each.mapping == template["template"]["mappings"]


def test_any_event(dice: random.Random) -> None:
    """One index of either store accepts any event, after any other."""
    stores = {key: Store(template) for key, template in TEMPLATES.items()}
    for event in events(200, dice.randrange(2**32)):
        if b"\\u0000" not in event and b"\0" not in event:  # see test_documented_limitations
            for (_, profile), store in stores.items():
                put(store, event, profile)


def without(template: dict[str, Any], *path: str | int) -> dict[str, Any]:
    """The template without one of its safeguards."""
    template = copy.deepcopy(template)
    node: Any = template["template"]
    for name in path[:-1]:
        node = node[name]
    del node[path[-1]]
    return template


EVENT = ("mappings", "properties", "jumpcloud", "properties", "event", "properties")
SAFEGUARDS: list[tuple[Dialect, tuple[str, ...]]] = [
    *((dialect, ("mappings", "dynamic")) for dialect in DIALECTS),
    *((dialect, (*EVENT, "error_message", "ignore_above")) for dialect in DIALECTS),
    *((dialect, ("mappings", "properties", "message", "fields", "keyword", "ignore_above")) for dialect in DIALECTS),
    *((dialect, ("mappings", "properties", "url", "properties", "full", "ignore_above")) for dialect in DIALECTS),
    *((dialect, ("settings", "index", "mapping", "depth")) for dialect in DIALECTS),
    *((dialect, ("settings", "index", "mapping", "ignore_malformed")) for dialect in DIALECTS),
    ("elasticsearch", (*EVENT, "changes", "ignore_above")),
    ("elasticsearch", (*EVENT, "changes", "depth_limit")),
]


def test_safeguards() -> None:
    """Without any one of the template's safeguards, the store refuses a record."""
    accepted = []
    for dialect, safeguard in SAFEGUARDS:
        with contextlib.suppress(Refused):
            put_odd(without(TEMPLATES[dialect, "extended"], *safeguard), "extended")
            accepted.append((dialect, safeguard))
    assert accepted == []


def test_documented_limitations() -> None:
    """The template of profile extended does not fit profile elastic. Elasticsearch refuses a NUL in `changes`."""
    for dialect in DIALECTS:
        with pytest.raises(Refused):
            put(Store(TEMPLATES[dialect, "extended"]), b'{"category":{"a":1}}', "elastic")
    with pytest.raises(Refused):
        put(Store(TEMPLATES["elasticsearch", "extended"]), rb'{"changes":{"a\u0000":1}}', "extended")
