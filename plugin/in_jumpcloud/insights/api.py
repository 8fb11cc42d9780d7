"""The Directory Insights API: one query in, one Page out, every fault as an error that says what to do.

Source of the facts: https://docs.jumpcloud.com/api/insights/directory/1.0/index.html
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy

import msgspec
import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from in_jumpcloud import __version__, config
from in_jumpcloud.errors import CursorLost, KeyRefused, PageTooLarge, Refused, TryAgain
from in_jumpcloud.insights.auth import ApiKey
from in_jumpcloud.insights.budget import RequestBudget
from in_jumpcloud.insights.page import Page, split
from in_jumpcloud.insights.window import Window

LONGEST_RETRY_AFTER = 300.0
_READ = 65_536
_LIKELY_CAUSES = {
    400: "a service name it does not know, or a clock that is wrong",
    402: "Directory Insights is not enabled, or the plan does not reach back to jumpcloud.start",
    403: "the administrator's role is too low, an organization id is missing or wrong, or this address is blocked",
    404: "jumpcloud.url is wrong",
}


class DirectoryInsights:
    """A client of one tenant's API. Several threads may use it at once."""

    def __init__(
        self,
        settings: config.JumpCloud,
        auth: ApiKey,
        budget: RequestBudget,
        *,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._events_url = f"{settings.base_url}/insights/directory/v1/events"
        self._auth = auth
        self._budget = budget
        self._now_ns = now_ns
        self._timeout = (float(settings.connect_timeout), float(settings.read_timeout))
        self._longest_answer = 5 * settings.read_timeout
        self._largest_answer = 4 * settings.page_bytes
        self._session = session = requests.Session()
        session.auth = auth
        session.headers.update(
            {
                "User-Agent": f"in_jumpcloud/{__version__}",
                "Content-Type": "application/json",
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
            }
        )
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        # Given with each request: what a session holds yields to HTTPS_PROXY and REQUESTS_CA_BUNDLE.
        self._proxies = {"http": settings.proxy, "https": settings.proxy} if settings.proxy else None
        self._verify = str(settings.ca_file) if settings.ca_file else None

    def fetch(self, window: Window, organization: str | None, stop: threading.Event) -> Page:
        """The page of `window` behind its cursor; `organization` is the x-org-id, None for the key's own.

        Raises:
            TryAgain, CursorLost, PageTooLarge, Refused, KeyRefused: as errors.py says.
            Stopped: `stop` was set before the request went out.
        """
        self._budget.wait_for_turn(stop)
        try:
            with self._session.post(
                self._events_url,
                data=msgspec.json.encode(window.query()),
                headers={"x-org-id": organization} if organization else None,
                timeout=self._timeout,
                allow_redirects=False,  # the key sits in a header that would be sent along
                stream=True,
                proxies=self._proxies,
                verify=self._verify,
            ) as response:
                return self._answer(response, window)
        except (OSError, HTTPError) as error:  # those of requests are OSErrors; some of urllib3 come through bare
            raise TryAgain(self._auth.redact(f"{self._events_url}: {_reason(error)}")) from None

    def close(self) -> None:
        """Close the idle connections."""
        self._session.close()

    def _answer(self, response: requests.Response, window: Window) -> Page:
        """The page that an answer brings. Whatever it holds may end in an error's text, except the key."""
        try:
            body = self._read(response)
            received_ns = self._now_ns()
            if response.status_code == requests.codes.ok:
                return _page(response, body, window, received_ns)
        except TryAgain as error:
            raise type(error)(self._auth.redact(f"{error}{_request_id(response)}")) from None
        raise self._error(response, body, window)

    def _read(self, response: requests.Response) -> bytes:
        deadline = time.monotonic() + self._longest_answer
        parts, size = [], 0
        for part in response.iter_content(_READ):
            size += len(part)
            if size > self._largest_answer:
                raise PageTooLarge(f"the answer is larger than {self._largest_answer} bytes")
            if time.monotonic() > deadline:
                raise TryAgain(f"the answer took longer than {self._longest_answer:.0f} s")
            parts.append(part)
        return b"".join(parts)

    def _error(self, response: requests.Response, body: bytes, window: Window) -> Exception:
        status = response.status_code
        text = self._auth.redact(f"JumpCloud answered {status}: {self._message(response, body)}{_request_id(response)}")
        if status == requests.codes.too_many_requests:
            after = _retry_after(response.headers.get("Retry-After"))
            if after is not None:
                self._budget.hold(after)
            return TryAgain(text, after=after)
        if status == requests.codes.unauthorized:
            return KeyRefused(f"{text}; the key is wrong, expired or revoked, or belongs to another region")
        if status == requests.codes.bad_request and window.cursor is not None:
            return CursorLost(text)
        if status >= 500 or status == requests.codes.request_timeout:  # noqa: PLR2004
            return TryAgain(text)
        if 300 <= status < 400:  # noqa: PLR2004
            return Refused(f"{text}; redirects are not followed, check jumpcloud.url")
        cause = _LIKELY_CAUSES.get(status)
        return Refused(f"{text}; likely: {cause}" if cause else text)

    def _message(self, response: requests.Response, body: bytes) -> str:
        try:
            message = str(json.loads(body)["message"])
        except (ValueError, KeyError, TypeError, RecursionError):
            message = body[:1000].decode(errors="replace") or response.reason or ""
        return self._auth.redact(" ".join(message.split()))[:300]


def _page(response: requests.Response, body: bytes, window: Window, received_ns: int) -> Page:
    """Check an answer against its own headers, and split it."""
    events = split(body)
    headers = response.headers
    count = _number(headers.get("X-Result-Count"), len(events))
    if count != len(events):
        raise TryAgain(f"JumpCloud announced {count} events and sent {len(events)}")
    if headers.get("X-Sort", "ASC").upper() != "ASC":
        raise TryAgain(f"JumpCloud sorted the events {headers['X-Sort']!r} where ASC was asked for")
    # A further page exists exactly when the count equals the limit that JumpCloud says it kept to.
    if count < _number(headers.get("X-Limit"), window.limit) or not count:
        return Page(events, None, len(body), received_ns)
    cursor = headers.get("X-Search_after")
    try:
        msgspec.json.decode(cursor or "", type=list)
    except (msgspec.DecodeError, RecursionError):
        raise TryAgain(f"a full page came with the cursor {cursor!r}, which leads to no next one") from None
    if cursor == window.cursor:
        raise CursorLost(f"JumpCloud gave the cursor {cursor} again: it leads to the page it came from")
    return Page(events, cursor, len(body), received_ns)


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isdecimal() else default


def _request_id(response: requests.Response) -> str:
    request_id = response.headers.get("X-Request-Id")
    return f" (request {request_id})" if request_id else ""


def _retry_after(text: str | None) -> float | None:
    """Seconds from a `Retry-After` header, which holds seconds or a date; at most LONGEST_RETRY_AFTER."""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if seconds == seconds else None  # noqa: PLR0124 - NaN


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
    if isinstance(error, requests.Timeout) or isinstance(inner, ReadTimeoutError):
        return "no answer within jumpcloud.read_timeout"
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return " ".join(str(inner).split()) or type(inner).__name__
