"""HTTP to JumpCloud: one request out, one answer in, bounded in time and size; every fault as one clear error."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http.cookiejar import DefaultCookiePolicy
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError, ReadTimeoutError

from in_jumpcloud import __version__
from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.counters import RequestCounters
from in_jumpcloud.errors import InJumpCloudError, PageTooLarge, RequestRejected, Retryable
from in_jumpcloud.insights.clock_skew import ClockSkewMonitor
from in_jumpcloud.insights.deadline import Adapter, RequestDeadline
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.timestamps import parse_http_date

MAX_RETRY_AFTER = 300.0
_READ = 262_144
_LARGEST_ERROR = 65_536


class HttpResponse(NamedTuple):
    """One answer, whatever its status; `sent` are the headers of the request."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes | bytearray
    received_ns: int
    sent: Mapping[str, str]


class Transport:
    """The way to JumpCloud: proxy, certificates, timeouts. Several threads may use it at once."""

    def __init__(
        self,
        settings: JumpCloudSettings,
        redact: Callable[[str], str],
        *,
        clock: ClockSkewMonitor | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`redact` takes the secrets out of whatever ends in an error's text; `clock` sees the answers' dates."""
        self.requests = RequestCounters()
        self._redact = redact
        self._now_ns = now_ns
        self._clock = clock
        self._timeout = (float(settings.connect_timeout), float(settings.read_timeout))
        self._longest_answer = 5 * settings.read_timeout
        self._largest_answer = 2 * settings.page_bytes
        self._session = session = requests.Session()
        session.headers.update({"User-Agent": f"in_jumpcloud/{__version__}", "Accept-Encoding": "gzip"})
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.mount("http://", Adapter())
        session.mount("https://", Adapter())
        # Given with each request: what a session holds yields to HTTPS_PROXY and REQUESTS_CA_BUNDLE.
        self._proxies = {"http": settings.proxy, "https": settings.proxy} if settings.proxy else None
        self._proxy_password = _password(settings.proxy)
        self._verify = str(settings.ca_file) if settings.ca_file else None

    @property
    def max_seconds(self) -> float:
        """The longest time that one request takes."""
        return self._timeout[0] + self._longest_answer

    def post(self, url: str, body: bytes, headers: Mapping[str, str], auth: AuthBase) -> HttpResponse:
        """Send `body`, and read the answer to its end. `auth` also keeps requests from reading a netrc file.

        Raises:
            TryAgain, PageTooLarge: no whole answer came. Its status is not looked at here.
        """
        sent_ns, began = self._now_ns(), time.monotonic()
        status: int | None = None
        with RequestDeadline(self._longest_answer) as deadline:
            try:
                with self._session.post(
                    url,
                    data=body,
                    headers=dict(headers),
                    auth=auth,
                    timeout=self._timeout,
                    allow_redirects=False,  # the key sits in a header that would be sent along
                    stream=True,
                    proxies=self._proxies,
                    verify=self._verify,
                ) as response:
                    if self._clock:
                        self._clock.compare(response.headers.get("Date"), sent_ns, self._now_ns())
                    content = self._read(response, deadline)
                    status = response.status_code
            except (OSError, HTTPError) as error:  # those of requests are OSErrors; some of urllib3 come through bare
                reason = deadline.reason if deadline.over else _reason(error)
                raise Retryable(self.clean(f"{url}: {reason}")) from None
            finally:
                self.requests.count(status, time.monotonic() - began)
        return HttpResponse(
            response.status_code,
            response.reason or "",
            response.headers,
            content,
            self._now_ns(),
            response.request.headers,
        )

    def describe(self, answer: HttpResponse) -> str:
        """What JumpCloud said, for a person."""
        try:
            message = str(json.loads(answer.body)["message"])
        except (ValueError, KeyError, TypeError, RecursionError):
            message = answer.body[:1000].decode(errors="replace") or answer.reason
        message = self.clean(" ".join(message.split()))[:300]
        return self.clean(f"JumpCloud answered {answer.status}: {message}{request_id(answer.headers)}")

    def clean(self, text: str) -> str:
        """`text` without any secret."""
        if self._proxy_password:
            text = text.replace(self._proxy_password, "***")
        return self._redact(text)

    def close(self) -> None:
        """Close the idle connections."""
        self._session.close()

    def _read(self, response: requests.Response, deadline: RequestDeadline) -> bytes | bytearray:
        if response.status_code != requests.codes.ok:
            return _beginning(response)
        largest = self._largest_answer
        packed = "Content-Encoding" in response.headers
        too_large = not packed and (response.raw.length_remaining or 0) > largest
        body = bytearray()  # grows in place: a page is never held twice
        while not too_large and (part := response.raw.read(_READ, decode_content=True)):
            body += part
            too_large = len(body) > largest
        where = request_id(response.headers)
        if deadline.over:  # a connection that was shut down looks like one that ended
            raise Retryable(self.clean(f"{deadline.reason}{where}"))
        if too_large:
            raise PageTooLarge(self.clean(f"the answer is larger than {largest} bytes{where}"))
        return body


def common_error(answer: HttpResponse, text: str, rate_limiter: RateLimiter) -> InJumpCloudError | None:
    """The error of a status that means the same at every endpoint, if this is one; `text` describes it."""
    status = answer.status
    if status == requests.codes.too_many_requests:
        after = _retry_after(answer.headers.get("Retry-After"))
        if after is not None:
            rate_limiter.pause(after)
        return Retryable(text, after=after)
    if status >= 500 or status == requests.codes.request_timeout:  # noqa: PLR2004
        return Retryable(text)
    if 300 <= status < 400:  # noqa: PLR2004
        return RequestRejected(f"{text}; redirects are not followed, check jumpcloud.url")
    if status == requests.codes.proxy_authentication_required:
        return RequestRejected(
            f"{text}; likely: jumpcloud.proxy lacks a name and a password, as in http://NAME:PASSWORD@HOST"
        )
    return None


def request_id(headers: Mapping[str, str]) -> str:
    """By what JumpCloud's support finds a request, in brackets."""
    found = headers.get("X-Request-Id")
    return f" (request {found[:100]})" if found else ""


def _beginning(response: requests.Response) -> bytes:
    """The beginning of an error's body, or what comes of it: the status alone says what to do."""
    body = b""
    with contextlib.suppress(OSError, HTTPError):
        while len(body) < _LARGEST_ERROR and (part := response.raw.read(_READ, decode_content=True)):
            body += part
    return body


def _retry_after(text: str | None) -> float | None:
    """Seconds from a `Retry-After` header, which holds seconds or a date; at most LONGEST_RETRY_AFTER."""
    try:
        seconds = float(text or "")
    except ValueError:
        moment = parse_http_date(text)
        if moment is None:
            return None
        seconds = (moment - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if seconds == seconds else None  # noqa: PLR0124 - NaN


def _password(url: str | None) -> str | None:
    try:
        return urlsplit(url or "").password
    except ValueError:
        return None


# Faults of the connection, for a person


def _reason(error: BaseException) -> str:
    """The innermost cause, which is what a person can act upon; the wrappers only repeat the URL."""
    if isinstance(error, requests.ConnectTimeout):
        return "no connection within jumpcloud.connect_timeout"
    inner: BaseException = error
    while True:
        nested = getattr(inner, "reason", None)
        if not isinstance(nested, BaseException):
            nested = next((each for each in reversed(inner.args) if isinstance(each, BaseException)), None)
        if nested is None or nested is inner:
            break
        inner = nested
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the proxy (jumpcloud.proxy, or that of the environment) does not connect: {_words(inner)}"
    if isinstance(error, requests.Timeout) or isinstance(inner, ReadTimeoutError):
        return "no answer within jumpcloud.read_timeout"
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {inner.verify_message}; jumpcloud.ca_file may name other authorities"
    return _words(inner)


def _words(error: BaseException) -> str:
    if isinstance(error, NameResolutionError):
        return str(error).partition("): ")[2]
    if isinstance(error, NewConnectionError) and error.__cause__:
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror:
        return re.sub(r" \(_ssl\.c:\d+\)", "", error.strerror)
    return " ".join(str(error).split()) or type(error).__name__
