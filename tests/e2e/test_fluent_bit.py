"""Delivery to a real Fluent Bit."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import EVENTS, Command, fifty_thousand, wait_until
from support.fluent_bit import FluentBit, needs_fluent_bit

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.timestamps import rfc3339

pytestmark = needs_fluent_bit


@pytest.fixture(params=["fluent-bit.yaml", "fluent-bit.conf"])
def fluent_bit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FluentBit]:
    """A running one, with each configuration in conf/."""
    fluent_bit = FluentBit.shipped(tmp_path, request.param)
    fluent_bit.start()
    yield fluent_bit
    fluent_bit.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def source() -> EventSource:
    """50,000 events over three days, 3,000 of them on one and the same millisecond."""
    return fifty_thousand()


@pytest.mark.timeout(200)
def test_fifty_thousand_events_arrive_each_once(command: Command, source: EventSource, fluent_bit: FluentBit) -> None:
    """Every event of the API comes out of Fluent Bit, each id once."""
    with SimulatedApi(source) as api:
        settings = command.settings(api, fluent_bit.port, forward__shared_key="", jumpcloud__start="4d")
        result = command("run", "--once", *settings)
    assert result.returncode == 0, result.stderr

    fluent_bit.stop()

    ids = fluent_bit.ids()
    print(f"{len(ids)} ids came out of Fluent Bit, {sum(ids.values())} records")  # noqa: T201 - the figure is the point
    assert len(ids) == sum(ids.values()) == EVENTS


@pytest.mark.timeout(200)
def test_a_killed_fluent_bit_loses_nothing(command: Command, source: EventSource, tmp_path: Path) -> None:
    """Three kills of the receiver: it still has what it acknowledged, and the rest is sent again."""
    fluent_bit = FluentBit.shipped(tmp_path, "fluent-bit.yaml")
    fluent_bit.start()
    try:
        with SimulatedApi(source) as api:
            limits = {"jumpcloud__page_limit": 1000, "jumpcloud__start": "4d"}  # so that there are pages enough
            process = command.start(
                "run", "--once", *command.settings(api, fluent_bit.port, forward__shared_key="", **limits)
            )
            for pages in (12, 25, 38):
                wait_until(lambda pages=pages: len(api.requests) > pages)  # type: ignore[misc]  # bound at once
                fluent_bit.stop(signal.SIGKILL)
                fluent_bit.start()
            assert process.wait(150) == 0, command.log.read_text()
        # Chunks that it has not read from its disk before a SIGTERM stay there until its next start.
        wait_until(lambda: not any(tmp_path.glob("fluent-bit/*/*.flb")))
    finally:
        fluent_bit.stop()

    ids = fluent_bit.ids()
    assert len(ids) == EVENTS
    print(f"{sum(ids.values()) - len(ids)} of {len(ids)} came out twice")  # noqa: T201 - the figure is the point
    # A chunk in flight at the kill is sent again, and Fluent Bit prints again what it had not marked as printed.


def test_a_record_that_it_refuses_becomes_a_dead_letter(command: Command, tmp_path: Path) -> None:
    """An event above its buffer_max_size is a dead letter within a minute, and every other event has come out."""
    now_ms = time.time_ns() // 1_000_000
    source = EventSource(start_ms=now_ms - 3_600_000, end_ms=now_ms - 60_000, per_minute=20)
    event = {"id": "large", "timestamp": rfc3339(now_ms - 1_800_000), "payload": "x" * 8_500_000}
    source.add(event, timestamp_ms=now_ms - 1_800_000)
    fluent_bit = FluentBit.shipped(tmp_path, "fluent-bit.yaml")
    fluent_bit.start()
    try:
        with SimulatedApi(source) as api:
            settings = command.settings(
                api, fluent_bit.port, forward__shared_key="", forward__message_max_bytes=9_000_000
            )
            started_at = time.monotonic()
            result = command("run", "--once", *settings)
            seconds = time.monotonic() - started_at
    finally:
        fluent_bit.stop()

    assert result.returncode == 1, result.stderr  # the dead letter
    assert seconds < 60
    assert command.dead_letters() == ["large"]
    ids = fluent_bit.ids()
    assert sum(ids.values()) == len(ids) == source.count(0, now_ms, now_ms=now_ms) - 1
