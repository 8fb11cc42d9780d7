"""Profile `extended` with any event: declared types, and all values of profile `elastic`."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tools.ecs_fuzz import TYPES, Fuzz, leaves

from in_jumpcloud.config.schema import EcsSettings
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.insights.event import parse_event
from in_jumpcloud.simulator.events import EventSource

ROOT = Path(__file__).resolve().parents[2]
GEOIP = ROOT / "geoip"
DOCUMENTED = (ROOT / "tests" / "data" / "documented_events.ndjson").read_bytes().splitlines()
SIMULATED = [item.raw for item in EventSource(start_ms=0, end_ms=600_000).between(0, 600_000, now_ms=600_000)]
RARE: list[dict[str, Any]] = [
    {"username": r"CORP\ann", "process_name": "/usr/sbin/sshd", "resource": {"type": "user", "name": r"CORP\bob"}},
    {"mdm_device_id": "1", "query_responses": {"model_name": "MacBook Air", "product_name": "Mac14,2"}},
    {"event_type": "organization_update", "organization": "1", "resource": {"id": "1", "name": "Example"}},
    {"client_ip": "81.2.69.144:1", "src_ip": "[::ffff:81.2.69.144]:1", "scope": "x"},
    {"src_ip": "216.160.83.56", "client_ip": "216.160.83.56"},
    {"system": {"os": "Windows", "version": "10"}, "resource": {"type": "user_group", "id": "1", "name": "G"}},
    {
        "event_type": "user_update",
        "changes": [{"field": name, "to": "x"} for name in ("email", "username", "displayName")],
    },
]


@pytest.fixture
def mapper() -> Iterator[Mapper]:
    """A mapper with every setting that adds fields."""
    geo = GeoIPLookup(GEOIP / "demo-city.mmdb", GEOIP / "demo-asn.mmdb", extended=True)
    settings = EcsSettings(preserve_original_event=True, hash_original=True)
    yield Mapper(settings, geo, agent_id="a", ephemeral_id="b")
    geo.close()


def test_hostile_events(tmp_path: Path, dice: random.Random) -> None:
    """Every event is mapped; declared fields have their types; profile extended has all values of profile elastic."""
    figures = Fuzz(tmp_path, events=1000, seed=dice.randrange(2**32), deliver=False).run()

    assert figures.defects == [], str(figures)
    assert figures.events == 1000
    assert 0 < figures.reported < 1000
    assert figures.leaves > 20 * 1000
    assert figures.compared >= 200


def test_ordinary_events(mapper: Mapper, tmp_path: Path) -> None:
    """So is every documented and simulated event, without problems; the table of event types has all their types."""
    raws = [*SIMULATED, *DOCUMENTED]

    figures = Fuzz(tmp_path, events=raws, seed=0, deliver=False).run()

    assert figures.defects == [], str(figures)
    assert (figures.events, figures.reported) == (len(raws), 0)
    for raw in SIMULATED:
        mapper.map(parse_event(raw), 0)
    assert mapper.unknown_types == {}


def test_every_field(mapper: Mapper) -> None:
    """Every declared field of ECS is in the record of some event."""
    raws = [*SIMULATED, *DOCUMENTED, *(json.dumps(event).encode() for event in RARE)]
    used = {path for raw in raws for path, _ in leaves(mapper.map(parse_event(raw), 0).body)}
    assert {path for path in TYPES if path[0] != "jumpcloud" and path not in used} == set()
