"""The table of event types: every known one, each with a category that ECS allows, or the reason why it has none."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path

import pytest

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


def test_pairs() -> None:
    """Each type of a row is allowed for one of its categories, and each category allows one of the types."""
    pairs = allowed()
    wrong = [
        row.name
        for row in event_types.table()
        if not set(row.types) <= {kind for category in row.categories for kind in pairs.get(category, ())}
        or not all(pairs.get(category, set()) & set(row.types) for category in row.categories)
    ]
    assert wrong == []


def test_category_or_reason() -> None:
    """A row has categories and types, without duplicates, or a sentence with the reason why not."""
    for row in event_types.table():
        if row.reason:
            assert (row.categories, row.types) == ((), ()), row.name
            assert re.fullmatch(r"[A-Z].{10,150}\.", row.reason), row.name
        else:
            assert row.categories, row.name
            assert row.types, row.name
        assert len(set(row.categories)) == len(row.categories), row.name
        assert len(set(row.types)) == len(row.types), row.name


def test_words() -> None:
    """Every event type has a description of one short sentence, and valid values in the other columns."""
    for row in event_types.table():
        assert re.fullmatch(r"[A-Z].{5,118}\.", row.description), row.name
        assert re.fullmatch(r"[a-z][a-z0-9_-]+", row.name), row.name
        assert re.fullmatch(r"[a-z_]*", row.service), row.name
        assert row.origin in {"documented", "live", "both"}, row.name


def test_subjects() -> None:
    """The module describes exactly the subjects that the table uses."""
    described = set(re.findall(r"^    (\w+)  ", event_types.__doc__ or "", re.MULTILINE))
    assert described == {row.subject for row in event_types.table()} - {""}


def test_base() -> None:
    """The category and type that Elastic's integration gives come first."""
    rows = {name: event_types.lookup(None, name) for name in BASE}
    first = {name: (row.categories[0], row.types[0]) for name, row in rows.items() if row}
    assert first == {name: (category, "info") for name, category in BASE.items()}


def test_rows_differ() -> None:
    """No service has an event type twice, and no two rows have the same description."""
    rows = event_types.table()
    counts = Counter((row.service, row.name) for row in rows) + Counter(("", row.description) for row in rows)
    assert [key for key, count in counts.items() if count > 1] == []


def test_every_known_event_type() -> None:
    """Every known event type has a row."""
    names = known()
    rows = {(row.service, row.name): row for row in event_types.table()}
    assert [key for key in names if key not in rows] == []
    assert [key for key in names if event_types.lookup(*key) is not rows[key]] == []
    assert len(names) == len(set(names)) >= 394


def test_service_decides() -> None:
    """An event type of two services has two rows, and lookup returns that of the service."""
    by_service = {service: event_types.lookup(service, "user_lockout") for service in ("directory", "systems")}
    assert {service: row and row.service for service, row in by_service.items()} == {
        "directory": "directory",
        "systems": "systems",
    }


@pytest.mark.parametrize("service", [None, "", "alert", "a service of tomorrow"])
def test_unknown_service(service: str | None) -> None:
    """Without a service, or with one that has no row of that name, the first row of the name is returned."""
    alert = event_types.lookup(service, "rule_created")
    assert alert
    assert alert.service == "alerts"
    lockout = event_types.lookup(service, "user_lockout")
    assert lockout
    assert lockout.service == "directory"


@pytest.mark.parametrize("name", ["", "user_createx", "USER_CREATE", "directory"])
def test_unknown_event_type(name: str) -> None:
    """An event type without a row is not found, with any service."""
    assert event_types.lookup(None, name) is None
    assert event_types.lookup("directory", name) is None


@pytest.mark.parametrize(
    ("service", "name", "categories", "types", "subject"),
    [
        ("directory", "admin_login_attempt", ("authentication",), ("info", "start"), "admin"),
        ("radius", "radius_auth_attempt", ("authentication",), ("start",), "user"),
        ("directory", "user_delete", ("iam",), ("user", "deletion"), "user"),
        ("directory", "group_create", ("iam",), ("group", "creation"), "group"),
        ("directory", "association_change", ("iam",), ("group", "change"), "association"),
        ("software", "software_add", ("package",), ("installation",), "software"),
        ("object_storage", "object_storage_delete", ("file",), ("deletion",), "file"),
        ("systems", "remote_session_end", ("session",), ("end",), "session"),
        ("alerts", "alert_created", (), (), "alert"),
    ],
)
def test_columns(service: str, name: str, categories: tuple[str, ...], types: tuple[str, ...], subject: str) -> None:
    """A row has the values of the file."""
    found = event_types.lookup(service, name)
    assert found
    assert (found.service, found.name) == (service, name)
    assert (found.categories, found.types, found.subject) == (categories, types, subject)


def test_simulated_events() -> None:
    """Every event type of the simulated API has a row under its own service."""
    events = [
        json.loads(item.raw) for item in EventSource(start_ms=0, per_minute=1000).between(0, 600_000, now_ms=600_000)
    ]
    pairs = {(event["service"], event["event_type"]) for event in events}
    assert len({service for service, _ in pairs}) == 15
    for service, name in pairs:
        found = event_types.lookup(service, name)
        assert found, name
        assert found.service == service
