"""Many organizations in one process."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from support.command import wait_until
from support.monitoring import watched
from support.streams import changed, running_in, stream_settings

from in_jumpcloud import app
from in_jumpcloud.config.types import Duration
from in_jumpcloud.errors import RequestRejected, Retryable
from in_jumpcloud.monitoring.survey import BUSIEST, SHOWN_EACH
from in_jumpcloud.resources import Outside
from in_jumpcloud.runtime import Runtime
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import HOUR_MS, now_ms


def quiet(count: int) -> dict[str, EventSource]:
    """So many organizations without events."""
    began = now_ms()
    return {f"o{number}": EventSource(start_ms=began - HOUR_MS, end_ms=began, per_minute=0) for number in range(count)}


@pytest.mark.timeout(120)
def test_new_streams_begin_in_one_transaction(receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """However many there are, they cost the disk no transaction each while nothing happens in them."""
    sources = quiet(200)
    statements: list[str] = []

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = sqlite3.connect(*arguments, **options)
        connection.set_trace_callback(statements.append)
        return connection

    with SimulatedApi(sources) as api:
        settings = stream_settings(api, receiver, tmp_path, jumpcloud__organizations=tuple(sources))
        with app.open_app(settings, outside=Outside(connect=connect)) as plugin:
            opening = statements.count("COMMIT")
            with running_in(plugin):
                wait_until(
                    lambda: all(each.counters.liveness.caught_up_once for each in plugin.collectors), timeout=100
                )
                assert not any(each.position.provisional for each in plugin.collectors)
            assert opening < 10
            assert statements.count("COMMIT") == opening
        assert not plugin.streams.resumed
        with app.open_app(settings) as plugin:
            assert plugin.streams.resumed == {each.name for each in plugin.collectors}
            assert not any(
                position is None or position.provisional
                for position in (plugin.resources.state.position(each.name) for each in plugin.collectors)
            )


def test_streams_go_on_where_a_defect_hinders_their_start(
    receiver: SimulatedReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload has stopped them when the state raises an error of no known kind: they are polled again."""
    sources = quiet(3)
    with SimulatedApi(sources) as api:
        settings = stream_settings(api, receiver, tmp_path, jumpcloud__organizations=tuple(sources))
        with app.open_app(settings) as plugin, running_in(plugin):
            before = set(plugin.collectors)

            def defect(*_: object) -> None:
                raise ZeroDivisionError("by the test")

            monkeypatch.setattr(plugin.resources.state, "begin", defect)
            done = threading.Event()
            plugin.reload(lambda: changed(settings, forward__tag="changed"), done.set)
            assert done.wait(30)
            assert len(set(plugin.collectors) - before) == 3
            monkeypatch.undo()
            wait_until(lambda: all(each.counters.liveness.caught_up_once for each in plugin.collectors))


class Counting(threading.Condition):
    """A condition that counts how often a wait for it ends."""

    woken = 0

    def wait(self, timeout: float | None = None) -> bool:
        """Wait, and count."""
        result = super().wait(timeout)
        self.woken += 1
        return result


class CountingRuntime(Runtime):
    """The system, with conditions that count."""

    def __init__(self) -> None:
        super().__init__()
        self.conditions: list[Counting] = []

    def condition(self) -> threading.Condition:
        """A condition that counts."""
        self.conditions.append(Counting())
        return self.conditions[-1]


@pytest.mark.timeout(120)
def test_a_moment_wakes_one_worker(receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """Of 32 workers one waits for the next poll, and one more takes its place: not all wake at each poll."""
    sources, runtime = quiet(40), CountingRuntime()
    with SimulatedApi(sources) as api:
        settings = stream_settings(
            *(api, receiver, tmp_path),
            jumpcloud__organizations=tuple(sources),
            jumpcloud__interval=Duration(2),
            jumpcloud__workers=32,
        )
        with app.open_app(settings, runtime=runtime) as plugin, running_in(plugin):
            wait_until(lambda: len(api.requests) > 160)
            requests, woken = len(api.requests), sum(each.woken for each in runtime.conditions)
            wait_until(lambda: len(api.requests) > requests + 100)
            woken = sum(each.woken for each in runtime.conditions) - woken
            assert threading.active_count() > 32
    assert woken < 4 * 100  # none, where the machine is too slow for the polls


def test_what_is_shown_of_many_streams(receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """Those with a trouble, some of each kind, and the busiest; the others are counted. All, if they are few."""
    sources = quiet(400)
    with SimulatedApi(sources) as api:
        settings = stream_settings(api, receiver, tmp_path, jumpcloud__organizations=tuple(sources))
        with watched(settings) as seen:
            collectors = seen.plugin.collectors
            for number, each in enumerate(collectors):
                each.counters.liveness.caught_up_once = True
                each.poller.position = type(each.position).starting_at(now_ms())
                each.counters.received = number
                each.counters.acknowledged = 2
            for each in collectors[:40]:
                each.poller.error = Retryable("no answer")
            collectors[40].poller.error = RequestRejected("no access")
            collectors[41].counters.open_minutes = 3
            for each in collectors:
                each._note_well()
            samples, status = seen.metrics(), seen.get("/status.json").json
            reasons = seen.get("/readyz").body
            assert seen.get("/healthz").status == 200
            assert seen.get("/").status == 200
    names = {each["name"] for each in status["streams"]}
    assert names >= {"organization o40", "organization o41", *(f"organization o{number}" for number in range(300, 400))}
    assert len(names) == BUSIEST + SHOWN_EACH + 2
    assert status["states"] == {"up to date": 359, "failing": 40, "refused": 1}
    assert {name.partition("}")[0] for name in samples if name.startswith("in_jumpcloud_stream_lag_seconds")} == {
        f'in_jumpcloud_stream_lag_seconds{{stream="{name}"' for name in names
    }
    assert samples['in_jumpcloud_streams{state="failing"}'] == 40
    assert samples["in_jumpcloud_all_acknowledged_events_total"] == 800
    assert samples['in_jumpcloud_all_stream_lag_seconds_bucket{le="30.0"}'] == 400
    assert samples['in_jumpcloud_poll_interval_seconds{kind="wanted"}'] == 30
    assert "refused: organization o40: no access" in reasons
    assert status["polls"]["text"] == "every 30 s"
