"""The field table: every row of the documented one, in order, and what is made of it."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from in_jumpcloud.ecs import fields

ROOT = Path(__file__).resolve().parents[2]
SEED = ROOT / "tests" / "data" / "seed_fields.csv"
SEEDS = ROOT.parent / "shared" / "seeds"


def documented() -> list[tuple[str, str]]:
    """Name and type of every documented row."""
    with SEED.open(newline="", encoding="utf-8") as file:
        return [(row["name"], row["type"]) for row in csv.DictReader(file)]


def test_every_row() -> None:
    """The table has exactly the documented rows, in the same order, each with its name and type."""
    rows = documented()
    assert len(rows) == 110
    assert [(field.name, field.type) for field in fields.table()] == rows


@pytest.mark.skipif(not SEEDS.is_dir(), reason="the original document is not beside this checkout (../shared/seeds)")
def test_copy_of_the_document() -> None:
    """The copy in tests/data has every row of the original document."""
    rows = [
        match.groups()
        for seed in sorted(SEEDS.glob("*.txt"))
        for match in re.finditer(r"^\| ([@\w.]+) \|.*\| (\w+) \|$", seed.read_text(encoding="utf-8"), re.MULTILINE)
        if match[1] != "Field"
    ]
    assert documented() == rows


def test_names_once() -> None:
    """No name stands twice."""
    assert [name for name, count in Counter(field.name for field in fields.table()).items() if count > 1] == []


@pytest.mark.parametrize("field", fields.table(), ids=lambda field: field.name)
def test_description(field: fields.Field) -> None:
    """Every field is described in one short line that begins with a capital and ends with a full stop."""
    assert re.fullmatch(r"[A-Z].{5,120}\.", field.description)


def test_descriptions_differ() -> None:
    """No two fields have the same description."""
    counts = Counter(field.description for field in fields.table())
    assert [text for text, count in counts.items() if count > 1] == []


def test_declared() -> None:
    """The tree of declared types holds each row below jumpcloud.event at its path, and nothing more."""

    def leaves(tree: fields.Declared, path: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, inner in tree.items():
            found |= {f"{path}.{name}": inner} if isinstance(inner, str) else leaves(inner, f"{path}.{name}")
        return found

    rows = {name: kind for name, kind in documented() if name.startswith("jumpcloud.event.")}
    assert leaves(fields.declared(), "jumpcloud.event") == rows


def test_declared_below_another_parent() -> None:
    """The tree can be had for another parent; one that only begins alike has no part in it."""
    assert fields.declared("input") == {"type": "keyword"}
    assert fields.declared("jumpcloud.event.mfa") == {}
    assert fields.declared("jumpcloud.event.mfa_meta") == {"type": "keyword"}
