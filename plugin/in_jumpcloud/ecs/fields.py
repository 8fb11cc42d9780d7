"""The field table: name, type and description of every declared field (data: fields.csv)."""

from __future__ import annotations

import csv
import sys
from functools import cache
from importlib import resources
from typing import NamedTuple

EVENT = "jumpcloud.event"
"""The field that holds the event itself."""


class Field(NamedTuple):
    """A row of the table. `type` is an Elasticsearch field type.

    `origin`: `elastic` if profile `elastic` declares it too. Only profile `extended` declares the others: `ecs` are
    fields of the Elastic Common Schema, `jumpcloud` are fields in JumpCloud's documentation.
    """

    name: str
    type: str
    description: str
    origin: str


Declared = dict[str, "str | Declared"]
"""Field types by name, nested like the fields."""


@cache
def table() -> tuple[Field, ...]:
    """Every row, in the order of the file."""
    text = resources.files(__package__).joinpath("fields.csv").read_text(encoding="utf-8")
    return tuple(Field(**row) for row in csv.DictReader(text.splitlines()))


@cache
def declared(parent: str = EVENT, *, extended: bool = False) -> Declared:
    """The types of the fields below `parent`, of profile `elastic` or `extended`. Shared: do not change it."""
    tree: Declared = {}
    for field in table():
        if not field.name.startswith(f"{parent}.") or (field.origin != "elastic" and not extended):
            continue
        *parents, leaf = field.name.removeprefix(f"{parent}.").split(".")
        level = tree
        for name in parents:
            inner = level.setdefault(name, {})
            assert isinstance(inner, dict), f"{field.name} is below a field with a type"  # noqa: S101
            level = inner
        level[leaf] = sys.intern(field.type)  # compared for every value
    return tree
