"""The field table: name, type and description of every field that a record can declare (data: fields.csv)."""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources
from typing import NamedTuple

EVENT = "jumpcloud.event"
"""The field under which a record keeps the event itself."""


class Field(NamedTuple):
    """A row of the table. `type` is an Elasticsearch field type.

    `origin`: `seed` where profile `elastic` declares it too; else `ecs`, a field of the Elastic Common Schema, or
    `jumpcloud`, a field of JumpCloud's documents.
    """

    name: str
    type: str
    description: str
    origin: str


Declared = dict[str, "str | Declared"]
"""A field's type by its name, nested as the fields are."""


@cache
def table() -> tuple[Field, ...]:
    """Every row, in the order of the file."""
    text = resources.files(__package__).joinpath("fields.csv").read_text(encoding="utf-8")
    return tuple(Field(**row) for row in csv.DictReader(text.splitlines()))


@cache
def declared(parent: str = EVENT, *, extended: bool = False) -> Declared:
    """The types of all fields below `parent`: what profile `elastic` declares, or all. Shared: not to be changed."""
    tree: Declared = {}
    for field in table():
        if not field.name.startswith(f"{parent}.") or (field.origin != "seed" and not extended):
            continue
        *parents, leaf = field.name.removeprefix(f"{parent}.").split(".")
        node = tree
        for name in parents:
            inner = node.setdefault(name, {})
            assert isinstance(inner, dict), f"{field.name} lies below a field that has a type of its own"  # noqa: S101
            node = inner
        node[leaf] = field.type
    return tree
