"""JumpCloud throttles: it is obeyed to the letter, and costs no more than the waiting that it asks for."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
from support.command import KEY, ROOT

from in_jumpcloud import app
from in_jumpcloud.config.schema import (
    Config,
    DeadLetterSettings,
    ForwardSettings,
    GeoIPSettings,
    JumpCloudSettings,
    ServerSettings,
    StateSettings,
)
from in_jumpcloud.config.types import Secret, Start
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver

NOW = time.time_ns() // 1_000_000
WAIT = 1.0


def test_half_of_all_requests_throttled_costs_only_the_waiting(receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """With 429 to every other request: each event arrives once, in the time of an undisturbed run plus the waits."""
    source = EventSource(start_ms=NOW - 7_200_000, end_ms=NOW - 60_000, per_minute=10)
    with SimulatedApi(source) as api:
        undisturbed = _seconds(api, receiver, tmp_path / "first.db")
        assert len(receiver.ids) == source.count(0, NOW, now_ms=NOW)
        receiver.ids.clear()
        before = len(api.requests)
        api.faults.random(Fault("status", status=429, retry_after="1"), 0.5, seed=3)

        throttled = _seconds(api, receiver, tmp_path / "second.db")

    assert sum(receiver.ids.values()) == len(receiver.ids) == source.count(0, NOW, now_ms=NOW)
    asked = list(api.requests)[before:]
    refused = sum(request.status == 429 for request in asked)
    assert refused >= 4
    assert throttled <= undisturbed * 1.5 + refused * WAIT + 1
    for request, following in itertools.pairwise(asked):
        if request.status == 429:
            # The simulated clock counts whole milliseconds.
            assert following.time_ms - request.time_ms >= WAIT * 1000 - 2


def test_the_wait_of_one_stream_holds_the_others_back_too(receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """A limit is the tenant's: while one organization was told to wait, none asks."""
    sources = {
        name: EventSource(start_ms=NOW - 7_200_000, end_ms=NOW - 60_000, per_minute=5, organization=name)
        for name in ("first", "second", "third")
    }
    with SimulatedApi(sources) as api:
        api.faults.once(Fault("status", status=429, retry_after="1"))

        _seconds(api, receiver, tmp_path / "state.db", organizations=tuple(sources))

    (told,) = (request.time_ms for request in api.requests if request.status == 429)
    # What was under way at that moment could not know of it.
    at_once = [request for request in api.requests if told + 300 < request.time_ms < told + WAIT * 1000 - 2]
    assert not at_once
    assert len(receiver.ids) == sum(source.count(0, NOW, now_ms=NOW) for source in sources.values())


def _seconds(api: SimulatedApi, receiver: SimulatedReceiver, state: Path, organizations: tuple[str, ...] = ()) -> float:
    settings = Config(
        jumpcloud=JumpCloudSettings(
            api_key=Secret(KEY),
            url=api.url,
            organizations=organizations,
            start=Start("3h"),
            page_limit=200,
            requests_per_second=1000,
        ),
        geoip=GeoIPSettings(city=ROOT / "geoip" / "demo-city.mmdb"),
        forward=ForwardSettings(servers=(ServerSettings(host="127.0.0.1", port=receiver.port),)),
        state=StateSettings(path=state),
        dead_letter=DeadLetterSettings(path=state.with_suffix(".ndjson")),
    )
    began = time.monotonic()
    with app.open_app(settings, once=True) as plugin:
        error = plugin.run()
    if error:
        pytest.fail(str(error))
    return time.monotonic() - began
