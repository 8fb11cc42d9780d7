"""HTTP to JumpCloud: one request, one response. Counts them, notes their dates, and keeps secrets out of errors."""

from __future__ import annotations

import json
from collections.abc import Mapping

import requests
from requests.auth import AuthBase

from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.counters import RequestCounters
from in_jumpcloud.errors import InJumpCloudError, RequestRejected, Retryable
from in_jumpcloud.insights.clock import EarlierClock
from in_jumpcloud.insights.http_exchange import (
    Exchange,
    HttpExchange,
    HttpResponse,
    max_response_seconds,
    request_id_suffix,
)
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.runtime import SYSTEM, Runtime
from in_jumpcloud.text import redact
from in_jumpcloud.timestamps import parse_http_date

MAX_RETRY_AFTER = 300.0
"""Seconds of the longest pause that a `Retry-After` header can ask for."""
_MIN_RETRY_AFTER = 1.0


class Transport:
    """Requests to JumpCloud. Thread-safe."""

    def __init__(
        self,
        settings: JumpCloudSettings,
        *,
        clock: EarlierClock | None = None,
        exchange: Exchange | None = None,
        runtime: Runtime = SYSTEM,
    ) -> None:
        """`clock` receives the dates of the responses; `exchange` replaces real connections."""
        self.requests = RequestCounters()
        self._clock = clock
        self._exchange = exchange or HttpExchange(settings)
        self._runtime = runtime
        self._max_request_seconds = settings.connect_timeout + max_response_seconds(settings)

    @property
    def max_request_seconds(self) -> float:
        """Seconds that the longest request takes: to connect, and to receive the whole response."""
        return self._max_request_seconds

    def post(self, url: str, body: bytes, headers: Mapping[str, str], auth: AuthBase) -> HttpResponse:
        """Send `body` and read the whole response, whatever its status.

        Raises:
            RequestTimeout, PageTooLarge, Retryable: as Exchange, without secrets.
        """
        return self._send(url, body, headers, auth)

    def get(self, url: str, headers: Mapping[str, str], auth: AuthBase) -> HttpResponse:
        """The same with GET."""
        return self._send(url, None, headers, auth)

    def _send(self, url: str, body: bytes | None, headers: Mapping[str, str], auth: AuthBase) -> HttpResponse:
        began = self._runtime.monotonic()
        status: int | None = None
        try:
            response = self._exchange(url, body, headers, auth)
            status = response.status
        except InJumpCloudError as error:
            error.redact(redact)
            raise
        finally:
            took = self._runtime.monotonic() - began
            self.requests.count(status, took)
        if self._clock:
            date, is_ok = response.headers.get("Date"), status == requests.codes.ok
            self._clock.observe(date, authenticated=is_ok, took=took)
        return response

    def describe(self, response: HttpResponse) -> str:
        """The status of an error, JumpCloud's message and the request's id, without secrets."""
        try:
            message = str(json.loads(response.body)["message"])
        except (ValueError, KeyError, TypeError, RecursionError):
            message = response.body[:1000].decode(errors="replace") or response.reason
        message = redact(" ".join(message.split()))[:300]
        return redact(f"JumpCloud answered {response.status}: {message}{request_id_suffix(response.headers)}")

    def close(self) -> None:
        """Close the idle connections."""
        self._exchange.close()


def common_error(
    response: HttpResponse, description: str, rate_limiter: RateLimiter, runtime: Runtime
) -> InJumpCloudError | None:
    """The error of a status that means the same at every endpoint; None for other statuses.

    A 429 with `Retry-After` pauses `rate_limiter`.
    """
    status = response.status
    if status == requests.codes.too_many_requests:
        after = _retry_after(response.headers, runtime)
        if after is not None:
            rate_limiter.pause(after)
        return Retryable(description, after=after)
    if status >= 500 or status == requests.codes.request_timeout:  # noqa: PLR2004
        return Retryable(description)
    if 300 <= status < 400:  # noqa: PLR2004
        return RequestRejected(f"{description}; redirects are not followed, check jumpcloud.url")
    if status == requests.codes.proxy_authentication_required:
        return RequestRejected(
            f"{description}; the proxy needs a user name and password: set jumpcloud.proxy to http://NAME:PASSWORD@HOST"
        )
    return None


def _retry_after(headers: Mapping[str, str], runtime: Runtime) -> float | None:
    """The pause, in seconds, that a `Retry-After` header asks for in seconds or until a date; None for no pause.

    A date is compared with the `Date` of the same response, because this machine's clock may be wrong.
    """
    text = headers.get("Retry-After")
    try:
        seconds = float(text or "")
    except ValueError:
        moment, now = parse_http_date(text), parse_http_date(headers.get("Date"))
        if moment is None:
            return None
        seconds = moment.timestamp() - (now.timestamp() if now else runtime.now_ns() / 1e9)
    return min(max(seconds, _MIN_RETRY_AFTER), MAX_RETRY_AFTER) if seconds > 0 else None  # NaN too is no pause
