"""The table of kinds of objects: every kind has its place in the record, wherever an event names the object."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from in_jumpcloud.config.schema import EcsSettings
from in_jumpcloud.ecs import event_type_guess, event_types, objects
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.insights.event import parse_event

TABLE = Path(objects.__file__).with_name("object_kinds.csv")
ROWS = list(csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines()))
# What a record has of an object with an id and a name, at its place.
FIELDS = {
    "user.target": {"user.target.id": "1", "user.target.name": "N"},
    "group": {"group.id": "1", "group.name": "N"},
    "host": {"host.id": "1", "host.name": "N"},
    "host.name": {"host.name": "N"},
    "device": {"device.id": "1"},
    "rule": {"rule.id": "1", "rule.name": "N"},
    "service": {"service.id": "1", "service.name": "N"},
    "package": {"package.name": "N"},
    "file": {"file.name": "N"},
    "organization": {"organization.id": "1", "organization.name": "N"},
}
OBJECTS = {name.partition(".")[0] for name in FIELDS}
OF_ONE_SERVICE = {"account", "asset", "asset_device", "organization"}  # not ends of an association


def map_event(event: dict[str, Any]) -> dict[str, Any]:
    """The fields of the record that hold objects, by dotted name."""
    mapper = Mapper(EcsSettings(), GeoIPLookup(None, None), agent_id="a", ephemeral_id="b")
    body = mapper.map(parse_event(json.dumps(event).encode()), 0).body
    return dict(flat({name: body[name] for name in OBJECTS if name in body}))


def flat(value: Any, path: str = "") -> Any:
    """Every value by its dotted name."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from flat(each, f"{path}.{name}".lstrip("."))
    else:
        yield path, value


def expected(kind: str, *, without: str = "") -> dict[str, str]:
    """What the record has of an object of this kind."""
    places = [place for place in objects.table()[kind] if place != without]
    return {name: value for place in places for name, value in FIELDS[place].items()}


def test_the_table_is_complete() -> None:
    """Each subject of an event type is a kind, each place is known, and each kind is there once, with a reason."""
    kinds = [row["kind"] for row in ROWS]
    assert sorted(kinds) == kinds == list(objects.table())
    assert {row.subject for row in event_types.table()} - {"", *kinds} == set()
    assert {place for places in objects.table().values() for place in places} == set(FIELDS)
    assert [row for row in ROWS if not re.fullmatch(r"[A-Z].{5,100}\.", row["why"])] == []


@pytest.mark.parametrize("kind", list(objects.table()))
def test_every_kind(kind: str) -> None:
    """An object has its place as a resource with a type, as one without, and as each end of an association."""
    named = {"id": "1", "name": "N"}
    if "organization" in objects.table()[kind]:
        assert map_event({"organization": "1", "resource": {"type": kind, **named}}) == expected(kind)
    elif kind not in OF_ONE_SERVICE:
        for text in (kind, kind.upper()):
            assert map_event({"resource": {"type": text, **named}}) == expected(kind)
        end = {"type": kind, "object_id": "1", "name": "N"}
        for connection in ({"from": end}, {"to": end, "from": {"type": "command", "object_id": "2"}}):
            assert map_event({"association": {"connection": connection}}) == expected(kind)
    for row in event_types.table():
        is_login = "authentication" in row.categories and "start" in row.types
        if row.subject == kind and not is_login and kind not in {"account", "organization"}:
            found = map_event({"service": row.service, "event_type": row.name, "resource": named})
            assert found == expected(kind), row.name


def test_every_noun_of_an_event_type_is_a_kind() -> None:
    """What a guess knows as a resource, or as a part of one, has a row, if only to say why it has no place."""
    table = event_type_guess._table()
    nouns = {*table["resource"], *table["attribute"]}
    assert nouns - set(objects.table()) == set()


@pytest.mark.parametrize("kind", ["item", "website", "ITEM", "vault-item", "thing of tomorrow", "", 7])
def test_a_resource_of_the_password_manager(kind: str | int) -> None:
    """A resource has a place by its type, or by the event type where its type has no row or is not text."""
    for action in ("passwordmanager_item_reveal", "passwordvault_website_add"):
        event = {
            "service": "password_manager",
            "event_type": action,
            "resource": {"type": kind, "id": "1", "name": "N"},
        }
        assert map_event(event) == {"file.name": "N"}


def test_a_kind_without_a_place_is_not_another_kind() -> None:
    """A row without a place is on purpose: the event type does not give one."""
    event = {"event_type": "user_update", "resource": {"type": "user_totp", "id": "1", "name": "N"}}
    assert map_event(event) == {}
    assert map_event({**event, "resource": {"type": "employee", "id": "1", "name": "N"}}) == expected("user")
    assert map_event({"resource": {"type": "software-app", "name": "N"}}) == expected("software_app")
