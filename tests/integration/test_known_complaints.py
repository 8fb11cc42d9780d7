"""What users of other collectors of JumpCloud events complain about, each as a test that this one must pass.

The name of each test says where the complaint is: the issue trackers and change logs of those collectors.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.command import KEY as STREAM_KEY
from support.command import Command
from support.insights import BEGIN, KEY, NOW, OWN, Client, failure, fetch, fetch_all
from support.streams import Clock, arrived_once, event_count, event_queries, open_app, stream_settings, two_hours

from in_jumpcloud.config.types import Duration
from in_jumpcloud.errors import KeyRefused, NotLicensed, RequestRejected
from in_jumpcloud.insights.window import Position, Window
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, rfc3339


@pytest.fixture
def source() -> EventSource:
    """Two hours of five events a minute, up to a minute ago."""
    return two_hours(per_minute=5)


@pytest.fixture
def api(source: EventSource, clock: Clock) -> Iterator[SimulatedApi]:
    """JumpCloud with those events."""
    with SimulatedApi(source, api_key=STREAM_KEY, clock=clock) as api:
        yield api


@pytest.fixture
def receiver() -> Iterator[SimulatedReceiver]:
    """A receiver that keeps the records."""
    with SimulatedReceiver() as receiver:
        yield receiver


Run = Callable[..., Position]


@pytest.fixture
def run(receiver: SimulatedReceiver, clock: Clock, tmp_path: Path) -> Run:
    """What `run --once` does: catch up, and return the position; or the `error` in whose message are `words`."""

    def run(
        api: SimulatedApi, *, error: type[Exception] | None = None, words: tuple[str, ...] = (), **changes: object
    ) -> Position:
        settings = stream_settings(api, receiver, tmp_path, **changes)
        with open_app(settings, clock, once=True) as plugin:
            ended = plugin.run()
            assert (type(ended) if ended else None) is error, ended
            assert all(each in str(ended) for each in words), ended
            return plugin.collectors[0].position

    return run


def ms(text: str) -> int:
    """A time in a query, in epoch milliseconds. It has exactly the form of RFC 3339 and JumpCloud's documentation."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text), repr(text)
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def put(source: EventSource, event_id: str, at_ms: int, visible_ms: int | None = None, **fields: str) -> None:
    """Add an event."""
    source.add({"id": event_id, "timestamp": rfc3339(at_ms), **fields}, timestamp_ms=at_ms, visible_ms=visible_ms)


# elastic/integrations


def test_elastic_8253_changes_of_any_type_break_no_mapping(command: Command) -> None:
    """`changes` is declared `flattened`; from and to can be anything: the record keeps them, without an error."""
    values = [True, 1, 1.5, "text", {"a": [1, {"b": None}]}, [{"x": 1}], None]
    events = [{"id": "1", "changes": [{"field": "f", "from": value, "to": "x"}]} for value in values]
    done = command("map", stdin="\n".join(map(json.dumps, events)).encode())

    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) == len(values)
    for record, value in zip(records, values, strict=True):
        assert "error" not in record
        (change,) = record["jumpcloud"]["event"]["changes"]
        assert change["to"] == "x"
        assert ("from" in change) == (value is not None)
    fields = command("fields", "--format", "csv").stdout.decode()
    assert "jumpcloud.event.changes,flattened," in fields


def test_elastic_15248_first_event_of_a_cycle_is_not_repeated(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """The start is inclusive, and each poll overlaps the one before: still no event arrives twice."""
    for _ in range(3):
        run(api)
    assert arrived_once(receiver, event_count(source))
    assert api.events_served > event_count(source), "no poll overlapped"


def test_elastic_15248_delayed_events_are_collected(run: Run, clock: Clock, receiver: SimulatedReceiver) -> None:
    """A third of the events appear up to an hour later than their timestamp says: all arrive, each once."""
    # The newest minutes belong to later polls.
    start_ms, end_ms = clock.ms - 3 * HOUR_MS, clock.ms - 5 * MINUTE_MS
    source = EventSource(start_ms=start_ms, end_ms=end_ms, per_minute=2, late=0.33)
    with SimulatedApi(source, api_key=STREAM_KEY, clock=clock) as api:
        run(api)
        assert len(receiver.ids) < event_count(source), "nothing is late"
        for _ in range(2):
            clock.ms += HOUR_MS
            run(api)
    assert arrived_once(receiver, event_count(source))


def test_elastic_17209_a_lag_beyond_the_start_requests_nothing(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """If the lag puts the end before the start, no request is sent and nothing fails; later all is collected."""
    run(api, jumpcloud__lag=Duration(4 * 3600))
    assert event_queries(api) == []
    run(api)
    assert arrived_once(receiver, event_count(source))
    run(api, jumpcloud__lag=Duration(3600))
    assert {request.status for request in api.requests} == {200}


def test_elastic_17209_a_400_does_not_stop_it_for_good(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """The error has JumpCloud's own words, and the rejected time span is requested again."""
    message = "Start Time not after End Time 2026-01-26T09:13:52Z > 2026-01-26T09:11:52Z"
    api.faults.once(Fault("status", status=400, message=message, path="/events"))
    run(api, error=RequestRejected, words=(message,))
    run(api)
    assert arrived_once(receiver, event_count(source))


def test_elastic_18245_every_precision_of_a_timestamp_is_read(
    run: Run, clock: Clock, receiver: SimulatedReceiver
) -> None:
    """Events with 0, 1, 3, 6, 8 and 9 digits of a second arrive with exactly their time."""
    source = EventSource(start_ms=clock.ms, per_minute=0)
    second = rfc3339(clock.ms - HOUR_MS)[:19]
    fractions = {"0": "", "1": ".4", "3": ".495", "6": ".495123", "8": ".49512345", "9": ".495123456"}
    for digits, fraction in fractions.items():
        source.add({"id": digits, "timestamp": f"{second}{fraction}Z"}, timestamp_ms=clock.ms - HOUR_MS + 495)
    with SimulatedApi(source, api_key=STREAM_KEY, clock=clock) as api:
        run(api)
    times = {each.record["event"]["id"]: each.time_ns % 10**9 for each in receiver.records}
    assert times == {digits: int(fraction[1:].ljust(9, "0") or 0) for digits, fraction in fractions.items()}


def test_elastic_18245_times_are_sent_in_one_exact_form(run: Run, api: SimulatedApi) -> None:
    """No request of several polls has a newline, another precision, or a zone other than Z."""
    for _ in range(2):
        run(api, jumpcloud__window=Duration(45 * 60), jumpcloud__page_limit=100)
    assert len(event_queries(api)) > 4
    for query in event_queries(api):
        assert ms(query["start_time"]) < ms(query["end_time"])


# Sekoia, logzio, lbrictson


def test_sekoia_1_8_2_a_future_timestamp_does_not_move_the_position(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """An event dated next year is delivered, and later events are still collected."""
    event = {"id": "of the future", "timestamp": rfc3339(clock.ms + 365 * DAY_MS)}
    source.add(event, timestamp_ms=clock.ms - HOUR_MS)
    assert run(api).watermark_ms <= clock.ms
    put(source, "after it", clock.ms - 1000)
    run(api)
    assert receiver.ids["of the future"] == receiver.ids["after it"] == 1
    assert arrived_once(receiver, event_count(source))


def test_logzio_last_timestamp_plus_a_second_loses_nothing_of_that_second(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """Events of the same second and millisecond as the last delivered one arrive, though they appear after it."""
    moment = clock.ms - 30_000
    put(source, "last", moment)
    run(api)
    for number, later in enumerate((0, 0, 1, 700)):
        put(source, f"same second {number}", moment + later)
    run(api)
    assert arrived_once(receiver, event_count(source))


def test_logzio_one_page_per_poll_does_not_fall_behind(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """Sixty pages in one poll, with more events in one millisecond than a page holds: all arrive at once."""
    for number in range(35):
        put(source, f"tie {number}", clock.ms - HOUR_MS)
    run(api, jumpcloud__page_limit=10)
    assert arrived_once(receiver, event_count(source))
    assert len(event_queries(api)) > event_count(source) / 10


def test_lbrictson_6_all_services_are_collected_by_default(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """The default is `all`: software arrives, and so does a service that does not exist yet."""
    for service in ("software", "quantum_badges"):
        put(source, service, clock.ms - HOUR_MS, service=service)
    run(api)
    assert {tuple(query["service"]) for query in event_queries(api)} == {("all",)}
    assert receiver.ids["software"] == receiver.ids["quantum_badges"] == 1


def test_lbrictson_6_unknown_services_are_passed_on(run: Run, api: SimulatedApi) -> None:
    """An unknown service is requested too; if JumpCloud does not know it either, the error has its list."""
    services = ("software", "alert", "quantum_badges")
    words = ("Unsupported service: quantum_badges; supported: ",)
    run(api, error=RequestRejected, words=words, jumpcloud__services=services)
    assert event_queries(api)[0]["service"] == list(services)
    run(api, jumpcloud__services=("software", "alert", "alerts", "workflows"))


# jumpcloud-wazuh-bridge, Sentinel, PostHog


def test_bridge_an_event_that_appears_after_its_poll_is_collected(
    run: Run, api: SimulatedApi, source: EventSource, clock: Clock, receiver: SimulatedReceiver
) -> None:
    """The next poll overlaps the end of the last one: what appeared in between arrives."""
    put(source, "appears later", clock.ms - 20_000, clock.ms + MINUTE_MS)
    run(api)
    assert "appears later" not in receiver.ids
    clock.ms += 2 * MINUTE_MS
    run(api)
    assert arrived_once(receiver, event_count(source))


def test_sentinel_hours_are_of_24(client: Client) -> None:
    """Windows of the afternoon bring the events of the afternoon."""
    noon = NOW - NOW % DAY_MS - 12 * HOUR_MS
    source = EventSource(start_ms=noon - 12 * HOUR_MS, end_ms=noon + 12 * HOUR_MS, per_minute=0.1)
    with SimulatedApi(source, api_key=KEY, clock=lambda: NOW) as api:
        for hour in range(-12, 12):
            start = noon + hour * HOUR_MS
            window = Window(start_ms=start, end_ms=start + HOUR_MS, services=("all",), limit=100)
            expected = [item.raw for item in source.between(start, start + HOUR_MS, now_ms=NOW)]
            assert fetch_all(client(api.url), window) == expected
        hours = [query["start_time"][11:13] for query in event_queries(api)]
    assert hours == [f"{hour:02d}" for hour in range(24)]


def test_sentinel_a_cursor_is_not_kept_for_ever(run: Run, api: SimulatedApi, clock: Clock) -> None:
    """Every window begins without a cursor, and a cursor is sent only with the query that it came from."""
    for _ in range(2):
        run(api, jumpcloud__page_limit=50, jumpcloud__window=Duration(30 * 60))
        clock.ms += 1000
    windows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for query in event_queries(api):
        windows[json.dumps(_without_cursor(query))].append(query)
    assert len(windows) > 4
    for first, *others in windows.values():
        assert "search_after" not in first
        assert all("search_after" in page for page in others)
    assert {request.status for request in api.requests} == {200}


def _without_cursor(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if name != "search_after"}


def test_posthog_watermarks_are_not_cut_to_seconds(run: Run, api: SimulatedApi, clock: Clock) -> None:
    """A poll begins exactly the overlap before the millisecond at which the last one ended."""
    clock.ms += 123
    position = run(api)
    end = ms(event_queries(api)[-1]["end_time"])
    assert position.watermark_ms == end
    count = len(event_queries(api))
    clock.ms += 4567
    run(api)
    assert ms(event_queries(api)[count]["start_time"]) == end - 2 * MINUTE_MS


# Serverless


def test_serverless_2_0_2_windows_leave_no_gap(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """Over windows and runs, every millisecond from the start to the last poll is requested."""
    for _ in range(2):
        run(api, jumpcloud__window=Duration(25 * 60))
        clock.ms += 10 * MINUTE_MS
    spans = sorted({(ms(query["start_time"]), ms(query["end_time"])) for query in event_queries(api)})
    reached = spans[0][1]
    assert spans[0][0] == clock.ms - 20 * MINUTE_MS - 3 * HOUR_MS
    for start, end in spans:
        assert start <= reached
        reached = max(reached, end)
    assert arrived_once(receiver, event_count(source))


@pytest.mark.parametrize("fault", [Fault("status", status=429, retry_after="0"), Fault("status"), Fault("cut")])
def test_serverless_cut_4618_limits_and_faults_make_no_gap(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver, fault: Fault
) -> None:
    """A page that is throttled, fails or is cut off is requested again, and never skipped."""
    api.faults.once(fault, fault)
    run(api, jumpcloud__page_limit=100)
    assert api.faults.given[fault.kind] == 2
    assert arrived_once(receiver, event_count(source))


# Field notes, SecOps


def test_field_notes_402_is_not_retried_for_weeks(run: Run, api: SimulatedApi) -> None:
    """For an account without Directory Insights the run ends at once, with the cause, after a few requests."""
    api.faults.always(Fault("status", status=402, message="Payment Required"))
    words = ("JumpCloud answered 402: Payment Required", "Directory Insights is not enabled")
    run(api, error=NotLicensed, words=words)
    assert len(api.requests) < 8


def test_field_notes_402_is_an_error_of_its_own(client: Client) -> None:
    """A plan that does not reach back that far has its own error, on the first page and on a later one."""
    with SimulatedApi(EventSource(start_ms=BEGIN), api_key=KEY, clock=lambda: NOW) as api:
        window = Window(start_ms=BEGIN, end_ms=NOW, services=("all",), limit=10)
        one = client(api.url)
        for each in (window, window.after(fetch(one, window).cursor)):
            api.faults.once(Fault("status", status=402))
            error = failure(one, each)
            assert type(error) is NotLicensed
            assert isinstance(error, RequestRejected)
            assert not isinstance(error, KeyRefused)


def test_field_notes_booleans_are_never_sent(run: Run, api: SimulatedApi) -> None:
    """No query has a search, in which JumpCloud refuses booleans; only documented keys are sent."""
    run(api, jumpcloud__page_limit=100)
    for query in event_queries(api):
        assert set(query) - {"search_after"} == {"service", "start_time", "end_time", "limit", "sort"}
        assert not [value for value in query.values() if isinstance(value, bool)]


def test_secops_what_cannot_be_parsed_is_not_dropped(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver, clock: Clock
) -> None:
    """Events that are not valid JSON, or not an object, arrive with the others of their page."""
    odd = [b'{"id":"a","n":NaN}', b'{"id":"b","t":"\\ud800"}', b'"text"', b"[1,2]", b'{"id":"\xff"}', b"nonsense"]
    for raw in odd:
        source.add(raw, timestamp_ms=clock.ms - HOUR_MS)
    run(api)
    assert receiver.received == event_count(source)


def test_the_organization_of_the_key_is_not_named(client: Client) -> None:
    """A key that sees one organization sends no x-org-id: JumpCloud refuses such keys with it."""
    with SimulatedApi(EventSource(start_ms=BEGIN), api_key=KEY, clock=lambda: NOW) as api:
        fetch(client(api.url), Window(start_ms=BEGIN, end_ms=NOW, services=("all",), limit=10), OWN)
        assert "x-org-id" not in api.requests[0].headers
