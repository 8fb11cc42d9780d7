"""The JSON schema of the configuration file, for editors. It knows what each key may have, not what contradicts what.

The texts and the defaults are those of `conf/jumpcloud.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from in_jumpcloud.config.document import load_yaml
from in_jumpcloud.config.schema import Config, Section, split_type
from in_jumpcloud.config.types import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    DatabaseUrl,
    Duration,
    NamedFile,
    ProxyUrl,
    Secret,
    Size,
    Start,
    secret_kind,
)

_TEXT = {"type": "string", "minLength": 1}
_TYPES: dict[Any, list[dict[str, Any]]] = {
    bool: [{"type": "boolean"}],
    int: [{"type": "integer"}],
    float: [{"type": "number"}],
    str: [_TEXT],
    Path: [_TEXT],
    NamedFile: [_TEXT],
    Secret: [{"type": "string"}],
    ProxyUrl: [_TEXT],
    DatabaseUrl: [_TEXT],
    Duration: [{"type": "string", "pattern": f"^{DURATION_PATTERN}$"}],
    Size: [{"type": "integer"}, {"type": "string", "pattern": f"^{SIZE_PATTERN}$"}],
    Start: [_TEXT],
}
_LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum"}
_VARIABLE = {"type": "string", "pattern": r"\$\{"}
_NULL = {"type": "null"}
_LINE = re.compile(r"(?P<indent> *)(?P<item>- )?(?P<key>\w+):(?P<value>.*?)(?: +# (?P<comment>.*))?")


def json_schema(documented: str) -> dict[str, Any]:
    """The schema; `documented` is the text of `conf/jumpcloud.yaml`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of in_jumpcloud",
        **_section(Config, "", _Documented(dict(_comments(documented)), load_yaml(documented))),
        "$defs": {"variable": {"description": "${NAME} or ${NAME:-default} of the environment", **_VARIABLE}},
    }


class _Documented(NamedTuple):
    """Comments by dotted key, and the document with the defaults."""

    comments: dict[str, str]
    defaults: Any

    def of(self, path: str) -> dict[str, Any]:
        """The description and the default of a key, as far as it has them."""
        found: dict[str, Any] = {"description": self.comments[path]} if path in self.comments else {}
        value = self.defaults
        for name in path.split("."):
            if not isinstance(value, dict) or name not in value:
                return found
            value = value[name]
        return found if isinstance(value, dict) else found | {"default": value}


def _section(kind: type[Section], path: str, documented: _Documented) -> dict[str, Any]:
    properties = {}
    for field in msgspec.structs.fields(kind):
        at = f"{path}.{field.name}".removeprefix(".")
        properties[field.name] = {**documented.of(at), **_one_of(_forms(field.type, at, documented))}
        if secret_kind(field.type):
            text = f"the path of a file that contains {field.name}"
            properties[f"{field.name}_file"] = {"description": text, **_one_of([_TEXT, _NULL])}
    return {"type": ["object", "null"], "properties": properties, "additionalProperties": False}


def _forms(kind: Any, path: str, documented: _Documented) -> list[dict[str, Any]]:
    """The schemas of which a value of this type has one."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return [_section(kind, path, documented)]
    kind, words = split_type(kind)
    if words:
        spelled = [word for word in words if word]
        forms = _forms(kind, path, documented)
        return [*forms, *([{"enum": spelled}] if spelled else []), *([_NULL] if None in words else [])]
    kind, limits = get_args(kind) if get_origin(kind) is Annotated else (kind, msgspec.Meta())
    if get_origin(kind) is dict:
        inner = _section(get_args(kind)[1], path, documented)
        return [{"type": ["object", "null"], "additionalProperties": inner}]
    if get_origin(kind) is tuple:
        items = _one_of(_forms(get_args(kind)[0], path, documented))
        return [{"type": "array", "items": items, **({"minItems": limits.min_length} if limits.min_length else {})}]
    if get_origin(kind) is Literal:
        return [{"enum": list(get_args(kind))}, {"$ref": "#/$defs/variable"}]
    forms = [each | _number_limits(limits) if each["type"] in ("integer", "number") else each for each in _TYPES[kind]]
    if not all(each["type"] == "string" and "pattern" not in each for each in forms):
        forms.append({"$ref": "#/$defs/variable"})
    return [*forms, _NULL] if limits.extra and None in limits.extra else forms


def _number_limits(limits: msgspec.Meta) -> dict[str, Any]:
    return {word: limit for name, word in _LIMITS.items() if (limit := getattr(limits, name)) is not None}


def _one_of(forms: list[dict[str, Any]]) -> dict[str, Any]:
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def _comments(documented: str) -> Iterator[tuple[str, str]]:
    """Each dotted key that has a comment in its line, with the comment. A key in a list has the path of the list."""
    above: list[tuple[int, str]] = []
    for line in documented.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        indent = len(match["indent"]) + len(match["item"] or "")
        while above and above[-1][0] >= indent:
            above.pop()
        above.append((indent, match["key"]))
        if match["comment"]:
            yield ".".join(key for _, key in above), match["comment"]
