"""A backfill that waits for an ack while it is removed, by a reload or a cancellation: its step is waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import wait_until
from support.streams import changed, open_app, stream_settings

from in_jumpcloud.app import App
from in_jumpcloud.runtime import SYSTEM
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.state.jobs import JobSpec
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, now_ms

_COUNT = 240


@pytest.fixture
def plugin(receiver: SimulatedReceiver, tmp_path: Path) -> Iterator[App]:
    """It delivers a backfill of _COUNT events, one page, and waits for its ack, which comes late."""
    now = now_ms()
    start_ms = (now - DAY_MS) // HOUR_MS * HOUR_MS
    source = EventSource(start_ms=start_ms, end_ms=start_ms + 2 * HOUR_MS, per_minute=2)
    with SimulatedApi(source) as api:
        settings = stream_settings(api, receiver, tmp_path)
        with open_app(settings, SYSTEM) as plugin:
            running = threading.Thread(target=plugin.run)
            running.start()
            wait_until(lambda: all(each.caught_up for each in plugin.collectors))
            receiver.faults.stall(2)
            spec = JobSpec(start_ms, start_ms + 2 * HOUR_MS, ("all",), again=True)
            plugin.resources.state.jobs.create(["default"], spec, now)
            plugin.streams.watch.step(threading.Event())
            wait_until(lambda: receiver.received > 0)
            try:
                yield plugin
            finally:
                plugin.end()
                running.join()


def _acknowledged(plugin: App) -> int:
    (row,) = plugin.resources.state.jobs.rows()
    return row.acknowledged


def test_a_reload(plugin: App, receiver: SimulatedReceiver) -> None:
    """The backfill continues behind the page that waits, also if it is found again meanwhile."""
    reloaded = threading.Event()
    settings = changed(plugin.resources.settings, forward__tag="changed")
    before = plugin.collectors
    plugin.reload(lambda: settings, reloaded.set)
    wait_until(lambda: plugin.collectors != before)

    for _ in range(2):
        plugin.streams.watch.step(threading.Event())

    assert not reloaded.is_set()
    wait_until(lambda: _acknowledged(plugin) == _COUNT)
    assert reloaded.is_set()
    assert sum(receiver.ids.values()) == len(receiver.ids) == _COUNT


def test_a_cancellation_before_the_end(plugin: App, receiver: SimulatedReceiver) -> None:
    """The end of the process waits for the ack, and what it acknowledges is written."""
    plugin.resources.state.jobs.cancel(None, now_ms())
    plugin.streams.watch.step(threading.Event())
    assert plugin.backfills == []

    plugin.end()

    wait_until(lambda: not plugin.scheduler.running())
    assert _acknowledged(plugin) == len(receiver.ids) > 0
