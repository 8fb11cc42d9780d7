"""A client of the API, and servers that answer it as the API never would."""

from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.config.types import Duration, Secret
from in_jumpcloud.errors import InJumpCloudError
from in_jumpcloud.insights import auth
from in_jumpcloud.insights.api import DirectoryInsights, Scope
from in_jumpcloud.insights.pages import Page
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.window import Window
from in_jumpcloud.simulator.events import EventSource

KEY = "jca_Zw41PqLmN8sT0uV7xY2bC5dE9fG3hJ6kA1rB"
NOW = 1_790_000_000_000
BEGIN = NOW - 10 * 60_000
WINDOW = Window(start_ms=BEGIN, end_ms=NOW, services=("all",), limit=100)
SECOND_PAGE = WINDOW.after('[1789999400000,"DZrPyW8BNsa9iKWoOm7h"]')
CURSOR = '[1789999400001,"EZrPyW8BNsa9iKWoOm7h"]'
PATH = "/insights/directory/v1/events"
OWN = Scope()

Reply = bytes | Callable[["Request"], None]
Serve = Callable[[Reply], "Canned"]
Client = Callable[..., DirectoryInsights]


class Canned(http.server.ThreadingHTTPServer):
    """A server that answers every request with the same bytes, or with what a function writes."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.reply = reply
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.ended = threading.Event()

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is none of our business."""
        if not isinstance(sys.exc_info()[1], OSError):
            raise  # noqa: PLE0704 - called while an error is handled

    @property
    def url(self) -> str:
        """Its base."""
        return f"http://127.0.0.1:{self.server_port}"


class Request(http.server.BaseHTTPRequestHandler):
    """One request, recorded and answered."""

    server: Canned

    def do_POST(self) -> None:
        """Answer as the server was told to."""
        self.server.paths.append(self.path)
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        if isinstance(self.server.reply, bytes):
            self.wfile.write(self.server.reply)
        else:
            self.server.reply(self)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def answer(body: bytes = b"[]", headers: Mapping[str, str] | None = None, status: str = "200 OK") -> bytes:
    """The bytes of an answer."""
    lines = [f"HTTP/1.1 {status}"]
    named = {"Content-Length": str(len(body)), "Connection": "close", **(headers or {})}
    lines += [f"{name}: {value}" for name, value in named.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@contextmanager
def servers() -> Iterator[Serve]:
    """Start servers of canned answers, and stop them at the end."""
    started: list[Canned] = []

    def serve(reply: Reply) -> Canned:
        server = Canned(reply)
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
    """Make clients, and close them at the end; the machine's own proxies, certificates and netrc stay out of it."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle", "netrc"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    made: list[DirectoryInsights] = []

    def client(
        url: str, *, key: str = KEY, rate_limiter: RateLimiter | None = None, **settings: Any
    ) -> DirectoryInsights:
        api_key = None if "client_id" in settings else Secret(key)
        section = JumpCloudSettings(url=url, api_key=api_key, **{"read_timeout": Duration(20), **settings})
        rate_limiter = rate_limiter or RateLimiter(10_000)
        made.append(DirectoryInsights(section, auth.auth_for(section, rate_limiter), rate_limiter))
        return made[-1]

    yield client
    for each in made:
        each.close()


def ten_minutes() -> EventSource:
    """Events up to NOW, more than two pages of them on one millisecond."""
    return EventSource(start_ms=BEGIN, end_ms=NOW, per_minute=50, bursts={BEGIN + 90_500: 250})


def fetch(client: DirectoryInsights, window: Window = WINDOW, scope: Scope = OWN) -> Page:
    """One page."""
    return client.fetch(window, scope, threading.Event())


def fetch_all(client: DirectoryInsights, window: Window = WINDOW) -> list[bytes]:
    """The events of every page, from the window's cursor to its end."""
    raws: list[bytes] = []
    while True:
        page = fetch(client, window)
        raws += map(bytes, page.events)
        if page.cursor is None:
            return raws
        window = window.after(page.cursor)


def failure(client: DirectoryInsights, window: Window = WINDOW, scope: Scope = OWN) -> InJumpCloudError:
    """The error that a request ends in: one line, with nothing of the library's behind it."""
    with pytest.raises(InJumpCloudError) as raised:
        fetch(client, window, scope)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    assert "\n" not in str(raised.value)
    return raised.value
