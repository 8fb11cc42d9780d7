"""One stream, driven step by step between the simulators."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.command import KEY, ROOT

from in_jumpcloud import app, pipeline
from in_jumpcloud.collector import REJECTED_DELAY, Collector
from in_jumpcloud.config.schema import (
    Config,
    DeadLetterSettings,
    ForwardSettings,
    GeoIPSettings,
    JumpCloudSettings,
    ServerSettings,
    StateSettings,
)
from in_jumpcloud.config.types import Duration, Secret, Size, Start
from in_jumpcloud.errors import CursorLost, KeyRefused, PageTooLarge, RequestRejected, Retryable, Stopped
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import now_ms, rfc3339

NOW = time.time_ns() // 1_000_000
HOUR = 3_600_000


@pytest.fixture
def source() -> EventSource:
    """Two hours of 10 events a minute, up to a minute ago."""
    return EventSource(start_ms=NOW - 2 * HOUR, end_ms=NOW - 60_000, per_minute=10)


@pytest.fixture
def api(source: EventSource) -> Iterator[SimulatedApi]:
    """JumpCloud with those events."""
    with SimulatedApi(source) as api:
        yield api


@pytest.fixture
def receiver() -> Iterator[SimulatedReceiver]:
    """A receiver that keeps the records."""
    with SimulatedReceiver() as receiver:
        yield receiver


@pytest.fixture
def stop() -> threading.Event:
    """Set by a test that wants it to end."""
    return threading.Event()


@pytest.fixture
def settings(api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> Config:
    """Between those two; small pages, and no waiting for the rate_limiter."""
    return Config(
        jumpcloud=JumpCloudSettings(
            api_key=Secret(KEY), url=api.url, start=Start("3h"), page_limit=100, requests_per_second=1000
        ),
        geoip=GeoIPSettings(city=ROOT / "geoip" / "demo-city.mmdb"),
        forward=ForwardSettings(servers=(ServerSettings(host="127.0.0.1", port=receiver.port),)),
        state=StateSettings(path=tmp_path / "state.db"),
        dead_letter=DeadLetterSettings(path=tmp_path / "dead-letter.ndjson"),
    )


def _with(settings: Config, **changes: object) -> Config:
    """`settings` with `section__key=value` changed."""
    for name, value in changes.items():
        section, key = name.split("__")
        changed = msgspec.structs.replace(getattr(settings, section), **{key: value})
        settings = msgspec.structs.replace(settings, **{section: changed})
    return settings


def _until_caught_up(one: Collector, stop: threading.Event, steps: int = 200) -> list[type[Exception] | None]:
    """Step, without the waits between, until it has caught up; the kind of error of each step."""
    seen: list[type[Exception] | None] = []
    for _ in range(steps):
        one.step(stop)
        seen.append(type(one.error) if one.error else None)
        if one.error is None and one.caught_up:
            return seen
    raise AssertionError(f"it did not catch up: {seen[-5:]}")


def _count(source: EventSource) -> int:
    now_ms = time.time_ns() // 1_000_000
    return source.count(0, now_ms, now_ms=now_ms)


def _bodies(api: SimulatedApi) -> list[dict[str, Any]]:
    return [request.body for request in api.requests if request.body and request.path.endswith("/events")]


def test_a_restart_takes_the_window_up_where_it_was(
    settings: Config, api: SimulatedApi, receiver: SimulatedReceiver, source: EventSource, stop: threading.Event
) -> None:
    """The frozen query goes on behind the last committed page, word for word, though time has passed."""
    with app.open_app(settings) as plugin:
        (one,) = plugin.collectors
        for _ in range(4):
            one.step(stop)
        window = one.position.window
        assert window is not None
        assert window.cursor is not None
        delivered = one.counters.acknowledged
    asked = len(_bodies(api))

    with app.open_app(settings) as plugin:
        (one,) = plugin.collectors
        _until_caught_up(one, stop)

    assert _bodies(api)[asked] == window.query()
    assert 0 < delivered < _count(source)
    assert sum(receiver.ids.values()) == len(receiver.ids) == _count(source)


def test_other_services_drop_the_window_but_double_nothing(
    settings: Config, receiver: SimulatedReceiver, source: EventSource, stop: threading.Event
) -> None:
    """A changed configuration asks the same span anew; what was delivered is known."""
    with app.open_app(settings) as plugin:
        for _ in range(4):
            plugin.collectors[0].step(stop)
    assert 0 < len(receiver.ids) < _count(source)

    with app.open_app(_with(settings, jumpcloud__services=("directory", "all"))) as plugin:
        _until_caught_up(plugin.collectors[0], stop)

    assert sum(receiver.ids.values()) == len(receiver.ids) == _count(source)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("status", status=400, message="search_after"), CursorLost),
        (Fault("repeat_cursor"), CursorLost),
        (Fault("status", status=503), Retryable),
        (Fault("status", status=429), Retryable),
        (Fault("cut"), Retryable),
        (Fault("bad_json"), Retryable),
        (Fault("wrong_count"), Retryable),
        (Fault("drop"), Retryable),
        (Fault("redirect"), RequestRejected),
        (Fault("status", status=403), RequestRejected),
    ],
)
def test_a_fault_of_the_api_skips_and_doubles_nothing(
    settings: Config,
    api: SimulatedApi,
    receiver: SimulatedReceiver,
    source: EventSource,
    stop: threading.Event,
    fault: Fault,
    error: type[Exception],
) -> None:
    """In the middle of a window: the page is asked again, or the window from its start, and each event arrives once."""
    with app.open_app(settings) as plugin:
        (one,) = plugin.collectors
        for _ in range(3):
            one.step(stop)
        # A page is fetched ahead, so the fault meets the next but one.
        api.faults.once(fault)
        seen = _until_caught_up(one, stop)

    assert seen.count(error) == 1
    assert sum(receiver.ids.values()) == len(receiver.ids) == _count(source)


def test_a_refused_key_is_asked_again_after_minutes(settings: Config, api: SimulatedApi, stop: threading.Event) -> None:
    """401: neither a fast retry nor a stop for good."""
    with app.open_app(_with(settings, jumpcloud__api_key=Secret("wrong"))) as plugin:
        (one,) = plugin.collectors

        assert one.step(stop) == REJECTED_DELAY
        assert isinstance(one.error, KeyRefused)
    assert len(api.requests) == 1


def test_throttled_it_waits_as_long_as_it_was_asked_to(
    settings: Config, api: SimulatedApi, stop: threading.Event
) -> None:
    """429 with Retry-After: the next step is due after that."""
    api.faults.once(Fault("status", status=429, retry_after="42"))
    with app.open_app(settings) as plugin:
        assert plugin.collectors[0].step(stop) == 42


def test_large_pages_make_the_next_window_ask_for_fewer_events(
    settings: Config, api: SimulatedApi, receiver: SimulatedReceiver, source: EventSource, stop: threading.Event
) -> None:
    """Above page_bytes the limit falls from the next window on; nothing is skipped."""
    small = _with(settings, jumpcloud__page_bytes=Size(75_000), jumpcloud__window=Duration(2400))
    with app.open_app(small) as plugin:
        _until_caught_up(plugin.collectors[0], stop)

    limits = [body["limit"] for body in _bodies(api)]
    assert limits[0] == 100
    # 100 events have some 120 kB; the limit stays low although a window's last page is small.
    assert 20 <= min(limits) <= 90
    assert limits[-1] <= 90
    assert sum(receiver.ids.values()) == len(receiver.ids) == _count(source)


def test_a_page_too_large_to_hold_is_asked_again_in_parts(
    settings: Config, api: SimulatedApi, receiver: SimulatedReceiver, source: EventSource, stop: threading.Event
) -> None:
    """An answer of several times page_bytes is refused before it is held, and the window comes in smaller pages."""
    with app.open_app(_with(settings, jumpcloud__page_bytes=Size(20_000))) as plugin:
        seen = _until_caught_up(plugin.collectors[0], stop)

    assert PageTooLarge in seen
    assert min(body["limit"] for body in _bodies(api)) == 25
    assert sum(receiver.ids.values()) == len(receiver.ids) == _count(source)


def test_a_full_disk_holds_the_commit_back_and_resends_nothing(
    settings: Config,
    receiver: SimulatedReceiver,
    source: EventSource,
    stop: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was acknowledged is written down as soon as there is room, without sending it again."""
    monkeypatch.setattr(pipeline, "backoff_delay", lambda _failures: 0.05)
    with app.open_app(settings) as plugin:
        (one,) = plugin.collectors
        database = plugin.resources.state._database
        one.step(stop)
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")
        room = threading.Timer(1, lambda: database.execute("PRAGMA max_page_count = 100000"))
        room.start()
        _until_caught_up(one, stop)
        room.join()

    assert sum(receiver.ids.values()) == len(receiver.ids) == _count(source)


def test_a_lost_ack_is_answered_by_the_same_chunk_again(
    settings: Config,
    receiver: SimulatedReceiver,
    source: EventSource,
    stop: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same bytes under the same chunk id, on a new connection; every later chunk goes once."""
    monkeypatch.setattr(pipeline, "backoff_delay", lambda _failures: 0.01)
    receiver.faults.reset_before_ack()
    with app.open_app(settings) as plugin:
        _until_caught_up(plugin.collectors[0], stop)

    assert receiver.chunks[0] == receiver.chunks[1]
    assert len(set(receiver.chunks)) == len(receiver.chunks) - 1
    assert receiver.connections == 2
    assert len(receiver.ids) == _count(source)


def test_odd_events_are_carried_on_each_once(
    settings: Config, receiver: SimulatedReceiver, source: EventSource, stop: threading.Event
) -> None:
    """Without an id, not an object, not JSON, of 100 kB, of another organization: delivered, once, and marked."""
    at = rfc3339(NOW - HOUR)
    odd = [
        json.dumps({"timestamp": at, "message": "no id"}).encode(),
        b'"only text"',
        b"12",
        b'{"id": "half", "timestamp": "' + at.encode() + b'", "message": "\\ud800"}',
        b'{"id": "nan", "timestamp": "' + at.encode() + b'", "number": NaN}',
        json.dumps({"id": "large", "timestamp": at, "payload": "x" * 100_000}).encode(),
        json.dumps({"id": "stranger", "timestamp": at, "organization": "another"}).encode(),
        json.dumps({"id": "undated", "timestamp": "yesterday"}).encode(),
        json.dumps({"id": "twice", "timestamp": at}).encode(),
        json.dumps({"id": "twice", "timestamp": at}).encode(),
    ]
    for raw in odd:
        source.add(raw, timestamp_ms=NOW - HOUR)
    organization = source.organization
    with app.open_app(_with(settings, jumpcloud__organizations=(organization,))) as plugin:
        (one,) = plugin.collectors
        _until_caught_up(one, stop)
        assert one.counters.foreign == 1
        assert one.counters.duplicates >= 1
        problems = one.counters.with_problems

    assert len(receiver.records) == _count(source) - 1  # "twice" goes once
    marked = [each.record for each in receiver.records if each.record["event"].get("kind") == "pipeline_error"]
    assert len(marked) == problems == 5
    assert all(record["event"]["original"] and record["error"]["message"] for record in marked)
    assert {"half", "nan", "large", "stranger", "undated", "twice"} <= set(receiver.ids)
    # The two that have no object in them have no event.id, and so are not in `ids`.
    assert sum(receiver.ids.values()) == len(receiver.records) - 3


def test_an_event_of_the_future_is_delivered_when_its_time_has_come(
    settings: Config, receiver: SimulatedReceiver, source: EventSource, stop: threading.Event
) -> None:
    """It neither moves the watermark past now nor is it lost."""
    soon = time.time_ns() // 1_000_000 + 1500
    source.add({"id": "tomorrow", "timestamp": rfc3339(soon)}, timestamp_ms=soon)
    with app.open_app(_with(settings, jumpcloud__interval=Duration(0.05))) as plugin:
        (one,) = plugin.collectors
        _until_caught_up(one, stop)
        assert "tomorrow" not in receiver.ids
        assert one.position.watermark_ms <= time.time_ns() // 1_000_000

        while "tomorrow" not in receiver.ids:
            assert time.time_ns() // 1_000_000 < soon + 20_000
            one.step(stop)

    assert receiver.ids["tomorrow"] == 1


def test_delivered_ids_are_forgotten_when_they_are_old_enough(
    settings: Config, receiver: SimulatedReceiver, stop: threading.Event, source: EventSource
) -> None:
    """The ledger is pruned below now less ledger.keep, and never above the next window's start."""
    short = _with(settings, ledger__keep=Duration(3600), reconcile__window=Duration(600))
    with app.open_app(short) as plugin:
        _until_caught_up(plugin.collectors[0], stop)
    database = sqlite3.connect(settings.state.path)
    oldest, left = database.execute("SELECT min(minute), count(*) FROM ledger WHERE minute > 0").fetchone()
    database.close()

    assert oldest * 60_000 >= NOW - HOUR - 60_000
    assert 0 < left < _count(source) == len(receiver.ids)


def test_stopped_while_the_receiver_is_away_it_ends_at_once(
    settings: Config, receiver: SimulatedReceiver, stop: threading.Event
) -> None:
    """The wait between two tries is interruptible, and the position stays where it was."""
    receiver.stop()
    with app.open_app(settings) as plugin:
        (one,) = plugin.collectors
        before = one.position.watermark_ms
        threading.Timer(0.3, stop.set).start()
        began = time.monotonic()

        with pytest.raises(Stopped):
            _until_caught_up(one, stop)

        assert time.monotonic() - began < 3
        assert one.position.watermark_ms == before


@pytest.mark.parametrize(("refusals", "days"), [(1, 90), (2, 30), (3, 15), (5, 1)])
def test_a_plan_that_reaches_back_less_far_shortens_the_start_and_says_so(
    settings: Config,
    api: SimulatedApi,
    receiver: SimulatedReceiver,
    source: EventSource,
    stop: threading.Event,
    caplog: pytest.LogCaptureFixture,
    refusals: int,
    days: int,
) -> None:
    """402 for history: the stream begins where the plan allows, with a warning that names the gap."""
    api.faults.once(*[Fault("status", status=402, message="not licensed")] * refusals)
    with app.open_app(
        _with(settings, jumpcloud__start=Start("120d"), jumpcloud__window=Duration(60 * 86_400))
    ) as plugin:
        (one,) = plugin.collectors
        now = now_ms()
        _until_caught_up(one, stop)
        assert abs(one.position.origin_ms - (now - days * 24 * HOUR)) < 120_000
        begins = rfc3339(one.position.origin_ms)

    (warning,) = [record.getMessage() for record in caplog.records if "which the plan allows" in record.getMessage()]
    assert "not licensed" in warning
    assert begins in warning
    assert len(receiver.ids) == _count(source)


def test_directory_insights_not_enabled_moves_nothing(
    settings: Config, api: SimulatedApi, stop: threading.Event
) -> None:
    """402 for whatever is asked: the position stays, for the day that it is enabled."""
    api.faults.always(Fault("status", status=402))
    with app.open_app(_with(settings, jumpcloud__start=Start("120d"))) as plugin:
        (one,) = plugin.collectors
        begin = one.position.origin_ms

        assert one.step(stop) == REJECTED_DELAY

        assert one.position.origin_ms == begin
        assert "402" in str(one.error)


def test_the_last_page_of_a_window_does_not_lift_the_limit_again(
    settings: Config, receiver: SimulatedReceiver, stop: threading.Event
) -> None:
    """A large full page and a small last one: the next window asks for fewer events all the same."""
    source = EventSource(start_ms=NOW, per_minute=0)
    for number in range(101):
        at_ms = now_ms() - 170 * 60_000
        event = {"id": str(number), "timestamp": rfc3339(at_ms), "text": "x" * 1200}
        source.add(event, timestamp_ms=at_ms)
    with SimulatedApi(source) as api:
        small = _with(
            settings,
            jumpcloud__url=api.url,
            jumpcloud__page_bytes=Size(70_000),
            jumpcloud__window=Duration(2400),
        )
        with app.open_app(small) as plugin:
            _until_caught_up(plugin.collectors[0], stop)
        limits = {body["start_time"]: body["limit"] for body in _bodies(api)}

    first, *others = limits.values()
    assert first == 100
    assert others
    assert all(limit < 60 for limit in others)
    assert len(receiver.ids) == 101
