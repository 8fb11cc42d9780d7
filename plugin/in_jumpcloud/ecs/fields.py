"""The field table: name, type and description of every declared field (data: fields.csv)."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

EVENT = "jumpcloud.event"
"""The field that holds the event itself."""
OWN = "in_jumpcloud"
"""The field of profile `raw` that holds what had to be changed."""

Profile = Literal["extended", "elastic", "raw"]


class Field(NamedTuple):
    """A row of the table. `type` is an Elasticsearch field type.

    `origin`: `elastic` if profile `elastic` declares it too. Only profile `extended` declares the others: `ecs` are
    fields of the Elastic Common Schema, `jumpcloud` are fields in JumpCloud's documentation.
    """

    name: str
    type: str
    description: str
    origin: str


PYTHON_TYPES: dict[str, type] = {"keyword": str, "float": float, "boolean": bool}
"""The field types that every value of one Python type has."""


class Declared(dict[str, "str | Declared"]):
    """Field types by name, nested like the fields. `python_types`: those of PYTHON_TYPES, by name."""

    def __init__(self, types: Mapping[str, str | Declared] = MappingProxyType({})) -> None:
        super().__init__(types)
        self.python_types = {
            name: PYTHON_TYPES[kind] for name, kind in types.items() if type(kind) is str and kind in PYTHON_TYPES
        }


@cache
def table() -> tuple[Field, ...]:
    """Every row, in the order of the file."""
    text = resources.files(__package__).joinpath("fields.csv").read_text(encoding="utf-8")
    return tuple(Field(**row) for row in csv.DictReader(text.splitlines()))


def of_profile(profile: Profile) -> list[Field]:
    """The rows of the fields that records of a profile can have, under their names in these records."""
    if profile == "raw":
        return _raw()
    return [field for field in table() if profile == "extended" or field.origin != "jumpcloud"]


def _raw() -> list[Field]:
    """The event's own fields at the top level, and what is added.

    Their types are not settled, so a boolean is a keyword: OpenSearch refuses other text in a boolean.
    """
    rows = [field for field in table() if field.name == "@timestamp" or field.name.startswith("client.geo.")]
    for field in table():
        if field.name.startswith(f"{EVENT}."):
            name = field.name.removeprefix(f"{EVENT}.")
            kind = "keyword" if field.type == "boolean" else field.type
            rows.append(field._replace(name="@version" if name == "version" else name, type=kind))
    text = "The event as JumpCloud sent it, where something in it had to be changed."
    rows.append(Field(f"{OWN}.original", "keyword", text, "raw"))
    rows.append(Field(f"{OWN}.problems", "keyword", "What had to be changed in the event, one sentence each.", "raw"))
    return rows


@cache
def declared(parent: str = EVENT, *, extended: bool = False) -> Declared:
    """The types of the fields below `parent`, of profile `elastic` or `extended`. Shared: do not change it."""
    tree: dict[str, Any] = {}
    for field in table():
        if not field.name.startswith(f"{parent}.") or (field.origin != "elastic" and not extended):
            continue
        *parents, leaf = field.name.removeprefix(f"{parent}.").split(".")
        level = tree
        for name in parents:
            level = level.setdefault(name, {})
            assert isinstance(level, dict), f"{field.name} is below a field with a type"  # noqa: S101
        level[leaf] = sys.intern(field.type)  # compared for every value
    return _typed(tree)


def _typed(tree: dict[str, Any]) -> Declared:
    return Declared({name: _typed(each) if isinstance(each, dict) else each for name, each in tree.items()})
