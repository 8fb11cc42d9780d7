"""A backfill and its stream at the same time; what monitoring shows of it, and of streams that catch up."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from support.monitoring import catch_up, settings_of, watched

from in_jumpcloud.backfill import Backfill
from in_jumpcloud.collector import Collector
from in_jumpcloud.insights.event import parse_event
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.state.dead_letters import Refused
from in_jumpcloud.state.jobs import JobSpec
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, now_ms

NAME = '{backfill="1",stream="default"}'


def _source() -> EventSource:
    return EventSource(start_ms=now_ms() - DAY_MS, end_ms=now_ms() - MINUTE_MS, per_minute=0.5)


def test_a_backfill_that_fails(tmp_path: Path, receiver: SimulatedReceiver) -> None:
    """It is shown with its error, as a warning with a code; the plugin stays ready. Then its progress is shown."""
    now, source, stop = now_ms(), _source(), threading.Event()
    with SimulatedApi(source) as api:
        settings = settings_of(api.url, tmp_path, receiver.port, jumpcloud__page_limit=100)
        with watched(settings) as seen:
            plugin = seen.plugin
            catch_up(*plugin.collectors)
            spec = JobSpec(now - 20 * HOUR_MS, now - 10 * HOUR_MS, ("all",), again=False)
            plugin.resources.state.jobs.create(["default"], spec, now)
            plugin.streams.watch.step(stop)
            (backfill,) = plugin.backfills
            api.faults.always(Fault("status", status=503, message="by the test"))
            backfill.step(stop)
            assert seen.get("/readyz").status == 200
            status = seen.get("/status.json").json
            (warning,) = [each for each in status["warnings"] if each["code"] == "backfill"]
            assert warning["text"].startswith("backfill 1 of default: for 0s: JumpCloud answered 503")
            assert "by the test" in status["backfills"][0]["error"]
            metrics = seen.metrics()
            assert metrics['in_jumpcloud_warning{reason="backfill"}'] == 1
            labels = '{error="Retryable",kind="backfill",name="backfill 1 of default"}'
            assert f"in_jumpcloud_failing_seconds{labels}" in metrics
            api.faults.clear()
            _steps(backfill, stop, pages=2)
            shown = seen.get("/status.json").json["backfills"][0]
            count = source.count(spec.since_ms, spec.until_ms, now_ms=now)
            events = shown["events"]
            assert (0 < events < count, shown["expected"], shown["error"]) == (True, count, None)
            assert shown["percent"] == round(100 * events / count, 1)
            assert seen.metrics()[f"in_jumpcloud_backfill_ratio{NAME}"] == events / count
            while not backfill.ended:
                backfill.step(stop)
            assert backfill.ended == "done"
            assert seen.get("/status.json").json["backfills"] == []
            assert f"in_jumpcloud_backfill_ratio{NAME}" not in seen.metrics()


@pytest.mark.parametrize("backfill_first", [False, True])
def test_turns(tmp_path: Path, receiver: SimulatedReceiver, backfill_first: bool) -> None:
    """While a stream or its backfill waits for an ack, the other does not send the same events."""
    now, source, stop = now_ms(), _source(), threading.Event()
    with SimulatedApi(source) as api, watched(settings_of(api.url, tmp_path, receiver.port)) as seen:
        plugin = seen.plugin
        (collector,) = plugin.collectors
        spec = JobSpec(now - 2 * HOUR_MS, now - HOUR_MS, ("all",), again=False)
        plugin.resources.state.jobs.create(["default"], spec, now)
        plugin.streams.watch.step(stop)
        (backfill,) = plugin.backfills
        while not backfill._began:
            backfill.step(stop)
        receiver.faults.stall(1.5)
        units: list[Backfill | Collector] = [backfill, collector] if backfill_first else [collector, backfill]
        first = threading.Thread(target=units[0].step, args=(stop,))
        first.start()
        assert receiver.wait_for(1, timeout=20)
        units[1].step(stop)
        first.join()
        catch_up(collector)
        while not backfill.ended:
            backfill.step(stop)
    wanted = source.count(collector.position.origin_ms, now, now_ms=now)
    assert (len(receiver.ids), sum(receiver.ids.values())) == (wanted, wanted)


def test_what_a_cancelled_backfill_leaves_parked(tmp_path: Path, receiver: SimulatedReceiver) -> None:
    """Its stream, which still runs, sends it again."""
    now, stop, raw = now_ms(), threading.Event(), b'{"id": "parked"}'
    with SimulatedApi(_source()) as api, watched(settings_of(api.url, tmp_path, receiver.port)) as seen:
        plugin, state = seen.plugin, seen.plugin.resources.state
        (collector,) = plugin.collectors
        catch_up(collector)
        state.jobs.create(["default"], JobSpec(now - 2 * HOUR_MS, now - HOUR_MS, ("all",), again=False), now)
        plugin.streams.watch.step(stop)
        (row,) = state.jobs.rows()
        refused = Refused(parse_event(raw).key, "parked", "refused", now, "jumpcloud", raw)
        state.for_job(row, shares_ledger=True).commit(row.stream, [refused.key], row.position, suspects=[refused])
        state.jobs.cancel(1, now)
        plugin.streams.watch.step(stop)
        collector.poller._poll_at = 0
        while collector.step(stop) == 0:
            pass
        assert state.parked("default") == []
    assert receiver.ids["parked"] == 1


def _steps(backfill: Backfill, stop: threading.Event, *, pages: int) -> None:
    """Step until it has read so many pages."""
    while backfill.counters.pages < pages:
        backfill.poller._retry_at = 0  # without the pause after an error
        backfill.step(stop)


def test_a_stream_that_catches_up(tmp_path: Path, receiver: SimulatedReceiver) -> None:
    """Its lag falls within a window, its share rises, and its rate is never more than what was delivered."""
    with SimulatedApi(_source()) as api:
        settings = settings_of(api.url, tmp_path, receiver.port, jumpcloud__page_limit=100)
        changed = {"jumpcloud__start": settings.jumpcloud.start.__class__("20h")}
        settings = settings_of(api.url, tmp_path, receiver.port, jumpcloud__page_limit=100, **changed)
        with watched(settings) as seen:
            (collector,), stop = seen.plugin.collectors, threading.Event()
            shown = []
            while not collector.caught_up:
                pages = collector.counters.pages
                collector.step(stop)
                if collector.counters.pages > pages:
                    shown.append(seen.get("/status.json").json["streams"][0])
            window = [each for each in shown if each["backfill"] is not None]
            assert len(window) >= 4
            for name, sign in (("lag_seconds", -1), ("percent", 1)):
                values = [each["backfill"].get(name, each.get(name)) for each in window]
                assert values == sorted(values, key=lambda value: sign * value), name
                assert len(set(values)) == len(values), name
            assert [each["events_per_minute"] for each in shown] == [each["acknowledged"] for each in shown]
            assert seen.get("/status.json").json["streams"][0]["backfill"] is None
            assert seen.metrics()['in_jumpcloud_stream_backfill_ratio{stream="default"}'] == 1
