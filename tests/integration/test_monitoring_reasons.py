"""Ready means that events arrive: each way to make no progress, or to be behind unseen, is a reason by name."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.insights import Request, Serve, answer
from support.monitoring import Watched, catch_up, settings_of, watched
from support.streams import step_now

from in_jumpcloud.config.types import Duration
from in_jumpcloud.ecs.encoder import RecordEncoder
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms

QUICK: dict[str, Any] = {
    "jumpcloud__interval": Duration(0.5),
    "jumpcloud__lag": Duration(0),
    "http__max_lag": Duration(1),
}
"""Settings with which the plugin is not ready after 1.5 s without progress."""


@pytest.fixture
def api() -> Iterator[SimulatedApi]:
    """JumpCloud with two hours of events, up to a minute ago."""
    end_ms = now_ms() - MINUTE_MS
    with SimulatedApi(EventSource(start_ms=end_ms - 119 * MINUTE_MS, end_ms=end_ms, per_minute=5)) as api:
        yield api


def codes_of(found: list[dict[str, str]]) -> list[str]:
    """The codes of reasons or warnings."""
    return [each["code"] for each in found]


def reasons(seen: Watched, key: str = "not_ready") -> dict[str, str]:
    """The code and the text of each reason, and of each warning as the other `key`; all have advice or a cause."""
    found, status = seen.get("/status.json").json[key], seen.get("/readyz")
    while codes_of(found) != codes_of(again := seen.get("/status.json").json[key]):  # time passed a limit in between
        found, status = again, seen.get("/readyz")
    if key == "not_ready":
        assert status.status == (503 if found else 200)
        assert [line.split(":")[0] for line in status.body.splitlines() if found] == codes_of(found)
    return {each["code"]: f"{each['text']}; {each['advice']}" for each in found}


def step_until_not_ready(seen: Watched, code: str) -> str:
    """Step the streams until there is a reason of this code; returns it."""
    deadline = time.monotonic() + 20
    while code not in (found := reasons(seen)):
        assert time.monotonic() < deadline, found
        for collector in seen.plugin.collectors:
            step_now(collector)
    return found[code]


def test_pages_without_new_events(serve: Serve, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """Pages that never end and have nothing new are no progress, although each is committed."""
    numbers = itertools.count()
    event = {"id": "a", "timestamp": "2026-01-01T00:00:00Z", "event_type": "x", "service": "sso"}

    def reply(request: Request) -> None:
        limit = json.loads(request.server.bodies[-1]).get("limit", 1)
        body = json.dumps([event | {"id": str(number)} for number in range(limit)]).encode()
        headers = {"X-Limit": str(limit), "X-Result-Count": str(limit), "X-Search_after": f"[{next(numbers)}]"}
        request.wfile.write(answer(body, {**headers, "Date": request.date_time_string()}))

    settings = settings_of(serve(reply).url, tmp_path, receiver.port, **QUICK, jumpcloud__page_limit=10)
    with watched(settings) as seen:
        line = step_until_not_ready(seen, "stalled")
        assert "no new event and no completed window for" in line
        assert seen.plugin.collectors[0].counters.pages > 2
        assert seen.plugin.collectors[0].error is None


def test_the_same_page_for_ever(api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """A cursor that leads back to the same page is the cause that the reason names."""
    api.faults.always(Fault("cursor_ignored"))
    with watched(settings_of(api.url, tmp_path, receiver.port, **QUICK, jumpcloud__page_limit=50)) as seen:
        assert "cursor" in step_until_not_ready(seen, "stalled")


def test_an_unexpected_error(
    api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect shows after the third time in a row, and no more once the stream gets on."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with watched(settings_of(api.url, tmp_path, receiver.port)) as seen:
        with monkeypatch.context() as patched:
            patched.setattr(RecordEncoder, "encode", fail)
            (one,) = seen.plugin.collectors
            while one.counters.unexpected_in_a_row < 3:
                assert "defect" not in reasons(seen)
                step_now(one)
            assert "defect" in reasons(seen)
        step_now(seen.plugin.collectors[0])
        assert reasons(seen) == {}
        assert seen.metrics()['in_jumpcloud_unexpected_errors_total{stream="default"}'] == 3


def test_counts_that_are_refused(api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """Late events that cannot be looked for make the plugin not ready, since when and why, and not at once."""
    api.faults.always(Fault("status", status=403, message="No counts", path="/interval"))
    with watched(settings_of(api.url, tmp_path, receiver.port, **QUICK)) as seen:
        line = step_until_not_ready(seen, "comparisons")
        assert "late events cannot be looked for" in line
        assert "No counts" in line
        (stream,) = seen.get("/status.json").json["streams"]
        assert "No counts" in stream["late_error"]
        assert stream["late_error_since"] < seen.get("/status.json").json["time"]


def test_a_wrong_clock(api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """More than 30 s is a warning, more than five minutes a reason."""
    cases = ((Fault("date_ahead", seconds=60), "warnings", 1), (Fault("date_behind", seconds=900), "not_ready", -1))
    for fault, key, sign in cases:
        other = "not_ready" if key == "warnings" else "warnings"
        api.faults.clear()
        api.faults.always(fault)
        with watched(settings_of(api.url, tmp_path / fault.kind, receiver.port)) as seen:
            catch_up(*seen.plugin.collectors)
            assert "NTP" in reasons(seen, key)["clock"]
            assert "clock" not in reasons(seen, other)
            assert seen.metrics()["in_jumpcloud_clock_skew_seconds"] == pytest.approx(-sign * fault.seconds, abs=5)


def test_more_streams_than_requests(api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """Overload is known from the settings, before any stream is late."""
    organizations = tuple(f"o{number}" for number in range(200))
    changes: dict[str, Any] = {"jumpcloud__organizations": organizations, "jumpcloud__requests_per_second": 5.0}
    with watched(settings_of(api.url, tmp_path, receiver.port, **changes)) as seen:
        line = reasons(seen)["overload"]
        assert "200 streams need" in line
        assert "5.0 are possible" in line
        assert "raise jumpcloud.interval" in line
        assert seen.metrics()['in_jumpcloud_not_ready{reason="overload"}'] == 1
