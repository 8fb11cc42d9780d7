"""A small model of how a store parses documents: whether it accepts a record, and what it indexes of it."""

from __future__ import annotations

import copy
import ipaddress
import json
import re
import struct
from typing import Any

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
