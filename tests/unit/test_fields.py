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
ECS = ROOT / "tests" / "data" / "ecs_fields.csv"
SEEDS = ROOT.parent / "shared" / "seeds"
REFERENCE = ROOT.parent / "shared" / "reference" / "ecs_8.11_fields.csv"


def documented() -> list[tuple[str, str]]:
    """Name and type of every documented row."""
    with SEED.open(newline="", encoding="utf-8") as file:
        return [(row["name"], row["type"]) for row in csv.DictReader(file)]


def test_every_row() -> None:
    """The table begins with exactly the documented rows, in the same order, each with its name and type."""
    rows = documented()
    assert len(rows) == 110
    assert [(field.name, field.type) for field in fields.table()[:110]] == rows
    assert [field.origin == "elastic" for field in fields.table()] == [True] * 110 + [False] * (
        len(fields.table()) - 110
    )


def test_origins() -> None:
    """JumpCloud's own fields lie below jumpcloud.event, and those of the Elastic Common Schema do not."""
    for field in fields.table()[110:]:
        assert field.origin == ("jumpcloud" if field.name.startswith("jumpcloud.event.") else "ecs"), field.name


def known_to_ecs() -> dict[str, str]:
    """Type by name of the fields of ECS 8.11 that the table names."""
    with ECS.open(newline="", encoding="utf-8") as file:
        return {row["name"]: row["type"] for row in csv.DictReader(file)}


def test_fields_of_ecs() -> None:
    """Every field that is said to be of the Elastic Common Schema is, with the type that it has there."""
    assert {field.name: field.type for field in fields.table() if field.origin == "ecs"} == known_to_ecs()


@pytest.mark.skipif(not REFERENCE.is_file(), reason="ECS's own list is not beside this checkout (../shared/reference)")
def test_copy_of_ecs() -> None:
    """The list of fields in tests/data has of each field the type that ECS 8.11 gives it."""
    with REFERENCE.open(newline="", encoding="utf-8") as file:
        types = {row["Field"]: row["Type"] for row in csv.DictReader(file)}
    assert known_to_ecs() == {name: types.get(name) for name in known_to_ecs()}


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
    """The tree of declared types holds each row of its profile below jumpcloud.event at its path, and nothing more."""

    def leaves(tree: fields.Declared, path: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, inner in tree.items():
            found |= {f"{path}.{name}": inner} if isinstance(inner, str) else leaves(inner, f"{path}.{name}")
        return found

    rows = {name: kind for name, kind in documented() if name.startswith("jumpcloud.event.")}
    assert leaves(fields.declared(), "jumpcloud.event") == rows
    rows |= {field.name: field.type for field in fields.table() if field.origin == "jumpcloud"}
    assert leaves(fields.declared(extended=True), "jumpcloud.event") == rows


def test_declared_below_another_parent() -> None:
    """The tree can be had for another parent; one that only begins alike has no part in it."""
    assert fields.declared("input") == {"type": "keyword"}
    assert fields.declared("jumpcloud.event.mfa") == {}
    assert fields.declared("jumpcloud.event.mfa_meta") == {"type": "keyword"}
    assert fields.declared("observer") == {}
    assert fields.declared("observer", extended=True) == {"product": "keyword", "vendor": "keyword"}
