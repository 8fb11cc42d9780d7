"""The events of the simulated API."""

from __future__ import annotations

import json
from datetime import datetime

from support.api import HOUR_END, NOW, START

from in_jumpcloud.simulator.events import EventSource, Item
from in_jumpcloud.timestamps import MINUTE_MS

WHOLE_SECONDS = {"radius", "ldap"}
NANOSECONDS = {"sso", "mdm"}


def hour(**options: float) -> list[Item]:
    """The events of the first hour of a source."""
    return list(EventSource(start_ms=START, **options).between(START, HOUR_END, now_ms=NOW))  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_bytes_in_any_order() -> None:
    """A minute is the same whether it is read first or last, alone or with others."""
    one, two = EventSource(start_ms=START), EventSource(start_ms=START)
    alone = [item.raw for item in one.between(START + 5 * MINUTE_MS, START + 6 * MINUTE_MS, now_ms=NOW)]
    whole = [item.raw for item in two.between(START, START + 10 * MINUTE_MS, now_ms=NOW)]
    assert whole[5 * 60 : 6 * 60] == alone
    assert [item.raw for item in one.between(START, START + 10 * MINUTE_MS, now_ms=NOW)] == whole
    assert not {item.event_id for item in hour(seed=2)} & {json.loads(raw)["id"] for raw in whole}


def test_events_are_realistic() -> None:
    """Timestamp and id have the form of their service, `changes` has every JSON type, and sizes are realistic."""
    items, digits, kinds = hour(), dict[str, int](), set[type]()
    assert len({item.event_id for item in items}) == len({item.doc_id for item in items}) == len(items) == 3600
    for item in items:
        event = json.loads(item.raw)
        second, _, fraction = event["timestamp"][:-1].partition(".")
        digits[item.service] = max(digits.get(item.service, 0), len(fraction))
        moment = datetime.fromisoformat(second + "Z").timestamp() * 1000 + int(fraction.ljust(3, "0")[:3])
        assert moment == item.timestamp_ms
        assert (event["id"], event["service"], event["@version"]) == (item.event_id, item.service, "1")
        assert "success" not in event or item.service not in NANOSECONDS
        if item.service in WHOLE_SECONDS:
            assert (len(event["id"]), event["id"].isupper()) == (36, True)
        else:
            assert int(event["id"][:8], 16) == item.timestamp_ms // 1000
        kinds |= {
            type(change[side]) for change in event.get("changes", []) for side in ("from", "to") if side in change
        }
    assert len(digits) == 15
    assert digits == {name: 0 if name in WHOLE_SECONDS else 9 if name in NANOSECONDS else 3 for name in digits}
    assert kinds == {str, bool, int, float, type(None), dict, list}
    assert 1000 < sum(len(item.raw) for item in items) / len(items) < 1400


def test_rates_and_ends() -> None:
    """The total over whole minutes is the rate times their number, to within one; counting agrees with listing.

    No event is outside [start, end).
    """
    for rate in (0.01, 0.7, 60.0, 33.33):
        source = EventSource(start_ms=START, per_minute=rate)
        total = len(source.between(START, START + 100 * MINUTE_MS, now_ms=NOW))
        assert abs(total - 100 * rate) < 1, rate
        assert source.count(START, START + 100 * MINUTE_MS, now_ms=NOW) == total

    source = EventSource(start_ms=START + 30_000, end_ms=START + 90_000, per_minute=600)
    moments = [item.timestamp_ms for item in source.between(0, NOW, now_ms=NOW)]
    assert START + 30_000 <= min(moments) <= max(moments) < START + 90_000
    assert source.count(0, NOW, now_ms=NOW) == len(moments) > 400


def test_late_events_appear_later() -> None:
    """Their share is missing at first, and present after the longest delay."""
    source = EventSource(start_ms=START, late=0.3, late_by_ms=(60_000, 120_000))
    now = START + 30 * MINUTE_MS
    minute = (now - MINUTE_MS, now)
    assert 25 < source.count(*minute, now_ms=now) < 55
    complete = source.between(*minute, now_ms=now + 3 * MINUTE_MS)
    assert source.count(*minute, now_ms=now + 3 * MINUTE_MS) == len(complete) == 60
    assert [item.raw for item in complete] == [
        item.raw for item in EventSource(start_ms=START).between(*minute, now_ms=NOW)
    ]
