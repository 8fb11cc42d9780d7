"""One stream, driven step by step between the simulators."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.state import connection
from support.streams import (
    NOW,
    Clock,
    arrived_once,
    changed,
    event_count,
    event_queries,
    open_app,
    step_now,
    stream_settings,
    two_hours,
    until_caught_up,
)

from in_jumpcloud import pipeline, record_sender
from in_jumpcloud.config.schema import Config
from in_jumpcloud.config.types import Duration, Secret, Size, Start
from in_jumpcloud.errors import (
    CursorLost,
    KeyRefused,
    NotLicensed,
    OtherOrganization,
    PageTooLarge,
    RequestRejected,
    Retryable,
    Stopped,
)
from in_jumpcloud.poller import REJECTED_DELAY
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, rfc3339


@pytest.fixture
def source() -> EventSource:
    """Two hours of 10 events a minute."""
    return two_hours()


@pytest.fixture
def api(source: EventSource, clock: Clock) -> Iterator[SimulatedApi]:
    """JumpCloud with those events."""
    with SimulatedApi(source, clock=clock) as api:
        yield api


@pytest.fixture
def receiver() -> Iterator[SimulatedReceiver]:
    """A receiver that keeps the records."""
    with SimulatedReceiver() as receiver:
        yield receiver


@pytest.fixture
def settings(api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> Config:
    """Between those two, with small pages."""
    return stream_settings(api, receiver, tmp_path, jumpcloud__page_limit=100)


def test_a_restart_resumes_the_window(
    settings: Config, api: SimulatedApi, receiver: SimulatedReceiver, source: EventSource, clock: Clock
) -> None:
    """The frozen query continues after the last committed page, word for word, though time has passed."""
    with open_app(settings, clock) as plugin:
        (one,) = plugin.collectors
        for _ in range(4):
            one.step(threading.Event())
        window = one.position.window
        assert window is not None
        assert window.cursor is not None
        delivered = one.counters.acknowledged
    requested = len(event_queries(api))
    clock.ms += HOUR_MS

    with open_app(settings, clock) as plugin:
        until_caught_up(plugin.collectors[0])

    assert event_queries(api)[requested] == window.query()
    assert 0 < delivered < event_count(source)
    assert arrived_once(receiver, event_count(source))


def test_other_services_drop_the_window_but_duplicate_nothing(
    settings: Config, receiver: SimulatedReceiver, source: EventSource, clock: Clock, stop: threading.Event
) -> None:
    """A changed configuration requests the same time span again; the ledger knows what was delivered."""
    with open_app(settings, clock) as plugin:
        for _ in range(4):
            plugin.collectors[0].step(stop)
    assert 0 < len(receiver.ids) < event_count(source)

    with open_app(changed(settings, jumpcloud__services=("directory", "all")), clock) as plugin:
        until_caught_up(plugin.collectors[0])

    assert arrived_once(receiver, event_count(source))


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
def test_a_fault_of_the_api_skips_and_duplicates_nothing(
    settings: Config,
    api: SimulatedApi,
    receiver: SimulatedReceiver,
    source: EventSource,
    clock: Clock,
    stop: threading.Event,
    fault: Fault,
    error: type[Exception],
) -> None:
    """In the middle of a window, the page or the whole window is requested again; each event arrives once."""
    with open_app(settings, clock) as plugin:
        (one,) = plugin.collectors
        for _ in range(3):
            one.step(stop)
        # A page is fetched ahead, so the fault meets the page after the next one.
        api.faults.once(fault)
        errors = until_caught_up(one)

    assert errors.count(error) == 1
    assert arrived_once(receiver, event_count(source))


def test_what_jumpcloud_rejects_is_repeated_after_minutes(
    settings: Config, api: SimulatedApi, clock: Clock, stop: threading.Event
) -> None:
    """401: neither a fast retry nor a stop for good. 429 with Retry-After: after that time."""
    with open_app(changed(settings, jumpcloud__api_key=Secret("wrong")), clock) as plugin:
        (one,) = plugin.collectors
        assert one.step(stop) == pytest.approx(REJECTED_DELAY, abs=1)
        assert isinstance(one.error, KeyRefused)
        assert len(api.requests) == 1
    api.faults.once(Fault("status", status=429, retry_after="42"))
    with open_app(settings, clock) as plugin:
        assert plugin.collectors[0].step(stop) == pytest.approx(42, abs=1)


def test_an_error_is_in_the_state_until_a_step_succeeds(
    settings: Config, api: SimulatedApi, clock: Clock, stop: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """`in-jumpcloud status` shows the last error and its time; the log says when the stream has recovered."""
    with open_app(settings, clock) as plugin:
        (one,) = plugin.collectors
        for status in (500, 503):
            clock.ms += MINUTE_MS
            api.faults.once(Fault("status", status=status))
            one.step(stop)
            (row,) = plugin.resources.state.streams()
            assert f"answered {status}" in (row.error or "")
            assert row.error_ms == clock.ms
        assert one.poller.failures == 2
        clock.ms += MINUTE_MS
        with caplog.at_level("INFO"):
            one.step(stop)
        (row,) = plugin.resources.state.streams()
        assert (row.error, row.error_ms, one.error, one.poller.failures) == (None, None, None, 0)
        assert f"{one.stream.name}: recovered" in caplog.messages


def test_large_pages_make_the_next_window_request_fewer_events(
    settings: Config, api: SimulatedApi, receiver: SimulatedReceiver, source: EventSource, clock: Clock
) -> None:
    """Above page_bytes the limit falls from the next window on; nothing is skipped."""
    small = changed(settings, jumpcloud__page_bytes=Size(75_000), jumpcloud__window=Duration(2400))
    with open_app(small, clock) as plugin:
        until_caught_up(plugin.collectors[0])

    limits = [query["limit"] for query in event_queries(api)]
    assert limits[0] == 100
    # 100 events have about 120 kB. The limit stays low although the last page of a window is small.
    assert 20 <= min(limits) <= limits[-1] <= 90
    assert arrived_once(receiver, event_count(source))


def test_a_page_too_large_to_hold_is_requested_again_in_parts(
    settings: Config, api: SimulatedApi, receiver: SimulatedReceiver, source: EventSource, clock: Clock
) -> None:
    """An answer of several times page_bytes is refused before it is held, and the window comes in smaller pages."""
    with open_app(
        changed(settings, jumpcloud__page_bytes=Size(20_000), jumpcloud__event_max_bytes=Size(20_000)), clock
    ) as plugin:
        errors = until_caught_up(plugin.collectors[0])

    assert PageTooLarge in errors
    assert 1 <= min(query["limit"] for query in event_queries(api)) <= 25
    assert arrived_once(receiver, event_count(source))


def test_an_event_too_large_to_hold_is_left_out_and_reported(
    settings: Config, receiver: SimulatedReceiver, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The stream continues behind it, soon with whole pages again. An event too large for a record is a dead letter.

    The place of the one left out is in the log, and in a dead letter without event. A late event behind it is found.
    """
    source = two_hours(per_minute=10)
    at_ms = NOW - HOUR_MS
    late = {"id": "late", "timestamp": rfc3339(at_ms + 1)}
    source.add(late, timestamp_ms=at_ms + 1, visible_ms=NOW + HOUR_MS)
    for name, size in (("huge", 3_000_000), ("large", 400_000)):
        source.add({"id": name, "timestamp": rfc3339(at_ms), "text": "x" * size}, timestamp_ms=at_ms)
    with SimulatedApi(source, clock=clock) as api:
        small = changed(
            settings,
            jumpcloud__url=api.url,
            jumpcloud__page_bytes=Size(100_000),
            jumpcloud__event_max_bytes=Size(1_000_000),
            forward__message_max_bytes=Size(150_000),
            forward__chunk_bytes=Size(150_000),
        )
        with open_app(small, clock) as plugin:
            (one,) = plugin.collectors
            until_caught_up(one)
            first = len(event_queries(api))
            assert clock.ms < NOW + MINUTE_MS, "it waited although JumpCloud has done nothing wrong"
            clock.run(one, NOW + 2 * HOUR_MS)  # the overlap, and the minute of the late event, are read again
            assert one.counters.open_minutes == 0
            letters = {each.refused.id: each.refused for each in plugin.resources.state.dead_letters.letters()}

    assert (one.counters.left_out, one.counters.dead_lettered, len(letters)) == (1, 2, 2)
    (line,) = [each for each in caplog.messages if "is left out" in each]
    assert "larger than 1000000 bytes" in line
    assert letters.pop("large").event
    (left_out,) = letters.values()
    assert left_out.reason in line
    assert left_out.event == b""
    assert arrived_once(receiver, event_count(source) - 2)
    assert first < 120, "the window was paged event by event"


def test_the_last_page_of_a_window_does_not_raise_the_limit_again(
    settings: Config, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """A large full page and a small last one: the next window still requests fewer events."""
    source = EventSource(start_ms=NOW, per_minute=0)
    at_ms = NOW - 170 * MINUTE_MS
    for number in range(101):
        source.add({"id": str(number), "timestamp": rfc3339(at_ms), "text": "x" * 1200}, timestamp_ms=at_ms)
    with SimulatedApi(source, clock=clock) as api:
        sizes = {"jumpcloud__page_bytes": Size(70_000), "jumpcloud__window": Duration(2400)}
        small = changed(settings, jumpcloud__url=api.url, **sizes)
        with open_app(small, clock) as plugin:
            until_caught_up(plugin.collectors[0])
        limits = {query["start_time"]: query["limit"] for query in event_queries(api)}

    first, *others = limits.values()
    assert first == 100
    assert others
    assert all(limit < 60 for limit in others)
    assert len(receiver.ids) == 101


def test_a_full_disk_delays_the_commit_and_resends_nothing(
    settings: Config,
    receiver: SimulatedReceiver,
    source: EventSource,
    clock: Clock,
    stop: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Acknowledged events are committed as soon as there is space, without sending them again; the wait is alive."""
    for module in (pipeline, record_sender):
        monkeypatch.setattr(module, "backoff_delay", lambda *_: 0.05)
    with open_app(settings, clock) as plugin:
        (one,) = plugin.collectors
        database = connection(plugin.resources.state)
        one.step(stop)
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")
        silent: list[float] = []
        space = threading.Timer(0.9, lambda: database.execute("PRAGMA max_page_count = 100000"))
        look = threading.Timer(0.8, lambda: silent.append(time.monotonic() - one.counters.liveness.touched_at))
        look.start()
        space.start()
        until_caught_up(one)
        space.join()

    assert silent[0] < 0.5  # a wait is a sign of life
    assert arrived_once(receiver, event_count(source))


def test_a_lost_ack_is_answered_by_the_same_chunk_again(
    settings: Config, receiver: SimulatedReceiver, source: EventSource, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes with the same chunk id, on a new connection; every later chunk is sent once."""
    for module in (pipeline, record_sender):
        monkeypatch.setattr(module, "backoff_delay", lambda *_: 0.01)
    receiver.faults.reset_before_ack()
    with open_app(settings, clock) as plugin:
        until_caught_up(plugin.collectors[0])

    assert receiver.chunks[0] == receiver.chunks[1]
    assert len(set(receiver.chunks)) == len(receiver.chunks) - 1
    assert receiver.connections == 2
    assert len(receiver.ids) == event_count(source)


def test_odd_events_are_delivered_once(
    settings: Config, receiver: SimulatedReceiver, source: EventSource, clock: Clock
) -> None:
    """Without an id, not an object, not JSON, of 100 kB, of another organization: delivered, once, and marked."""
    at = rfc3339(NOW - HOUR_MS)
    odd = [
        json.dumps({"timestamp": at, "message": "no id"}).encode(),
        b'"only text"',
        b"12",
        b'{"id": "half", "timestamp": "' + at.encode() + b'", "message": "\\ud800"}',
        b'{"id": "nan", "timestamp": "' + at.encode() + b'", "number": NaN}',
        json.dumps({"id": "large", "timestamp": at, "payload": "x" * 100_000}).encode(),
        json.dumps({"id": "foreign", "timestamp": at, "organization": "another"}).encode(),
        json.dumps({"id": "undated", "timestamp": "yesterday"}).encode(),
        json.dumps({"id": "twice", "timestamp": at}).encode(),
        json.dumps({"id": "twice", "timestamp": at}).encode(),
    ]
    for raw in odd:
        source.add(raw, timestamp_ms=NOW - HOUR_MS)
    with open_app(changed(settings, jumpcloud__organizations=(source.organization,)), clock) as plugin:
        (one,) = plugin.collectors
        until_caught_up(one)
        assert one.counters.foreign == 1
        assert one.counters.duplicates >= 1
        problems = one.counters.with_problems

    assert len(receiver.records) == event_count(source) - 1  # "twice" is sent once
    marked = [each.record for each in receiver.records if each.record["event"].get("kind") == "pipeline_error"]
    assert len(marked) == problems == 5
    assert all(record["event"]["original"] and record["error"]["message"] for record in marked)
    assert {"half", "nan", "large", "foreign", "undated", "twice"} <= set(receiver.ids)
    # The three records without an id in their event are not in `ids`.
    assert sum(receiver.ids.values()) == len(receiver.records) - 3


OWN = two_hours().organization
ANOTHER = {"timestamp": rfc3339(NOW - HOUR_MS), "organization": "another"}


def test_a_key_of_another_organization_is_refused(
    settings: Config, receiver: SimulatedReceiver, source: EventSource, clock: Clock
) -> None:
    """Its events are not delivered into the state of the first, until the first key is back."""
    with open_app(settings, clock) as plugin:
        until_caught_up(plugin.collectors[0])
        assert plugin.resources.state.organization("default") == OWN
    clock.ms += HOUR_MS
    arrived = len(receiver.ids)
    other = EventSource(start_ms=NOW, end_ms=clock.ms - MINUTE_MS, per_minute=10, organization="another tenant")
    with SimulatedApi(other, clock=clock) as api, open_app(changed(settings, jumpcloud__url=api.url), clock) as plugin:
        (one,) = plugin.collectors
        for _ in range(3):
            step_now(one)
        assert isinstance(one.error, OtherOrganization)
        assert str(one.error).startswith(
            "JumpCloud sends events of organization another tenant, but the state at "
            f"{settings.state.path} is of organization {OWN}; "
            "use the key of that organization again, or set another state.path"
        )
    assert len(receiver.ids) == arrived

    with open_app(settings, clock) as plugin:
        until_caught_up(plugin.collectors[0])
    assert arrived_once(receiver, event_count(source))


@pytest.mark.parametrize("event_type", ["admin_login_attempt", "sso_auth"])
def test_single_events_of_other_organizations_are_delivered(
    settings: Config, receiver: SimulatedReceiver, source: EventSource, clock: Clock, event_type: str
) -> None:
    """Among others of the own one, or if administrators may cause them."""
    source.add(ANOTHER | {"id": "odd", "event_type": event_type}, timestamp_ms=NOW - HOUR_MS)
    with open_app(settings, clock) as plugin:
        until_caught_up(plugin.collectors[0])
        clock.ms += HOUR_MS
        later = NOW + HOUR_MS // 2
        event = {"id": "alone", "timestamp": rfc3339(later), "organization": "another", "event_type": "admin_update"}
        source.add(event, timestamp_ms=later)
        until_caught_up(plugin.collectors[0])
        assert plugin.resources.state.organization("default") == OWN

    assert receiver.ids["odd"] == receiver.ids["alone"] == 1


def test_a_service_that_is_added_later(
    settings: Config, receiver: SimulatedReceiver, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The log and the state say from when on it is polled; what was there from the beginning has its start."""

    def run(*services: str) -> tuple[dict[str, int], int]:
        with open_app(changed(settings, jumpcloud__services=services), clock) as plugin:
            (one,) = plugin.collectors
            until_caught_up(one)
            clock.ms += HOUR_MS
            return plugin.resources.state.services("default"), one.position.origin_ms

    with caplog.at_level("INFO"):
        run("sso")
        run("sso", "ldap")
        since, origin_ms = run("ldap", "sso")
    assert set(since) == {"sso", "ldap"}
    assert since["sso"] == origin_ms
    assert NOW - HOUR_MS < since["ldap"] < NOW + HOUR_MS
    assert caplog.text.count("is new, polled from") == 1
    assert f"default: service ldap is new, polled from {rfc3339(since['ldap'])} on" in caplog.text
    assert receiver.ids


def test_an_event_of_the_future_is_delivered_when_its_time_has_come(
    settings: Config, receiver: SimulatedReceiver, source: EventSource, clock: Clock
) -> None:
    """It does not move the watermark past now, and it is not lost."""
    soon = NOW + MINUTE_MS
    source.add({"id": "soon", "timestamp": rfc3339(soon)}, timestamp_ms=soon)
    with open_app(settings, clock) as plugin:
        (one,) = plugin.collectors
        until_caught_up(one)
        assert "soon" not in receiver.ids
        assert one.position.watermark_ms <= NOW
        clock.run(one, soon + MINUTE_MS)

    assert receiver.ids["soon"] == 1


def test_delivered_ids_are_removed_when_nothing_of_them_can_be_read_again(
    settings: Config, receiver: SimulatedReceiver, source: EventSource, clock: Clock
) -> None:
    """The ledger keeps ids for the reach and a day. A clock that jumps removes next to nothing."""
    with open_app(
        changed(settings, reconcile__reach=Duration(DAY_MS // 1000), jumpcloud__interval=Duration(3600)), clock
    ) as plugin:
        (one,) = plugin.collectors
        clock.run(one, NOW + HOUR_MS)
        state, name = plugin.resources.state, one.stream.name
        for days in (1, 10):
            clock.run(one, NOW + days * DAY_MS)
            kept_ms = state.kept_from_ms(name)
            assert kept_ms == 0 or one.position.origin_ms < kept_ms <= NOW + (days - 2) * DAY_MS
        assert state.kept_from_ms(name) > NOW
    with closing(sqlite3.connect(settings.state.path)) as database:
        (left,) = database.execute("SELECT count(*) FROM ledger").fetchone()

    assert left == 0
    assert arrived_once(receiver, event_count(source))


def test_a_stop_interrupts_the_wait_for_the_receiver(
    settings: Config, receiver: SimulatedReceiver, clock: Clock, stop: threading.Event
) -> None:
    """The wait between two tries ends at once, and the position stays where it was."""
    receiver.stop()
    with open_app(changed(settings, jumpcloud__start=Start("2h")), clock) as plugin:
        (one,) = plugin.collectors
        before = one.position.watermark_ms
        threading.Timer(0.3, stop.set).start()
        started_at = time.monotonic()

        with pytest.raises(Stopped):
            until_caught_up(one, stop)

        assert time.monotonic() - started_at < 3
        assert one.position.watermark_ms == before


@pytest.mark.parametrize(("refusals", "days"), [(1, 90), (2, 30), (3, 15), (5, 1)])
def test_a_plan_that_reaches_back_less_far_shortens_the_start_and_says_so(
    settings: Config,
    api: SimulatedApi,
    receiver: SimulatedReceiver,
    source: EventSource,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    refusals: int,
    days: int,
) -> None:
    """402 for history: the stream begins where the plan allows, with a warning that names the gap."""
    api.faults.once(*[Fault("status", status=402, message="not licensed")] * refusals)
    long = changed(settings, jumpcloud__start=Start("120d"), jumpcloud__window=Duration(60 * 86_400))
    with open_app(long, clock) as plugin:
        (one,) = plugin.collectors
        requested = rfc3339(one.position.origin_ms)
        until_caught_up(one)
    begins = rfc3339(NOW - days * DAY_MS + MINUTE_MS)

    (warning,) = [message for message in caplog.messages if "The plan reaches back to" in message]
    for part in ("not licensed", begins, requested):
        assert part in warning
    assert len(receiver.ids) == event_count(source)


def test_a_plan_whose_beginning_moves_faster_than_a_day_is_paged(
    settings: Config, receiver: SimulatedReceiver, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each page takes 5 minutes, so old windows leave the plan while they are paged. The stream gets on all the same.

    Every event is delivered once, or its time is named as not available.
    """
    begin = NOW - 15 * DAY_MS
    source = EventSource(start_ms=begin, end_ms=begin + 8 * HOUR_MS, per_minute=2)
    with SimulatedApi(source, clock=clock) as api:
        api.retention_ms = 15 * DAY_MS
        changes = {"jumpcloud__start": Start("15d"), "jumpcloud__page_limit": 30}
        with open_app(changed(settings, jumpcloud__url=api.url, **changes), clock) as plugin:
            (one,) = plugin.collectors
            for _ in range(400):
                delay = one.step(threading.Event())
                clock.ms += 5 * MINUTE_MS if one.is_behind else round(delay * 1000)
                if one.position.watermark_ms > begin + 9 * HOUR_MS:
                    break
        missing = [item for item in source.between(0, NOW, now_ms=NOW) if item.event_id not in receiver.ids]

    assert one.position.watermark_ms > begin + 9 * HOUR_MS
    assert arrived_once(receiver, event_count(source) - len(missing))
    assert len(missing) < event_count(source) / 2
    gaps = re.findall(r"reaches back to (\S+): events from (\S+) on are not", caplog.text)
    for item in missing:
        at = rfc3339(item.timestamp_ms)
        assert any(start <= at < end for end, start in gaps), f"{at} is missing and not named"


@pytest.mark.parametrize("hours", [7, 30])
def test_a_clock_behind_a_short_plan_is_no_storm_of_requests(
    settings: Config, receiver: SimulatedReceiver, source: EventSource, hours: int
) -> None:
    """This machine's clock is behind, so what it asks for is partly, or all, beyond the plan of one day.

    Requests stay few, and once the clock is right, all is delivered.
    """
    behind_ms = hours * HOUR_MS
    clock = Clock(NOW - behind_ms)
    with SimulatedApi(source, clock=lambda: clock.ms + behind_ms) as api:
        api.retention_ms = DAY_MS
        with open_app(changed(settings, jumpcloud__url=api.url, jumpcloud__start=Start("20h")), clock) as plugin:
            (one,) = plugin.collectors
            clock.run(one, clock.ms + 2 * HOUR_MS)
            assert len(api.requests) < 2 * HOUR_MS // MINUTE_MS * 3  # a poll every 30 s is two
            clock.ms, behind_ms = clock.ms + behind_ms, 0
            until_caught_up(one)

    assert arrived_once(receiver, event_count(source))


def test_directory_insights_not_enabled_moves_nothing(
    settings: Config, api: SimulatedApi, clock: Clock, stop: threading.Event
) -> None:
    """402 for every request: the position stays, for the day that it is enabled."""
    api.faults.always(Fault("status", status=402))
    with open_app(changed(settings, jumpcloud__start=Start("120d")), clock) as plugin:
        (one,) = plugin.collectors
        origin_ms = one.position.origin_ms

        assert one.step(stop) == pytest.approx(REJECTED_DELAY, abs=1)

        assert one.position.origin_ms == origin_ms
        assert isinstance(one.error, NotLicensed)


def test_the_allowed_silence_grows_with_every_limit(settings: Config, clock: Clock) -> None:
    """A request, a delivery and a pause, each as long as its settings allow, are no reason to restart the process."""
    for name, value, seconds in (
        ("jumpcloud__read_timeout", Duration(600), 5 * 600 + 300),
        ("forward__ack_timeout", Duration(900), 2 * 900 + 60),
    ):
        with open_app(changed(settings, **{name: value}), clock) as plugin:
            assert plugin.collectors[0].max_silence_seconds > seconds
