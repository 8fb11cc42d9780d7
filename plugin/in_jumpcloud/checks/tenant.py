"""Asks a real tenant for events and counts. Keeps what was seen of the answers, without their content."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from requests import codes
from requests.auth import AuthBase

from in_jumpcloud.config.schema import Config
from in_jumpcloud.discovery import list_of
from in_jumpcloud.errors import InJumpCloudError, KeyRefused, PageTooLarge, Retryable, Stopped
from in_jumpcloud.insights import auth
from in_jumpcloud.insights.api import DirectoryInsights
from in_jumpcloud.insights.event import RawEvent, parse_event
from in_jumpcloud.insights.http_exchange import Exchange, HttpExchange, HttpResponse
from in_jumpcloud.insights.pages import split_page
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.window import Window
from in_jumpcloud.runtime import SYSTEM
from in_jumpcloud.streams import known_streams, streams
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, parse_http_date, whole_minute

MAX_REQUESTS = 30
"""Fewer requests than this are sent."""
LIMIT = 501
"""Events of the page that has a whole span."""
_MIN_EVENTS, _MAX_EVENTS = 6, LIMIT - 1
_MIN_ROWS = 3
"""Of the page: it may have fewer rows than it should, which is for the assumptions to find."""
_COUNTED_DAYS = 4
_READ_HOURS = (1, 24, 7 * 24)
_SETTLED_MS = 15 * MINUTE_MS
"""Newer events may still appear while they are counted."""


class Broken(Exception):
    """An assumption does not hold; the text says what was seen instead. It has nothing that an answer contains."""


class Untested(Exception):
    """An assumption could not be tested; the text says why. It has nothing that an answer contains."""


class Seen(NamedTuple):
    """An answer without its body, and this machine's clock when it arrived, in seconds since the epoch."""

    status: int
    headers: Mapping[str, str]
    arrived: float

    @property
    def ahead_seconds(self) -> float | None:
        """How far this machine's clock was ahead of the answer's `Date`; None without one."""
        moment = parse_http_date(self.headers.get("Date"))
        return None if moment is None else self.arrived - moment.timestamp()


class Answer(NamedTuple):
    """One answer of `/events`: its raw rows, the same identified, and its headers."""

    rows: Sequence[bytes]
    events: Sequence[RawEvent]
    headers: Mapping[str, str]

    @property
    def cursor(self) -> str | None:
        """What leads to the next page."""
        return self.headers.get("X-Search_after")

    def minutes(self) -> Counter[int]:
        """The number of events in each minute since the epoch."""
        return Counter(event.key.minute for event in self.events)


class _Recorder(Exchange):
    """Sends requests until there are too many, or JumpCloud throttles them, and keeps what was seen of the answers."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.requests = 0
        self.seen: list[Seen] = []

    def __call__(self, url: str, body: bytes | None, headers: Mapping[str, str], auth: AuthBase) -> HttpResponse:
        if any(each.status == codes.too_many_requests for each in self.seen):
            raise Untested("JumpCloud throttles the requests (429), so no more were sent; run it again later")
        if self.requests + 1 >= MAX_REQUESTS:
            raise Untested("it needs too many requests")
        self.requests += 1
        response = self._exchange(url, body, headers, auth)
        self.seen.append(Seen(response.status, response.headers, SYSTEM.now_ns() / 1e9))
        return response

    def close(self) -> None:
        self._exchange.close()


class Tenant:
    """The first stream of a configuration."""

    def __init__(self, settings: Config, stop: threading.Event) -> None:
        jumpcloud = settings.jumpcloud
        limiter = RateLimiter(jumpcloud.requests_per_second)
        self._recorder = _Recorder(HttpExchange(jumpcloud))
        access = auth.create_auth(jumpcloud, limiter, exchange=self._recorder)
        self._api = DirectoryInsights(jumpcloud, access, limiter, exchange=self._recorder)
        self._services = jumpcloud.services
        found = known_streams(settings) or streams(
            settings, list_of(jumpcloud, self._api.organizations)(stop).organizations
        )
        self._scope = found[0].scope
        self._stop = stop
        self._span: tuple[tuple[int, int], Answer] | Untested | None = None
        self.streams = len(found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._api.close()

    @property
    def requests(self) -> int:
        """How many were sent."""
        return self._recorder.requests

    @property
    def seen(self) -> Sequence[Seen]:
        """All answers, in order."""
        return self._recorder.seen

    def now_ms(self) -> int:
        """Now by JumpCloud's clock, if it has answered: this machine's may be wrong."""
        ahead = next((each.ahead_seconds for each in self.seen if each.ahead_seconds is not None), 0.0)
        return SYSTEM.now_ms() - round(ahead * 1000)

    @property
    def span(self) -> tuple[int, int]:
        """Some whole minutes with a handful of events, as `[start, end)`. Raises as `whole`."""
        return self._found()[0]

    @property
    def whole(self) -> Answer:
        """All events of `span`, in one page.

        Raises:
            Untested: there are no such minutes, or they cannot be read.
            KeyRefused, Stopped: as DirectoryInsights.
        """
        return self._found()[1]

    def page(self, start_ms: int, end_ms: int, *, limit: int = LIMIT, after: str | None = None) -> Answer:
        """A page of the events in `[start_ms, end_ms)`.

        Raises:
            Broken: JumpCloud refuses the query, or the answer is not a page.
            Untested, KeyRefused, Stopped: as `ask`.
        """
        return as_page(self.ask(start_ms, end_ms, limit=limit, after=after))

    def ask(self, start_ms: int, end_ms: int, *, limit: int = LIMIT, after: str | None = None) -> HttpResponse:
        """The answer to a query for events, of a status that another try would not change.

        Raises:
            Broken: `after` is no cursor.
            Untested: there is no such answer.
            KeyRefused, Stopped: as DirectoryInsights.
        """
        window = Window(start_ms=start_ms, end_ms=end_ms, services=self._services, limit=limit, cursor=after)
        try:
            query = window.query()
        except ValueError:
            raise Broken("X-Search_after is not JSON") from None
        try:
            response = self._api.ask("events", query, self._scope, self._stop)
        except (Retryable, PageTooLarge) as error:
            raise Untested(_unanswered(error)) from None
        if response.status == codes.unauthorized:
            raise KeyRefused("JumpCloud answered 401", advice="run in-jumpcloud check, which says more")
        if response.status in {codes.request_timeout, codes.too_many_requests} or response.status >= codes.server_error:
            raise Untested(f"status {response.status}")
        return response

    def counts(self, start_ms: int, end_ms: int) -> dict[int, int]:
        """The number of events in each minute of `[start_ms, end_ms)`, by minutes since the epoch.

        Raises:
            Broken: JumpCloud does not count, or not by minute.
            Untested, KeyRefused, Stopped: as `ask`.
        """
        try:
            return self._api.counts(start_ms, end_ms, self._services, self._scope, self._stop)
        except (KeyRefused, Stopped):
            raise
        except Retryable as error:
            raise Untested(_unanswered(error)) from None
        except InJumpCloudError:
            status = self.seen[-1].status
            seen = "they are not counts of these minutes" if status == codes.ok else f"status {status}"
            raise Broken(f"there are no usable counts: {seen}") from None

    def _found(self) -> tuple[tuple[int, int], Answer]:
        if self._span is None:
            try:
                self._span = self._find()
            except Broken as error:
                self._span = Untested(str(error))
            except Untested as error:
                self._span = error
        if isinstance(self._span, Untested):
            raise self._span
        return self._span

    def _find(self) -> tuple[tuple[int, int], Answer]:
        """Find the span by the counts; if these cannot be used, by reading."""
        end_ms = whole_minute(self.now_ms() - _SETTLED_MS)
        try:
            counts = self._newest_counts(end_ms)
        except Broken:
            counts = {}
        if found := self._read(busy_span(counts)):
            return found
        for hours in _READ_HOURS:
            page = self.page(end_ms - hours * HOUR_MS, end_ms)
            minutes = page.minutes()
            if len(page.rows) == LIMIT:
                del minutes[max(minutes)]  # the page may end within it
            if found := self._read(busy_span(minutes)):
                return found
        raise Untested(f"no minutes with {_MIN_EVENTS} to {_MAX_EVENTS} events in the last days")

    def _newest_counts(self, end_ms: int) -> dict[int, int]:
        """The counts of the newest day that has a span."""
        for day in range(_COUNTED_DAYS):
            counts = self.counts(end_ms - (day + 1) * DAY_MS, end_ms - day * DAY_MS)
            if busy_span(counts):
                return counts
        return {}

    def _read(self, span: tuple[int, int] | None) -> tuple[tuple[int, int], Answer] | None:
        """The span with its page; None if it has too few rows, or too many."""
        if span is None:
            return None
        page = self.page(*span)
        return (span, page) if _MIN_ROWS <= len(page.rows) <= _MAX_EVENTS else None


def as_page(response: HttpResponse) -> Answer:
    """The page in a response.

    Raises:
        Broken: it is none.
    """
    if response.status != codes.ok:
        raise Broken(f"status {response.status}")
    try:
        rows = [bytes(each) for each in split_page(response.body)]
    except Retryable:
        raise Broken("an answer is not a JSON array") from None
    return Answer(rows, [parse_event(each) for each in rows], response.headers)


def busy_span(counts: Mapping[int, int]) -> tuple[int, int] | None:
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


def _unanswered(error: Retryable) -> str:
    """Why there is no answer, without the error's text: it may name hosts, and quote the answer."""
    if isinstance(error, PageTooLarge):
        return "an answer is larger than jumpcloud.event_max_bytes"
    return "no whole answer; in-jumpcloud check says why"
