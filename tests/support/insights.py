"""Clients of the API, and servers that send canned responses, which the simulated API never would."""

from __future__ import annotations

import http.server
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.config.types import Duration, ProxyUrl, Secret
from in_jumpcloud.errors import InJumpCloudError
from in_jumpcloud.insights.api import DirectoryInsights, Scope
from in_jumpcloud.insights.auth import create_auth
from in_jumpcloud.insights.pages import Page
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.window import Window
from in_jumpcloud.runtime import SYSTEM, Runtime
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.timestamps import rfc3339

KEY = "jca_Zw41PqLmN8sT0uV7xY2bC5dE9fG3hJ6kA1rB"
NOW = 1_790_000_000_000
BEGIN = NOW - 10 * 60_000
WINDOW = Window(start_ms=BEGIN, end_ms=NOW, services=("all",), limit=100)
SECOND_PAGE = WINDOW.after('[1789999400000,"DZrPyW8BNsa9iKWoOm7h"]')
CURSOR = '[1789999400001,"EZrPyW8BNsa9iKWoOm7h"]'
PATH = "/insights/directory/v1/events"
OWN = Scope()

Reply = bytes | Callable[["Request"], None]
Serve = Callable[..., "Canned"]
Client = Callable[..., DirectoryInsights]


class Canned(http.server.ThreadingHTTPServer):
    """A server that answers every request with the same bytes, or by a function that writes the response.

    With a `context` it does TLS.
    """

    def __init__(self, reply: Reply, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.reply = reply
        self.context = context
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.ended = threading.Event()

    def handle_error(self, *_: object) -> None:
        """Ignore clients that close the connection."""
        if not isinstance(sys.exc_info()[1], OSError):
            raise  # noqa: PLE0704 - called while an error is handled

    def finish_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        """Answer a request, after the TLS handshake if there is one, on the thread of the connection."""
        if self.context is None:
            super().finish_request(request, client_address)
        else:
            with self.context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.server_port}"


class Request(http.server.BaseHTTPRequestHandler):
    """Records a request and answers it."""

    server: Canned

    def do_POST(self) -> None:
        """Record the request and send the server's reply."""
        self.server.paths.append(self.path)
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        if isinstance(self.server.reply, bytes):
            self.wfile.write(self.server.reply)
        else:
            self.server.reply(self)

    def log_message(self, *_: object) -> None:
        """Do not log."""


def answer(body: bytes = b"[]", headers: Mapping[str, str] | None = None, status: str = "200 OK") -> bytes:
    """The bytes of an HTTP response."""
    lines = [f"HTTP/1.1 {status}"]
    headers = {"Content-Length": str(len(body)), "Connection": "close", **(headers or {})}
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@contextmanager
def servers() -> Iterator[Serve]:
    """Starts servers of canned responses, and stops them at the end."""
    started: list[Canned] = []

    def serve(reply: Reply, context: ssl.SSLContext | None = None) -> Canned:
        server = Canned(reply, context)
        started.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield serve
    for server in started:
        server.ended.set()
        server.shutdown()
        server.server_close()


@contextmanager
def clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Makes clients, and closes them at the end. The machine's proxies, certificates and netrc file are not used."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle", "netrc"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    created: list[DirectoryInsights] = []

    def client(
        url: str,
        *,
        key: str = KEY,
        rate_limiter: RateLimiter | None = None,
        runtime: Runtime = SYSTEM,
        **settings: Any,
    ) -> DirectoryInsights:
        api_key = None if "client_id" in settings else Secret(key)
        if settings.get("proxy"):
            settings["proxy"] = ProxyUrl(settings["proxy"])
        section = JumpCloudSettings(url=url, api_key=api_key, **{"read_timeout": Duration(20), **settings})
        rate_limiter = rate_limiter or RateLimiter(10_000)
        created.append(DirectoryInsights(section, create_auth(section, rate_limiter, runtime=runtime), rate_limiter))
        return created[-1]

    yield client
    for each in created:
        each.close()


def ten_minutes() -> EventSource:
    """Events up to NOW; those of one millisecond fill more than two pages."""
    source = EventSource(start_ms=BEGIN, end_ms=NOW, per_minute=50)
    moment = BEGIN + 90_500
    for number in range(250):
        source.add({"id": f"tie-{number}", "timestamp": rfc3339(moment)}, timestamp_ms=moment)
    return source


def fetch(client: DirectoryInsights, window: Window = WINDOW, scope: Scope = OWN) -> Page:
    """Fetch one page."""
    return client.fetch(window, scope, threading.Event())


def fetch_all(client: DirectoryInsights, window: Window = WINDOW) -> list[bytes]:
    """The events of all pages from the window's cursor to its end."""
    raws: list[bytes] = []
    while True:
        page = fetch(client, window)
        raws += map(bytes, page.events)
        if page.cursor is None:
            return raws
        window = window.after(page.cursor)


def failure(client: DirectoryInsights, window: Window = WINDOW, scope: Scope = OWN) -> InJumpCloudError:
    """The error of a failed request for a page: one line, without a chain of library errors."""
    return error_of(lambda: fetch(client, window, scope))


def error_of(call: Callable[[], object]) -> InJumpCloudError:
    """The error that `call` raises: one line, without a chain of library errors."""
    with pytest.raises(InJumpCloudError) as raised:
        call()
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    assert "\n" not in str(raised.value)
    return raised.value
