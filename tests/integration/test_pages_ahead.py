"""A backfill requests pages before it needs them: never too many, never near now, and delivers them in order."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.command import wait_until
from support.streams import (
    NOW,
    Clock,
    RunningClock,
    arrived_once,
    changed,
    event_count,
    event_queries,
    open_app,
    stream_settings,
    until_caught_up,
)

from in_jumpcloud.config.schema import Config
from in_jumpcloud.config.types import Duration, Start
from in_jumpcloud.errors import RequestTimeout, Retryable
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import DAY_MS, MINUTE_MS

STOP = threading.Event()


@pytest.fixture
def source() -> EventSource:
    """Three days, an event a minute."""
    return EventSource(start_ms=NOW - 3 * DAY_MS, end_ms=NOW - MINUTE_MS, per_minute=1)


@pytest.fixture
def api(source: EventSource, clock: Clock) -> Iterator[SimulatedApi]:
    """JumpCloud with those events."""
    with SimulatedApi(source, clock=clock) as api:
        yield api


@pytest.fixture
def settings(api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> Config:
    """Between those two, with small pages."""
    return stream_settings(api, receiver, tmp_path, jumpcloud__page_limit=200, jumpcloud__start=Start("3d"))


def ms(text: str) -> int:
    """A time in a query, in epoch milliseconds."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def first_pages(queries: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """The windows of which the first page was requested."""
    return [(ms(query["start_time"]), ms(query["end_time"])) for query in queries if "search_after" not in query]


@pytest.mark.parametrize("pages", [1, 2, 8])
def test_pages_are_requested_while_an_ack_is_awaited(source: EventSource, tmp_path: Path, pages: int) -> None:
    """While an ack is awaited the position stays, and the next page is requested, and as many as the setting says."""
    clock, hold, holds, goes_on = RunningClock(), threading.Event(), threading.Event(), threading.Event()

    def held(*_: object) -> None:
        if hold.is_set():
            holds.set()
            goes_on.wait(20)

    with SimulatedApi(source, clock=clock) as api, SimulatedReceiver(keep=False, on_records=held) as receiver:
        changes = {"page_limit": 200, "start": Start("3d"), "pages_ahead": pages}
        settings = stream_settings(
            api, receiver, tmp_path, **{f"jumpcloud__{key}": each for key, each in changes.items()}
        )
        with open_app(settings, clock, once=True) as plugin:
            running = threading.Thread(target=plugin.run)
            running.start()
            (one,) = plugin.collectors
            receiver.wait_until(lambda: len(receiver.ids) > 300, 20)
            hold.set()
            wait_until(holds.is_set)  # `awaits_ack` may be that of the chunk before
            held_at = one.position
            wait_until(lambda: _ahead(api, one.position.newest_ms) == pages + 1)
            assert one.position == held_at
            goes_on.set()
            running.join(60)

    assert arrived_once(receiver, event_count(source))
    windows = sorted(first_pages(event_queries(api)))
    until_ms = NOW - 2 * settings.jumpcloud.overlap.ms
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(windows) if start < until_ms)


def _ahead(api: SimulatedApi, position_ms: int) -> int:
    return sum(start >= position_ms for start, _ in first_pages(event_queries(api)))


@pytest.mark.parametrize(("fault", "error"), [(Fault("status"), Retryable), (Fault("cut"), Retryable)])
def test_the_error_of_a_page_ahead_counts_when_the_pages_before_it_are_delivered(
    settings: Config,
    api: SimulatedApi,
    source: EventSource,
    receiver: SimulatedReceiver,
    clock: Clock,
    fault: Fault,
    error: type[Exception],
) -> None:
    """Until then the stream has no error; then its window is requested again, with those after it. All arrive once."""
    with open_app(changed(settings, jumpcloud__pages_ahead=3), clock) as plugin:
        (one,) = plugin.collectors
        while len(first_pages(event_queries(api))) < 6:
            one.step(STOP)
        asked = len(event_queries(api))
        api.faults.once(fault)
        one.step(STOP)
        wait_until(lambda: api.faults.given[fault.kind] == 1)
        failed = next(query for query in event_queries(api)[asked:])
        steps = 0
        while one.error is None:
            assert one.position.watermark_ms <= ms(failed["start_time"])
            one.step(STOP)
            steps += 1
        assert steps >= 2
        assert type(one.error) is error
        assert one.position.watermark_ms == ms(failed["start_time"])
        assert error not in until_caught_up(one)

    assert arrived_once(receiver, event_count(source))
    assert event_queries(api).count(failed) == 2


def test_a_stream_that_is_up_to_date_requests_nothing_ahead(settings: Config, api: SimulatedApi, clock: Clock) -> None:
    """Each poll is one request, up to now. Nor is anything requested ahead that a poll will repeat."""
    with open_app(changed(settings, reconcile__every=Duration(DAY_MS / 1000)), clock) as plugin:
        (one,) = plugin.collectors
        until_caught_up(one)
        windows = first_pages(event_queries(api))
        settled_ms = NOW - settings.jumpcloud.overlap.ms
        assert [start for start, _ in windows if start > settled_ms] == []
        for _ in range(20):
            api.requests.clear()
            clock.ms += 30_000
            one.poller._poll_at = one.poller._retry_at = clock.monotonic()
            one.step(STOP)
            assert [end for _, end in first_pages(event_queries(api))] == [clock.ms]


def test_a_timeout_makes_pages_smaller_for_a_while(
    settings: Config, api: SimulatedApi, receiver: SimulatedReceiver, source: EventSource, clock: Clock
) -> None:
    """The window is requested again with half the limit, and after pages that succeed with the whole one again."""
    slow = changed(settings, jumpcloud__page_limit=300, jumpcloud__read_timeout=Duration(2))
    with open_app(slow, clock) as plugin:
        (one,) = plugin.collectors
        for _ in range(3):
            one.step(STOP)
        api.faults.once(Fault("delay", seconds=3, path="/events"))
        errors = until_caught_up(one)

    limits = [query["limit"] for query in event_queries(api)]
    assert RequestTimeout in errors
    assert min(limits) <= 150
    assert limits[-1] == 300
    assert arrived_once(receiver, event_count(source))


def test_lag_falls_with_each_page(settings: Config, clock: Clock) -> None:
    """Within a window too, also after a restart: the cursor in the state says how far the stream has come."""
    with open_app(changed(settings, jumpcloud__page_limit=10), clock) as plugin:
        (one,) = plugin.collectors
        reached = []
        for _ in range(5):
            one.step(STOP)
            reached.append(one.position.reached_ms)
        assert one.position.watermark_ms == NOW - 3 * DAY_MS
        assert reached == sorted(set(reached))
        (row,) = plugin.resources.state.streams()
        assert row.position.reached_ms == reached[-1]
