"""What is equal to Elastic's integration 1.22, and what differs on purpose: the table of conf/from-elastic.md."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from support import elastic
from support.command import ROOT, invoke

from in_jumpcloud.simulator.events import EventSource

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


# Declared fields


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


# Values

CREATED = "2026-09-01T12:00:00Z"


def records(profile: str, events: list[bytes], city: str = "null") -> list[dict[str, Any]]:
    """The records of events; `city` is the path of a database, none by default."""
    options = ("-o", f"ecs.profile={profile}", "-o", f"geoip.city={city}")
    done = invoke("map", "--agent-id", "a", "--created", CREATED, *options, stdin=b"\n".join(events))
    assert (done.returncode, done.stderr) == (0, b"")
    return [json.loads(line) for line in done.stdout.splitlines()]


def events() -> list[bytes]:
    """Every documented and sampled event, and simulated ones of every type."""
    simulated = EventSource(start_ms=0, end_ms=600_000).between(0, 600_000, now_ms=600_000)
    samples = [
        json.dumps(sample["event"]).encode()
        for path in sorted((DATA / "samples").glob("*.yaml"))
        if path.name != "common.yaml"
        for sample in yaml.safe_load(path.read_text(encoding="utf-8"))
    ]
    documented = (DATA / "documented_events.ndjson").read_bytes().splitlines()
    return [*(item.raw for item in simulated), *documented, *samples]


def same(ours: Any, theirs: Any) -> bool:
    """Whether two values are the same in an index: a number as text is the number."""
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and ours.keys() == theirs.keys() and all(same(ours[k], theirs[k]) for k in ours)
    if isinstance(theirs, list):
        return isinstance(ours, list) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float) and not isinstance(theirs, bool):
        return ours == float(theirs)
    return ours == theirs or str(ours).lower() == str(theirs).lower()


def test_every_value() -> None:
    """With profile elastic a record has the fields of the pipeline's document, value for value, and no others.

    Left out are the fields of the collector, and events that the pipeline rejects: those with an error in our record.
    """
    own = {"agent", "input", "data_stream", "tags"}
    raws = events()
    compared, differ = 0, []
    for raw, record in zip(raws, records("elastic", raws), strict=True):
        if "error" in record:
            continue
        event = json.loads(raw)
        if isinstance(event.get("initiated_by"), list):  # see test_a_list_of_actors
            continue
        if isinstance(event.get("success"), str):  # see test_success_as_text
            continue
        expected = elastic.pipeline(event)
        ours = {name: value for name, value in record.items() if name not in own}
        ours["event"] = {name: value for name, value in ours["event"].items() if name not in {"created", "dataset"}}
        expected["@timestamp"] = ours["@timestamp"]  # see test_samples.py
        compared += 1
        if not same(ours, expected):
            differ.append((ours, expected))
    print(f"profile elastic: {compared} records compared with the pipeline of 1.22, {len(differ)} differ")  # noqa: T201 - the result
    assert compared > 500
    assert differ == []


def test_related_user() -> None:
    """The name of the actor is related, and the address of the client is not."""
    (record,) = records("elastic", [(DATA / "elastic-related-user.ndjson").read_bytes().strip()])
    assert record["related"] == {"user": ["ben.field"]}


# What differs on purpose


def test_collector() -> None:
    """The fields of the collector name this one; those that Elastic's agent and Elasticsearch add are absent."""
    (record,) = records("elastic", [b'{"id": "1"}'])
    assert (record["input"]["type"], record["agent"]["type"]) == ("in_jumpcloud", "in_jumpcloud")
    assert "elastic_agent" not in record
    assert record["event"].keys() == {"created", "dataset", "id", "outcome"}


@pytest.mark.parametrize("bad", [{"client_ip": "nowhere"}, {"timestamp": "yesterday"}, {"scope": "all"}])
def test_a_bad_value(bad: dict[str, Any]) -> None:
    """Everything but the value itself is mapped, the error names the field, and the original is kept."""
    event = {"id": "1", "service": "ldap", "message": "m", "username": "ann", **bad}
    (record,) = records("elastic", [json.dumps(event).encode()])
    expected = elastic.pipeline({name: value for name, value in event.items() if name not in bad})
    (message,) = record["error"]["message"]
    assert next(iter(bad)) in message
    assert (record["event"]["kind"], json.loads(record["event"]["original"])) == ("pipeline_error", event)
    assert record["tags"] == ["forwarded", "preserve_original_event"]
    assert (record["message"], record["user"]) == (expected["message"], expected["user"])
    assert record["event"]["module"] == expected["event"]["module"]


def test_a_list_of_actors() -> None:
    """The first object of a list of actors is source.user; the pipeline has none then."""
    event = {"initiated_by": [{"id": "1", "username": "ann"}, {"id": "2"}]}
    (record,) = records("elastic", [json.dumps(event).encode()])
    assert record["source"]["user"] == {"id": "1", "name": "ann"}
    assert "source" not in elastic.pipeline(event)


def test_success_as_text() -> None:
    """Success as text is success or failure; for the pipeline it is neither."""
    (record,) = records("elastic", [b'{"success": "false"}'])
    outcomes = record["event"]["outcome"], elastic.pipeline({"success": "false"})["event"]["outcome"]
    assert outcomes == ("failure", "unknown")


# What profile extended changes

CHANGED: list[dict[str, Any]] = [
    {"service": "mdm", "event_type": "x", "status": "Error"},
    {"client_ip": "::ffff:203.0.113.9"},
    {"src_ip": "::ffff:203.0.113.9"},
    {"client_ip": "1.2.3.4:5"},
    {"src_ip": ["1.2.3.4", "1.2.3.5"], "event_type": "alert_created"},
    {"resource": {"id": 7, "reference_id": 8}},
    {"resource": {"reference_id": {"a": 1}}},
    {"initiated_by": [{"type": "x"}, {"id": "1", "username": "ann"}], "username": "ben"},
]


def differing(base: Any, more: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where `more` lacks a value of `base`, or does not begin a list with its members; with both values."""
    if isinstance(base, dict):
        for name, value in base.items():
            below = more.get(name) if isinstance(more, dict) else None
            yield from differing(value, below, f"{path}.{name}" if path else name)
    else:
        same_members = more[: len(base)] if isinstance(base, list) and isinstance(more, list) else more
        if json.dumps(base) != json.dumps(same_members):
            yield path, base, more


def quoted(cell: str) -> list[str]:
    """The names and values in a cell; one empty text if there are none."""
    return re.findall("`([^`]+)`", cell) or [""]


def test_values_that_profile_extended_changes() -> None:
    """The table of the page has every field that differs, and none that does not; of outcomes, also the values."""
    page = (ROOT / "conf" / "from-elastic.md").read_text(encoding="utf-8")
    section = page.partition("## Values that profile extended changes\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    stated = {
        (field, base, more)
        for row in rows
        for field in quoted(row[0])
        for base in quoted(row[1])
        for more in quoted(row[2])
    }
    with_values = {field for field, base, _ in stated if base}
    names = [
        {field["name"] for field in json.loads(invoke("fields", "--format", "json", "--profile", profile).stdout)}
        for profile in ("extended", "elastic")
    ]
    only_extended = tuple(f"{name}." for name in names[0] - names[1] if name.startswith("jumpcloud.event."))
    rules = [
        json.dumps(rule["event"]).encode()
        for path in sorted((DATA / "samples" / "rules").glob("*.yaml"))
        for rule in yaml.safe_load(path.read_text(encoding="utf-8"))
    ]
    raws = [*events(), *rules, *(json.dumps(event).encode() for event in CHANGED)]
    city = str(ROOT / "geoip" / "demo-city.mmdb")
    found = set()
    for base, more in zip(records("elastic", raws, city), records("extended", raws, city), strict=True):
        for path, one, other in differing(base, more):
            field = "jumpcloud.event" if f"{path}.".startswith(only_extended) else path
            found.add((field, one, other) if field in with_values else (field, "", ""))
    assert found == stated


def test_unique_users() -> None:
    """Profile extended relates ids and addresses too, so a figure that counts related.user is too high."""
    actor = {"id": "60bb00000000000000000002", "username": "ben.field", "email": "ben@example.com"}
    event = json.dumps({"service": "sso", "event_type": "sso_auth", "initiated_by": actor}).encode()
    counts = [len(set(records(profile, [event])[0]["related"]["user"])) for profile in ("elastic", "extended")]
    assert counts == [1, 3]
