"""A record that the receiver refuses for good ends among the dead letters; the rest of the stream flows."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

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
from in_jumpcloud.errors import Fatal, Stopped
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.state.dead_letters import DeadLetterFile
from in_jumpcloud.timestamps import rfc3339

NOW = time.time_ns() // 1_000_000
HOUR = 3_600_000


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "backoff_delay", lambda _failures: 0.02)


@pytest.fixture
def source() -> EventSource:
    """600 events of the last two hours, and among them two that are large."""
    source = EventSource(start_ms=NOW - 2 * HOUR, end_ms=NOW - 60_000, per_minute=5)
    for name in ("large-1", "large-2"):
        event = {"id": name, "timestamp": rfc3339(NOW - HOUR), "payload": "x" * 300_000}
        source.add(event, timestamp_ms=NOW - HOUR)
    return source


@pytest.fixture
def api(source: EventSource) -> Iterator[SimulatedApi]:
    """JumpCloud with those events."""
    with SimulatedApi(source) as api:
        yield api


@pytest.fixture
def settings(api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> Config:
    """Chunks that a large record shares with many others."""
    return Config(
        jumpcloud=JumpCloudSettings(api_key=Secret(KEY), url=api.url, start=Start("3h"), requests_per_second=1000),
        geoip=GeoIPSettings(city=ROOT / "geoip" / "demo-city.mmdb"),
        forward=ForwardSettings(
            servers=(ServerSettings(host="127.0.0.1", port=receiver.port),), ack_timeout=Duration(2)
        ),
        state=StateSettings(path=tmp_path / "state.db"),
        dead_letter=DeadLetterSettings(path=tmp_path / "dead-letter.ndjson"),
    )


def _until_caught_up(one: Collector, stop: threading.Event) -> None:
    for _ in range(50):
        one.step(stop)
        assert one.error is None, one.error
        if one.caught_up:
            return
    raise AssertionError("it did not catch up")


def _letters(settings: Config) -> dict[str, str]:
    file = DeadLetterFile(settings.dead_letter.path, max_bytes=settings.dead_letter.max_bytes)
    letters = list(file.letters())
    assert all(json.loads(each.event)["id"] == each.id for each in letters)
    return {each.id: each.reason for each in letters}


def test_a_record_that_the_receiver_refuses_is_found_and_kept(
    settings: Config, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """The chunk is halved until the one record is alone; all others arrive once, and well within a minute."""
    receiver.faults.refuse_above(250_000)
    began = time.monotonic()
    with app.open_app(settings) as plugin:
        (one,) = plugin.collectors
        _until_caught_up(one, threading.Event())
        assert one.counters.dead_lettered == 2
        assert plugin.resources.state.streams()[0].dead_lettered == 2

    assert time.monotonic() - began < 60
    assert set(_letters(settings)) == {"large-1", "large-2"}
    now_ms = time.time_ns() // 1_000_000
    assert sum(receiver.ids.values()) == len(receiver.ids) == source.count(0, now_ms, now_ms=now_ms) - 2


def test_a_record_larger_than_may_be_sent_is_kept_without_trying(
    settings: Config, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """Above message_max_bytes nothing is sent in vain."""
    small = ForwardSettings(
        servers=settings.forward.servers, message_max_bytes=Size(200_000), chunk_bytes=Size(200_000)
    )
    with app.open_app(_with_forward(settings, small)) as plugin:
        _until_caught_up(plugin.collectors[0], threading.Event())

    assert receiver.refused == 0
    letters = _letters(settings)
    assert set(letters) == {"large-1", "large-2"}
    assert "message_max_bytes" in letters["large-1"]
    now_ms = time.time_ns() // 1_000_000
    assert len(receiver.ids) == source.count(0, now_ms, now_ms=now_ms) - 2


def test_a_receiver_that_is_down_buries_nothing(settings: Config, receiver: SimulatedReceiver) -> None:
    """Refusals count only while a probe is acknowledged: through an outage, or resets of all it gets, it waits."""
    receiver.faults.refuse_above(1)  # even the probe
    stop = threading.Event()
    with app.open_app(settings) as plugin:
        (one,) = plugin.collectors

        def relent() -> None:
            receiver.wait_until(lambda: receiver.refused > 20, 20)
            receiver.stop()
            stop.set()

        worker = threading.Thread(target=relent)
        worker.start()
        with pytest.raises(Stopped):
            _until_caught_up(one, stop)
        worker.join()

    assert receiver.refused > 20
    assert not settings.dead_letter.path.exists()
    assert not receiver.ids


def test_a_lost_ack_now_and_then_buries_nothing(
    settings: Config, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """A chunk that is reset twice and then taken was never poison."""
    receiver.faults.reset_before_ack(2)
    with app.open_app(settings) as plugin:
        _until_caught_up(plugin.collectors[0], threading.Event())

    assert not settings.dead_letter.path.exists()
    now_ms = time.time_ns() // 1_000_000
    assert len(receiver.ids) == source.count(0, now_ms, now_ms=now_ms)


def test_a_full_file_stops_the_stream_rather_than_dropping(
    settings: Config, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """Without room for a dead letter nothing is passed over; with room again, everything goes on, once."""
    receiver.faults.refuse_above(250_000)
    full = DeadLetterSettings(path=settings.dead_letter.path, max_bytes=Size(400_000))
    stop = threading.Event()
    with app.open_app(_with_dead_letter(settings, full)) as plugin:
        (one,) = plugin.collectors
        delays = [one.step(stop) for _ in range(3)]
        assert REJECTED_DELAY in delays
        assert isinstance(one.error, Fatal)
        assert "dead_letter.max_bytes" in str(one.error)

    with app.open_app(settings) as plugin:
        _until_caught_up(plugin.collectors[0], stop)

    assert set(_letters(settings)) == {"large-1", "large-2"}
    now_ms = time.time_ns() // 1_000_000
    assert sum(receiver.ids.values()) == len(receiver.ids) == source.count(0, now_ms, now_ms=now_ms) - 2


def _with_forward(settings: Config, forward: ForwardSettings) -> Config:
    return Config(
        jumpcloud=settings.jumpcloud,
        geoip=settings.geoip,
        forward=forward,
        state=settings.state,
        dead_letter=settings.dead_letter,
    )


def _with_dead_letter(settings: Config, dead_letter: DeadLetterSettings) -> Config:
    return Config(
        jumpcloud=settings.jumpcloud,
        geoip=settings.geoip,
        forward=settings.forward,
        state=settings.state,
        dead_letter=dead_letter,
    )
