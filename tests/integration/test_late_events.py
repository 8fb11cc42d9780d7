"""Events that appear after their time was polled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.streams import NOW, Clock, arrived_once, changed, event_queries, open_app, step_now, stream_settings

from in_jumpcloud import app
from in_jumpcloud.config.schema import Config
from in_jumpcloud.config.types import Duration, Start
from in_jumpcloud.errors import Retryable, StateUnavailable
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault, FaultKind
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.state.opening import open_readonly
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, parse_rfc3339, rfc3339


@pytest.fixture
def source() -> EventSource:
    """Three hours of an event every four seconds; three of ten appear a minute to two hours late."""
    late_by_ms = (MINUTE_MS, 2 * HOUR_MS)
    return EventSource(start_ms=NOW, end_ms=NOW + 3 * HOUR_MS, per_minute=15, late=0.3, late_by_ms=late_by_ms)


@pytest.fixture
def api(source: EventSource, clock: Clock) -> Iterator[SimulatedApi]:
    """JumpCloud with those events."""
    with SimulatedApi(source, clock=clock) as api:
        yield api


@pytest.fixture
def settings(api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> Config:
    """The defaults, from now on, comparing the last half day."""
    return stream_settings(api, receiver, tmp_path, jumpcloud__start=Start("now"), reconcile__every=Duration(600))


def all_arrived_once(receiver: SimulatedReceiver, source: EventSource) -> bool:
    """Whether exactly the events of `source` arrived, each once."""
    far_ms = NOW + 100 * HOUR_MS
    expected = {item.event_id for item in source.between(0, far_ms, now_ms=far_ms)}
    return receiver.ids.keys() == expected and arrived_once(receiver, len(expected))


def test_late_events_are_found_and_each_arrives_once(
    settings: Config, source: EventSource, receiver: SimulatedReceiver, clock: Clock, api: SimulatedApi
) -> None:
    """Hours after the last of them appeared nothing is missing or duplicated, and their delay is counted."""
    with open_app(changed(settings, reconcile__every=Duration(60)), clock) as plugin:
        (one,) = plugin.collectors
        clock.run(one, NOW + 6 * HOUR_MS)
        counters = one.counters

    assert all_arrived_once(receiver, source)
    # Late events within the overlap are found by the polls; they are late too.
    assert 0.2 < counters.late / len(receiver.ids) < 0.35
    assert HOUR_MS / 1000 < counters.latest_seconds < 2.2 * HOUR_MS / 1000
    assert counters.mapped == counters.received - counters.duplicates == counters.acknowledged
    spans = [
        (body["start_time"], body["end_time"])
        for request in api.requests
        if request.path.endswith("/interval") and (body := request.body)
    ]
    assert len(spans) > 30
    assert all(start < end for start, end in spans)  # also while the stream is as young as the overlap


def test_only_what_differs_is_read_again(
    settings: Config, receiver: SimulatedReceiver, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """One late event costs one comparison and one short span, not a day of pages. The log says so."""
    source = EventSource(start_ms=NOW, end_ms=NOW + HOUR_MS, per_minute=15)
    at_ms = NOW + 30 * MINUTE_MS
    source.add({"id": "late", "timestamp": rfc3339(at_ms)}, timestamp_ms=at_ms, visible_ms=NOW + 2 * HOUR_MS)
    with SimulatedApi(source, clock=clock) as api:
        with open_app(changed(settings, jumpcloud__url=api.url), clock) as plugin:
            (one,) = plugin.collectors
            clock.run(one, NOW + 2 * HOUR_MS - MINUTE_MS)
            assert "late" not in receiver.ids
            with caplog.at_level("INFO"):
                clock.run(one, NOW + 2 * HOUR_MS + 11 * MINUTE_MS)
        spans = [(query["start_time"], query["end_time"]) for query in event_queries(api)]

    assert receiver.ids["late"] == 1
    assert [span for span in spans if span[1] < rfc3339(NOW + HOUR_MS)][-1] == (
        rfc3339(at_ms),
        rfc3339(at_ms + MINUTE_MS),
    )
    assert any("counts differ in 1 minute; re-reading it" in message for message in caplog.messages)


UNUSABLE = [*(Fault("status", status=each, path="/interval") for each in (403, 404, 500)), Fault("counts_negative")]


@pytest.mark.parametrize("fault", UNUSABLE, ids=lambda fault: f"{fault.kind}-{fault.status}")
def test_without_counts_everything_is_read_again_now_and_then(
    settings: Config, source: EventSource, receiver: SimulatedReceiver, clock: Clock, api: SimulatedApi, fault: Fault
) -> None:
    """If counts cannot be used, the last hours are read again every six hours: late events are found too."""
    api.faults.always(fault)
    with open_app(settings, clock) as plugin:
        clock.run(plugin.collectors[0], NOW + 7 * HOUR_MS)

    assert all_arrived_once(receiver, source)
    queries = {(query["start_time"], query["end_time"]) for query in event_queries(api)}
    lengths = [milliseconds(end) - milliseconds(start) for start, end in queries]
    assert sum(length > 5 * MINUTE_MS for length in lengths) == 1  # no poll is as long


def test_wrong_counts_of_every_kind_lose_nothing(
    settings: Config, source: EventSource, receiver: SimulatedReceiver, clock: Clock, api: SimulatedApi
) -> None:
    """Most answers are wrong, each in its own way, or show events before `/events` does. Later ones agree."""
    faults = [
        Fault("counts_ahead", seconds=90),
        *(Fault(kind) for kind in ("counts_lower", "bucket_missing", "counts_shifted", "counts_negative")),
        *(Fault(kind, path="/interval") for kind in ("cut", "bad_json", "status")),
    ]
    for seed, fault in enumerate(faults):
        api.faults.random(fault, 0.1, seed)
    with open_app(settings, clock) as plugin:
        clock.run(plugin.collectors[0], NOW + 9 * HOUR_MS)

    assert api.faults.given.keys() == {fault.kind for fault in faults}
    assert all_arrived_once(receiver, source)


def test_short_pages_lose_nothing(settings: Config, receiver: SimulatedReceiver, clock: Clock) -> None:
    """One page in ten of a backfill ends early, without an error. What it left out is found by the counts."""
    source = EventSource(start_ms=NOW - 3 * DAY_MS, end_ms=NOW - HOUR_MS, per_minute=0.8)
    with SimulatedApi(source, clock=clock) as api:
        api.faults.random(Fault("short_page"), 0.1, seed=3)
        changes: dict[str, Any] = {"jumpcloud__start": Start("4d"), "jumpcloud__page_limit": 100}
        with open_app(changed(settings, jumpcloud__url=api.url, **changes), clock) as plugin:
            clock.run(plugin.collectors[0], NOW + 6 * HOUR_MS)

    assert api.faults.given["short_page"] > 3
    assert all_arrived_once(receiver, source)


def test_wrong_dates_lose_nothing(
    settings: Config, source: EventSource, receiver: SimulatedReceiver, clock: Clock, api: SimulatedApi
) -> None:
    """For six hours half of the answers have a date that is days off, or none."""
    kinds: tuple[FaultKind, ...] = ("date_ahead", "date_behind", "no_date")
    for seed, kind in enumerate(kinds):
        api.faults.random(Fault(kind, seconds=2 * DAY_MS / 1000), 0.2, seed)
    with open_app(settings, clock) as plugin:
        clock.run(plugin.collectors[0], NOW + 6 * HOUR_MS)
        api.faults.clear()
        clock.run(plugin.collectors[0], NOW + 8 * HOUR_MS)

    assert api.faults.given.keys() == set(kinds)
    assert all_arrived_once(receiver, source)


def milliseconds(text: str) -> int:
    """Epoch milliseconds of a time that the plugin sends."""
    nanoseconds = parse_rfc3339(text)
    assert nanoseconds is not None
    return nanoseconds // 1_000_000


def test_a_restart_finds_what_came_late_in_the_meantime(
    settings: Config, source: EventSource, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """After hours without the plugin, the first comparison finds what the polls cannot."""
    with open_app(settings, clock) as plugin:
        clock.run(plugin.collectors[0], NOW + HOUR_MS)
    clock.ms = NOW + 6 * HOUR_MS

    with open_app(settings, clock) as plugin:
        clock.run(plugin.collectors[0], NOW + 6 * HOUR_MS + 2 * MINUTE_MS)

    assert all_arrived_once(receiver, source)


def test_a_fault_while_reading_again_is_retried(
    settings: Config, source: EventSource, receiver: SimulatedReceiver, clock: Clock, api: SimulatedApi
) -> None:
    """A page of a span that is read again is requested once more after an error, and the span is finished."""
    with open_app(settings, clock) as plugin:
        (one,) = plugin.collectors
        clock.run(one, NOW + HOUR_MS)
        failures = 0
        while clock.ms < NOW + 6 * HOUR_MS:
            api.faults.clear()
            if failures < 5 and one.position.window is None and not one.reconciler.is_idle:
                api.faults.once(Fault("status", status=503))
            clock.ms += max(1, round(one.step(threading.Event()) * 1000))
            failures += isinstance(one.reconciler.error, Retryable)

    assert failures >= 5
    assert all_arrived_once(receiver, source)


def test_a_minute_that_never_agrees_is_read_again_less_and_less_often(
    settings: Config, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """An event that JumpCloud counts twice costs a few re-reads, with growing pauses."""
    source = EventSource(start_ms=NOW, end_ms=NOW + 10 * MINUTE_MS, per_minute=15)
    at_ms = NOW + 5 * MINUTE_MS
    for _ in range(2):
        source.add({"id": "twice", "timestamp": rfc3339(at_ms)}, timestamp_ms=at_ms)
    with SimulatedApi(source, clock=clock) as api:
        with open_app(changed(settings, jumpcloud__url=api.url), clock) as plugin:
            clock.run(plugin.collectors[0], NOW + 3 * HOUR_MS)
        spans = [(query["start_time"], query["end_time"]) for query in event_queries(api)]

    assert receiver.ids["twice"] == 1
    assert 4 <= spans.count((rfc3339(at_ms), rfc3339(at_ms + MINUTE_MS))) <= 7


class WrongClock(Clock):
    """This machine's clock is `ahead_ms` ahead; it runs as it should."""

    ahead_ms = 0

    def now_ns(self) -> int:
        """What this machine takes for now."""
        return (self.ms + self.ahead_ms) * 1_000_000


@pytest.mark.parametrize("dated", [True, False])
@pytest.mark.parametrize("ahead_ms", [-HOUR_MS, 5 * HOUR_MS, 4 * DAY_MS])
def test_a_clock_that_was_wrong_for_half_an_hour_loses_nothing(
    tmp_path: Path, receiver: SimulatedReceiver, source: EventSource, *, ahead_ms: int, dated: bool
) -> None:
    """Positions move by the earlier clock. Without dates they are taken back when the clock is right again."""
    clock = WrongClock()
    with SimulatedApi(source, clock=lambda: clock.ms) as api:
        if not dated:
            api.faults.always(Fault("no_date"))
        settings = stream_settings(api, receiver, tmp_path, jumpcloud__start=Start("now"))
        with open_app(settings, clock) as plugin:
            (one,) = plugin.collectors
            clock.run(one, NOW + 30 * MINUTE_MS)
            clock.ahead_ms = ahead_ms
            clock.run(one, NOW + HOUR_MS)
            assert not dated or one.position.watermark_ms <= clock.ms
            clock.ahead_ms = 0
            clock.run(one, NOW + 6 * HOUR_MS)

    assert all_arrived_once(receiver, source)


def test_a_stream_that_began_in_the_future_goes_back(tmp_path: Path, receiver: SimulatedReceiver) -> None:
    """The clock is a day ahead at the first start, and answers lose their date. All comes once the clock is right."""
    source = EventSource(start_ms=NOW + HOUR_MS, end_ms=NOW + 2 * HOUR_MS, per_minute=5)
    clock = WrongClock()
    clock.ahead_ms = DAY_MS
    with SimulatedApi(source, clock=lambda: clock.ms) as api:
        settings = stream_settings(api, receiver, tmp_path, jumpcloud__start=Start("now"))
        with app.open_app(settings, once=False, runtime=clock) as plugin:
            (one,) = plugin.collectors
            one.step(threading.Event())
            api.faults.always(Fault("no_date"))
            clock.run(one, NOW + 30 * MINUTE_MS)
            assert not one.position.provisional
            assert one.position.origin_ms > NOW + 23 * HOUR_MS
            clock.ahead_ms = 0
            clock.run(one, NOW + 6 * HOUR_MS)

    assert all_arrived_once(receiver, source)


def test_an_origin_that_could_not_be_written_at_once(
    tmp_path: Path, receiver: SimulatedReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is a day ahead at the first start, and the corrected origin is written at the second try only."""
    clock = WrongClock()
    clock.ahead_ms = DAY_MS
    source = EventSource(start_ms=NOW + HOUR_MS, end_ms=NOW + 2 * HOUR_MS, per_minute=1)
    with SimulatedApi(source, clock=lambda: clock.ms) as api:
        settings = stream_settings(api, receiver, tmp_path, jumpcloud__start=Start("now"))
        with app.open_app(settings, once=False, runtime=clock) as plugin:
            (one,) = plugin.collectors
            commit = plugin.resources.state.commit
            failures = [StateUnavailable("the disk is full")]

            def fails_once(*arguments: Any, **options: Any) -> None:
                if failures:
                    raise failures.pop()
                commit(*arguments, **options)

            monkeypatch.setattr(plugin.resources.state, "commit", fails_once)
            monkeypatch.setattr(plugin.resources.state, "record_error", lambda *_: None)  # it fails as well
            clock.run(one, NOW + MINUTE_MS)
            assert not failures
            assert one.position.origin_ms <= NOW
            with open_readonly(settings.state) as state:  # as a process that is killed now leaves it
                assert state.streams()[0].position.origin_ms == one.position.origin_ms


@pytest.mark.parametrize("starts", [[[DAY_MS], [0]], [[DAY_MS, 0]]])
def test_an_origin_of_which_no_answer_told_the_time_is_corrected_by_the_clock(
    tmp_path: Path, receiver: SimulatedReceiver, starts: list[list[int]]
) -> None:
    """The clock is ahead at the first start, and right an hour later. JumpCloud answers after two hours."""
    source = EventSource(start_ms=NOW + HOUR_MS, end_ms=NOW + 3 * HOUR_MS, per_minute=5)
    clock = WrongClock()
    with SimulatedApi(source, clock=lambda: clock.ms) as api:
        settings = stream_settings(api, receiver, tmp_path, jumpcloud__start=Start("now"))
        api.faults.always(Fault("status", status=503))
        for steps in starts:
            with app.open_app(settings, once=False, runtime=clock) as plugin:
                for clock.ahead_ms in steps:
                    step_now(plugin.collectors[0])
                    clock.ms += HOUR_MS
        api.faults.clear()
        with app.open_app(settings, once=False, runtime=clock) as plugin:
            clock.run(plugin.collectors[0], NOW + 6 * HOUR_MS)

    assert all_arrived_once(receiver, source)
