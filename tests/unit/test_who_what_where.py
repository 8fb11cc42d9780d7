"""How many records name who did something, to whom or what, and from where; printed as a table.

FLOOR has the figures before people, objects and the origin had their own rules, with the same events.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from in_jumpcloud.config.schema import EcsSettings
from in_jumpcloud.ecs import event_types
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.insights.event import parse_event

DATA = Path(__file__).resolve().parents[1] / "data"
OBJECTS = ("group", "host", "device", "rule", "service", "package", "file")
PEOPLE = ("id", "name", "email")
QUESTIONS = ("actor", "user.name", "target or object", "origin")
FLOOR: dict[str, dict[str, int]] = {
    "records of samples": {"actor": 82, "user.name": 32, "target or object": 59, "origin": 4},
    "event types of samples": {"actor": 53, "user.name": 16, "target or object": 40, "origin": 2},
    "event types of the table": {"actor": 394, "user.name": 0, "target or object": 93, "origin": 0},
}
# An administrator acts on an object of which an event has no more than the id and the name.
OF_ANY_TYPE = {
    "initiated_by": {"id": "a1", "type": "admin", "email": "ida@example.com"},
    "client_ip": "192.0.2.1",
    "resource": {"id": "r1", "name": "R"},
}


def samples() -> list[dict[str, Any]]:
    """Every event that the tests have: whole samples, documented events and cases."""
    paths = [DATA / "documented_events.ndjson", *sorted((DATA / "cases").glob("*.ndjson"))]
    events = [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]
    for path in sorted((DATA / "samples").glob("*.yaml")):
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        events += [entry["event"] for entry in entries if isinstance(entries, list)]
    return events


def answers(event: dict[str, Any]) -> set[str]:
    """Which of the questions the record of an event answers."""
    mapper = Mapper(EcsSettings(), GeoIPLookup(None, None), agent_id="a", ephemeral_id="b")
    body = mapper.map(parse_event(json.dumps(event).encode()), 0).body
    user, source = body.get("user", {}), body.get("source", {})
    found = {
        "actor": any(name in person for person in (user, source.get("user", {})) for name in PEOPLE),
        "user.name": "name" in user,
        "target or object": "target" in user or any(name in body for name in OBJECTS),
        "origin": "ip" in source,
    }
    return {question for question, answered in found.items() if answered}


def measure() -> dict[str, tuple[int, Counter[str]]]:
    """For each row of the table: of how many, and how many answer each question."""
    known = {row.name for row in event_types.table()}
    of_records = [(event.get("event_type"), answers(event)) for event in samples()]
    of_types: dict[str, set[str]] = {}
    for name, answered in of_records:
        if name in known:
            of_types.setdefault(name, set()).update(answered)
    of_table = [answers({"service": row.service, "event_type": row.name, **OF_ANY_TYPE}) for row in event_types.table()]

    def count(answered: list[set[str]]) -> tuple[int, Counter[str]]:
        return len(answered), Counter(question for each in answered for question in each)

    return {
        "records of samples": count([answered for _, answered in of_records]),
        "event types of samples": count(list(of_types.values())),
        "event types of the table": count(of_table),
    }


def test_who_what_where() -> None:
    """More records than before answer each question, of the samples and of all event types."""
    figures = measure()
    lines = [f"{'of':32}" + "".join(f"{question:>24}" for question in QUESTIONS)]
    for name, (total, counts) in figures.items():
        cells = [f"{FLOOR[name][question]} -> {counts[question]}" for question in QUESTIONS]
        lines.append(f"{f'{total} {name}':32}" + "".join(f"{cell:>24}" for cell in cells))
    print("\n".join(lines))  # noqa: T201 - the table

    for name, (_, counts) in figures.items():
        assert all(counts[question] >= FLOOR[name][question] for question in QUESTIONS), name
    total, counts = figures["event types of the table"]
    assert counts["actor"] == counts["origin"] == total
