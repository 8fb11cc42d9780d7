"""Events made after public fixtures, parsers, rules and complaints, mapped by the installed command."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.command import COMMAND, ROOT

CASES = ROOT / "tests" / "data" / "cases"
EXPECTED: list[dict[str, Any]] = yaml.safe_load((CASES / "expected.yaml").read_text(encoding="utf-8"))


def at(body: dict[str, Any], path: str) -> Any:
    """The value at a dotted path, None if there is none; the order of `related` does not matter."""
    value: Any = body
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return sorted(value) if path.startswith("related.") and value else value


@pytest.mark.parametrize("profile", ["extended", "elastic"])
def test_cases(profile: str) -> None:
    """The record of each event has the expected values, and nothing where nothing is expected."""
    cases = [case for case in EXPECTED if case.get("profile", "extended") == profile]
    options = ["-o", f"ecs.profile={profile}", "-o", f"geoip.city={ROOT / 'geoip' / 'demo-city.mmdb'}"]

    files = [CASES / case["file"] for case in cases]
    done = subprocess.run([COMMAND, "map", *options, *files], capture_output=True, check=False)  # noqa: S603

    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) == len(cases) >= 2
    found = [{path: at(record, path) for path in case["expected"]} for case, record in zip(cases, records, strict=True)]
    expected = [
        {path: sorted(value) if path.startswith("related.") else value for path, value in case["expected"].items()}
        for case in cases
    ]
    assert found == expected


def test_every_file_is_a_case() -> None:
    """No file is without an expectation."""
    assert {case["file"] for case in EXPECTED} == {path.name for path in CASES.glob("*.ndjson")}
    assert all(Path(CASES / case["file"]).read_text().count("\n") == 1 and case["why"] for case in EXPECTED)
