"""conf/peers.md: each fact that another parser extracts is in our record where the page says, and is indexed there."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from in_jumpcloud.config.schema import EcsSettings
from in_jumpcloud.ecs import fields
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.insights.event import parse_event

ROOT = Path(__file__).resolve().parents[2]
HEADER = ["in the event", "Elastic", "Sekoia", "Sumo Logic", "Sentinel", "Datadog", "SecOps", "in the record"]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "conf" / "peers.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
]
ADDRESS = "81.2.69.144"
FACT = "fact"
CHANGES = [{"field": "email", "to": FACT}]
CONTEXTS: dict[str, dict[str, Any]] = {
    "": {},
    "kept": {},
    "its place": {},
    "an actor": {"initiated_by": {"id": "a1"}},
    "a client": {"client_ip": ADDRESS},
    "a user": {
        "event_type": "user_update",
        "resource": {"type": "user"},
        "association": {"connection": {"from": {"type": "user"}}},
    },
    "a group": {"resource": {"type": "user_group"}, "association": {"connection": {"to": {"type": "user_group"}}}},
    "an application": {"resource": {"type": "application"}},
    "a sign-on": {"service": "sso", "event_type": "sso_auth"},
    "an alert": {"service": "alerts", "event_type": "alert_created"},
}
"""What else an event has, by the words in parentheses."""
VALUES: dict[str, Any] = {
    **dict.fromkeys(("client_ip", "src_ip", "jumpcloud_protect_device.ip"), ADDRESS),
    **dict.fromkeys(("success", "sso_token_success", "mfa"), True),
    **dict.fromkeys(("geoip.latitude", "geoip.longitude"), 51.5),
    "asn.number": 64500,
    "changes": CHANGES,
    "timestamp": "2026-08-14T10:00:14.014Z",
}
"""The value of a fact that cannot be FACT."""
MEANINGS = {("success", "event.outcome"): "success", ("sso_token_success", "event.outcome"): "success"}


def at(body: Any, path: str) -> Any:
    """The value at a dotted path; None if there is none."""
    for name in path.split("."):
        body = body.get(name) if isinstance(body, dict) else None
    return body


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_fact(row: list[str]) -> None:
    """The fact is in each place that the row names; there is a reason where that is not a field of ECS."""
    matched = re.fullmatch(r"`([\w.@]+)`(?: \(([\w -]+)\))?", row[0])
    assert matched, row[0]
    path, context = matched[1], matched[2] or ""
    places, _, reason = row[-1].partition(": ")
    names = re.findall(r"`([\w.@]+)`", places)
    assert names
    assert bool(reason) == any(name.startswith("jumpcloud.event.") for name in names), "a reason, and only then"

    event = copy.deepcopy(CONTEXTS[context])
    value = VALUES.get(path, FACT)
    inner, (*parents, leaf) = event, path.split(".")
    for name in parents:
        inner = inner.setdefault(name, {})
    inner[leaf] = value
    geo = GeoIPLookup(ROOT / "geoip" / "demo-city.mmdb", None, extended=True)
    settings = EcsSettings(preserve_duplicate_custom_fields=context == "kept")
    body = Mapper(settings, geo, agent_id="a", ephemeral_id="b").map(parse_event(json.dumps(event).encode()), 0).body
    geo.close()
    declared = {field.name for field in fields.table()}
    for name in names:
        found, expected = at(body, name), MEANINGS.get((path, name), value)
        expected = "GB" if name.endswith("country_iso_code") else expected
        assert name in declared, f"{name} is not indexed"
        assert found == expected or (isinstance(found, list) and expected in found), (name, found)


def test_the_page() -> None:
    """Each table has a column for each parser, and each parser extracts something."""
    text = (ROOT / "conf" / "peers.md").read_text(encoding="utf-8")
    assert text.count(f"| {' | '.join(HEADER)} |") == 4
    assert len(ROWS) > 70
    for row in ROWS:
        assert len(row) == len(HEADER), row
        assert any(row[1:-1]), "some parser extracts it"
    for column in range(1, len(HEADER) - 1):
        assert sum(bool(row[column]) for row in ROWS) >= 6, HEADER[column]
