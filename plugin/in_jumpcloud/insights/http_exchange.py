"""One HTTP request with `requests`: connections, proxy, certificates, and the limits in time and size."""

from __future__ import annotations

import contextlib
import errno
import re
import ssl
import sys
from collections.abc import Iterator, Mapping
from http.client import BadStatusLine, RemoteDisconnected
from http.cookiejar import DefaultCookiePolicy
from typing import NamedTuple, Protocol
from urllib.request import getproxies

import requests
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError, NameResolutionError, ReadTimeoutError

from in_jumpcloud import __version__
from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.config.types import ProxyUrl
from in_jumpcloud.errors import PageTooLarge, RequestTimeout, Retryable
from in_jumpcloud.insights.deadline import RequestDeadline
from in_jumpcloud.insights.pages_ahead import MAX_PAGES
from in_jumpcloud.insights.repeated_headers import RepeatingAdapter

_READ_BYTES = 262_144
_TLS_ALERT = "\x15\x03"  # in a status line
_MAX_ERROR_BYTES = 65_536
_UNREACHED = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH}


class HttpResponse(NamedTuple):
    """One response of any status. `request_headers` are those of its request."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes | bytearray
    request_headers: Mapping[str, str]

    def __repr__(self) -> str:
        """Without the headers of the request, which have the key."""
        return f"HttpResponse({self.status}, {len(self.body)} bytes)"


class Exchange(Protocol):
    """Sends a request and reads the whole response. Thread-safe."""

    def __call__(self, url: str, body: bytes | None, headers: Mapping[str, str], auth: AuthBase) -> HttpResponse:
        """POST `body`, or GET without one, and read the whole response, whatever its status.

        `auth` adds its headers to the request.

        Raises:
            RequestTimeout: no connection, or no answer, in time.
            PageTooLarge: the response is larger than twice jumpcloud.page_bytes, and than event_max_bytes.
            Retryable: any other reason why no complete response arrived.
        """

    def close(self) -> None:
        """Close the idle connections."""


class HttpExchange:
    """The real Exchange. With an `auth`, requests reads no netrc file."""

    def __init__(self, settings: JumpCloudSettings) -> None:
        self._timeout = (float(settings.connect_timeout), float(settings.read_timeout))
        self._max_response_seconds = max_response_seconds(settings)
        self._max_response_bytes = max(2 * settings.page_bytes, settings.event_max_bytes)
        self._session = session = requests.Session()
        session.headers.update({"User-Agent": f"in_jumpcloud/{__version__}", "Accept-Encoding": "gzip"})
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        idle = settings.worker_count + MAX_PAGES  # more would be closed after each request
        session.mount("http://", RepeatingAdapter(pool_maxsize=idle))
        session.mount("https://", RepeatingAdapter(pool_maxsize=idle))
        # Passed with each request, because HTTPS_PROXY and REQUESTS_CA_BUNDLE override the values of a session.
        proxy = settings.proxy and settings.proxy.reveal()
        self._proxies = {"http": proxy, "https": proxy} if proxy else None
        self._allow_plain_http = settings.allow_plain_http
        # While they live, their passwords are hidden.
        self._proxy_urls = [settings.proxy, *map(ProxyUrl, getproxies().values())]
        self._verify = str(settings.ca_file) if settings.ca_file else None

    def __call__(self, url: str, body: bytes | None, headers: Mapping[str, str], auth: AuthBase) -> HttpResponse:
        """Send the request."""
        handled = sys.exception()
        with RequestDeadline(self._max_response_seconds) as deadline:
            try:
                with self._session.request(
                    *("GET" if body is None else "POST", url),
                    data=body,
                    headers=dict(headers),
                    auth=auth,
                    timeout=self._timeout,
                    allow_redirects=False,  # a redirected request would carry the key in its headers
                    stream=True,
                    proxies=self._proxies_for(url),
                    verify=self._verify,
                ) as response:
                    content = self._read(response, deadline)
            except (OSError, HTTPError) as error:  # requests raises OSErrors, and lets some of urllib3's through
                if deadline.expired:
                    raise Retryable(f"{url}: {deadline.message}") from None
                raise _failure(url, error, handled) from None
        return HttpResponse(
            response.status_code, response.reason or "", response.headers, content, response.request.headers
        )

    def close(self) -> None:
        """Close the idle connections."""
        self._session.close()

    def _proxies_for(self, url: str) -> dict[str, str] | None:
        """The proxies. One of the environment would get the key unencrypted with a plain URL: it is not used then."""
        if self._proxies or url.startswith("https:") or self._allow_plain_http:
            return self._proxies
        return {"http": ""}  # not "no_proxy", for which requests sets a variable that all threads share

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
            raise Retryable(f"{deadline.message}{suffix}")
        if too_large:
            cursor = response.headers.get("X-Search_after")
            raise PageTooLarge(f"the response is larger than {limit} bytes{suffix}", cursor=cursor)
        return body


def max_response_seconds(settings: JumpCloudSettings) -> float:
    """Seconds after which a response that still arrives is given up."""
    return 5 * settings.read_timeout


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


def _failure(url: str, error: BaseException, handled: BaseException | None) -> Retryable:
    """The error for a failed connection. Its text is the innermost cause; the others only repeat the URL.

    `handled` is the exception, if any, that the caller was handling when it sent the request.
    """
    if isinstance(error, requests.ConnectTimeout):
        return RequestTimeout(f"{url}: no connection within jumpcloud.connect_timeout")
    causes = list(_causes(error, handled))
    cause, reason, advice = causes[-1], _cause_text(causes), ""
    if isinstance(error, requests.exceptions.ProxyError):
        return Retryable(f"{url}: cannot connect through the proxy (jumpcloud.proxy or the environment): {reason}")
    if isinstance(error, requests.Timeout) or any(isinstance(each, ReadTimeoutError) for each in causes):
        return RequestTimeout(f"{url}: no answer within jumpcloud.read_timeout")
    if isinstance(cause, ssl.SSLCertVerificationError):
        reason = f"the certificate is not trusted: {cause.verify_message}"
        advice = "to trust another CA, set jumpcloud.ca_file"
    elif isinstance(error, requests.exceptions.SSLError):
        advice = "does it speak TLS at this port? check jumpcloud.url: https:// or http://, and the port"
    elif isinstance(cause, BadStatusLine) and not isinstance(cause, RemoteDisconnected):
        line = str(cause.args[0])
        is_tls = line.startswith(_TLS_ALERT)
        reason = "it expects TLS" if is_tls else f"it is not an HTTP server, it sent {line!r:.60}"
        advice = "set jumpcloud.url to https://" if is_tls else "check the port in jumpcloud.url"
    elif any(isinstance(each, NameResolutionError) for each in causes):
        advice = "check the DNS of this machine, and jumpcloud.url"
    elif isinstance(cause, OSError) and cause.errno in _UNREACHED:
        advice = "is there a firewall or a proxy in between? check jumpcloud.url"
    elif isinstance(error, requests.ConnectionError) and isinstance(cause, ConnectionError) and url.startswith("http:"):
        advice = "does it expect https:// at this port? check jumpcloud.url"
    return Retryable(f"{url}: {reason}", advice=advice)


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
