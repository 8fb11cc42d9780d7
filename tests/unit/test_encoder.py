"""The encoder: each value of an event affects only its own record, and only the fields it belongs to."""

from __future__ import annotations

import contextlib
import copy
import ipaddress
import itertools
import json
from collections.abc import Iterator
from typing import Any

import msgpack
from support.hostile_events import DOCUMENTED

from in_jumpcloud.config.schema import EcsSettings
from in_jumpcloud.ecs.encoder import RecordEncoder
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.insights.event import parse_event
from in_jumpcloud.simulator.events import EventSource

Path = tuple[str | int, ...]
SIMULATED = [
    json.loads(item.raw) for item in EventSource(start_ms=0, end_ms=600_000).between(0, 600_000, now_ms=600_000)
]
RECEIVED_NS = 1_698_303_449_823_000_000
SELECTORS = {"event_type", "service", "type", "source_type", "field", "severity", "success", "result", "status"}
"""Names of values that decide which fields or categories a record has."""

PEOPLE = {"initiated_by", "jc_initiated_by_id", "resource", "username"}
"""Whether these are one person decides the fields of the record's `user`."""


def encoder() -> RecordEncoder:
    """A new encoder."""
    settings = EcsSettings(preserve_duplicate_custom_fields=True)
    return RecordEncoder(Mapper(settings, GeoIPLookup(None, None), agent_id="a", ephemeral_id="b"))


def encode(encode_with: RecordEncoder, event: Any) -> bytes:
    """The packed record of an event."""
    return encode_with.encode(parse_event(json.dumps(event).encode()), RECEIVED_NS)[0]


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value that is neither an object nor a list, by its path."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def content(packed: bytes) -> set[tuple[Path, str]]:
    """The leaves of a record as text; the order of a list does not matter."""
    _, body = msgpack.unpackb(packed)
    return {(tuple(key for key in path if type(key) is str), str(value)) for path, value in leaves(body)}


def changed(event: Any, path: Path, value: Any) -> Any:
    """`event` with another value at `path`."""
    event = inner = copy.deepcopy(event)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return event


def other(value: Any, number: int) -> Any:
    """A value of the same kind that no event has; None if there is none, or if the mapper rewrites it."""
    if type(value) is int:
        return 770_000 + number
    if type(value) is not str or value.lower() in {"true", "false"} or "]:" in value:
        return None
    if value[:1].isdigit() and "." in value and (":" in value or ", " in value) and not is_time(value):
        return None
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(value)
        return None if getattr(address, "ipv4_mapped", None) else str(type(address)(2**31 + number))
    try:
        if not float(value):
            return None
    except ValueError:
        return "2026-03-04T05:06:07.123Z" if is_time(value) else f"changed-{number}"
    return str(880_000 + number)


def parts(*values: Any) -> Iterator[str]:
    """The text of each value in a record: a time may have more or fewer digits."""
    for value in values:
        yield str(value)[:19] if is_time(value) else str(value)


def is_time(value: Any) -> bool:
    """Whether a value is written like a timestamp."""
    return type(value) is str and value[10:11] == "T" and value[4] == "-"


def test_each_value_changes_only_what_belongs_to_it() -> None:
    """Changing one value changes the record only where the old or new value is, whatever was encoded before."""
    shared, numbers, kinds, misplaced = encoder(), itertools.count(), set(), []
    for event in [*SIMULATED, *DOCUMENTED]:
        kind = (event.get("event_type"), *(path for path, _ in leaves(event)))
        if kind in kinds:
            continue
        kinds.add(kind)
        before = content(encode(shared, event))
        for path, value in leaves(event):
            new = other(value, next(numbers))
            if new is None:
                continue
            packed = encode(shared, changed(event, path, new))
            assert packed == encode(encoder(), changed(event, path, new)), (event["event_type"], path)
            if path[-1] in SELECTORS:
                continue
            differing = before ^ content(packed)
            if path[0] in PEOPLE:
                differing = {leaf for leaf in differing if leaf[0][0] != "user"}
            misplaced += [
                (event["event_type"], path, leaf)
                for leaf in differing
                if not any(part in leaf[1] for part in parts(value, new))
            ]
    assert len(kinds) > 200
    assert misplaced == []
