"""The catalogue of event types: every known one, each with a category that ECS allows or the reason why it has none."""

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
REFERENCE = ROOT.parent / "shared" / "reference"
beside_the_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the reference is not beside this checkout (../shared/reference)"
)

# What Elastic's own integration says of these; its members come first in the catalogue's lists.
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
    """Service, empty where nobody says which one, and name of every event type that is known."""
    lines = (ROOT / "tests" / "data" / "event_types.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split() for line in lines if not line.startswith("#")]
    return [("" if service == "-" else service, name) for service, name in pairs]


def section(page: str, number: str) -> str:
    """A numbered section of the reference's page, up to the next heading."""
    found = re.search(
        rf"^#+ {re.escape(number)} .*?(?=^#+ |\Z)", (REFERENCE / page).read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert found
    return found[0]


def spelled_out(listed: str) -> set[str]:
    """The names in a running text, in which `_delete` after `server_create` stands for `server_delete`."""
    names: set[str] = set()
    stem = ""
    for name in re.findall(r"(?<![\w.*])_?[a-z][a-z0-9]*(?:_[a-z0-9-]+)*(?!\w|\*|\.\w)", listed):
        if name.startswith("_"):
            names.add(stem + name)
        elif "_" in name:
            names.add(name)
            stem = name.rpartition("_")[0]
    return names


def test_pairs() -> None:
    """Each type of a row is allowed for one of its categories, and each category allows one of the row's types."""
    pairs = allowed()
    wrong = [
        row.name
        for row in event_types.table()
        if not set(row.types) <= {kind for category in row.categories for kind in pairs.get(category, ())}
        or not all(pairs.get(category, set()) & set(row.types) for category in row.categories)
    ]
    assert wrong == []


def test_category_or_reason() -> None:
    """A row has categories and types, none of them twice, or else a sentence that says why it has none."""
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
    """Every event type is described in one short sentence, and its other cells hold nothing but what they may."""
    for row in event_types.table():
        assert re.fullmatch(r"[A-Z].{5,118}\.", row.description), row.name
        assert re.fullmatch(r"[a-z][a-z0-9_-]+", row.name), row.name
        assert re.fullmatch(r"[a-z_]*", row.service), row.name
        assert row.origin in {"documented", "live", "both"}, row.name


def test_subjects() -> None:
    """The module tells what every subject means, and no further ones."""
    told = set(re.findall(r"^    (\w+)  ", event_types.__doc__ or "", re.MULTILINE))
    assert told == {row.subject for row in event_types.table()} - {""}


@pytest.mark.parametrize("name", BASE)
def test_base(name: str) -> None:
    """Where Elastic's integration gives a category and a type, those come first."""
    found = event_types.lookup(None, name)
    assert found
    assert (found.categories[0], found.types[0]) == (BASE[name], "info")


def test_rows_differ() -> None:
    """No event type of a service stands twice, and no two rows have the same description."""
    rows = event_types.table()
    counts = Counter((row.service, row.name) for row in rows) + Counter(("", row.description) for row in rows)
    assert [key for key, count in counts.items() if count > 1] == []


def test_every_known_event_type() -> None:
    """Every known event type has a row of its own, with a category and a type or with the reason."""
    names = known()
    rows = {(row.service, row.name): row for row in event_types.table()}
    assert [key for key in names if key not in rows] == []
    assert [key for key in names if event_types.lookup(*key) is not rows[key]] == []
    reasons = sum(bool(row.reason) for row in rows.values())
    print(  # noqa: T201 - pytest -s shows it
        f"{len(names)} known event types in {len(rows)} rows, {reasons} of them without a category for a stated reason"
    )
    assert len(names) == len(set(names)) >= 394


@beside_the_reference
def test_names_of_the_reference() -> None:
    """Every event type that the reference names is in the list of known ones and in the catalogue."""
    names: set[str] = set()
    documented = section("jumpcloud_api.md", "2.2")
    groups = re.findall(r"^- \*\*.+?\*\* \((\d+)\): (.+)$", documented, re.MULTILINE)
    for count, listed in groups:
        assert len(listed.split(", ")) == int(count)
        names |= set(listed.split(", "))
    said = re.search(r"^(\d+) distinct names", documented, re.MULTILINE)
    assert said
    assert len(names) == int(said[1])

    elsewhere = section("jumpcloud_api.md", "2.3")
    family = re.search(r"the passwordvault_\* family of about (\d+) \((.+?)\)", elsewhere)
    assert family
    beginnings = {f"{beginning}_" for beginning in re.findall(r"([a-z_]+)_\*", elsewhere)} - {"approval_flow_"}
    *_, credentials = re.findall(r"credential (.+?);", family[2])
    names |= {f"passwordvault_credential_{verb}" for verb in credentials.split(", ")}
    names |= {f"passwordvault_{name}" for name in re.findall(r"[a-z_]+\b(?!_?\*)", family[2].partition(";")[2])}
    names |= spelled_out(elsewhere.replace(family[0], ""))
    names -= {"password_manager", "di_events"}  # services

    listed_here = {name for _, name in known()}
    assert names - listed_here == set()
    assert {name for name in names if event_types.lookup(None, name) is None} == set()
    for beginning in beginnings:
        assert any(beginning in name for name in listed_here), beginning


@beside_the_reference
def test_copy_of_the_pairs() -> None:
    """The copy in tests/data has exactly the pairs that the mapping's description allows."""
    rows = re.findall(r"^\| (\w+) \| ([\w, ]+) \|$", section("ecs_mapping.md", "2.2"), re.MULTILINE)
    assert allowed() == {category: set(types.split(", ")) for category, types in rows if category != "category"}


def test_service_decides() -> None:
    """An event type of two services has two rows, and each service finds its own."""
    by_service = {service: event_types.lookup(service, "user_lockout") for service in ("directory", "systems")}
    assert {service: row and row.service for service, row in by_service.items()} == {
        "directory": "directory",
        "systems": "systems",
    }


@pytest.mark.parametrize("service", [None, "", "alert", "a service of tomorrow"])
def test_unknown_service(service: str | None) -> None:
    """With no service, or one that has no row of that name, the first row of the name counts."""
    alert = event_types.lookup(service, "rule_created")
    assert alert
    assert alert.service == "alerts"
    lockout = event_types.lookup(service, "user_lockout")
    assert lockout
    assert lockout.service == "directory"


@pytest.mark.parametrize("name", ["", "user_createx", "USER_CREATE", "directory"])
def test_unknown_event_type(name: str) -> None:
    """What the catalogue lacks is not found, whatever the service."""
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
    """A row says of its event type what the file says."""
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
