"""Events that appear after their time was asked for, in simulated time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import KEY, ROOT

from in_jumpcloud import app
from in_jumpcloud.collector import Collector
from in_jumpcloud.config.schema import (
    Config,
    DeadLetterSettings,
    ForwardSettings,
    GeoIPSettings,
    JumpCloudSettings,
    ReconcileSettings,
    ServerSettings,
    StateSettings,
)
from in_jumpcloud.config.types import Duration, Secret, Start
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import rfc3339

MINUTE = 60_000
HOUR = 60 * MINUTE
NOW = time.time_ns() // 1_000_000 // HOUR * HOUR


class Clock:
    """The time of day, moved on by hand: waits of hours pass at once."""

    def __init__(self) -> None:
        self.ms = NOW

    def __call__(self) -> int:
        """Epoch milliseconds."""
        return self.ms

    def run(self, one: Collector, until_ms: int) -> None:
        """Step the stream up to `until_ms`, without the waits between."""
        while self.ms < until_ms:
            self.ms += max(1, round(one.step(threading.Event()) * 1000))


@pytest.fixture
def clock() -> Clock:
    """The clock of both the plugin and JumpCloud."""
    return Clock()


@pytest.fixture
def source() -> EventSource:
    """Three hours of an event every four seconds; three of ten appear a minute to two hours late."""
    return EventSource(start_ms=NOW, end_ms=NOW + 3 * HOUR, per_minute=15, late=0.3, late_by_ms=(MINUTE, 2 * HOUR))


@pytest.fixture
def api(source: EventSource, clock: Clock) -> Iterator[SimulatedApi]:
    """JumpCloud with those events."""
    with SimulatedApi(source, clock=clock) as api:
        yield api


@pytest.fixture
def settings(api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> Config:
    """As by default, but for the rate_limiter."""
    return Config(
        jumpcloud=JumpCloudSettings(api_key=Secret(KEY), url=api.url, start=Start("now"), requests_per_second=10_000),
        geoip=GeoIPSettings(city=ROOT / "geoip" / "demo-city.mmdb"),
        forward=ForwardSettings(servers=(ServerSettings(host="127.0.0.1", port=receiver.port),)),
        state=StateSettings(path=tmp_path / "state.db"),
        dead_letter=DeadLetterSettings(path=tmp_path / "dead-letter.ndjson"),
        reconcile=ReconcileSettings(window=Duration(12 * 3600)),
    )


def _expected(source: EventSource) -> set[str]:
    far = NOW + 100 * HOUR
    return {item.event_id for item in source.between(0, far, now_ms=far)}


def test_late_events_are_found_and_each_arrives_once(
    settings: Config, source: EventSource, receiver: SimulatedReceiver, clock: Clock, api: SimulatedApi
) -> None:
    """Hours after the last of them appeared nothing is missing, nothing doubled, and how late they were is counted."""
    with app.open_app(settings, now_ms=clock) as plugin:
        (one,) = plugin.collectors
        clock.run(one, NOW + 6 * HOUR)
        counters = one.counters

    assert set(receiver.ids) == _expected(source)
    assert sum(receiver.ids.values()) == len(receiver.ids)
    # Those that appear within the overlap are found by the polls, and are late all the same.
    assert 0.2 < counters.late / len(receiver.ids) < 0.35
    assert HOUR / 1000 < counters.latest_seconds < 2.2 * HOUR / 1000
    compared = [request for request in api.requests if request.path.endswith("/interval")]
    assert len(compared) > 30


def test_only_what_disagrees_is_read_again(settings: Config, receiver: SimulatedReceiver, clock: Clock) -> None:
    """One late event costs one comparison and one short span, not a day of pages."""
    source = EventSource(start_ms=NOW, end_ms=NOW + HOUR, per_minute=15)
    source.add(
        {"id": "late", "timestamp": rfc3339(NOW + 30 * MINUTE)},
        timestamp_ms=NOW + 30 * MINUTE,
        visible_ms=NOW + 2 * HOUR,
    )
    with SimulatedApi(source, clock=clock) as api:
        there = JumpCloudSettings(api_key=Secret(KEY), url=api.url, start=Start("now"), requests_per_second=10_000)
        with app.open_app(_replaced(settings, there), now_ms=clock) as plugin:
            (one,) = plugin.collectors
            clock.run(one, NOW + 2 * HOUR - MINUTE)
            assert "late" not in receiver.ids
            clock.run(one, NOW + 2 * HOUR + 11 * MINUTE)
        spans = [
            (request.body["start_time"], request.body["end_time"])
            for request in api.requests
            if request.body and request.path.endswith("/events") and request.body["end_time"] < rfc3339(NOW + HOUR)
        ]

    assert receiver.ids["late"] == 1
    assert spans[-1] == (rfc3339(NOW + 30 * MINUTE), rfc3339(NOW + 31 * MINUTE))


def _replaced(settings: Config, jumpcloud: JumpCloudSettings) -> Config:
    return Config(
        jumpcloud=jumpcloud,
        geoip=settings.geoip,
        forward=settings.forward,
        state=settings.state,
        dead_letter=settings.dead_letter,
        reconcile=settings.reconcile,
    )


@pytest.mark.parametrize("status", [404, 501])
def test_without_counts_the_whole_is_read_again_now_and_then(
    settings: Config,
    source: EventSource,
    receiver: SimulatedReceiver,
    clock: Clock,
    api: SimulatedApi,
    status: int,
) -> None:
    """Where JumpCloud does not count, the last hours are read again every six hours: late events are found too."""
    api.faults.always(Fault("status", status=status, path="/interval"))
    with app.open_app(settings, now_ms=clock) as plugin:
        (one,) = plugin.collectors
        clock.run(one, NOW + 7 * HOUR)

    assert set(receiver.ids) == _expected(source)
    assert sum(receiver.ids.values()) == len(receiver.ids)


def test_a_restart_finds_what_came_late_while_it_was_away(
    settings: Config, source: EventSource, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """After hours without the plugin, the first comparison finds what the polls can not."""
    with app.open_app(settings, now_ms=clock) as plugin:
        clock.run(plugin.collectors[0], NOW + HOUR)
    clock.ms = NOW + 6 * HOUR

    with app.open_app(settings, now_ms=clock) as plugin:
        clock.run(plugin.collectors[0], NOW + 6 * HOUR + 2 * MINUTE)

    assert set(receiver.ids) == _expected(source)
    assert sum(receiver.ids.values()) == len(receiver.ids)


def test_a_minute_that_never_agrees_is_not_read_for_ever(
    settings: Config, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """An event that JumpCloud counts twice is read again once, and then left alone."""
    source = EventSource(start_ms=NOW, end_ms=NOW + 10 * MINUTE, per_minute=15)
    for _ in range(2):
        source.add({"id": "twice", "timestamp": rfc3339(NOW + 5 * MINUTE)}, timestamp_ms=NOW + 5 * MINUTE)
    with SimulatedApi(source, clock=clock) as api:
        there = JumpCloudSettings(api_key=Secret(KEY), url=api.url, start=Start("now"), requests_per_second=10_000)
        with app.open_app(_replaced(settings, there), now_ms=clock) as plugin:
            clock.run(plugin.collectors[0], NOW + 3 * HOUR)
        again = [
            request
            for request in api.requests
            if request.body
            and request.path.endswith("/events")
            and request.body["start_time"] == rfc3339(NOW + 5 * MINUTE)
            and request.body["end_time"] == rfc3339(NOW + 6 * MINUTE)
        ]

    assert receiver.ids["twice"] == 1
    assert len(again) == 1


def test_a_clock_that_was_hours_ahead_and_is_set_right_leaves_no_gap(
    settings: Config, source: EventSource, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """With the clock set back the stream polls on at once, and what fell into the gap is found by the counts."""
    wrong = Clock()
    with SimulatedApi(source, clock=clock) as api:
        there = JumpCloudSettings(api_key=Secret(KEY), url=api.url, start=Start("now"), requests_per_second=10_000)
        with app.open_app(_replaced(settings, there), now_ms=wrong) as plugin:
            (one,) = plugin.collectors
            for minute in range(90):
                clock.ms = NOW + minute * MINUTE
                wrong.ms = clock.ms + (5 * HOUR if 30 <= minute < 60 else 0)
                for _ in range(10):  # a poll, a comparison, the spans to read again
                    one.step(threading.Event())
            assert one.position.watermark_ms > NOW + 5 * HOUR
            arrived = len(receiver.ids)
            seen = source.count(0, NOW + 85 * MINUTE, now_ms=clock.ms)
            assert arrived >= seen * 0.9, "it polls on although the watermark lies ahead"

            while clock.ms < NOW + 6 * HOUR:
                wrong.ms = clock.ms = clock.ms + max(1, round(one.step(threading.Event()) * 1000))

    assert set(receiver.ids) == _expected(source)
    assert sum(receiver.ids.values()) == len(receiver.ids)
