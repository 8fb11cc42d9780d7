"""The field table, and the types made from it."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from in_jumpcloud.ecs import fields

ROOT = Path(__file__).resolve().parents[2]
SEED = ROOT / "tests" / "data" / "seed_fields.csv"
DECLARED = ROOT / "tests" / "data" / "elastic_declared_fields.csv"
ECS = ROOT / "tests" / "data" / "ecs_fields.csv"


def documented() -> list[tuple[str, str]]:
    """Name and type of every documented field of Elastic's integration."""
    with SEED.open(newline="", encoding="utf-8") as file:
        return [(row["name"], row["type"]) for row in csv.DictReader(file)]


def declared_by_elastic() -> dict[str, str]:
    """The type of every field of an event that Elastic's integration 1.22 declares, by its name."""
    with DECLARED.open(newline="", encoding="utf-8") as file:
        return {row["field"]: row["type"] for row in csv.DictReader(file)}


def test_every_row() -> None:
    """The table begins with exactly the documented fields, in order; the others are JumpCloud's, or those of ECS 8.11.

    Every name is unique, and so is every description, one short sentence.
    """
    rows = documented()
    assert len(rows) == 110
    assert [(field.name, field.type) for field in fields.table()[:110]] == rows
    of_elastic = {name for name, _ in rows} | declared_by_elastic().keys()
    for field in fields.table():
        origin = "jumpcloud" if field.name.startswith("jumpcloud.event.") else "ecs"
        assert field.origin == ("elastic" if field.name in of_elastic else origin), field.name
    with ECS.open(newline="", encoding="utf-8") as file:
        known_to_ecs = {row["name"]: row["type"] for row in csv.DictReader(file)}
    assert {field.name: field.type for field in fields.table() if field.origin == "ecs"} == known_to_ecs
    texts = [field.description for field in fields.table()]
    assert [text for text in texts if not re.fullmatch(r"[A-Z].{5,120}\.", text)] == []
    counts = Counter([*texts, *(field.name for field in fields.table())])
    assert [each for each, count in counts.items() if count > 1] == []


def test_declared() -> None:
    """The tree of declared types has exactly the fields of its profile below jumpcloud.event."""

    def leaves(tree: fields.Declared, path: str) -> dict[str, str]:
        result: dict[str, str] = {}
        for name, inner in tree.items():
            result |= {f"{path}.{name}": inner} if isinstance(inner, str) else leaves(inner, f"{path}.{name}")
        return result

    rows = {name: kind for name, kind in documented() if name.startswith("jumpcloud.event.")} | declared_by_elastic()
    assert leaves(fields.declared(), "jumpcloud.event") == rows
    rows |= {field.name: field.type for field in fields.table() if field.origin == "jumpcloud"}
    assert leaves(fields.declared(extended=True), "jumpcloud.event") == rows
    # The tree of another parent has no fields of a parent whose name only begins the same.
    assert fields.declared("input") == {"type": "keyword"}
    assert fields.declared("jumpcloud.event.mfa") == {}
    assert fields.declared("jumpcloud.event.mfa_meta") == {"type": "keyword"}
    assert fields.declared("observer") == {}
    assert fields.declared("observer", extended=True) == {"product": "keyword", "vendor": "keyword"}
