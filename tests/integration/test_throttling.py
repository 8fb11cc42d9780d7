"""JumpCloud throttles: the plugin waits exactly as long as it is asked to, and no longer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.streams import RunningClock, arrived_once, event_count, open_app, stream_settings, two_hours

from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver

WAIT = 1.0


CLOCK = RunningClock()


def test_half_of_all_requests_throttled_costs_only_the_waiting(receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """With 429 to every other request: each event arrives once, in the time of an undisturbed run plus the waits."""
    source = two_hours()
    with SimulatedApi(source, clock=CLOCK) as api:
        undisturbed = seconds_to_catch_up(api, receiver, tmp_path / "first")
        assert arrived_once(receiver, event_count(source))
        receiver.ids.clear()
        before = len(api.requests)
        api.faults.random(Fault("status", status=429, retry_after="1"), 0.5, seed=3)

        throttled = seconds_to_catch_up(api, receiver, tmp_path / "second")

    assert arrived_once(receiver, event_count(source))
    requests = list(api.requests)[before:]
    refused = sum(request.status == 429 for request in requests)
    assert refused >= 4
    assert throttled <= undisturbed * 1.5 + refused * WAIT + 1
    under_way = JumpCloudSettings().pages_ahead + 1  # requests that were sent before the refusal arrived
    for request, following in zip(requests, requests[1 + under_way :], strict=False):
        if request.status == 429:
            assert following.time_ms - request.time_ms >= WAIT * 1000 - 2  # the clocks count whole milliseconds


def test_the_wait_of_one_stream_holds_the_others_back_too(receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """The limit is the tenant's: while one organization has to wait, no other sends a request."""
    sources = {name: two_hours(per_minute=5, organization=name) for name in ("first", "second", "third")}
    with SimulatedApi(sources, clock=CLOCK) as api:
        api.faults.once(Fault("status", status=429, retry_after="1"))

        seconds_to_catch_up(api, receiver, tmp_path, jumpcloud__organizations=tuple(sources))

    (refused_ms,) = (request.time_ms for request in api.requests if request.status == 429)
    # A request that was under way at that moment could not wait.
    too_early = [each for each in api.requests if refused_ms + 300 < each.time_ms < refused_ms + WAIT * 1000 - 2]
    assert not too_early
    assert arrived_once(receiver, sum(map(event_count, sources.values())))


def seconds_to_catch_up(api: SimulatedApi, receiver: SimulatedReceiver, directory: Path, **changes: object) -> float:
    """Run until every stream has caught up."""
    settings = stream_settings(api, receiver, directory, jumpcloud__page_limit=200, **changes)
    started_at = time.monotonic()
    with open_app(settings, CLOCK, once=True) as plugin:
        error = plugin.run()
    if error:
        pytest.fail(str(error))
    return time.monotonic() - started_at
