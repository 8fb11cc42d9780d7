"""A record that the receiver refuses for good becomes a dead letter; all other records are delivered."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import wait_until
from support.streams import (
    NOW,
    Clock,
    arrived_once,
    changed,
    event_count,
    open_app,
    stream_settings,
    two_hours,
    until_caught_up,
)

from in_jumpcloud import pipeline, record_sender
from in_jumpcloud.config.schema import Config
from in_jumpcloud.config.types import Duration, Size
from in_jumpcloud.errors import Stopped
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.state.sqlite.store import open_readonly, open_shared
from in_jumpcloud.timestamps import HOUR_MS, rfc3339

LARGE = {"large-1", "large-2"}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pipeline, record_sender):
        monkeypatch.setattr(module, "backoff_delay", lambda *_: 0.02)


@pytest.fixture
def source() -> EventSource:
    """600 events of the last two hours, two of them large."""
    source = two_hours(per_minute=5)
    for name in LARGE:
        event = {"id": name, "timestamp": rfc3339(NOW - HOUR_MS), "payload": "x" * 300_000}
        source.add(event, timestamp_ms=NOW - HOUR_MS)
    return source


@pytest.fixture
def settings(source: EventSource, receiver: SimulatedReceiver, clock: Clock, tmp_path: Path) -> Iterator[Config]:
    """Chunks in which a large record shares its chunk with many others."""
    with SimulatedApi(source, clock=clock) as api:
        yield stream_settings(api, receiver, tmp_path, forward__ack_timeout=Duration(2))


def dead_letters(settings: Config) -> dict[str, str]:
    """The reason of each dead letter, by its id."""
    with open_readonly(settings.state.path) as state:
        letters = [each.refused for each in state.dead_letters.letters()]
    assert all(json.loads(each.event)["id"] == each.id for each in letters)
    assert len({each.id for each in letters}) == len(letters)
    return {each.id: each.reason for each in letters}


def test_a_record_that_the_receiver_refuses_is_found_and_kept(
    settings: Config, source: EventSource, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """The chunk is halved until the one record is alone; all others arrive once, and well within a minute."""
    receiver.faults.refuse_above(250_000)
    started_at = time.monotonic()
    with open_app(settings, clock) as plugin:
        (one,) = plugin.collectors
        until_caught_up(one)
        assert one.counters.dead_lettered == plugin.resources.state.streams()[0].dead_lettered == 2

    assert time.monotonic() - started_at < 60
    assert set(dead_letters(settings)) == LARGE
    assert arrived_once(receiver, event_count(source) - 2)


def test_a_record_larger_than_a_message_is_kept_without_trying(
    settings: Config, source: EventSource, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """Above message_max_bytes nothing is sent in vain. A restart finds the page finished: no second dead letter."""
    small = changed(settings, forward__message_max_bytes=Size(200_000), forward__chunk_bytes=Size(200_000))
    for _ in range(2):
        with open_app(small, clock) as plugin:
            until_caught_up(plugin.collectors[0])

    assert receiver.refused == 0
    reasons = dead_letters(settings)
    assert set(reasons) == LARGE
    assert "message_max_bytes" in reasons["large-1"]
    assert arrived_once(receiver, event_count(source) - 2)


def test_a_page_of_nothing_but_oversized_records_is_finished(
    settings: Config, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """The commit of the last dead letter moves the position."""
    source = EventSource(start_ms=NOW, per_minute=0)
    for number in range(3):
        event = {"id": f"large-{number}", "timestamp": rfc3339(NOW - HOUR_MS), "payload": "x" * 300_000}
        source.add(event, timestamp_ms=NOW - HOUR_MS)
    with SimulatedApi(source, clock=clock) as api:
        small = changed(
            settings,
            jumpcloud__url=api.url,
            forward__message_max_bytes=Size(200_000),
            forward__chunk_bytes=Size(200_000),
        )
        with open_app(small, clock) as plugin:
            (one,) = plugin.collectors
            until_caught_up(one)
            (row,) = plugin.resources.state.streams()
            assert row.position == one.position
            assert (row.position.window, row.dead_lettered, row.acknowledged) == (None, 3, 0)
    assert not receiver.ids


def test_a_receiver_that_is_down_makes_no_dead_letters(
    settings: Config, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """Through an outage, or resets of everything, it waits."""
    receiver.faults.refuse_above(1)  # even messages without records
    stop = threading.Event()
    with open_app(settings, clock) as plugin:

        def end() -> None:
            receiver.wait_until(lambda: receiver.refused > 20, 20)
            receiver.stop()
            stop.set()

        ending = threading.Thread(target=end)
        ending.start()
        with pytest.raises(Stopped):
            until_caught_up(plugin.collectors[0], stop)
        ending.join()

    assert receiver.refused > 20
    assert not dead_letters(settings)
    assert not receiver.ids


@pytest.mark.parametrize("one_in", [None, 7])
def test_a_full_receiver_makes_no_dead_letters(
    settings: Config, source: EventSource, receiver: SimulatedReceiver, clock: Clock, one_in: int | None
) -> None:
    """A full Fluentd acknowledges messages without records and refuses all others, or takes one now and then.

    One record is parked at a time, the rest wait. After it has space again, everything arrives once.
    """
    receiver.faults.full(one_in)
    stop = threading.Event()
    with open_app(changed(settings, forward__chunk_bytes=Size(20_000)), clock) as plugin:
        (one,) = plugin.collectors
        delivering = threading.Thread(target=until_caught_up, args=(one, stop))
        delivering.start()
        assert receiver.wait_until(lambda: receiver.refused > 60, 20)
        if one_in is None:
            assert one.counters.parked == len(plugin.resources.state.parked(one.stream.name)) == 1
        receiver.faults.clear()
        delivering.join(60)
        clock.ms += HOUR_MS
        until_caught_up(one)
        assert one.counters.parked == 0

    assert not dead_letters(settings)
    assert arrived_once(receiver, event_count(source))


def test_a_parked_record_is_sent_again_after_a_restart(
    settings: Config, source: EventSource, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """It is in the state: another process sends it once more, after the next records."""
    receiver.faults.full()
    stop = threading.Event()
    with open_app(settings, clock) as plugin:
        (one,) = plugin.collectors

        def end() -> None:
            receiver.wait_until(lambda: one.counters.parked > 0, 20)
            stop.set()

        ending = threading.Thread(target=end)
        ending.start()
        with pytest.raises(Stopped):
            until_caught_up(one, stop)
        ending.join()
        assert len(plugin.resources.state.parked(one.stream.name)) == 1
    receiver.faults.clear()
    with open_app(settings, clock) as plugin:
        (one,) = plugin.collectors
        until_caught_up(one)
        assert plugin.resources.state.parked(one.stream.name) == []

    assert not dead_letters(settings)
    assert arrived_once(receiver, event_count(source))


def test_two_lost_acks_make_no_dead_letters(
    settings: Config, source: EventSource, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """A chunk that is reset twice and then acknowledged is not poison."""
    receiver.faults.reset_before_ack(2)
    with open_app(settings, clock) as plugin:
        until_caught_up(plugin.collectors[0])

    assert not dead_letters(settings)
    assert len(receiver.ids) == event_count(source)


def test_no_space_for_dead_letters_stops_the_stream_rather_than_dropping(
    settings: Config,
    source: EventSource,
    receiver: SimulatedReceiver,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without space for a dead letter nothing is skipped; once a command has dropped one, the stream goes further."""
    receiver.faults.refuse_above(250_000)
    full = changed(settings, dead_letter__max_bytes=Size(400_000))
    says = "and dead_letter.max_bytes is 400000; see `in-jumpcloud dead-letters list`"

    def drop_one() -> None:
        wait_until(lambda: says in caplog.text)
        with open_shared(settings.state.path) as other:
            other.dead_letters.remove(next(other.dead_letters.letters()).number)

    dropping = threading.Thread(target=drop_one)
    with open_app(full, clock) as plugin, caplog.at_level("ERROR"):
        dropping.start()
        (one,) = plugin.collectors
        until_caught_up(one)
        dropping.join()
        # The last one may wait for other records that the receiver accepts.
        assert one.counters.dead_lettered + one.counters.parked == 2

    assert arrived_once(receiver, event_count(source) - 2)
