"""Profile `raw`: the event as JumpCloud sent it, cleaned only as far as msgpack and stores need. Without I/O.

Names, types and empty values stay. Only these change, and each is reported: text that is not Unicode, numbers that are
not finite or exceed 64 bits, names without text next to a dot, what nests too deep, and a value that is an object where
others have text, or the other way round: a store that indexed the others would refuse it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from in_jumpcloud.ecs import fields, ip_address
from in_jumpcloud.ecs.coercion import MAX_DEPTH, encodable, preview, store_name
from in_jumpcloud.ecs.event_timestamp import timestamp
from in_jumpcloud.ecs.fields import Declared
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.record import Record
from in_jumpcloud.insights.event import RawEvent, decode_event

_ADDED = ("@timestamp", "client", fields.OWN)
"""The top-level fields that the profile adds. An event's own field of such a name is left out."""

_NOTHING: Any = object()
_SCALARS = (None, "keyword", "long", "float", "boolean")
Kind = str | Declared | None


class RawMapper:
    """Makes records of profile `raw`. Thread-safe."""

    def __init__(self, geo: GeoIPLookup, added: Sequence[str]) -> None:
        """`added`: which of `@timestamp` and `client.geo` are added to the event."""
        self._geo = geo
        self._adds_timestamp, self._adds_geo = "@timestamp" in added, "client.geo" in added

    def map(self, event: RawEvent, received_ns: int, created: str) -> Record:
        """The record of an event whose page was received at `received_ns`, which is `created` as text."""
        data, problem, strict = decode_event(event.raw)
        problems = [problem] if problem else []
        service, organization = (data.get("service"), data.get("organization")) if data else (None, None)
        body = clean(data, problems, strict=strict) if data is not None else {}
        if self._adds_timestamp:
            body["@timestamp"] = timestamp(event, body, created, problems)
        geo = self._client_geo(body) if self._adds_geo else None
        if geo:
            body["client"] = {"geo": geo}
        if problems:
            body[fields.OWN] = {"problems": problems, "original": bytes(event.raw).decode(errors="replace")}
        time_ns = received_ns if event.time_ns is None else event.time_ns
        return Record(time_ns, body, service, organization, geo is not None, bool(problems))

    def _client_geo(self, data: dict[str, Any]) -> dict[str, Any] | None:
        address = ip_address.first_ip(data.get("client_ip"))
        result = self._geo.lookup(address.ip) if address else None
        return result.geo if result else None


def clean(data: dict[str, Any], problems: list[str], *, strict: bool) -> dict[str, Any]:
    """An event's `data` as a store accepts it. Never raises.

    `data` nests at most insights.nesting.MAX_NESTING levels; `strict`: a strict decoder read it (see insights.event).
    Each problem is appended to `problems` as one sentence.
    """
    if not strict:
        data = encodable(data, "event", problems)
    cleaned = _object(data, _declared(), "", 1, problems)
    for name in _ADDED:
        if name in cleaned:
            del cleaned[name]
            problems.append(f"{name}: the profile adds this field; that of the event is left out")
    return cleaned


@cache
def _declared() -> Declared:
    return Declared({**fields.declared(extended=True), "@version": "keyword"})


def _object(data: dict[str, Any], declared: Declared, path: str, depth: int, problems: list[str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in data.items():
        name, kind = key, declared.get(key)
        if kind is None and ("." in key or "\0" in key or not key.strip()):
            name, kind = store_name(key, declared)
            if name != key:
                problems.append(f"{path}{key}: not a valid field name; renamed to {name!r:.60}")
        item = _value(value, kind, f"{path}{key}", depth + 1, problems)
        if item is not _NOTHING:
            result[name] = item
    return result


def _value(value: Any, kind: Kind, path: str, depth: int, problems: list[str]) -> Any:
    value_type = type(value)
    is_object_declared = isinstance(kind, Declared) or kind == "flattened"
    if type(kind) is str and not is_object_declared and kind not in _SCALARS:  # see store_name
        problems.append(f"{path}: others have a single value above it; left out")
        return _NOTHING
    if value_type is dict:
        if kind is not None and not is_object_declared:
            return _as_text(value, kind, path, "an object where others have a single value", problems)
        if depth > MAX_DEPTH:
            return _as_text(value, kind, path, f"nested deeper than {MAX_DEPTH} levels", problems)
        return _object(value, kind if isinstance(kind, Declared) else Declared(), f"{path}.", depth, problems)
    if value_type is list:
        if depth > MAX_DEPTH:
            return _as_text(value, kind, path, f"nested deeper than {MAX_DEPTH} levels", problems)
        items = (_value(each, kind, path, depth + 1, problems) for each in value)
        return [item for item in items if item is not _NOTHING]
    if value is not None and kind not in _SCALARS:
        problems.append(f"{path}: {preview(value)} is not an object; left out")
        return _NOTHING
    if value_type is int and not -(2**63) <= value < 2**63:
        problems.append(f"{path}: integer exceeds 64 bits; kept as text")
        return str(value)
    return value


def _as_text(value: Any, kind: Kind, path: str, what: str, problems: list[str]) -> Any:
    if kind not in _SCALARS:  # a store has objects here
        problems.append(f"{path}: {what}; left out")
        return _NOTHING
    problems.append(f"{path}: {what}; kept as JSON text")
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
