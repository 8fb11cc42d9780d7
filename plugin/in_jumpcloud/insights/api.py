"""The Directory Insights API: a query becomes a Page or counts, and every failure an error that says what to do.

Source of the facts: https://docs.jumpcloud.com/api/insights/directory/1.0/index.html
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import requests

from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.counters import LatencyHistogram
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
from in_jumpcloud.insights.clock import EarlierClock
from in_jumpcloud.insights.http_exchange import Exchange, HttpResponse, request_id_suffix
from in_jumpcloud.insights.organizations import Organizations
from in_jumpcloud.insights.pages import Page, is_cursor, split_page
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.request_log import log_request
from in_jumpcloud.insights.transport import MAX_RETRY_AFTER, Transport, common_error
from in_jumpcloud.insights.window import Window
from in_jumpcloud.runtime import SYSTEM, Runtime
from in_jumpcloud.text import redact
from in_jumpcloud.timestamps import MINUTE_MS, rfc3339

_STATUSES_WITHOUT_COUNTS = {400, 404, 405, 406, 410, 415, 422, 501}
_LIKELY_CAUSES = {
    400: "an unknown name in jumpcloud.services, or a wrong clock",
    402: "Directory Insights is not enabled, or the plan does not reach back to jumpcloud.start",
    403: "the administrator's role is too low, an organization id is missing or wrong, or this address is blocked",
    404: "jumpcloud.url is wrong",
}


class Scope(NamedTuple):
    """Whose events to request: an organization's, a managed service provider's own, or by default the key's own."""

    organization: str | None = None
    provider: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers that select the scope."""
        headers = {"x-org-id": self.organization, "x-provider-id": self.provider}
        return {name: value for name, value in headers.items() if value is not None}


class ApiStatistics(NamedTuple):
    """Requests since the process began. `codes` counts them by status; "none" means that no whole response arrived."""

    codes: dict[str, int]
    latencies: LatencyHistogram


class DirectoryInsights:
    """A client of one tenant's API. Thread-safe."""

    def __init__(
        self,
        settings: JumpCloudSettings,
        auth: Auth,
        rate_limiter: RateLimiter,
        *,
        clock: EarlierClock | None = None,
        exchange: Exchange | None = None,
        runtime: Runtime = SYSTEM,
    ) -> None:
        """`clock` receives the dates of the responses; `exchange` replaces real connections."""
        self._base = f"{settings.base_url}/insights/directory/v1"
        self._auth = auth
        self._rate_limiter = rate_limiter
        self._runtime = runtime
        self._transport = Transport(settings, clock=clock, exchange=exchange, runtime=runtime)
        self._organizations = Organizations(settings, auth, rate_limiter, self._transport, runtime)

    @property
    def max_request_seconds(self) -> float:
        """Seconds that one `fetch` or `counts` may take without a sign of life.

        Each HTTP request may wait for the longest pause that JumpCloud asks for, and then for the slowest response.
        With a service account, a call takes several requests.
        """
        return self._auth.max_requests * (MAX_RETRY_AFTER + self._transport.max_request_seconds)

    def pause(self, seconds: float) -> None:
        """Send no request for `seconds`: another process with the same key was asked to wait."""
        self._rate_limiter.hold(seconds)

    def share_limit(self, part: float) -> None:
        """Use this part of the limit of requests; other processes use the rest."""
        self._rate_limiter.share(part)

    def statistics(self) -> ApiStatistics:
        """What monitoring shows of the requests."""
        counters = self._transport.requests
        return ApiStatistics(counters.codes(), counters.latencies)

    def organizations(self, provider: str | None, stop: threading.Event) -> dict[str, str]:
        """As Organizations.all."""
        return self._organizations.all(provider, stop)

    def fetch(self, window: Window, scope: Scope, stop: threading.Event, *, backfill: bool = False) -> Page:
        """The page of `window` at its cursor. With `backfill` the request gives way to those without.

        Raises:
            Retryable, CursorLost, PageTooLarge, RequestRejected, KeyRefused, NotLicensed: see errors.py.
            Stopped: `stop` was set before the request was sent.
        """
        response = self.ask("events", window.query(), scope, stop, backfill=backfill)
        if response.status == requests.codes.bad_request and window.cursor is not None:
            raise CursorLost(self._transport.describe(response))
        if response.status != requests.codes.ok:
            raise self._error(response)
        try:
            return _page(response, window, self._runtime.now_ns())
        except Retryable as error:  # the message may quote a secret that the response repeats
            message = redact(f"{error}{request_id_suffix(response.headers)}")
            raise type(error)(message) from None

    def counts(
        self,
        start_ms: int,
        end_ms: int,
        services: Sequence[str],
        scope: Scope,
        stop: threading.Event,
        *,
        backfill: bool = False,
    ) -> dict[int, int]:
        """The number of events in each minute of `[start_ms, end_ms)`, by minutes since the epoch, without zeros.

        `backfill` is as in `fetch`.

        Raises:
            CountsUnavailable: JumpCloud returned no counts, or impossible ones.
            Retryable, RequestRejected, KeyRefused, NotLicensed, Stopped: as `fetch`.
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
            response = self.ask("events/interval", query, scope, stop, backfill=backfill)
        except PageTooLarge as error:
            raise CountsUnavailable(str(error)) from None
        if response.status in _STATUSES_WITHOUT_COUNTS:
            raise CountsUnavailable(self._transport.describe(response))
        if response.status != requests.codes.ok:
            raise self._error(response)
        counts = _parse_counts(response.body, start_ms // MINUTE_MS, -(-end_ms // MINUTE_MS))
        if counts is None:
            beginning = response.body[:80].decode(errors="replace")
            message = f"JumpCloud returned no counts by minute, but {beginning!r}{request_id_suffix(response.headers)}"
            raise CountsUnavailable(redact(message))
        return counts

    def count(self, start_ms: int, end_ms: int, services: Sequence[str], scope: Scope, stop: threading.Event) -> int:
        """The number of events of `[start_ms, end_ms)`.

        Raises:
            CountsUnavailable: JumpCloud returned no number.
            Retryable, RequestRejected, KeyRefused, NotLicensed, Stopped: as `fetch`.
        """
        query = {"service": list(services), "start_time": rfc3339(start_ms), "end_time": rfc3339(end_ms)}
        response = self.ask("events/count", query, scope, stop)
        if response.status != requests.codes.ok:
            raise self._error(response)
        try:
            return _decode_count(response.body).count
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            beginning = response.body[:80].decode(errors="replace")
            message = f"JumpCloud returned no count, but {beginning!r}{request_id_suffix(response.headers)}"
            raise CountsUnavailable(redact(message)) from None

    def close(self) -> None:
        """Close the idle connections."""
        self._transport.close()

    def ask(
        self, path: str, query: Mapping[str, Any], scope: Scope, stop: threading.Event, *, backfill: bool = False
    ) -> HttpResponse:
        """The answer to a query at `path`, such as "events", of whatever status.

        Raises:
            RequestTimeout, PageTooLarge, Retryable: there is no whole answer.
            KeyRefused, Stopped: as `fetch`.
        """
        response = self._post(path, query, scope, stop, backfill=backfill)
        if response.status == requests.codes.unauthorized and self._auth.retry_refused(response.request_headers):
            response = self._post(path, query, scope, stop, backfill=backfill)
        return response

    def _post(
        self, path: str, query: Mapping[str, Any], scope: Scope, stop: threading.Event, *, backfill: bool
    ) -> HttpResponse:
        self._auth.prepare(stop)
        self._rate_limiter.acquire(stop, backfill=backfill)
        headers = {"Content-Type": "application/json", "Accept": "application/json", **scope.headers}
        outcome: HttpResponse | InJumpCloudError | None = None
        began = self._runtime.monotonic()
        try:
            outcome = self._transport.post(f"{self._base}/{path}", msgspec.json.encode(query), headers, self._auth)
        except InJumpCloudError as error:
            outcome = error
            raise
        finally:
            if outcome is not None:
                log_request(path, query, scope.organization, outcome, 1000 * (self._runtime.monotonic() - began))
        return outcome

    def _error(self, response: HttpResponse) -> InJumpCloudError:
        description = self._transport.describe(response)
        if error := common_error(response, description, self._rate_limiter, self._runtime):
            return error
        if response.status == requests.codes.unauthorized:
            return KeyRefused(f"{description}; {self._auth.refusal_advice}")
        cause = _LIKELY_CAUSES.get(response.status)
        if response.status == requests.codes.bad_request and self._base.startswith("http:"):
            cause = f"{cause}, or this port expects https://"
        kind = NotLicensed if response.status == requests.codes.payment_required else RequestRejected
        return kind(f"{description}; likely: {cause}" if cause else description)


def _page(response: HttpResponse, window: Window, received_ns: int) -> Page:
    """Split a response into its events, and check it against its own headers."""
    events = split_page(response.body)
    headers, size = response.headers, len(response.body)
    count = header_number(headers, "X-Result-Count")
    if count is not None and count != len(events):
        raise Retryable(f"JumpCloud announced {count} events and sent {len(events)}")
    if headers.get("X-Sort", "ASC").upper() != "ASC":
        raise Retryable(f"JumpCloud sorted the events {headers['X-Sort']!r:.100} instead of ASC")
    # There is a next page exactly when the count equals the limit that JumpCloud applied, which may be lower than the
    # one requested. A higher one is ignored: at worst that costs a request for an empty page.
    limit = header_number(headers, "X-Limit")
    if not events or len(events) < min(window.limit if limit is None else limit, window.limit):
        return Page(events, None, size, received_ns)
    cursor = headers.get("X-Search_after")
    if cursor is None or not is_cursor(cursor):
        raise Retryable(f"the cursor {cursor!r:.200} of a full page is not a JSON array")
    if cursor == window.cursor:
        raise CursorLost(f"JumpCloud returned the cursor {cursor} again, which leads back to the same page")
    return Page(events, cursor, size, received_ns)


def header_number(headers: Mapping[str, str], name: str) -> int | None:
    """The number in a header; None if it is missing, not a number, or absurdly long."""
    text = headers.get(name)
    return int(text) if text and re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


class _Count(msgspec.Struct):
    count: Annotated[int, msgspec.Meta(ge=0)]


_decode_count = msgspec.json.Decoder(_Count).decode


class _Bucket(msgspec.Struct):
    key: int
    doc_count: Annotated[int, msgspec.Meta(ge=0)]


class _Histogram(msgspec.Struct):
    buckets: list[_Bucket]


_decode_histogram = msgspec.json.Decoder(_Histogram).decode


def _parse_counts(body: bytes | bytearray, first_minute: int, end_minute: int) -> dict[int, int] | None:
    """The counts of a histogram; None if it is not one of the minutes `[first_minute, end_minute)`."""
    try:
        buckets = _decode_histogram(body).buckets
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    counts: dict[int, int] = {}
    for bucket in buckets:
        minute, rest_ms = divmod(bucket.key, MINUTE_MS)
        if rest_ms or not first_minute <= minute < end_minute or minute in counts:
            return None
        counts[minute] = bucket.doc_count
    return {minute: count for minute, count in counts.items() if count}
