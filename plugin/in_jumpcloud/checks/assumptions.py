"""Tests, on a real tenant, what delivery relies on. Read-only, and in less than MAX_REQUESTS requests.

The results name no person, address or id: they can be pasted into a bug report.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Self

from in_jumpcloud import app
from in_jumpcloud.checks.result import OTHER, CheckResult, ok, warning
from in_jumpcloud.config.schema import Config
from in_jumpcloud.errors import InJumpCloudError, KeyRefused, Stopped
from in_jumpcloud.insights import auth
from in_jumpcloud.insights.api import DirectoryInsights, Scope
from in_jumpcloud.insights.event import RawEvent, parse_event
from in_jumpcloud.insights.http_exchange import HttpResponse
from in_jumpcloud.insights.pages import split_page
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.window import Window
from in_jumpcloud.runtime import SYSTEM
from in_jumpcloud.timestamps import DAY_MS, MINUTE_MS, parse_http_date

MAX_REQUESTS = 30
_MIN_EVENTS, _MAX_EVENTS = 6, 500
_DAYS = 7
_SETTLED_MS = 15 * MINUTE_MS
"""Newer events may still appear while they are counted."""
_MAX_SKEW_SECONDS = 300
_PLANS = (90, 30, 15, 7, 1)
_OK, _BAD_REQUEST, _PAYMENT_REQUIRED = 200, 400, 402


class _Untested(Exception):
    """An assumption could not be tested; the text says why."""


class _Broken(Exception):
    """An assumption does not hold; the text says what was seen instead."""


class _Answer(NamedTuple):
    """One answer of `/events`: its raw rows, the same identified, and its headers."""

    rows: Sequence[bytes]
    events: Sequence[RawEvent]
    response: HttpResponse

    def number(self, name: str) -> int | None:
        """The number in a header."""
        text = self.response.headers.get(name, "")
        return int(text) if text.isascii() and text.isdigit() else None


class _Tenant:
    """Asks one tenant, and keeps what it has answered."""

    def __init__(self, settings: Config, stop: threading.Event) -> None:
        limiter = RateLimiter(settings.jumpcloud.requests_per_second)
        self._api = DirectoryInsights(settings.jumpcloud, auth.create_auth(settings.jumpcloud, limiter), limiter)
        self._services = settings.jumpcloud.services
        self._scope: Scope = app.streams(settings)[0].scope
        self._stop = stop
        self.requests = 0
        self.dates: list[tuple[str | None, float]] = []
        """The `Date` of each answer, and this machine's clock when it arrived, in epoch seconds."""
        self.throttled: list[str] = []
        """The `Retry-After` of each answer 429."""
        self.counts: dict[int, int] = {}
        self.span = (0, 0)
        self.whole = _Answer([], [], HttpResponse(0, "", {}, b"", {}))
        """All events of `span`, in one page."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._api.close()

    def find_span(self, now_ms: int) -> None:
        """Find a span of some minutes with a handful of events, and read it.

        Raises:
            _Untested: there is none.
            InJumpCloudError: as DirectoryInsights.counts.
        """
        end_ms = (now_ms - _SETTLED_MS) // MINUTE_MS * MINUTE_MS
        for _ in range(_DAYS):
            counts = self._count(end_ms - DAY_MS, end_ms)
            found = _busy_span(counts)
            if found:
                self.counts, self.span = counts, found
                self.whole = self.page(*found, limit=_MAX_EVENTS + 1)
                return
            end_ms -= DAY_MS
        raise _Untested(f"no minutes with {_MIN_EVENTS} to {_MAX_EVENTS} events in the last {_DAYS} days")

    def page(self, start_ms: int, end_ms: int, *, limit: int, after: str | None = None) -> _Answer:
        """A page of the events in `[start_ms, end_ms)`.

        Raises:
            _Broken: the answer is not a page.
        """
        response = self.ask(start_ms, end_ms, limit=limit, after=after)
        if response.status != _OK:
            raise _Broken(f"status {response.status}")
        rows = [bytes(each) for each in split_page(response.body)]
        return _Answer(rows, [parse_event(each) for each in rows], response)

    def ask(self, start_ms: int, end_ms: int, *, limit: int, after: str | None = None) -> HttpResponse:
        """The answer to a query for events, of whatever status."""
        window = Window(start_ms=start_ms, end_ms=end_ms, services=self._services, limit=limit, cursor=after)
        return self._note(self._api.ask("events", window.query(), self._scope, self._stop))

    def _count(self, start_ms: int, end_ms: int) -> dict[int, int]:
        self.requests += 1
        return self._api.counts(start_ms, end_ms, self._services, self._scope, self._stop)

    def _note(self, response: HttpResponse) -> HttpResponse:
        self.requests += 1
        self.dates.append((response.headers.get("Date"), SYSTEM.now_ns() / 1e9))
        if response.status == 429:  # noqa: PLR2004
            self.throttled.append(response.headers.get("Retry-After", ""))
        return response


class Assumption(NamedTuple):
    """What delivery relies on. `test` returns what was seen; it raises _Broken or _Untested."""

    name: str
    relies: str
    test: Callable[[_Tenant], str]


def check_assumptions(settings: Config, stop: threading.Event) -> Iterator[CheckResult]:
    """Test each assumption; one result each. A failure does not end the others."""
    with _Tenant(settings, stop) as tenant:
        why = ""
        try:
            tenant.find_span(SYSTEM.now_ms())
        except (KeyRefused, Stopped):
            raise
        except (InJumpCloudError, _Untested, _Broken) as error:
            why = str(error)
        for assumption in ASSUMPTIONS:
            yield _result(assumption, tenant, why)
        yield ok("requests", f"{tenant.requests} requests, no event was changed or kept")


def _result(assumption: Assumption, tenant: _Tenant, why: str) -> CheckResult:
    name, relies, test = assumption
    try:
        if not why or assumption in _WITHOUT_EVENTS:
            return ok(name, f"holds: {test(tenant)}")
    except _Untested as error:
        why = str(error)
    except (KeyRefused, Stopped):
        raise
    except (_Broken, InJumpCloudError, IndexError, ValueError) as error:
        text = str(error) or type(error).__name__
        return CheckResult("FAILED", name, f"does not hold: {text}", f"needed for: {relies}", OTHER)
    return warning(name, f"could not be tested: {why}", f"needed for: {relies}")


def _busy_span(counts: dict[int, int]) -> tuple[int, int] | None:
    """The newest minutes that together have enough events and not too many, as `[start, end)` in milliseconds."""
    minutes: list[int] = []
    total = 0
    for minute in sorted(counts, reverse=True):
        if counts[minute] > _MAX_EVENTS - total:
            minutes, total = [], 0
            continue
        minutes.append(minute)
        total += counts[minute]
        if total >= _MIN_EVENTS:
            return minute * MINUTE_MS, (minutes[0] + 1) * MINUTE_MS
    return None


def _counts_are_rows(tenant: _Tenant) -> str:
    seen = Counter(event.key.minute for event in tenant.whole.events)
    first, end = (each // MINUTE_MS for each in tenant.span)
    wanted = {minute: count for minute, count in tenant.counts.items() if first <= minute < end}
    if seen != wanted:
        different = sum(seen[minute] != wanted.get(minute, 0) for minute in seen.keys() | wanted.keys())
        raise _Broken(f"{sum(wanted.values())} counted and {sum(seen.values())} returned, {different} minutes differ")
    return f"{sum(wanted.values())} events in {len(wanted)} minutes"


def _missing_is_zero(tenant: _Tenant) -> str:
    first, end = (each // MINUTE_MS for each in tenant.span)
    empty = next((minute for minute in range(end - 1, first - 60, -1) if minute not in tenant.counts), None)
    if empty is None:
        raise _Untested("every minute has events")
    page = tenant.page(empty * MINUTE_MS, (empty + 1) * MINUTE_MS, limit=10)
    if page.rows:
        raise _Broken(f"{len(page.rows)} events in a minute without a count")
    return "a minute without a count has no event"


def _is_ascending(tenant: _Tenant) -> str:
    times = [event.time_ns or 0 for event in tenant.whole.events]
    if times != sorted(times):
        raise _Broken("events are not sorted by time")
    return f"{len(times)} events"


def _ids_are_unique(tenant: _Tenant) -> str:
    keys = {event.key for event in tenant.whole.events}
    if len(keys) < len(tenant.whole.events):
        raise _Broken(f"{len(tenant.whole.events)} rows are {len(keys)} different events")
    ids = {event.id for event in tenant.whole.events}
    return f"{len(keys)} events, {len(ids)} ids"


def _same_twice(tenant: _Tenant) -> str:
    again = tenant.page(*tenant.span, limit=_MAX_EVENTS + 1)
    if again.rows != tenant.whole.rows:
        raise _Broken("the second answer to the same query has other rows or other bytes")
    return "the same query twice gives the same bytes"


def _headers_count(tenant: _Tenant) -> str:
    page = tenant.whole
    count, limit = page.number("X-Result-Count"), page.number("X-Limit")
    if count is None:
        raise _Broken("there is no X-Result-Count")
    if count != len(page.rows):
        raise _Broken(f"X-Result-Count is {count}, and there are {len(page.rows)} rows")
    if limit not in (None, _MAX_EVENTS + 1):
        raise _Broken(f"X-Limit is {limit}, and {_MAX_EVENTS + 1} was asked for")
    return "X-Result-Count is the number of rows"


def _cursor_continues(tenant: _Tenant) -> str:
    rows, limit = tenant.whole.rows, max(2, len(tenant.whole.rows) // 3)
    first = tenant.page(*tenant.span, limit=limit)
    cursor = first.response.headers.get("X-Search_after")
    second = tenant.page(*tenant.span, limit=limit, after=cursor)
    if [*first.rows, *second.rows] != list(rows[: 2 * limit]):
        raise _Broken("the pages together are not the beginning of the whole")
    again = tenant.page(*tenant.span, limit=limit, after=cursor)
    if again.rows != second.rows:
        raise _Broken("the same cursor leads to other rows the second time")
    return f"two pages of {limit} are the beginning of the whole, also with a cursor that was used before"


def _full_page_has_next(tenant: _Tenant) -> str:
    limit = len(tenant.whole.rows)
    full = tenant.page(*tenant.span, limit=limit)
    last = tenant.page(*tenant.span, limit=limit, after=full.response.headers.get("X-Search_after"))
    if len(full.rows) != limit or last.rows:
        raise _Broken(f"{len(full.rows)} of {limit} rows, and {len(last.rows)} on the page after them")
    return "a page is full exactly when there may be another"


def _bounds(tenant: _Tenant) -> str:
    event = tenant.whole.events[len(tenant.whole.events) // 2]
    at_ms = (event.time_ns or 0) // 1_000_000
    before = tenant.page(tenant.span[0], max(at_ms, tenant.span[0] + 1), limit=_MAX_EVENTS)
    inside = tenant.page(at_ms, at_ms + 1, limit=_MAX_EVENTS)
    if any(each.key == event.key for each in before.events) and at_ms > tenant.span[0]:
        raise _Broken("an event at end_time is returned")
    if all(each.key != event.key for each in inside.events):
        raise _Broken("an event in the millisecond of start_time is not returned")
    return "start_time is included, end_time is not, and milliseconds count"


def _dated(tenant: _Tenant) -> str:
    differences = []
    for text, ours in tenant.dates:
        moment = parse_http_date(text)
        if moment is None:
            raise _Broken("an answer has no Date")
        differences.append(ours - moment.timestamp())
    if not differences:
        raise _Untested("no answer")
    worst = max(differences, key=abs)
    if abs(worst) > _MAX_SKEW_SECONDS:
        raise _Broken(f"Date and this machine's clock differ by {worst:.0f} s")
    return f"{len(differences)} answers, at most {abs(worst):.0f} s from this machine's clock"


def _retention(tenant: _Tenant) -> str:
    now_ms = SYSTEM.now_ms()
    for days in _PLANS:
        start_ms = now_ms - days * DAY_MS + MINUTE_MS
        response = tenant.ask(start_ms, start_ms + 1000, limit=1)
        if response.status == _OK:
            return f"{days} days can be asked for"
        if response.status != _PAYMENT_REQUIRED:
            raise _Broken(f"status {response.status} for events {days} days ago")
    raise _Broken("status 402 for the last day")


def _future_is_refused(tenant: _Tenant) -> str:
    start_ms = SYSTEM.now_ms() + DAY_MS
    response = tenant.ask(start_ms, start_ms + 1000, limit=1)
    if response.status not in (_OK, _BAD_REQUEST):
        raise _Broken(f"status {response.status}")
    if response.status == _OK and split_page(response.body):
        raise _Broken("there are events of tomorrow")
    return f"status {response.status}"


def _retry_after(tenant: _Tenant) -> str:
    if not tenant.throttled:
        raise _Untested("no request was throttled")
    text = tenant.throttled[0]
    if not (text.isdigit() or parse_http_date(text)):
        raise _Broken(f"Retry-After is {text[:40]!r}")
    return "seconds" if text.isdigit() else "a date"


ASSUMPTIONS = (
    Assumption("counts", "finding late events", _counts_are_rows),
    Assumption("sparse counts", "finding late events", _missing_is_zero),
    Assumption("order", "the position of a stream", _is_ascending),
    Assumption("ids", "removing duplicates", _ids_are_unique),
    Assumption("repeatable", "resuming after a crash", _same_twice),
    Assumption("result count", "noticing a page that is cut", _headers_count),
    Assumption("cursor", "paging, and resuming after a crash", _cursor_continues),
    Assumption("full page", "knowing when a window is read", _full_page_has_next),
    Assumption("bounds", "windows without a gap", _bounds),
    Assumption("retention", "where a new stream begins", _retention),
    Assumption("future", "a wrong clock", _future_is_refused),
    Assumption("date", "a wrong clock", _dated),
    Assumption("Retry-After", "waiting as long as JumpCloud asks", _retry_after),
)
"""In this order: the later ones use the answers to the earlier ones."""
_WITHOUT_EVENTS = ASSUMPTIONS[-4:]
