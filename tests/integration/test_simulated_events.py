"""The events that the simulated API holds."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime

import pytest
from support.api import HOUR_END, NOW, START, ids

from in_jumpcloud.simulator.catalog import NANOSECONDS, SERVICES, WHOLE_SECONDS
from in_jumpcloud.simulator.events import MINUTE, EventSource


@pytest.fixture
def source() -> EventSource:
    """A day of one event a second."""
    return EventSource(start_ms=START)


def test_the_same_seed_gives_the_same_bytes_in_any_order() -> None:
    """A block means the same whether it is asked for first or last, alone or with others."""
    one, two = EventSource(start_ms=START), EventSource(start_ms=START)
    late = [item.raw for item in one.between(START + 5 * MINUTE, START + 6 * MINUTE, now_ms=NOW)]
    whole = [item.raw for item in two.between(START, START + 10 * MINUTE, now_ms=NOW)]
    assert whole[5 * 60 : 6 * 60] == late
    assert [item.raw for item in one.between(START, START + 10 * MINUTE, now_ms=NOW)] == whole
    other = EventSource(start_ms=START, seed=2).between(START, START + 10 * MINUTE, now_ms=NOW)
    assert not {item.event_id for item in other} & set(ids([json.loads(raw) for raw in whole]))


def test_every_service_looks_like_its_own(source: EventSource) -> None:
    """Precision, kind of id and odd fields are those of the service, and sizes are realistic."""
    items = source.between(START, HOUR_END, now_ms=NOW)
    assert {item.service for item in items} == set(SERVICES)
    assert len({item.event_id for item in items}) == len({item.doc_id for item in items}) == len(items) == 3600
    longest: Counter[str] = Counter()
    for item in items:
        event = json.loads(item.raw)
        second, _, fraction = event["timestamp"][:-1].partition(".")
        longest[item.service] = max(longest[item.service], len(fraction))
        assert not fraction.endswith("0") or item.service not in NANOSECONDS
        moment = datetime.fromisoformat(second + "Z").timestamp() * 1000 + int(fraction.ljust(3, "0")[:3])
        assert moment == item.timestamp_ms
        assert (event["id"], event["service"], event["@version"]) == (item.event_id, item.service, "1")
        assert event["organization"] == source.organization
        assert "success" not in event or item.service not in {"sso", "mdm"}
        if item.service in WHOLE_SECONDS:
            assert len(event["id"]) == 36
            assert event["id"].isupper()
        else:
            assert int(event["id"][:8], 16) == item.timestamp_ms // 1000
    assert longest["sso"] == longest["mdm"] == 9
    assert longest["radius"] == longest["ldap"] == 0
    assert longest["directory"] == 3
    assert 1000 < sum(len(item.raw) for item in items) / len(items) < 1400


def test_changes_hold_every_json_type(source: EventSource) -> None:
    """A mapper meets every type in `changes`, and sides that are missing."""
    events = [json.loads(item.raw) for item in source.between(START, HOUR_END, now_ms=NOW)]
    changes = [change for event in events for change in event.get("changes", [])]
    kinds = {type(change["to"]) for change in changes if "to" in change}
    kinds |= {type(change["from"]) for change in changes if "from" in change}
    assert kinds >= {str, bool, int, float, type(None), dict, list}
    assert any("from" not in change and "to" not in change for change in changes)
    outcomes = {(e["sso_token_success"], "error_message" in e) for e in events if e["service"] == "sso"}
    assert outcomes == {(True, False), (False, True), (False, False)}


@pytest.mark.parametrize("rate", [0.01, 0.7, 60.0, 33.33])
def test_the_rate_is_exact(rate: float) -> None:
    """The total over whole minutes is the rate times their number, to within one; counting agrees with listing."""
    source = EventSource(start_ms=START, per_minute=rate)
    found = len(source.between(START, START + 100 * MINUTE, now_ms=NOW))
    assert abs(found - 100 * rate) < 1
    assert source.count(START, START + 100 * MINUTE, now_ms=NOW) == found


def test_a_source_ends() -> None:
    """Nothing lies outside [start, end), also when both are in the middle of a minute."""
    source = EventSource(start_ms=START + 30_000, end_ms=START + 90_000, per_minute=600)
    moments = [item.timestamp_ms for item in source.between(0, NOW, now_ms=NOW)]
    assert START + 30_000 <= min(moments) <= max(moments) < START + 90_000
    assert source.count(0, NOW, now_ms=NOW) == len(moments) > 400


def test_a_burst_is_one_millisecond() -> None:
    """A burst adds to the minute without changing the rest of it."""
    moment = START + 90_123
    with_burst = EventSource(start_ms=START, bursts={moment: 2500}).between(START, HOUR_END, now_ms=NOW)
    without = EventSource(start_ms=START).between(START, HOUR_END, now_ms=NOW)
    assert sum(item.timestamp_ms == moment for item in with_burst) >= 2500
    assert {item.raw for item in without} < {item.raw for item in with_burst}
    assert len(with_burst) == len(without) + 2500


def test_late_events_appear_later() -> None:
    """The share of late events is missing at first, and complete after the longest delay."""
    source = EventSource(start_ms=START, late=0.3, late_by_ms=(60_000, 120_000))
    first = source.between(START, HOUR_END, now_ms=HOUR_END - 1)
    assert {i.doc_id for i in first if i.visible_ms > i.timestamp_ms}
    now = START + 30 * MINUTE
    minute = (START + 29 * MINUTE, now)
    seen, total = source.count(*minute, now_ms=now), source.count(*minute, now_ms=now + 3 * MINUTE)
    assert 25 < seen < 55
    assert total == len(source.between(*minute, now_ms=now + 3 * MINUTE)) == 60
    assert [i.raw for i in source.between(*minute, now_ms=NOW)] == [
        i.raw for i in EventSource(start_ms=START).between(*minute, now_ms=NOW)
    ]
