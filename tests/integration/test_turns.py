"""Which stream, and which of its two jobs, has the next turn."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.command import wait_until
from support.streams import NOW, Clock, RunningClock, arrived_once, event_count, open_app, stream_settings, two_hours

from in_jumpcloud.config.types import Duration, Start
from in_jumpcloud.errors import RequestTimeout
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import HOUR_MS, MINUTE_MS, rfc3339


def test_late_events_have_every_second_turn_of_an_overdue_stream(
    receiver: SimulatedReceiver, tmp_path: Path, clock: Clock
) -> None:
    """Polls that are always due do not keep a late event from being found."""
    source = two_hours()
    event = {"id": "late", "timestamp": rfc3339(NOW - HOUR_MS)}
    source.add(event, timestamp_ms=NOW - HOUR_MS, visible_ms=NOW + MINUTE_MS)
    with SimulatedApi(source, clock=clock) as api:
        settings = stream_settings(api, receiver, tmp_path, jumpcloud__interval=Duration(0.000_001))
        with open_app(settings, clock) as plugin:
            (one,) = plugin.collectors
            for _ in range(300):
                one.step(threading.Event())
                assert one.poller.until_due() == 0
                clock.ms += 5000
        paths = [request.path.rpartition("/")[2] for request in api.requests]

    assert receiver.ids["late"] == 1
    assert paths.count("events") > 250
    first = paths.index("interval")
    assert "events" in (paths[first - 1], paths[first + 1])


class Hanging(EventSource):
    """An organization whose requests get no answer until `answer` is set."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.answer = threading.Event()

    def between(self, *arguments: Any, **options: Any) -> Any:
        """The events, when they are released."""
        self.answer.wait(20)
        return super().between(*arguments, **options)


@pytest.mark.timeout(60)
def test_organizations_that_hang_share_one_worker(receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """Six organizations do not answer. After their first timeout the others are polled as often as before."""
    clock = RunningClock()
    begin = {"start_ms": NOW - HOUR_MS, "end_ms": NOW, "per_minute": 1.0}
    good: dict[str, EventSource] = {
        f"good-{number}": EventSource(seed=number, organization=f"good-{number}", **begin)  # type: ignore[arg-type]
        for number in range(2)
    }
    hanging = {
        f"hangs-{number}": Hanging(seed=10 + number, organization=f"hangs-{number}", **begin) for number in range(6)
    }
    with SimulatedApi(good | hanging, clock=clock) as api:
        settings = stream_settings(
            api,
            receiver,
            tmp_path,
            jumpcloud__organizations=(*hanging, *good),
            jumpcloud__start=Start("2h"),
            jumpcloud__interval=Duration(0.1),
            jumpcloud__read_timeout=Duration(1),
        )
        with open_app(settings, clock) as plugin:
            running = threading.Thread(target=plugin.run)
            running.start()
            collectors = {each.stream.scope.organization: each for each in plugin.collectors}
            wait_until(lambda: all(isinstance(collectors[name].error, RequestTimeout) for name in hanging))
            assert sum(each.timed_out for each in collectors.values()) == 6

            def busy() -> int:
                return sum("hangs" in unit.name for unit in plugin.scheduler.running())

            wait_until(lambda: busy() <= 1)
            together = []
            until = len(api.requests) + 40
            while len(api.requests) < until:
                together.append(busy())
                time.sleep(0.01)
            assert max(together) == 1
            for each in hanging.values():
                each.answer.set()
            wait_until(lambda: arrived_once(receiver, sum(map(event_count, (good | hanging).values()))))
            plugin.end()
            running.join()
