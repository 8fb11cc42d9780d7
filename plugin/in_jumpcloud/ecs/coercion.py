"""An event's values, cleaned and of their declared types: what is declared never makes a store refuse a record.

One pass does it all: what is empty goes, what is declared gets its type, and what neither the wire nor a store could
carry becomes text. What cannot have its declared type is taken out and reported; `event.original` keeps it.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from in_jumpcloud.ecs.fields import EVENT, Declared

MAX_DEPTH = 32
"""Levels of nesting that are kept; what lies deeper becomes its JSON text."""

_INTEGRAL = re.compile(r"[+-]?\d{1,30}(?:\.0*)?", re.ASCII)
_NUMERIC = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOTHING: Any = object()
_UNDECLARED: Declared = {}
Kind = str | Declared | None


def coerce(data: dict[str, Any], declared: Declared, problems: list[str], *, strict: bool) -> dict[str, Any]:
    """An event's `data`, cleaned; `@version` becomes `version`, in `data` too.

    `declared` holds the types (fields.declared). `strict`: a strict decoder took it (see insights.event). To
    `problems` one sentence is added for each thing that went wrong.

    Raises:
        RecursionError: it is nested too deeply even to be written as text.
    """
    if not strict:
        data = _encodable(data, EVENT, problems)
    if "@version" in data and "version" not in data:
        data["version"] = data.pop("@version")
    return _object(data, declared, EVENT, 1, problems)


def _object(data: dict[str, Any], declared: Declared, path: str, depth: int, problems: list[str]) -> dict[str, Any]:
    cleaned: dict[str, Any] = {}
    for key, value in data.items():
        kind = declared.get(key)
        if kind is None and ("." in key or not key.strip()):
            name, kind = _as_in_a_store(key, declared)
            item = _value(value, kind, path, key, depth + 1, problems)
            if item is not _NOTHING:
                cleaned[name] = item
                if name != key:
                    problems.append(f"{path}.{key}: a name that no store takes; kept as {name!r:.60}")
            continue
        of = type(value)
        if of is str:
            if not value:
                continue
            if kind is None or kind == "keyword":  # nine values of ten
                cleaned[key] = value
                continue
        elif value is None:
            continue
        elif (of is bool and kind == "boolean") or (of is float and kind == "float"):
            cleaned[key] = value
            continue
        elif of is dict and type(kind) is dict and depth < MAX_DEPTH:
            if inner := _object(value, kind, f"{path}.{key}", depth + 1, problems):
                cleaned[key] = inner
            continue
        item = _value(value, kind, path, key, depth + 1, problems)
        if item is not _NOTHING:
            cleaned[key] = item
    return cleaned


def _as_in_a_store(key: str, declared: Declared) -> tuple[str, Kind]:
    """A name with dots in it, and its type: to a store each dot is one level down, and nothing there may be blank."""
    names = key.split(".")
    if not all(map(str.strip, names)):
        return ".".join(name if name.strip() else "_" for name in names), None
    kind: Kind = declared
    for level, name in enumerate(names):
        if type(kind) is not dict:
            within = kind is not None and kind != "flattened"
            return key, f"{kind}, which {'.'.join(names[:level])} is" if within else None
        kind = kind.get(name)
    return key, kind


def _value(value: Any, kind: Kind, path: str, key: str, depth: int, problems: list[str]) -> Any:
    of = type(value)
    if of is dict or of is list:
        if not value:
            return _NOTHING
        if depth > MAX_DEPTH and (kind is None or kind == "keyword"):
            problems.append(f"{path}.{key}: nested deeper than {MAX_DEPTH} levels; kept as JSON text")
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if depth > MAX_DEPTH:
            return _unfit(value, kind, path, key, problems)
        if of is list:
            return _list(value, kind, path, key, depth, problems)
        if kind is None or kind == "flattened":
            kind = _UNDECLARED
        elif type(kind) is str:
            return _unfit(value, kind, path, key, problems)
        return _object(value, kind, f"{path}.{key}", depth, problems) or _NOTHING  # type: ignore[arg-type]
    if value is None or value == "":
        return _NOTHING
    if kind is None:
        if of is int and not -(2**63) <= value < 2**63:
            problems.append(f"{path}.{key}: a whole number beyond 64 bits; kept as text")
            return str(value)
        return value
    convert = _SCALARS.get(kind) if type(kind) is str else None
    converted = convert(value) if convert else None
    return _unfit(value, kind, path, key, problems) if converted is None else converted


def _list(value: list[Any], kind: Kind, path: str, key: str, depth: int, problems: list[str]) -> Any:
    """A path goes through lists: each member has the type that is declared for the list."""
    items = (_value(each, kind, path, key, depth + 1, problems) for each in value)
    return [item for item in items if item is not _NOTHING] or _NOTHING


def _unfit(value: Any, kind: Kind, path: str, key: str, problems: list[str]) -> Any:
    wanted = kind if type(kind) is str else "object"
    problems.append(f"{path}.{key}: {_shown(value)} is not of type {wanted}; see event.original")
    return _NOTHING


def _encodable(value: Any, path: str, problems: list[str]) -> Any:
    """`value` without what UTF-8 and JSON have no place for: lone surrogates, NaN, infinities."""
    if isinstance(value, str):
        clean_text, changes = _SURROGATE.subn("\ufffd", value)
        if changes:
            problems.append(f"{path}: half a surrogate pair; replaced by U+FFFD")
        return clean_text
    if isinstance(value, float) and not math.isfinite(value):
        problems.append(f"{path}: {value} is not a number; kept as text")
        return str(value)
    if isinstance(value, dict):
        return {
            _encodable(key, path, problems): _encodable(
                each, f"{path}.{key}".encode(errors="replace").decode(), problems
            )
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_encodable(each, path, problems) for each in value]
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004


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


_SCALARS = {"keyword": _keyword, "long": _long, "float": _float, "boolean": _boolean}
