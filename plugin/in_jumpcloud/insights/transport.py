"""HTTP to JumpCloud: one request, one response, limited in time and size. Every failure becomes one clear error."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError, NameResolutionError, ReadTimeoutError

from in_jumpcloud import __version__
from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.counters import RequestCounters
from in_jumpcloud.errors import InJumpCloudError, PageTooLarge, RequestRejected, RequestTimeout, Retryable
from in_jumpcloud.insights.clock import EarlierClock
from in_jumpcloud.insights.deadline import DeadlineAdapter, RequestDeadline
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.timestamps import parse_http_date

MAX_RETRY_AFTER = 300.0
"""Seconds of the longest pause that a `Retry-After` header can ask for."""
_READ_BYTES = 262_144
_MAX_ERROR_BYTES = 65_536


class HttpResponse(NamedTuple):
    """One response of any status. `request_headers` are those of its request."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes | bytearray
    received_ns: int
    request_headers: Mapping[str, str]


class Transport:
    """Connections to JumpCloud with their proxy, certificates and timeouts. Thread-safe."""

    def __init__(
        self,
        settings: JumpCloudSettings,
        redact: Callable[[str], str],
        *,
        clock: EarlierClock | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`redact` removes the secrets from the text of errors; `clock` receives the dates of the responses."""
        self.requests = RequestCounters()
        self._redact_credentials = redact
        self._now_ns = now_ns
        self._clock = clock
        self._timeout = (float(settings.connect_timeout), float(settings.read_timeout))
        self._max_response_seconds = 5 * settings.read_timeout
        self._max_response_bytes = 2 * settings.page_bytes
        self._session = session = requests.Session()
        session.headers.update({"User-Agent": f"in_jumpcloud/{__version__}", "Accept-Encoding": "gzip"})
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.mount("http://", DeadlineAdapter())
        session.mount("https://", DeadlineAdapter())
        # Passed with each request, because HTTPS_PROXY and REQUESTS_CA_BUNDLE override the values of a session.
        self._proxies = {"http": settings.proxy, "https": settings.proxy} if settings.proxy else None
        self._proxy_password = _password(settings.proxy)
        self._verify = str(settings.ca_file) if settings.ca_file else None

    @property
    def max_request_seconds(self) -> float:
        """Seconds that the longest request takes: to connect, and to receive the whole response."""
        return self._timeout[0] + self._max_response_seconds

    def post(self, url: str, body: bytes, headers: Mapping[str, str], auth: AuthBase) -> HttpResponse:
        """Send `body` and read the whole response, whatever its status. With `auth`, requests reads no netrc file.

        Raises:
            RequestTimeout: no connection, or no answer, in time.
            PageTooLarge: the response is larger than twice jumpcloud.page_bytes.
            Retryable: any other reason why no complete response arrived.
        """
        began = time.monotonic()
        status: int | None = None
        handled = sys.exception()
        with RequestDeadline(self._max_response_seconds) as deadline:
            try:
                with self._session.post(
                    url,
                    data=body,
                    headers=dict(headers),
                    auth=auth,
                    timeout=self._timeout,
                    allow_redirects=False,  # a redirected request would carry the key in its headers
                    stream=True,
                    proxies=self._proxies,
                    verify=self._verify,
                ) as response:
                    content = self._read(response, deadline)
                    status = response.status_code
            except (OSError, HTTPError) as error:  # requests raises OSErrors, and lets some of urllib3's through
                kind, reason = (Retryable, deadline.message) if deadline.expired else _describe_failure(error, handled)
                raise kind(self.redact(f"{url}: {reason}")) from None
            finally:
                self.requests.count(status, time.monotonic() - began)
        if self._clock:
            self._clock.observe(response.headers.get("Date"), authenticated=status == requests.codes.ok)
        return HttpResponse(
            response.status_code,
            response.reason or "",
            response.headers,
            content,
            self._now_ns(),
            response.request.headers,
        )

    def describe(self, response: HttpResponse) -> str:
        """The status of an error, JumpCloud's message and the request's id, without secrets."""
        try:
            message = str(json.loads(response.body)["message"])
        except (ValueError, KeyError, TypeError, RecursionError):
            message = response.body[:1000].decode(errors="replace") or response.reason
        message = self.redact(" ".join(message.split()))[:300]
        return self.redact(f"JumpCloud answered {response.status}: {message}{request_id_suffix(response.headers)}")

    def redact(self, text: str) -> str:
        """`text` without the proxy's password and the credentials."""
        if self._proxy_password:
            text = text.replace(self._proxy_password, "***")
        return self._redact_credentials(text)

    def close(self) -> None:
        """Close the idle connections."""
        self._session.close()

    def _read(self, response: requests.Response, deadline: RequestDeadline) -> bytes | bytearray:
        if response.status_code != requests.codes.ok:
            return _read_error_body(response)
        limit = self._max_response_bytes
        compressed = "Content-Encoding" in response.headers
        too_large = not compressed and (response.raw.length_remaining or 0) > limit
        body = bytearray()  # grows in place, so that a page is never in memory twice
        while not too_large and (part := response.raw.read(_READ_BYTES, decode_content=True)):
            body += part
            too_large = len(body) > limit
        suffix = request_id_suffix(response.headers)
        if deadline.expired:  # a connection that was shut down looks like one that ended
            raise Retryable(self.redact(f"{deadline.message}{suffix}"))
        if too_large:
            raise PageTooLarge(self.redact(f"the response is larger than {limit} bytes{suffix}"))
        return body


def common_error(response: HttpResponse, description: str, rate_limiter: RateLimiter) -> InJumpCloudError | None:
    """The error of a status that means the same at every endpoint; None for other statuses.

    A 429 with `Retry-After` pauses `rate_limiter`.
    """
    status = response.status
    if status == requests.codes.too_many_requests:
        after = _retry_after(response.headers.get("Retry-After"))
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


def request_id_suffix(headers: Mapping[str, str]) -> str:
    """` (request ID)`, by which JumpCloud's support finds a request; empty if the response has no id."""
    request_id = headers.get("X-Request-Id")
    return f" (request {request_id[:100]})" if request_id else ""


def _read_error_body(response: requests.Response) -> bytes:
    """The beginning of the body, as far as it arrives. It only explains the error; the status decides."""
    body = b""
    with contextlib.suppress(OSError, HTTPError):
        while len(body) < _MAX_ERROR_BYTES and (part := response.raw.read(_READ_BYTES, decode_content=True)):
            body += part
    return body


def _retry_after(text: str | None) -> float | None:
    """Seconds of a `Retry-After` header, which contains seconds or a date; 0 to MAX_RETRY_AFTER, None if unreadable."""
    try:
        seconds = float(text or "")
    except ValueError:
        moment = parse_http_date(text)
        if moment is None:
            return None
        seconds = moment.timestamp() - time.time()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if seconds == seconds else None  # noqa: PLR0124 - NaN


def _password(url: str | None) -> str | None:
    try:
        return urlsplit(url or "").password
    except ValueError:
        return None


def _describe_failure(error: BaseException, handled: BaseException | None) -> tuple[type[Retryable], str]:
    """The kind and the text of a failed connection. The text is the innermost cause; the others only repeat the URL.

    `handled` is the exception, if any, that the caller was handling when it sent the request.
    """
    if isinstance(error, requests.ConnectTimeout):
        return RequestTimeout, "no connection within jumpcloud.connect_timeout"
    causes = list(_causes(error, handled))
    reason = _cause_text(causes)
    if isinstance(error, requests.exceptions.ProxyError):
        return Retryable, f"cannot connect through the proxy (jumpcloud.proxy or the environment): {reason}"
    if isinstance(error, requests.Timeout) or any(isinstance(each, ReadTimeoutError) for each in causes):
        return RequestTimeout, "no answer within jumpcloud.read_timeout"
    if isinstance(causes[-1], ssl.SSLCertVerificationError):
        reason = (
            f"the certificate is not trusted: {causes[-1].verify_message}; to trust another CA, set jumpcloud.ca_file"
        )
    return Retryable, reason


def _causes(error: BaseException | None, handled: BaseException | None) -> Iterator[BaseException]:
    """`error` and the errors that led to it, down to the first one after `handled`."""
    while error is not None and error is not handled:
        yield error
        error = error.__context__ if error.__cause__ or not error.__suppress_context__ else None


def _cause_text(causes: list[BaseException]) -> str:
    innermost = causes[-1]
    text = innermost.strerror if isinstance(innermost, OSError) and innermost.strerror else str(innermost)
    text = re.sub(r" \(_ssl\.c:\d+\)", "", " ".join(text.split())) or type(innermost).__name__
    host = next((each.conn.host for each in causes if isinstance(each, NameResolutionError)), None)
    return f"cannot resolve {host!r}: {text}" if host else text
