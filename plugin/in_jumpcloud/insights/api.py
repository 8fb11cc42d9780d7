"""The Directory Insights API: one query in, one Page or the counts out, every fault as an error that says what to do.

Source of the facts: https://docs.jumpcloud.com/api/insights/directory/1.0/index.html
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import requests

from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.errors import (
    CountsUnavailable,
    CursorLost,
    InJumpCloudError,
    KeyRefused,
    NotLicensed,
    PageTooLarge,
    RequestRejected,
    Retryable,
)
from in_jumpcloud.insights.auth import Auth
from in_jumpcloud.insights.clock_skew import ClockSkewMonitor
from in_jumpcloud.insights.pages import Page, split_page
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.transport import MAX_RETRY_AFTER, HttpResponse, Transport, common_error, request_id
from in_jumpcloud.insights.window import Window
from in_jumpcloud.timestamps import rfc3339

_MINUTE_MS = 60_000
_COUNTS_NOTHING = {400, 404, 405, 406, 410, 415, 422, 501}
_LIKELY_CAUSES = {
    400: "a service name it does not know, or a clock that is wrong",
    402: "Directory Insights is not enabled, or the plan does not reach back to jumpcloud.start",
    403: "the administrator's role is too low, an organization id is missing or wrong, or this address is blocked",
    404: "jumpcloud.url is wrong",
}


class Scope(NamedTuple):
    """Whose events: an organization's, a managed service provider's own, or, with neither, those of the key's own."""

    organization: str | None = None
    provider: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """How a request says so."""
        named = {"x-org-id": self.organization, "x-provider-id": self.provider}
        return {name: value for name, value in named.items() if value is not None}


class DirectoryInsights:
    """A client of one tenant's API. Several threads may use it at once."""

    def __init__(
        self,
        settings: JumpCloudSettings,
        auth: Auth,
        rate_limiter: RateLimiter,
        *,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._base = f"{settings.base_url}/insights/directory/v1"
        self._auth = auth
        self._rate_limiter = rate_limiter
        self._transport = Transport(settings, auth.redact, clock=ClockSkewMonitor(), now_ns=now_ns)
        self.requests = self._transport.requests

    @property
    def max_request_seconds(self) -> float:
        """The longest time that `fetch` or `counts` takes: a token and the query, each repeated once after a 401."""
        return 4 * (self._transport.max_seconds + MAX_RETRY_AFTER)

    def fetch(self, window: Window, scope: Scope, stop: threading.Event) -> Page:
        """The page of `window` behind its cursor.

        Raises:
            TryAgain, CursorLost, PageTooLarge, Refused, KeyRefused, NotLicensed: as errors.py says.
            Stopped: `stop` was set before the request went out.
        """
        answer = self._ask("events", window.query(), scope, stop)
        if answer.status == requests.codes.bad_request and window.cursor is not None:
            raise CursorLost(self._transport.describe(answer))
        if answer.status != requests.codes.ok:
            raise self._error(answer)
        try:
            return _page(answer, window)
        except Retryable as error:  # its text may repeat anything that the answer holds
            raise type(error)(self._transport.clean(f"{error}{request_id(answer.headers)}")) from None

    def counts(
        self, start_ms: int, end_ms: int, services: Sequence[str], scope: Scope, stop: threading.Event
    ) -> dict[int, int]:
        """How many events of `[start_ms, end_ms)` lie in each minute since the epoch; minutes without any are left out.

        Raises:
            NoCounts: they cannot be had, or not be believed.
            TryAgain, Refused, KeyRefused, NotLicensed, Stopped: as `fetch`.
        """
        query = {
            "service": list(services),
            "start_time": rfc3339(start_ms),
            "end_time": rfc3339(end_ms),
            "interval_unit": "m",
            "interval_value": "1",
            "timezone": "UTC",
        }
        try:
            answer = self._ask("events/interval", query, scope, stop)
        except PageTooLarge as error:
            raise CountsUnavailable(str(error)) from None
        if answer.status in _COUNTS_NOTHING:
            raise CountsUnavailable(self._transport.describe(answer))
        if answer.status != requests.codes.ok:
            raise self._error(answer)
        found = _counted(answer.body, start_ms // _MINUTE_MS, -(-end_ms // _MINUTE_MS))
        if found is None:
            beginning = answer.body[:80].decode(errors="replace")
            text = f"JumpCloud answered no counts by minute, but {beginning!r}{request_id(answer.headers)}"
            raise CountsUnavailable(self._transport.clean(text))
        return found

    def close(self) -> None:
        """Close the idle connections."""
        self._transport.close()

    def _ask(self, path: str, query: Mapping[str, Any], scope: Scope, stop: threading.Event) -> HttpResponse:
        answer = self._post(path, query, scope, stop)
        if answer.status == requests.codes.unauthorized and self._auth.renewable(answer.sent):
            answer = self._post(path, query, scope, stop)
        return answer

    def _post(self, path: str, query: Mapping[str, Any], scope: Scope, stop: threading.Event) -> HttpResponse:
        self._auth.ready(stop)
        self._rate_limiter.acquire(stop)
        headers = {"Content-Type": "application/json", "Accept": "application/json", **scope.headers}
        return self._transport.post(f"{self._base}/{path}", msgspec.json.encode(query), headers, self._auth)

    def _error(self, answer: HttpResponse) -> InJumpCloudError:
        text = self._transport.describe(answer)
        if error := common_error(answer, text, self._rate_limiter):
            return error
        if answer.status == requests.codes.unauthorized:
            return KeyRefused(f"{text}; {self._auth.if_refused}")
        cause = _LIKELY_CAUSES.get(answer.status)
        kind = NotLicensed if answer.status == requests.codes.payment_required else RequestRejected
        return kind(f"{text}; likely: {cause}" if cause else text)


def _page(answer: HttpResponse, window: Window) -> Page:
    """Check an answer against its own headers, and split it."""
    events = split_page(answer.body)
    headers, size, received_ns = answer.headers, len(answer.body), answer.received_ns
    count = _number(headers.get("X-Result-Count"))
    if count is not None and count != len(events):
        raise Retryable(f"JumpCloud announced {count} events and sent {len(events)}")
    if headers.get("X-Sort", "ASC").upper() != "ASC":
        raise Retryable(f"JumpCloud sorted the events {headers['X-Sort']!r:.100} where ASC was asked for")
    # A further page exists exactly when the count equals the limit that JumpCloud says it kept to. One that says more
    # than it was asked for is not believed: at worst this brings an empty page.
    limit = _number(headers.get("X-Limit"))
    if not events or len(events) < min(window.limit if limit is None else limit, window.limit):
        return Page(events, None, size, received_ns)
    cursor = headers.get("X-Search_after")
    try:
        msgspec.json.decode(cursor or "", type=list)
    except (msgspec.DecodeError, RecursionError):
        raise Retryable(f"a full page came with the cursor {cursor!r:.200}, which leads to no next one") from None
    if cursor == window.cursor:
        raise CursorLost(f"JumpCloud gave the cursor {cursor} again: it leads to the page it came from")
    return Page(events, cursor, size, received_ns)


def _number(text: str | None) -> int | None:
    """A header's number; a nonsense one, and one that is endless, is none."""
    return int(text) if text and re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


class _Bucket(msgspec.Struct):
    key: int
    doc_count: Annotated[int, msgspec.Meta(ge=0)]


class _Histogram(msgspec.Struct):
    buckets: list[_Bucket]


_histogram = msgspec.json.Decoder(_Histogram).decode


def _counted(body: bytes | bytearray, first: int, end: int) -> dict[int, int] | None:
    """The counts of a histogram, or None where it is not one of the minutes `[first, end)`."""
    try:
        buckets = _histogram(body).buckets
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    found: dict[int, int] = {}
    for bucket in buckets:
        minute, rest = divmod(bucket.key, _MINUTE_MS)
        if rest or not first <= minute < end or minute in found:
            return None
        found[minute] = bucket.doc_count
    return {minute: count for minute, count in found.items() if count}
