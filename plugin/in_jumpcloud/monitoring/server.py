"""The status page, metrics and health over HTTP: read-only, and independent of the collection."""

from __future__ import annotations

import base64
import hashlib
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from importlib import import_module, resources
from typing import Any, Self
from urllib.parse import urlsplit

from in_jumpcloud.app import App
from in_jumpcloud.backoff import backoff_delay
from in_jumpcloud.config import addresses
from in_jumpcloud.monitoring import health, snapshot, status_json
from in_jumpcloud.monitoring.history import History
from in_jumpcloud.monitoring.http_server import HttpServer, Request, Response
from in_jumpcloud.runtime import SYSTEM
from in_jumpcloud.text import shown_in_one
from in_jumpcloud.timestamps import now_ms
from in_jumpcloud.troubles import Troubles

log = logging.getLogger(__name__)

MAX_REQUEST_SECONDS = 10.0
"""From the connection to the last byte of the response."""
_HEADERS = (
    ("Server", "in_jumpcloud"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_TEXT = "text/plain; charset=utf-8"
_HISTORY_RETRY_SECONDS = 10.0


class StatusEndpoints:
    """The endpoints."""

    def __init__(self, plugin: App, *, now_ms: Callable[[], int] = now_ms) -> None:
        self._plugin = plugin
        self._now_ms = now_ms
        self._began = time.monotonic()
        self._history = History(self.snapshot())
        self._metrics: Any = None
        self._page = resources.files(__package__).joinpath("page.html").read_bytes()
        self._policy = _content_security_policy(self._page)
        self._endpoints: dict[str, Callable[[Request], Response]] = {
            "/": lambda _: Response("200 OK", "text/html; charset=utf-8", self._page),
            "/status.json": lambda _: Response(
                "200 OK", "application/json", status_json.encode_status(self.snapshot(), self._history)
            ),
            "/metrics": self._show_metrics,
            "/healthz": lambda _: _health("alive", health.not_alive(self.snapshot())),
            "/readyz": lambda _: _health("ready", health.not_ready(self.snapshot())),
            "/favicon.ico": lambda _: Response("204 No Content", _TEXT, b""),
        }

    def snapshot(self) -> snapshot.Snapshot:
        """The present state of the plugin."""
        return snapshot.take_snapshot(self._plugin, now_ms=self._now_ms(), began=self._began)

    def keep_history(self) -> float:
        """Add a point to the history if one is due; returns the seconds until the next is."""
        try:
            if self._history.is_due(self._now_ms()):
                self._history.add(self.snapshot())
        except Exception:
            log.exception("cannot add a point to the history of the status page")
            return _HISTORY_RETRY_SECONDS
        return self._history.until_due(self._now_ms())

    def respond(self, request: Request) -> Response:
        """Answer one request."""
        headers: tuple[tuple[str, str], ...] = (*_HEADERS, ("Content-Security-Policy", self._policy))
        endpoint = self._endpoints.get(request.path)
        if request.method not in {"GET", "HEAD"}:
            headers = (*headers, ("Allow", "GET, HEAD"))
            response = Response("405 Method Not Allowed", _TEXT, b"only GET and HEAD are allowed\n")
        elif endpoint is None:
            paths = ", ".join(path for path in self._endpoints if path != "/favicon.ico")
            response = Response("404 Not Found", _TEXT, f"not found; available: {paths}\n".encode())
        else:
            try:
                response = endpoint(request)
            except Exception:
                log.exception("%s: internal error", request.path)
                response = Response("500 Internal Server Error", _TEXT, b"internal error; see the log\n")
        return response._replace(headers=headers)

    def _show_metrics(self, request: Request) -> Response:
        if self._metrics is None:  # imported at the first scrape: the library costs memory and start-up time
            self._metrics = import_module("in_jumpcloud.monitoring.metrics").Metrics(self.snapshot)
        body, media_type = self._metrics.encode(request.headers.get("accept", ""))
        return Response("200 OK", media_type, body)


def _health(good: str, reasons: Sequence[object]) -> Response:
    lines = "".join(f"{shown_in_one(line)}\n" for line in reasons or [good])
    return Response("503 Service Unavailable" if reasons else "200 OK", _TEXT, lines.encode())


def _names_this_machine(host: str, listen: str) -> bool:
    """Whether a Host header names the loopback interface, or is the host of `listen`."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return addresses.is_loopback(name) or name == addresses.parse_address(listen)[0].lower()


def _content_security_policy(page: bytes) -> str:
    """A policy that allows only the style and the script of `page`, by their hashes."""
    style, script = (
        base64.b64encode(hashlib.sha256(match[1]).digest()).decode()
        for tag in (b"style", b"script")
        for match in re.finditer(rb"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
    )
    return (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class StatusServer:
    """Serves the endpoints at http.listen, on a thread of its own.

    Until `show` they say only what the start waits for. While it cannot listen, because the port is taken or no thread
    can start, there is a trouble, and it is tried again; the plugin works without it.
    """

    def __init__(
        self,
        listen: str | None,
        troubles: Troubles,
        *,
        now_ms: Callable[[], int] = now_ms,
        max_request_seconds: float = MAX_REQUEST_SECONDS,
    ) -> None:
        """Serve at the address `listen`, the setting http.listen, from the first `retry` or `show` on; None: never."""
        self._listen = listen
        self._troubles = troubles
        self._now_ms = now_ms
        self._max_request_seconds = max_request_seconds
        self._plugin: App | None = None
        self._endpoints: StatusEndpoints | None = None
        self._server: HttpServer | None = None
        self._closing = False
        self._failures = 0
        self._retry_at = 0.0

    @property
    def url(self) -> str | None:
        """The URL of the status page; None while it is not served."""
        server = self._server
        return f"http://{addresses.format_address(*server.address)}/" if server else None

    def show(self, plugin: App) -> None:
        """Show this plugin from now on."""
        self._plugin = plugin
        self.retry()

    def retry(self) -> float:
        """Do what is left to do, if it is time to try again.

        Returns:
            Seconds until it is due again; infinite if nothing is left.
        """
        is_done = self._server and (self._endpoints or not self._plugin)
        if self._listen is None or is_done:
            return math.inf
        if time.monotonic() >= self._retry_at:
            self._try(self._listen)
        return max(0.0, self._retry_at - time.monotonic())

    def _try(self, listen: str) -> None:
        try:
            if self._plugin and not self._endpoints:
                self._endpoints = StatusEndpoints(self._plugin, now_ms=self._now_ms)
                if self._server:
                    self._server.wake()  # it keeps the history from now on
            if not self._server:
                self._listen_at(listen)
        except (OSError, UnicodeError, RuntimeError) as error:  # RuntimeError: no thread can start
            self._fail(error)
        else:
            self._failures = 0
            self._troubles.end("http.listen")

    def _listen_at(self, listen: str) -> None:
        server = HttpServer(
            addresses.parse_address(listen),
            self._respond,
            on_tick=self.keep_history,
            max_request_seconds=self._max_request_seconds,
        )
        self._server = server
        try:
            SYSTEM.start(lambda: self._serve(server), name="status-page")
        except BaseException:
            self._server = None
            server.close()
            raise
        log.info("status page at %s", self.url)

    def keep_history(self) -> float:
        """Add a point to the history if one is due; returns the seconds until the next is."""
        return self._endpoints.keep_history() if self._endpoints else math.inf

    def _respond(self, request: Request) -> Response:
        host, server = request.headers.get("host"), self._server
        is_local = server and addresses.is_loopback(server.address[0])
        # A page of another site, whose name leads to this address, would otherwise read what is here.
        if host and is_local and self._listen and not _names_this_machine(host, self._listen):
            text = b"the Host header must be that of this machine, such as localhost\n"
            return Response("421 Misdirected Request", _TEXT, text, _HEADERS)
        if self._endpoints:
            return self._endpoints.respond(request)
        causes: list[object] = [*health.troubles(self._troubles.current())] or ["it has not finished its start"]
        return _health("alive", [] if request.path == "/healthz" else causes)._replace(headers=_HEADERS)

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        self._retry_at = time.monotonic() + backoff_delay(self._failures, SYSTEM.random)
        reason = getattr(error, "strerror", None) or str(error)
        advice = "the plugin works without its status page until it can listen; or set another address"
        self._troubles.begin("http.listen", f"http.listen: {self._listen}: {reason}", advice)

    def _serve(self, server: HttpServer) -> None:
        try:
            server.serve()
        except Exception:
            log.exception("the status page ended; starting it again")
        if not self._closing:
            self._retry_at = time.monotonic() + backoff_delay(1, SYSTEM.random)
            self._server = None
            if self._plugin:
                self._plugin.wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        if self._server:
            self._server.close()
