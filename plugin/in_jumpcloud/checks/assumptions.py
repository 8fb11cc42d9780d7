"""Tests, on a real tenant, what delivery relies on. Read-only, and in less than MAX_REQUESTS requests.

The results name no person, address or id: they can be pasted into a bug report.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from requests import codes

from in_jumpcloud.checks.result import OTHER, CheckResult, ok, warning
from in_jumpcloud.checks.tenant import LIMIT, Answer, Broken, Tenant, Untested, as_page
from in_jumpcloud.config.schema import Config
from in_jumpcloud.insights.api import header_number
from in_jumpcloud.insights.clock import MAX_SKEW_SECONDS
from in_jumpcloud.insights.plan import PLAN_DAYS
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, parse_http_date

_ENCODINGS = {"", "identity", "gzip"}
_NS_PER_MS = 1_000_000


class Assumption(NamedTuple):
    """What delivery relies on. `test` returns what was seen; it raises Broken or Untested."""

    name: str
    relies: str
    test: Callable[[Tenant], str]


def check_assumptions(settings: Config, stop: threading.Event) -> Iterator[CheckResult]:
    """Test each assumption; one result each. A failure does not end the others.

    Raises:
        KeyRefused, Stopped: nothing more can be tested.
    """
    with Tenant(settings, stop) as tenant:
        for assumption in ASSUMPTIONS:
            yield _result(assumption, tenant)
        streams = "" if tenant.streams == 1 else f" for the first of {tenant.streams} streams"
        yield ok("requests", f"{tenant.requests} requests{streams}; nothing was changed")


def _result(assumption: Assumption, tenant: Tenant) -> CheckResult:
    name, relies, test = assumption
    needed = f"needed for: {relies}"
    try:
        return CheckResult("ok", name, f"holds: {test(tenant)}", needed)
    except Untested as error:
        return warning(name, f"could not be tested: {error}", needed)
    except Broken as error:
        return CheckResult("FAILED", name, f"does not hold: {error}", needed, OTHER)


def _retention(tenant: Tenant) -> str:
    now_ms = tenant.now_ms()
    for days in PLAN_DAYS:
        response = tenant.ask(now_ms - days * DAY_MS + HOUR_MS, now_ms, limit=1)
        if response.status == codes.ok:
            return f"{days} days can be asked for; {_age(as_page(response), now_ms)}"
        if response.status != codes.payment_required:
            raise Broken(f"status {response.status} for the events of {days} days")
    raise Broken("status 402 for the last day")


def _age(page: Answer, now_ms: int) -> str:
    """How old the first event of a page is."""
    times = [event.time_ns for event in page.events if event.time_ns is not None]
    return f"the oldest event is {(now_ms - times[0] // _NS_PER_MS) / DAY_MS:.1f} days old" if times else "no events"


def _future_is_refused(tenant: Tenant) -> str:
    start_ms = tenant.now_ms() + DAY_MS
    response = tenant.ask(start_ms, start_ms + 1000, limit=1)
    if response.status not in {codes.ok, codes.bad_request}:
        raise Broken(f"status {response.status}")
    if response.status == codes.ok and as_page(response).rows:
        raise Broken("there are events of tomorrow")
    return f"status {response.status}"


def _counts_are_rows(tenant: Tenant) -> str:
    start_ms, end_ms = tenant.span
    seen, counted = tenant.whole.minutes(), tenant.counts(start_ms, end_ms)
    if seen != counted:  # an event may have appeared in between
        seen = tenant.page(start_ms, end_ms).minutes()
    if seen != counted:
        different = sum(seen[minute] != counted.get(minute, 0) for minute in seen.keys() | counted.keys())
        raise Broken(f"{sum(counted.values())} counted and {seen.total()} returned, {different} minutes differ")
    return f"{seen.total()} events, as many in each minute as counted"


def _missing_is_zero(tenant: Tenant) -> str:
    start_ms, end_ms = tenant.span
    counts = tenant.counts(start_ms - HOUR_MS, end_ms)
    if tenant.whole.minutes().keys() - counts.keys():
        raise Broken("a minute without a count has events")
    minutes = range(end_ms // MINUTE_MS - 1, (start_ms - HOUR_MS) // MINUTE_MS, -1)
    empty = next((minute for minute in minutes if minute not in counts), None)
    if empty is None:
        raise Untested("every minute has events")
    if tenant.page(empty * MINUTE_MS, (empty + 1) * MINUTE_MS, limit=10).rows:
        raise Broken("a minute without a count has events")
    return "a minute without a count has no event"


def _is_ascending(tenant: Tenant) -> str:
    times = [event.time_ns for event in tenant.whole.events if event.time_ns is not None]
    if [each // _NS_PER_MS for each in times] != sorted(each // _NS_PER_MS for each in times):
        raise Broken("events are not sorted by time")
    return f"{len(times)} of {len(tenant.whole.events)} events have a time, and are sorted by it"


def _ids_are_unique(tenant: Tenant) -> str:
    rows, keys = len(tenant.whole.rows), len({event.key for event in tenant.whole.events})
    if keys < rows:
        raise Broken(f"{rows} rows are {keys} different events")
    return f"{rows} rows are {keys} events with {len({event.id for event in tenant.whole.events})} ids"


def _same_twice(tenant: Tenant) -> str:
    again, whole = tenant.page(*tenant.span), tenant.whole
    if [each.key for each in again.events] != [each.key for each in whole.events]:
        raise Broken("the same query has other events the second time")
    if again.rows != whole.rows:
        raise Broken("the same events have other bytes the second time")
    return "the same query has the same bytes the second time"


def _headers_count(tenant: Tenant) -> str:
    page = tenant.whole
    count, limit = header_number(page.headers, "X-Result-Count"), header_number(page.headers, "X-Limit")
    if count is None:
        raise Broken("there is no number in X-Result-Count")
    if count != len(page.rows):
        raise Broken(f"X-Result-Count is {count}, and there are {len(page.rows)} rows")
    if limit not in (None, LIMIT):
        raise Broken(f"X-Limit is {limit}, and {LIMIT} was asked for")
    return f"X-Result-Count is the number of rows, X-Limit is {'missing' if limit is None else 'what was asked for'}"


def _cursor_continues(tenant: Tenant) -> str:
    rows, limit = tenant.whole.rows, max(2, len(tenant.whole.rows) // 3)
    first = tenant.page(*tenant.span, limit=limit)
    if first.cursor is None:
        raise Broken("there is no X-Search_after")
    second = tenant.page(*tenant.span, limit=limit, after=first.cursor)
    if [*first.rows, *second.rows] != list(rows[: 2 * limit]):
        raise Broken("the pages together are not the beginning of the whole")
    again = tenant.page(*tenant.span, limit=limit, after=first.cursor)
    if again.rows != second.rows:
        raise Broken("the same cursor leads to other rows the second time")
    return f"two pages of {limit} are the beginning of the whole, and a cursor leads to the same page twice"


def _short_page_is_last(tenant: Tenant) -> str:
    count = len(tenant.whole.rows)
    if tenant.whole.cursor is None:
        raise Broken("there is no X-Search_after")
    more = tenant.page(*tenant.span, after=tenant.whole.cursor)
    if more.rows:
        raise Broken(f"{len(more.rows)} rows are behind a page of {count}, of at most {LIMIT}")
    full = tenant.page(*tenant.span, limit=count)
    if len(full.rows) != count:
        raise Broken(f"a page of {count} events has {len(full.rows)} rows")
    return "nothing is behind a page that is not full"


def _bounds(tenant: Tenant) -> str:
    (start_ms, end_ms), at_ms = tenant.span, _middle_ms(tenant, in_whole_seconds=True)
    before, after = tenant.page(start_ms, at_ms), tenant.page(at_ms, end_ms)
    expected = [(event.time_ns or 0) // _NS_PER_MS < at_ms for event in tenant.whole.events].count(True)
    if len(before.rows) > expected:
        raise Broken("an event at end_time is returned")
    if [*before.rows, *after.rows] != tenant.whole.rows:
        raise Broken("an event at start_time is not returned, or one before it is")
    return "start_time is included, end_time is not"


def _milliseconds(tenant: Tenant) -> str:
    at_ms = _middle_ms(tenant, in_whole_seconds=False)
    expected = [event.key for event in tenant.whole.events if (event.time_ns or 0) // _NS_PER_MS == at_ms]
    found = [event.key for event in tenant.page(at_ms, at_ms + 1).events]
    if found != expected:
        raise Broken(f"{len(expected)} events are in a millisecond, and {len(found)} are returned")
    return "one millisecond can be asked for"


def _middle_ms(tenant: Tenant, *, in_whole_seconds: bool) -> int:
    """The time of an event, about the middle one, in milliseconds since the epoch; not at the start of the span.

    Raises:
        Untested: there is none.
    """
    times = [(event.time_ns or 0) // _NS_PER_MS for event in tenant.whole.events]
    possible = [each for each in times if each > tenant.span[0] and (in_whole_seconds or each % 1000)]
    if not possible:
        raise Untested("no event has such a time")
    return possible[len(possible) // 2]


def _encodings(tenant: Tenant) -> str:
    found = {each.headers.get("Content-Encoding", "").lower() for each in tenant.seen}
    if not found:
        raise Untested("no answer")
    if found - _ENCODINGS:
        raise Broken("an answer has another Content-Encoding than gzip")
    return "some answers are compressed" if "gzip" in found else "no answer is compressed"


def _dated(tenant: Tenant) -> str:
    answers = [each.ahead_seconds for each in tenant.seen if each.status == codes.ok]
    if not answers:
        raise Untested("no answer")
    known = [each for each in answers if each is not None]
    if len(known) < len(answers):
        raise Broken(f"{len(answers) - len(known)} of {len(answers)} answers have no Date")
    worst = max(known, key=abs)
    if abs(worst) > MAX_SKEW_SECONDS:
        raise Broken(f"this machine's clock is {abs(worst):.0f} s {'ahead of' if worst > 0 else 'behind'} Date")
    return f"{len(known)} answers, at most {abs(worst):.0f} s from this machine's clock"


def _retry_after(tenant: Tenant) -> str:
    throttled = [each for each in tenant.seen if each.status == codes.too_many_requests]
    if not throttled:
        raise Untested("no request was throttled")
    text = throttled[0].headers.get("Retry-After")
    if text is None:
        return "absent"
    if text.isascii() and text.isdigit():
        return f"{text:.9} seconds"
    if parse_http_date(text) is None:
        raise Broken("it is neither a number of seconds nor a date")
    return "a date"


ASSUMPTIONS = (
    Assumption("retention", "where a new stream begins", _retention),
    Assumption("future", "a wrong clock", _future_is_refused),
    Assumption("counts", "finding late events", _counts_are_rows),
    Assumption("sparse counts", "finding late events", _missing_is_zero),
    Assumption("order", "the position of a stream", _is_ascending),
    Assumption("ids", "removing duplicates", _ids_are_unique),
    Assumption("repeatable", "removing duplicates, resuming after a crash", _same_twice),
    Assumption("result count", "noticing a page that is cut", _headers_count),
    Assumption("cursor", "paging, resuming after a crash", _cursor_continues),
    Assumption("last page", "knowing when a window is read", _short_page_is_last),
    Assumption("bounds", "windows without a gap", _bounds),
    Assumption("milliseconds", "windows without a gap", _milliseconds),
    Assumption("encoding", "reading answers", _encodings),
    Assumption("date", "a wrong clock", _dated),
    Assumption("Retry-After", "waiting as long as JumpCloud asks", _retry_after),
)
"""In this order: the last three judge all answers. The first answer says what time it is."""
