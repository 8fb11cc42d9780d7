"""Convert an event's values to their declared types, so that no store refuses the record.

A single pass removes empty values, converts declared fields, and turns values that neither msgpack nor a store can hold
into text. A value that cannot be converted is removed and reported; `event.original` keeps it.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeAlias

from in_jumpcloud.ecs.fields import EVENT, PYTHON_TYPES, Declared

MAX_DEPTH = 32
"""Levels of nesting that are kept; a deeper subtree becomes its JSON text."""

_MAX_PREVIEW = 60  # characters of a value in a message

_INTEGRAL = re.compile(r"[+-]?\d{1,30}(?:\.0*)?", re.ASCII)
_NUMERIC = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOTHING: Any = object()
_UNDECLARED = Declared()
_UNTYPED = (None, "flattened")
_INTEGERS = (None, "long")
_NUMBERS = (bool, int, float)
_MAX_USUAL_DEPTH = 16
"""Levels of an event that needs no conversion: far fewer than MAX_DEPTH, so nothing in it is cut."""
Kind = str | Declared | None
Path: TypeAlias = "str | tuple[Path, str]"
"""A field's name, or the path of an object and the key in it: it is written out only for a problem."""


def coerce(data: dict[str, Any], declared: Declared, problems: list[str], *, strict: bool) -> dict[str, Any]:
    """An event's `data` with declared types; the key `@version` becomes `version`. Changes `data`. Never raises.

    `declared` holds the types (fields.declared). `data` nests at most insights.nesting.MAX_NESTING levels; `strict`: a
    strict decoder read it (see insights.event). Each problem is appended to `problems` as one sentence.
    """
    if not strict:
        data = encodable(data, EVENT, problems)
    if "@version" in data and "version" not in data:
        data["version"] = data.pop("@version")
    if strict and _is_usual(data, declared, 1):
        return data
    return _object(data, declared, EVENT, 1, problems)


def _is_usual(data: dict[str, Any], declared: Declared, depth: int) -> bool:
    """Whether each value is empty, of its declared type, or undeclared; removes the empty ones.

    Nearly all events are usual. `_object` does the same to them, but takes longer: it also converts and reports.
    """
    if depth > _MAX_USUAL_DEPTH:
        return False
    python_type = declared.python_types.get
    empty: list[str] = []
    for key, value in data.items():
        if python_type(key) is type(value) and value:  # two values of three
            continue
        kind = declared.get(key)
        if kind is None and not _is_name(key):
            return False
        if not _is_usual_value(value, kind, depth):
            return False
        if not value and type(value) not in _NUMBERS:
            empty.append(key)
    for key in empty:
        del data[key]
    return True


def _is_usual_value(value: Any, kind: Kind, depth: int) -> bool:
    """As _is_usual, of any value, at this depth."""
    value_type = type(value)
    if value_type is dict:
        if type(kind) is Declared:
            return _is_usual(value, kind, depth + 1)
        return not value or (kind in _UNTYPED and _is_usual(value, _UNDECLARED, depth + 1))
    if value_type is list:
        if depth > _MAX_USUAL_DEPTH:
            return False
        for each in value:
            if not _is_usual_value(each, kind, depth + 1):
                return False
        if not all(value):
            value[:] = [each for each in value if each or type(each) in _NUMBERS]
        return True
    if value is None or value == "":
        return True
    if value_type is int:
        return kind in _INTEGERS and -(2**63) <= value < 2**63
    return kind is None or (type(kind) is str and PYTHON_TYPES.get(kind) is value_type)


def _is_name(key: str) -> bool:
    """Whether a store takes the key of an undeclared field as it is, see store_name."""
    return "." not in key and "\0" not in key and bool(key.strip())


def _object(data: dict[str, Any], declared: Declared, path: Path, depth: int, problems: list[str]) -> dict[str, Any]:
    """`data` itself, since most values stay as they are; another object if a key has another name."""
    removed: list[str] | None = None
    renamed: dict[str, str] | None = None
    for key, value in data.items():
        kind, value_type = declared.get(key), type(value)
        if value_type is str and kind == "keyword" and value:  # two values of three
            continue
        if value_type is dict and type(kind) is Declared and depth < MAX_DEPTH:
            item = _object(value, kind, (path, key), depth + 1, problems) or _NOTHING
            if item is value:
                continue
        elif (value_type is float and kind == "float") or (value_type is bool and kind == "boolean"):
            continue
        elif kind is None and not _is_name(key):
            name, kind = store_name(key, declared)
            item = _value(value, kind, path, key, depth + 1, problems)
            if item is not _NOTHING and name != key:
                renamed = {**(renamed or {}), key: name}
                problems.append(f"{_dotted(path, key)}: not a valid field name; renamed to {name!r:.60}")
        elif value_type is str and kind is None and value:
            continue
        else:
            item = _value(value, kind, path, key, depth + 1, problems)
        if item is _NOTHING:
            if removed is None:
                removed = [key]
            else:
                removed.append(key)
        else:
            data[key] = item
    if removed:
        for key in removed:
            del data[key]
    return {renamed.get(key, key): value for key, value in data.items()} if renamed else data


def store_name(key: str, declared: Declared) -> tuple[str, Kind]:
    """The name and type of a key with dots: in a store each dot is one level down, and no part may be whitespace.

    A NUL, which Elasticsearch refuses in names of a flattened field, becomes U+FFFD.
    """
    key = key.replace("\0", "\ufffd")
    names = key.split(".")
    if not all(map(str.strip, names)):
        return ".".join(name if name.strip() else "_" for name in names), None
    kind: Kind = declared
    for level, name in enumerate(names):
        if type(kind) is not Declared:
            conflict = kind is not None and kind != "flattened"
            return key, f"{kind}, the type of {'.'.join(names[:level])}" if conflict else None
        kind = kind.get(name)
    return key, kind


def _value(value: Any, kind: Kind, path: Path, key: str, depth: int, problems: list[str]) -> Any:
    value_type = type(value)
    if value_type is dict or value_type is list:
        if not value:
            return _NOTHING
        if depth > MAX_DEPTH:
            return _deep_value(value, kind, path, key, problems)
        if value_type is list:
            return _list(value, kind, path, key, depth, problems)
        if kind is None or kind == "flattened":
            kind = _UNDECLARED
        elif type(kind) is str:
            return _mistyped(value, kind, path, key, problems)
        return _object(value, kind, (path, key), depth, problems) or _NOTHING  # type: ignore[arg-type]
    if value is None or value == "":
        return _NOTHING
    if kind is None:
        if value_type is int and not -(2**63) <= value < 2**63:
            problems.append(f"{_dotted(path, key)}: integer exceeds 64 bits; kept as text")
            return str(value)
        return value
    convert = _CONVERSIONS.get(kind) if type(kind) is str else None
    converted = convert(value) if convert else None
    return _mistyped(value, kind, path, key, problems) if converted is None else converted


def _list(value: list[Any], kind: Kind, path: Path, key: str, depth: int, problems: list[str]) -> Any:
    """Each member has the type declared for the list: in a store a list is a field with several values."""
    items = (_value(each, kind, path, key, depth + 1, problems) for each in value)
    return [item for item in items if item is not _NOTHING] or _NOTHING


def _deep_value(value: Any, kind: Kind, path: Path, key: str, problems: list[str]) -> Any:
    """A subtree below MAX_DEPTH, as JSON text where the field can hold text."""
    if kind is not None and kind != "keyword":
        return _mistyped(value, kind, path, key, problems)
    problems.append(f"{_dotted(path, key)}: nested deeper than {MAX_DEPTH} levels; kept as JSON text")
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _mistyped(value: Any, kind: Kind, path: Path, key: str, problems: list[str]) -> Any:
    expected = kind if type(kind) is str else "object"
    problems.append(f"{_dotted(path, key)}: {preview(value)} is not of type {expected}; see event.original")
    return _NOTHING


def encodable(value: Any, path: str, problems: list[str]) -> Any:
    """`value` without what UTF-8 and JSON cannot encode: lone surrogates, NaN, infinities."""
    if isinstance(value, str):
        text, replacements = _SURROGATE.subn("\ufffd", value)
        if replacements:
            problems.append(f"{path}: lone surrogate; replaced by U+FFFD")
        return text
    if isinstance(value, float) and not math.isfinite(value):
        problems.append(f"{path}: {value} is not a finite number; kept as text")
        return str(value)
    if isinstance(value, dict):
        return {
            encodable(key, path, problems): encodable(each, f"{path}.{key}".encode(errors="replace").decode(), problems)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [encodable(each, path, problems) for each in value]
    return value


def _dotted(path: Path, key: str) -> str:
    return f"{path}.{key}" if isinstance(path, str) else f"{_dotted(*path)}.{key}"


def preview(value: Any) -> str:
    """A value as JSON text, cut to fit into a message."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= _MAX_PREVIEW else f"{text[: _MAX_PREVIEW - 3]}..."


def _keyword(value: Any) -> str | None:
    return value if type(value) is str else json.dumps(value)


def _long(value: Any) -> int | None:
    if type(value) is str and _INTEGRAL.fullmatch(value):
        value = int(value.partition(".")[0])
    elif type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def _float(value: Any) -> float | None:
    if type(value) is bool or (type(value) is str and not _NUMERIC.fullmatch(value)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _boolean(value: Any) -> bool | None:
    if type(value) is bool:
        return value
    return {"true": True, "false": False}.get(value.lower()) if type(value) is str else None


_CONVERSIONS = {"keyword": _keyword, "long": _long, "float": _float, "boolean": _boolean}
