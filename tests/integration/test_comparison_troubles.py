"""Comparisons that cannot be made, in part or for a while: the others go on, it is said, and nothing is lost."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.streams import NOW, Clock, changed, open_app, stream_settings

from in_jumpcloud.collector import Collector
from in_jumpcloud.config.types import Duration, Start
from in_jumpcloud.errors import CountsUnavailable, Retryable
from in_jumpcloud.insights.comparison import Counts, comparisons_per_day
from in_jumpcloud.insights.pages import Page, Pager
from in_jumpcloud.insights.window import Window
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, rfc3339


def event(name: str, at_ms: int, service: str = "sso") -> dict[str, str]:
    """A small event."""
    return {"id": name, "timestamp": rfc3339(at_ms), "service": service, "event_type": "sso_auth"}


def test_a_row_that_comes_twice_does_not_stand_for_one_that_does_not_come(
    tmp_path: Path, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """Each paging returns B on two pages, and C never: as many rows as JumpCloud counts, but an event is missing."""
    at_ms = NOW - 30 * MINUTE_MS
    source = EventSource(start_ms=NOW - HOUR_MS, end_ms=NOW, per_minute=0)
    for number, name in enumerate("ABCD"):
        source.add(event(name, at_ms + number), timestamp_ms=at_ms + number)
    with SimulatedApi(source, clock=clock) as api:
        settings = stream_settings(api, receiver, tmp_path, jumpcloud__start=Start("1h"), jumpcloud__page_limit=2)
        with open_app(settings, clock) as plugin:
            (one,) = plugin.collectors
            fetch = one._api.fetch
            last: dict[str, bytes] = {}

            def shifted(*arguments: Any, **options: Any) -> Page:
                page = fetch(*arguments, **options)
                events: list[bytes] = []
                for each in page.events:
                    events.append(last["row"] if b'"id":"C"' in bytes(each) else each)
                    last["row"] = each
                return page._replace(events=events)

            one._api.fetch = shifted  # type: ignore[method-assign]
            clock.run(one, NOW + DAY_MS)
            assert sorted(receiver.ids) == ["A", "B", "D"]
            assert one.counters.open_minutes + one.counters.given_up_minutes == 1


@pytest.mark.parametrize(("before", "after"), [(("all",), ("sso",)), (("sso",), ("directory", "sso"))])
def test_a_change_of_services_neither_stops_comparisons_nor_sends_the_past(
    tmp_path: Path, receiver: SimulatedReceiver, clock: Clock, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    """What came late before the change is found at once, and what comes late after it; nothing else is sent."""
    change_ms = NOW + 2 * HOUR_MS
    source = EventSource(start_ms=NOW - DAY_MS, end_ms=NOW + 2 * DAY_MS, per_minute=0.2)
    source.add(event("before", NOW + HOUR_MS), timestamp_ms=NOW + HOUR_MS, visible_ms=change_ms)
    source.add(event("after", NOW + 5 * HOUR_MS), timestamp_ms=NOW + 5 * HOUR_MS, visible_ms=NOW + 15 * HOUR_MS)
    with SimulatedApi(source, clock=clock) as api:
        settings = stream_settings(api, receiver, tmp_path, jumpcloud__start=Start("1d"), jumpcloud__services=before)
        with open_app(settings, clock) as plugin:
            clock.run(plugin.collectors[0], change_ms)
        with open_app(changed(settings, jumpcloud__services=after), clock) as plugin:
            (one,) = plugin.collectors
            clock.run(one, change_ms + 10 * MINUTE_MS)
            assert receiver.ids["before"] == 1
            for hours in range(3, 26):
                clock.run(one, NOW + hours * HOUR_MS)
                assert one.reconciler.error is None
                assert one.reconciler.lag_ms(one.position) < HOUR_MS

    assert receiver.ids["after"] == 1
    expected = Counter(
        item.event_id
        for services, start_ms, end_ms in ((before, 0, change_ms), (after, change_ms, NOW + 24 * HOUR_MS))
        for item in source.between(start_ms, end_ms, now_ms=NOW + 25 * HOUR_MS)
        if "all" in services or item.service in services
    )
    overlap = source.between(change_ms - 10 * MINUTE_MS, NOW + 26 * HOUR_MS, now_ms=NOW + 26 * HOUR_MS)
    assert max(receiver.ids.values()) == 1
    assert expected.keys() <= receiver.ids.keys() <= expected.keys() | {item.event_id for item in overlap}


@pytest.mark.parametrize("kind", [CountsUnavailable, Retryable])
def test_ages_that_cannot_be_compared_do_not_stop_the_others(
    tmp_path: Path, receiver: SimulatedReceiver, clock: Clock, kind: type[CountsUnavailable | Retryable]
) -> None:
    """Counts of events older than three days fail: that stays visible, and the last day is compared as before."""
    source = EventSource(start_ms=NOW - 6 * DAY_MS, end_ms=NOW + 3 * DAY_MS, per_minute=0.02)
    with SimulatedApi(source, clock=clock) as api:
        settings = stream_settings(
            api, receiver, tmp_path, jumpcloud__start=Start("6d"), jumpcloud__interval=Duration(300)
        )
        with open_app(settings, clock) as plugin:
            (one,) = plugin.collectors
            clock.run(one, NOW + HOUR_MS)
            calls = one.reconciler._calls

            def counts(start_ms: int, end_ms: int, stop: threading.Event) -> Counts:
                if end_ms <= clock.ms - 3 * DAY_MS - HOUR_MS:
                    raise kind("no counts of old spans")
                return calls.counts(start_ms, end_ms, stop)

            one.reconciler._calls = calls._replace(counts=counts)
            clock.run(one, NOW + 26 * HOUR_MS)
            for hours in range(27, 60):
                clock.run(one, NOW + hours * HOUR_MS)
                assert isinstance(one.reconciler.error, kind)
                newest_ms = one.reconciler._known.compared_ms[0]
                assert clock.ms - newest_ms < 30 * MINUTE_MS


def test_a_span_that_fails_once_is_read_again_without_counts(
    tmp_path: Path, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """Counts never work. Of the five days that are read again, one fails once: what it has is delivered."""
    at_ms = NOW - 4 * DAY_MS - 12 * HOUR_MS
    source = EventSource(start_ms=NOW - 5 * DAY_MS, end_ms=NOW, per_minute=0.02)
    with SimulatedApi(source, clock=clock) as api:
        settings = stream_settings(
            api, receiver, tmp_path, jumpcloud__start=Start("5d"), jumpcloud__interval=Duration(600)
        )
        with open_app(settings, clock) as plugin:
            (one,) = plugin.collectors

            def no_counts(*_: object) -> Counts:
                raise CountsUnavailable("no counts")

            one.reconciler._calls = one.reconciler._calls._replace(counts=no_counts)
            while one.poller.until_due() <= 0 or not one._begun:
                one._poll_turn(threading.Event())
            source.add(event("left-out", at_ms), timestamp_ms=at_ms, visible_ms=NOW)
            fetch = one._fetch
            failed: list[Window] = []

            def flaky(window: Window, stop: threading.Event) -> Page:
                if window.start_ms <= at_ms < window.end_ms and not failed:
                    failed.append(window)
                    raise Retryable("503 once")
                return fetch(window, stop)

            one._fetch = flaky  # type: ignore[method-assign]
            clock.run(one, NOW + DAY_MS)

    assert failed
    assert receiver.ids["left-out"] == 1


def test_a_stream_sends_as_many_requests_for_counts_as_the_documentation_says(
    tmp_path: Path, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """At rest, over a day."""
    source = EventSource(start_ms=NOW - 16 * DAY_MS, end_ms=NOW + 3 * DAY_MS, per_minute=0.01)
    with SimulatedApi(source, clock=clock) as api:
        settings = stream_settings(api, receiver, tmp_path, jumpcloud__start=Start("15d"))
        with open_app(settings, clock) as plugin:
            (one,) = plugin.collectors
            clock.run(one, NOW + 30 * HOUR_MS)
            api.requests.clear()
            clock.run(one, NOW + 54 * HOUR_MS)
            sent = sum(request.path.endswith("/interval") for request in api.requests)
    expected = comparisons_per_day(settings.reconcile.every.ms, settings.reconcile.reach.ms)
    assert sent == pytest.approx(expected, rel=0.1)


def test_a_defect_in_late_work_is_counted_in_a_row(tmp_path: Path, receiver: SimulatedReceiver, clock: Clock) -> None:
    """Polls that succeed in between do not hide it."""
    source = EventSource(start_ms=NOW - DAY_MS, end_ms=NOW + DAY_MS, per_minute=0.1)
    with SimulatedApi(source, clock=clock) as api:
        settings = stream_settings(api, receiver, tmp_path, jumpcloud__start=Start("1h"))
        with open_app(settings, clock) as plugin:
            (one,) = plugin.collectors
            clock.run(one, NOW + HOUR_MS)

            def defect(*_: object) -> None:
                raise KeyError("a defect")

            one.reconciler._compare = defect  # type: ignore[assignment]
            clock.run(one, NOW + 3 * HOUR_MS)
            assert one.error is None
            assert one.counters.unexpected_in_a_row >= 3


def test_a_stop_after_a_position_was_taken_back_forgets_nothing(
    tmp_path: Path, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """Both clocks were 12 h ahead for a while, so spans were polled before their events were there. No counts."""
    true = Clock()
    source = EventSource(start_ms=NOW - HOUR_MS, end_ms=NOW + DAY_MS, per_minute=0.2)
    with SimulatedApi(source, clock=true) as api:
        settings = stream_settings(
            api, receiver, tmp_path, jumpcloud__start=Start("1h"), jumpcloud__interval=Duration(600)
        )
        settings = changed(settings, jumpcloud__window=Duration(DAY_MS // 1000))
        no_counts = Fault("status", status=404, path="/interval")
        api.faults.always(no_counts)

        def run(until_ms: int, *, ahead_ms: int = 0, is_enough: Callable[[Collector], bool] = lambda _: False) -> None:
            clock.ms = true.ms + ahead_ms
            with open_app(settings, clock) as plugin:
                (one,) = plugin.collectors
                while true.ms < until_ms and not is_enough(one):
                    clock.ms += max(1, round(one.step(threading.Event()) * 1000))
                    true.ms = clock.ms - ahead_ms

        run(NOW + HOUR_MS)
        api.faults.always(Fault("date_ahead", seconds=12 * 3600))
        run(NOW + 2 * HOUR_MS, ahead_ms=12 * HOUR_MS)
        api.faults.clear()
        api.faults.always(no_counts)
        true.ms = NOW + 3 * HOUR_MS
        run(NOW + 4 * HOUR_MS, is_enough=lambda one: one._begun and one.position.watermark_ms < NOW + 4 * HOUR_MS)
        run(NOW + 11 * HOUR_MS)
    assert source.count(0, NOW + 10 * HOUR_MS, now_ms=true.ms) <= len(receiver.ids)


def test_a_comparison_between_two_spans_does_not_begin_them_again(
    tmp_path: Path, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """No counts, and requests so slow that a comparison is due behind each span: all spans are read, one by one."""
    source = EventSource(start_ms=NOW - 4 * DAY_MS, end_ms=NOW, per_minute=0.05)
    with SimulatedApi(source, clock=clock) as api:
        api.faults.always(Fault("status", status=404, path="/interval"))
        settings = stream_settings(api, receiver, tmp_path, jumpcloud__start=Start("4d"))
        with open_app(settings, clock) as plugin:
            (one,) = plugin.collectors
            calls, read = one.reconciler._calls, list[int]()

            def slowly(window: Window) -> Pager:
                read.append(window.start_ms)
                clock.ms += 10 * MINUTE_MS
                return calls.pages.pager(window)

            one.reconciler._calls = calls._replace(pages=calls.pages._replace(pager=slowly))
            while len(read) < 4:
                delay = one.step(threading.Event())
                clock.ms += max(1, round(delay * 1000))
                assert clock.ms < NOW + 6 * HOUR_MS
    assert len(read) == len(set(read)) >= 4
