"""The objects that an event names, and the place of each in a record (data: object_kinds.csv).

An event names an object as its `resource`, as an end of its `association`, or as the source of an alert. The kind of an
object is its `type` in lower case. A kind that the table lacks has the place of its last word: `authn_policy` that of
`policy`. A `resource` without a type, or with one that the table lacks, has the subject of the event type (see
event_types).

A place is `user.target` (see user_fields), `group`, `host`, `host.name`, `device`, `rule`, `service`, `package`, `file`
or `organization` (see entity_fields). An object without a place stays below `jumpcloud.event` only.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources
from typing import Any

from in_jumpcloud.ecs.accessors import association_ends, copy_fields, first_object, get_str

PERSON = "user.target"
GROUP = "group"

_END = (("object_id", "id"), ("name", "name"), ("email", "email"))
_ASSOCIATED = (("id", "id"), ("name", "name"), ("email", "email"))
_NOWHERE: tuple[str, ...] = ()


Named = tuple[str, tuple[str, ...], dict[str, Any]]
"""An object that an event names: its kind, the places of the kind, and its values by the names of a `resource`."""


@cache
def table() -> dict[str, tuple[str, ...]]:
    """The places of each kind, in the order of the file."""
    text = resources.files(__package__).joinpath("object_kinds.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {row["kind"]: tuple(row["place"].split(";")) if row["place"] else _NOWHERE for row in rows}


def resource(data: dict[str, Any], subject: str) -> Named:
    """The event's `resource`; `subject` is that of its event type, which may be empty."""
    if "resource" not in data:
        return subject, _NOWHERE, {}
    values = first_object(data["resource"])
    kind = get_str(values, "type").lower()
    if subject == "asset":  # its type is that of the asset
        kind = f"asset_{kind}" if f"asset_{kind}" in table() else subject
    if (places := _places(kind)) is None:
        return subject, _places(subject) or _NOWHERE, values
    return kind, places, values


def associated(data: dict[str, Any]) -> list[Named]:
    """The objects that the event's `association` names: the two that it connects, or one."""
    objects = [_other(get_str(end, "type"), copy_fields(end, _END, {})) for end in association_ends(data)]
    association = first_object(data.get("association"))
    objects.append(_other(get_str(association, "type"), copy_fields(association, _ASSOCIATED, {})))
    return [each for each in objects if each[0]]


def alert_source(alert: dict[str, Any]) -> Named:
    """The device or person that raised an alert, which is the event's `resource`."""
    return _other(get_str(alert, "source_type"), copy_fields(alert, (("source_id", "id"),), {}))


def _other(kind: str, values: dict[str, Any]) -> Named:
    kind = kind.lower()
    return kind, _places(kind) or _NOWHERE, values


def _places(kind: str) -> tuple[str, ...] | None:
    """The places of a kind, or else of its last word; None if the table has neither."""
    kinds = table()
    if kind in kinds:  # nearly always
        return kinds[kind]
    kind = kind.replace("-", "_")
    return kinds.get(kind, kinds.get(kind.rpartition("_")[2]))
