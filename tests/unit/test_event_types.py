"""The table of event types: every known one, each with a category that ECS allows, or the reason why it has none."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path

from in_jumpcloud.ecs import event_types
from in_jumpcloud.simulator.events import EventSource

ROOT = Path(__file__).resolve().parents[2]
# The categories that Elastic's integration gives; they come first in the table's lists.
BASE = {
    **dict.fromkeys(("ldap_bind", "user_login_attempt", "sso_auth", "admin_login_attempt"), "authentication"),
    **dict.fromkeys(
        ("user_password_warning_email", "user_password_reset_request", "user_activation_email", "user_unlocked"), "iam"
    ),
}


def allowed() -> dict[str, set[str]]:
    """The types that ECS allows for each category."""
    with (ROOT / "tests" / "data" / "ecs_allowed_pairs.csv").open(newline="", encoding="utf-8") as file:
        return {row["category"]: set(row["types"].split(";")) for row in csv.DictReader(file)}


def known() -> list[tuple[str, str]]:
    """Service, empty if unknown, and name of every known event type."""
    lines = (ROOT / "tests" / "data" / "event_types.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split() for line in lines if not line.startswith("#")]
    return [("" if service == "-" else service, name) for service, name in pairs]


def test_categories() -> None:
    """A row has categories and types without duplicates, as ECS pairs them, or a sentence with the reason why not."""
    pairs = allowed()
    wrong = [
        row.name
        for row in event_types.table()
        if bool(row.categories) is not bool(row.types)
        or bool(row.categories) is bool(row.reason)
        or (row.reason and not re.fullmatch(r"[A-Z].{10,150}\.", row.reason))
        or len({*row.categories, *row.types}) < len(row.categories) + len(row.types)
        or not set(row.types) <= {kind for category in row.categories for kind in pairs.get(category, ())}
        or not all(pairs.get(category, set()) & set(row.types) for category in row.categories)
    ]
    assert wrong == []


def test_words() -> None:
    """Every row has valid values in the other columns, and a short sentence as its description, which no other has."""
    rows = event_types.table()
    for row in rows:
        assert re.fullmatch(r"[A-Z].{5,118}\.", row.description), row.name
        assert re.fullmatch(r"[a-z][a-z0-9_-]+", row.name), row.name
        assert re.fullmatch(r"[a-z_]*", row.service), row.name
        assert row.origin in {"documented", "live", "both", "rule"}, row.name
    counts = Counter((row.service, row.name) for row in rows) + Counter(("", row.description) for row in rows)
    assert [key for key, count in counts.items() if count > 1] == []
    described = set(re.findall(r"^    (\w+)  ", event_types.__doc__ or "", re.MULTILINE))
    assert described == {row.subject for row in rows} - {""}


def test_base() -> None:
    """The category and type that Elastic's integration gives come first."""
    rows = {name: event_types.lookup(None, name) for name in BASE}
    first = {name: (row.categories[0], row.types[0]) for name, row in rows.items() if row}
    assert first == {name: (category, "info") for name, category in BASE.items()}


def test_every_known_event_type() -> None:
    """Every known event type has a row, and lookup returns that of its service; so has every simulated one."""
    names = known()
    rows = {(row.service, row.name): row for row in event_types.table()}
    assert [key for key in names if key not in rows] == []
    assert [key for key in names if event_types.lookup(*key) is not rows[key]] == []
    assert len(names) == len(set(names)) >= 394
    source = EventSource(start_ms=0, per_minute=200)
    simulated = [json.loads(item.raw) for item in source.between(0, 600_000, now_ms=600_000)]
    pairs = {(event["service"], event["event_type"]) for event in simulated}
    assert len({service for service, _ in pairs}) == 15
    assert pairs - rows.keys() == set()


def test_lookup() -> None:
    """The row of the service, or else the first row of the name. A name without a row is not found."""

    def service_of(service: str | None, name: str) -> str | None:
        row = event_types.lookup(service, name)
        return row and row.service

    assert [service_of(service, "user_lockout") for service in ("directory", "systems")] == ["directory", "systems"]
    for service in (None, "", "alert", "a service of tomorrow"):
        assert service_of(service, "rule_created") == "alerts"
        assert service_of(service, "user_lockout") == "directory"
    for name in ("", "user_createx", "USER_CREATE", "directory"):
        assert service_of(None, name) is service_of("directory", name) is None


def test_columns() -> None:
    """A row has the values of the file."""
    rows = [
        ("directory", "admin_login_attempt", ("authentication",), ("info", "start"), "admin"),
        ("radius", "radius_auth_attempt", ("authentication",), ("start",), "user"),
        ("directory", "user_delete", ("iam",), ("user", "deletion"), "user"),
        ("directory", "association_change", ("iam",), ("group", "change"), "association"),
        ("software", "software_add", ("package",), ("installation",), "software"),
        ("object_storage", "object_storage_delete", ("file",), ("deletion",), "file"),
        ("systems", "remote_session_end", ("session",), ("end",), "session"),
        ("alerts", "alert_created", (), (), "alert"),
    ]
    found = [row for service, name, *_ in rows if (row := event_types.lookup(service, name))]
    assert [(row.service, row.name, row.categories, row.types, row.subject) for row in found] == rows
