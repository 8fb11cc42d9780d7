"""What makes two events the same, and how long a delivered one stays known: at the edges of ids and dates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.streams import NOW, Clock, arrived_once, open_app, stream_settings, until_caught_up

from in_jumpcloud.config.schema import Config
from in_jumpcloud.config.types import Duration
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, rfc3339

MOMENT = NOW - HOUR_MS


@pytest.fixture
def source() -> EventSource:
    """One event an hour, for a month."""
    return EventSource(start_ms=NOW - 2 * HOUR_MS, end_ms=NOW + 30 * DAY_MS, per_minute=1 / 60)


@pytest.fixture
def settings(source: EventSource, receiver: SimulatedReceiver, clock: Clock, tmp_path: Path) -> Iterator[Config]:
    """Polls every six hours, with an overlap that is longer than that."""
    with SimulatedApi(source, clock=clock) as api:
        yield stream_settings(
            *(api, receiver, tmp_path),
            jumpcloud__interval=Duration(6 * 3600),
            jumpcloud__overlap=Duration(12 * 3600),
        )


def test_an_id_that_is_used_again_is_another_event(
    settings: Config, receiver: SimulatedReceiver, source: EventSource, clock: Clock
) -> None:
    """Within a minute, with another timestamp or another type; the same event in another shape is not sent again."""
    event = {"id": "a", "timestamp": rfc3339(MOMENT), "service": "sso", "event_type": "sso_auth"}
    source.add(event, timestamp_ms=MOMENT)
    source.add(event | {"timestamp": rfc3339(MOMENT + 1)}, timestamp_ms=MOMENT + 1)
    source.add(event | {"event_type": "sso_auth_failed"}, timestamp_ms=MOMENT)
    source.add(event | {"geoip": {"country_code": "NL"}}, timestamp_ms=MOMENT)
    with open_app(settings, clock) as plugin:
        until_caught_up(plugin.collectors[0])
    assert receiver.ids["a"] == 3


def test_events_with_wrong_dates_are_delivered_once(
    settings: Config, receiver: SimulatedReceiver, source: EventSource, clock: Clock
) -> None:
    """Undated, long ago or in the future: once, however often they are read again while ids are let go of."""
    dates = {"undated": "soon", "long ago": "2020-01-01T00:00:00Z", "old": rfc3339(NOW - 20 * DAY_MS)}
    dates |= {"tomorrow": rfc3339(NOW + DAY_MS), "far future": "2099-01-01T00:00:00Z"}
    for name, date in dates.items():
        source.add({"id": name, "timestamp": date, "service": "sso"}, timestamp_ms=MOMENT)
    for day in range(20):  # one that nearly every query returns
        again = {"id": "always", "timestamp": "2019-01-01T00:00:00Z"}
        source.add(again, timestamp_ms=MOMENT + day * DAY_MS)
    kept_from_ms = 0
    for _ in range(4):  # restarts
        with open_app(settings, clock) as plugin:
            clock.run(plugin.collectors[0], clock.ms + 5 * DAY_MS)
            kept_from_ms = plugin.resources.state.kept_from_ms("default")
    assert kept_from_ms > NOW
    assert {name: receiver.ids[name] for name in (*dates, "always")} == dict.fromkeys((*dates, "always"), 1)
    assert arrived_once(receiver, len(receiver.ids))
    assert len(receiver.ids) > 19 * 24
