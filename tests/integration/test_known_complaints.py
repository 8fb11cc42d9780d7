"""What users of other collectors of JumpCloud's events complain about, each as a test that this one has to pass.

Every name says where the complaint stands: the issue trackers and change logs of those collectors.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import pytest
from support.command import KEY as SIMULATED_KEY
from support.command import Command
from support.insights import BEGIN, KEY, NOW, OWN, Client, failure, fetch, fetch_all

from in_jumpcloud.errors import NotLicensed, RequestRejected
from in_jumpcloud.insights.window import Window
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS as MINUTE
from in_jumpcloud.timestamps import rfc3339

HOUR = 60 * MINUTE
EVENTS = "/insights/directory/v1/events"


class Shift:
    """How much later it is at JumpCloud than here: events that come late can then be waited for without waiting."""

    def __init__(self) -> None:
        self.ms = 0

    def __call__(self) -> int:
        """The time at JumpCloud, in epoch milliseconds."""
        return time.time_ns() // 1_000_000 + self.ms


@pytest.fixture
def shift() -> Shift:
    """JumpCloud's clock."""
    return Shift()


@pytest.fixture
def source() -> EventSource:
    """Two hours of five events a minute, up to a minute ago."""
    now = time.time_ns() // 1_000_000
    return EventSource(start_ms=now - 2 * HOUR, end_ms=now - MINUTE, per_minute=5)


@pytest.fixture
def api(source: EventSource, shift: Shift) -> Iterator[SimulatedApi]:
    """JumpCloud with those events."""
    with SimulatedApi(source, api_key=SIMULATED_KEY, clock=shift) as api:
        yield api


Run = Callable[..., str]


@pytest.fixture
def run(command: Command, receiver: SimulatedReceiver) -> Run:
    """`in-jumpcloud run --once`: all that it logs."""

    def run(api: SimulatedApi, *, code: int = 0, **settings: object) -> str:
        options = command.settings(api, receiver, **{"jumpcloud__start": "3h", **settings})
        done = command("run", "--once", *options)
        assert done.returncode == code, done.stderr.decode()
        return done.stderr.decode()

    return run


def asked(api: SimulatedApi) -> list[Mapping[str, Any]]:
    """The queries for events, in the order that they came in."""
    return [request.body for request in api.requests if request.path == EVENTS]


def total(source: EventSource) -> int:
    """How many events there ever are."""
    return source.count(0, 2 * NOW, now_ms=2 * NOW)


def all_once(receiver: SimulatedReceiver, source: EventSource) -> bool:
    """Whether every event arrived, and none twice."""
    return len(receiver.ids) == sum(receiver.ids.values()) == total(source) > 0


def ms(text: str) -> int:
    """A query's time in epoch milliseconds: it has exactly the form that RFC 3339 and JumpCloud's page show."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text), repr(text)
    return round(datetime.fromisoformat(text).timestamp() * 1000)


# elastic/integrations


@pytest.mark.parametrize("value", [True, 1, 1.5, "text", {"a": [1, {"b": None}]}, [{"x": 1}], None])
def test_elastic_8253_changes_of_any_type_break_no_mapping(command: Command, value: object) -> None:
    """`changes` is declared `flattened`, and from and to may be anything: the record keeps them, without an error."""
    done = command("map", stdin=json.dumps({"id": "1", "changes": [{"field": "f", "from": value, "to": "x"}]}).encode())

    record = json.loads(done.stdout)
    assert "error" not in record
    (change,) = record["jumpcloud"]["event"]["changes"]
    assert change["to"] == "x"
    assert ("from" in change) == (value is not None)
    fields = command("fields", "--format", "csv").stdout.decode()
    assert "jumpcloud.event.changes,flattened," in fields


def test_elastic_15248_first_event_of_a_cycle_is_not_repeated(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """The start is inclusive, and each poll goes back over the one before: still no event arrives twice."""
    for _ in range(3):
        run(api)
    assert all_once(receiver, source)
    assert api.events_served > total(source), "no poll went back"


def test_elastic_15248_delayed_events_are_collected(run: Run, shift: Shift, receiver: SimulatedReceiver) -> None:
    """A third of the events appear by up to an hour later than their timestamp says: all arrive, each once."""
    now = time.time_ns() // 1_000_000
    # The newest minutes belong to the polls that follow; here none does.
    source = EventSource(start_ms=now - 3 * HOUR, end_ms=now - 5 * MINUTE, per_minute=2, late=0.33)
    with SimulatedApi(source, api_key=SIMULATED_KEY, clock=shift) as api:
        run(api, jumpcloud__start="4h")
        assert len(receiver.ids) < total(source), "nothing is late"
        for shift.ms in (HOUR // 2, 2 * HOUR):
            run(api, jumpcloud__start="4h")
    assert all_once(receiver, source)


def test_elastic_17209_a_lag_beyond_the_start_asks_nothing_and_goes_on(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """Where the lag puts the end before the start, no request goes out, nothing fails, and later all is collected."""
    run(api, jumpcloud__lag="4h")
    assert asked(api) == []
    run(api)
    assert all_once(receiver, source)
    run(api, jumpcloud__lag="1h")
    assert {request.status for request in api.requests} == {200}


def test_elastic_17209_a_400_does_not_stop_it_for_good(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """A refused query is told with JumpCloud's words, and what it asked for is asked for again."""
    message = "Start Time not after End Time 2026-01-26T09:13:52Z > 2026-01-26T09:11:52Z"
    api.faults.once(Fault("status", status=400, message=message, path="/events"))
    assert message in run(api, code=1)
    run(api)
    assert all_once(receiver, source)


def test_elastic_18245_every_precision_of_a_timestamp_is_read(command: Command) -> None:
    """Events with 0, 1, 3, 6, 8 and 9 digits of a second arrive with the time that they name, and pass no guard."""
    now = time.time_ns() // 10**9 * 1000
    source = EventSource(start_ms=now - HOUR, per_minute=0)
    second = rfc3339(now - HOUR)[:19]
    fractions = {"0": "", "1": ".4", "3": ".495", "6": ".495123", "8": ".49512345", "9": ".495123456"}
    for digits, fraction in fractions.items():
        source.add({"id": digits, "timestamp": f"{second}{fraction}Z"}, timestamp_ms=now - HOUR + 495)
    with SimulatedApi(source, api_key=SIMULATED_KEY) as api, SimulatedReceiver() as receiver:
        done = command("run", "--once", *command.settings(api, receiver, jumpcloud__start="3h"))
        assert done.returncode == 0, done.stderr
        times = {each.record["event"]["id"]: each.time_ns % 10**9 for each in receiver.records}
    assert times == {digits: int(fraction[1:].ljust(9, "0") or 0) for digits, fraction in fractions.items()}


def test_elastic_18245_times_go_out_in_one_exact_form(run: Run, api: SimulatedApi) -> None:
    """No newline, no other precision, no zone but Z: in no request, over several polls."""
    for _ in range(2):
        run(api, jumpcloud__window="45m", jumpcloud__page_limit=100)
    assert len(asked(api)) > 4
    for query in asked(api):
        assert ms(query["start_time"]) < ms(query["end_time"])


# Sekoia, logzio, lbrictson


def test_sekoia_1_8_2_a_future_timestamp_does_not_move_the_position(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver, command: Command
) -> None:
    """An event dated next year is delivered, and what happens after it is still collected."""
    now = time.time_ns() // 1_000_000
    source.add({"id": "of the future", "timestamp": rfc3339(now + 365 * 24 * HOUR)}, timestamp_ms=now - HOUR)
    run(api)
    (position,) = command.positions().values()
    assert position["watermark_ms"] <= time.time_ns() // 1_000_000
    source.add({"id": "after it", "timestamp": rfc3339(now - 1000)}, timestamp_ms=now - 1000)
    run(api)
    assert receiver.ids["of the future"] == receiver.ids["after it"] == 1
    assert all_once(receiver, source)


def test_logzio_last_timestamp_plus_a_second_loses_nothing_of_that_second(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """Events of the very second, and millisecond, of the last one delivered arrive though they appear after it."""
    moment = time.time_ns() // 1_000_000 - 30_000
    source.add({"id": "last", "timestamp": rfc3339(moment)}, timestamp_ms=moment)
    run(api)
    for number, later in enumerate((0, 0, 1, 700)):
        event = {"id": f"same second {number}", "timestamp": rfc3339(moment + later)}
        source.add(event, timestamp_ms=moment + later)
    run(api)
    assert all_once(receiver, source)


def test_logzio_one_page_per_poll_does_not_fall_behind(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """Sixty pages in one poll, a tie longer than a page among them: all is delivered at once."""
    moment = time.time_ns() // 1_000_000 - HOUR
    for number in range(35):
        source.add({"id": f"tie {number}", "timestamp": rfc3339(moment)}, timestamp_ms=moment)
    run(api, jumpcloud__page_limit=10)
    assert all_once(receiver, source)
    assert len(asked(api)) > total(source) / 10


def test_lbrictson_6_all_services_are_collected_by_default(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """`all` is what is asked for without a configuration: software arrives, and services that nobody knows yet."""
    moment = time.time_ns() // 1_000_000 - HOUR
    for service in ("software", "quantum_badges"):
        event = {"id": service, "service": service, "timestamp": rfc3339(moment)}
        source.add(event, timestamp_ms=moment)
    run(api)
    assert {tuple(query["service"]) for query in asked(api)} == {("all",)}
    assert receiver.ids["software"] == receiver.ids["quantum_badges"] == 1


def test_lbrictson_6_unknown_services_are_passed_on(run: Run, api: SimulatedApi) -> None:
    """A service that this version does not know is asked for; where JumpCloud does not know it, its list is shown."""
    said = run(api, code=1, jumpcloud__services=["software", "alert", "quantum_badges"])
    assert asked(api)[0]["service"] == ["software", "alert", "quantum_badges"]
    assert "Unsupported service: quantum_badges; supported: " in said
    run(api, jumpcloud__services=["software", "alert", "alerts", "workflows"])


# jumpcloud-wazuh-bridge, Sentinel, PostHog


def test_bridge_an_event_that_appears_after_its_poll_is_collected(
    run: Run, api: SimulatedApi, source: EventSource, shift: Shift, receiver: SimulatedReceiver
) -> None:
    """The next poll reaches back over the end of the last: what appeared in between arrives."""
    now = time.time_ns() // 1_000_000
    event = {"id": "appears later", "timestamp": rfc3339(now - 20_000)}
    source.add(event, timestamp_ms=now - 20_000, visible_ms=now + MINUTE)
    run(api)
    assert "appears later" not in receiver.ids
    shift.ms = 2 * MINUTE
    run(api)
    assert all_once(receiver, source)


def test_sentinel_hours_are_of_24(client: Client) -> None:
    """Windows of the afternoon bring the events of the afternoon."""
    noon = NOW - NOW % (24 * HOUR) - 12 * HOUR
    source = EventSource(start_ms=noon - 12 * HOUR, end_ms=noon + 12 * HOUR, per_minute=0.1)
    with SimulatedApi(source, api_key=KEY, clock=lambda: NOW) as api:
        for hour in range(-12, 12):
            start = noon + hour * HOUR
            window = Window(start_ms=start, end_ms=start + HOUR, services=("all",), limit=100)
            expected = [item.raw for item in source.between(start, start + HOUR, now_ms=NOW)]
            assert fetch_all(client(api.url), window) == expected
        hours = [query["start_time"][11:13] for query in asked(api)]
    assert hours == [f"{hour:02d}" for hour in range(24)]


def test_sentinel_a_cursor_is_not_kept_for_ever(run: Run, api: SimulatedApi) -> None:
    """Every window begins without a cursor, and a cursor is sent only with the very query that it came from."""
    for _ in range(2):
        run(api, jumpcloud__page_limit=50, jumpcloud__window="30m")
    windows = [list(pages) for _, pages in itertools.groupby(asked(api), key=_query)]
    assert len(windows) > 4
    assert len({json.dumps(_query(pages[0])) for pages in windows}) == len(windows)
    for first, *others in windows:
        assert "search_after" not in first
        assert all("search_after" in page for page in others)
    assert {request.status for request in api.requests} == {200}


def _query(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "search_after"}


def test_posthog_watermarks_are_not_cut_to_seconds(run: Run, api: SimulatedApi, command: Command) -> None:
    """A poll begins exactly the overlap before the millisecond at which the last one ended, never after it."""
    run(api)
    end = ms(asked(api)[-1]["end_time"])
    assert [position["watermark_ms"] for position in command.positions().values()] == [end]
    count = len(asked(api))
    run(api)
    assert ms(asked(api)[count]["start_time"]) == end - 2 * MINUTE


# Serverless


def test_serverless_2_0_2_windows_leave_no_gap(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """Over windows and runs, every millisecond from the start to the last poll is asked for."""
    run(api, jumpcloud__window="25m")
    run(api, jumpcloud__window="25m")
    spans = sorted({(ms(query["start_time"]), ms(query["end_time"])) for query in asked(api)})
    reached = spans[0][1]
    assert spans[0][0] <= source.between(0, NOW * 2, now_ms=NOW * 2)[0].timestamp_ms
    for start, end in spans:
        assert start <= reached
        reached = max(reached, end)
    assert all_once(receiver, source)


@pytest.mark.parametrize("fault", [Fault("status", status=429, retry_after="0"), Fault("status"), Fault("cut")])
def test_serverless_cut_4618_limits_and_faults_make_no_gap(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver, fault: Fault
) -> None:
    """A page that is throttled, fails or breaks off is asked for again, and never skipped."""
    api.faults.once(fault, fault)
    run(api, jumpcloud__page_limit=100)
    assert api.faults.given[fault.kind] == 2
    assert all_once(receiver, source)


# Field notes, SecOps


def test_field_notes_402_is_not_retried_for_weeks(run: Run, api: SimulatedApi) -> None:
    """An account without Directory Insights is told so, at once, and JumpCloud is not asked over and over."""
    api.faults.always(Fault("status", status=402, message="Payment Required"))
    said = run(api, code=1)
    assert "JumpCloud answered 402: Payment Required" in said
    assert "Directory Insights is not enabled" in said
    assert len(api.requests) < 8


def test_field_notes_402_asks_for_a_later_start(client: Client) -> None:
    """A plan that does not reach back so far is an error of its own, on the first page and on a later one."""
    with SimulatedApi(EventSource(start_ms=BEGIN), api_key=KEY, clock=lambda: NOW) as api:
        window = Window(start_ms=BEGIN, end_ms=NOW, services=("all",), limit=10)
        one = client(api.url)
        for each in (window, window.after(fetch(one, window).cursor)):
            api.faults.once(Fault("status", status=402))
            error = failure(one, each)
            assert type(error) is NotLicensed
            assert isinstance(error, RequestRejected)


def test_field_notes_booleans_are_never_sent(run: Run, api: SimulatedApi) -> None:
    """No query holds a search, which is what JumpCloud refuses booleans in; only the documented keys go out."""
    run(api, jumpcloud__page_limit=100)
    for query in asked(api):
        assert set(query) - {"search_after"} == {"service", "start_time", "end_time", "limit", "sort"}
        assert not [value for value in query.values() if isinstance(value, bool)]


def test_secops_what_cannot_be_parsed_is_not_dropped(
    run: Run, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """Events that are no sound JSON, or no object, arrive with the others of their page."""
    moment = time.time_ns() // 1_000_000 - HOUR
    odd = [b'{"id":"a","n":NaN}', b'{"id":"b","t":"\\ud800"}', b'"text"', b"[1,2]", b'{"id":"\xff"}', b"nonsense"]
    for raw in odd:
        source.add(raw, timestamp_ms=moment)
    run(api)
    assert receiver.received == total(source)


def test_own_organization_is_not_named(client: Client) -> None:
    """A key that sees one organization sends no x-org-id, which such keys are refused with."""
    with SimulatedApi(EventSource(start_ms=BEGIN), api_key=KEY, clock=lambda: NOW) as api:
        fetch(client(api.url), Window(start_ms=BEGIN, end_ms=NOW, services=("all",), limit=10), OWN)
        assert "x-org-id" not in api.requests[0].headers
