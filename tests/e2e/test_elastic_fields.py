"""What Elastic's integration 1.22 declares is in the field table and in the index templates: it can be searched."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest
from support.command import ROOT, invoke

DATA = ROOT / "tests" / "data"
SUBSTITUTES = {("flattened", "opensearch"): {"type": "object", "enabled": False}}
"""What a store has in place of a type that it lacks."""


def declared() -> dict[str, str]:
    """The declared type of each field, by its name."""
    with (DATA / "elastic_declared_fields.csv").open(newline="", encoding="utf-8") as file:
        return {row["field"]: row["type"] for row in csv.DictReader(file)}


def report(what: str, missing: list[str]) -> None:
    """Print how many of the declared fields are missing."""
    print(f"{what}: {len(declared())} fields declared by Elastic's integration 1.22, {len(missing)} missing")  # noqa: T201 - the result


def test_fields() -> None:
    """`fields` lists each with its declared type."""
    listed = {row["name"]: row["type"] for row in json.loads(invoke("fields", "--format", "json").stdout)}
    missing = [name for name, kind in declared().items() if listed.get(name) != kind]
    report("in-jumpcloud fields", missing)
    assert missing == []
    assert len(declared()) == 193


@pytest.mark.parametrize("profile", ["extended", "elastic"])
@pytest.mark.parametrize("store", ["elasticsearch", "opensearch"])
def test_templates(store: str, profile: str) -> None:
    """Each is in the template with its declared type, or the substitute of the store."""
    template = json.loads(invoke("template", store, "--profile", profile).stdout)
    missing = []
    for name, kind in declared().items():
        mapping: dict[str, Any] = template["template"]["mappings"]
        for part in name.split("."):
            mapping = mapping.get("properties", {}).get(part, {})
        if mapping != SUBSTITUTES.get((kind, store)) and mapping.get("type") != kind:
            missing.append(name)
    report(f"in-jumpcloud template {store} --profile {profile}", missing)
    assert missing == []


def test_fields_that_were_missing_once() -> None:
    """So are those that users of the integration would have noticed first."""
    names = json.loads((DATA / "template-fields-a.json").read_text(encoding="utf-8"))
    assert len(names) == 26
    assert [name for name in names if name not in declared()] == []
