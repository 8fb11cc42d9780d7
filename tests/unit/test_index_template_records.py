"""With the index templates no record is refused by a model of a store."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from support.hostile_events import events
from support.store import Refused, Store

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
    """The template of profile extended does not fit profile elastic. A name may be too long for a store."""
    for dialect in DIALECTS:
        with pytest.raises(Refused):
            put(Store(TEMPLATES[dialect, "extended"]), b'{"category":{"a":1}}', "elastic")
    with pytest.raises(Refused):
        put(Store(TEMPLATES["elasticsearch", "extended"]), b'{"changes":{"%s":1}}' % (b"a" * 40_000), "extended")
