"""The HTTP server of the status page, metrics and health: read-only, bounded, and independent of the collection."""

from __future__ import annotations

import base64
import errno
import hashlib
import logging
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module, resources
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

from in_jumpcloud.app import App
from in_jumpcloud.backoff import backoff_delay
from in_jumpcloud.config import addresses
from in_jumpcloud.monitoring import health, snapshot, status_json
from in_jumpcloud.monitoring.history import History
from in_jumpcloud.runtime import SYSTEM
from in_jumpcloud.timestamps import now_ms
from in_jumpcloud.troubles import Troubles

log = logging.getLogger(__name__)

MAX_REQUESTS = 8
"""Requests answered at the same time; the connection of a further one is closed."""
MAX_REQUEST_SECONDS = 10.0
"""From the connection to the last byte of the response."""
_TICK_SECONDS = 0.25
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_HEADERS = [
    ("Server", "in_jumpcloud"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
_TEXT = "text/plain; charset=utf-8"
_Response = tuple[str, str, bytes]
"""Status line, media type, body."""


class StatusEndpoints:
    """The endpoints, as a WSGI application."""

    def __init__(self, plugin: App, *, now_ms: Callable[[], int] = now_ms) -> None:
        self._plugin = plugin
        self._now_ms = now_ms
        self._began = time.monotonic()
        self._history = History(self.snapshot())
        self._metrics: Any = None
        self._page = resources.files(__package__).joinpath("page.html").read_bytes()
        self._policy = _content_security_policy(self._page)
        self._endpoints: dict[str, Callable[[WSGIEnvironment], _Response]] = {
            "/": lambda _: ("200 OK", "text/html; charset=utf-8", self._page),
            "/status.json": lambda _: (
                "200 OK",
                "application/json",
                status_json.encode_status(self.snapshot(), self._history),
            ),
            "/metrics": self._show_metrics,
            "/healthz": lambda _: _health("alive", health.not_alive(self.snapshot())),
            "/readyz": lambda _: _health("ready", health.not_ready(self.snapshot())),
            "/favicon.ico": lambda _: ("204 No Content", _TEXT, b""),
        }

    def snapshot(self) -> snapshot.Snapshot:
        """The present state of the plugin."""
        return snapshot.take_snapshot(self._plugin, now_ms=self._now_ms(), began=self._began)

    def keep_history(self) -> None:
        """Add a point to the history if one is due. Call it several times a minute."""
        try:
            if self._history.is_due(self._now_ms()):
                self._history.add(self.snapshot())
        except Exception:
            log.exception("cannot add a point to the history of the status page")

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """Answer one request."""
        headers = [*_HEADERS, ("Content-Security-Policy", self._policy)]
        endpoint = self._endpoints.get(environ["PATH_INFO"])
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            headers.append(("Allow", "GET, HEAD"))
            status, media_type, body = "405 Method Not Allowed", _TEXT, b"only GET and HEAD are allowed\n"
        elif endpoint is None:
            paths = ", ".join(path for path in self._endpoints if path != "/favicon.ico")
            status, media_type, body = "404 Not Found", _TEXT, f"not found; available: {paths}\n".encode()
        else:
            try:
                status, media_type, body = endpoint(environ)
            except Exception:
                log.exception("%s: internal error", environ["PATH_INFO"])
                status, media_type, body = "500 Internal Server Error", _TEXT, b"internal error; see the log\n"
        start_response(status, [*headers, ("Content-Type", media_type), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _show_metrics(self, environ: WSGIEnvironment) -> _Response:
        if self._metrics is None:  # imported at the first scrape: the library costs memory and start-up time
            self._metrics = import_module("in_jumpcloud.monitoring.metrics").Metrics(self.snapshot)
        body, media_type = self._metrics.encode(environ.get("HTTP_ACCEPT", ""))
        return "200 OK", media_type, body


def _health(good: str, reasons: Sequence[object]) -> _Response:
    lines = "".join(f"{' '.join(str(line).split())}\n" for line in reasons or [good])
    return "503 Service Unavailable" if reasons else "200 OK", _TEXT, lines.encode(errors="replace")


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


class _Handler(WSGIRequestHandler):
    server_version = "in_jumpcloud"
    sys_version = ""

    def log_message(self, *_: object) -> None:
        """Requests are not logged."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], endpoints: StatusServer, max_request_seconds: float) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.max_request_seconds = max_request_seconds
        self._endpoints = endpoints
        self._deadlines: dict[Any, float] = {}  # by connection
        self._lock = threading.Lock()
        super().__init__(address, _Handler)
        self.set_app(endpoints)

    def server_bind(self) -> None:
        """Bind without the base's DNS query for the host's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        try:
            connection, address = super().get_request()
        except OSError as error:
            if error.errno in _EXHAUSTED:  # the connection keeps waiting: without a pause, the loop would use the CPU
                time.sleep(_TICK_SECONDS)
            raise
        connection.settimeout(self.max_request_seconds)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - the base calls it
        """Whether to serve a connection: only if fewer than MAX_REQUESTS are open."""
        with self._lock:
            if len(self._deadlines) >= MAX_REQUESTS:
                return False
            self._deadlines[request] = time.monotonic() + self.max_request_seconds
            return True

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections that are past their deadline; add to the history."""
        now = time.monotonic()
        with self._lock:
            overdue = [request for request, deadline in self._deadlines.items() if deadline < now]
        for request in overdue:
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)
        self._endpoints.keep_history()

    def handle_error(self, *_: object) -> None:
        """A client that disconnects is not an error of the plugin."""
        log.debug("a client of the status page disconnected")


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
        self._server: _Server | None = None
        self._closing = False
        self._failures = 0
        self._retry_at = 0.0

    @property
    def url(self) -> str | None:
        """The URL of the status page; None while it is not served."""
        server = self._server
        return f"http://{addresses.format_address(server.server_name, server.server_port)}/" if server else None

    def show(self, plugin: App) -> None:
        """Show this plugin from now on."""
        self._plugin = plugin
        self.retry()

    def retry(self) -> None:
        """Do what is left to do, if it is time to try again. Call it often."""
        is_done = self._server and (self._endpoints or not self._plugin)
        if self._listen is None or is_done or time.monotonic() < self._retry_at:
            return
        try:
            if self._plugin and not self._endpoints:
                self._endpoints = StatusEndpoints(self._plugin, now_ms=self._now_ms)
            if not self._server:
                self._listen_at(self._listen)
        except (OSError, UnicodeError, RuntimeError) as error:  # RuntimeError: no thread can start
            self._fail(error)
        else:
            self._failures = 0
            self._troubles.end("http.listen")

    def _listen_at(self, listen: str) -> None:
        server = _Server(addresses.parse_address(listen), self, self._max_request_seconds)
        try:
            SYSTEM.start(lambda: self._serve(server), name="status-page")
        except BaseException:
            server.server_close()
            raise
        self._server = server
        log.info("status page at %s", self.url)

    def keep_history(self) -> None:
        """Add a point to the history if one is due."""
        if self._endpoints:
            self._endpoints.keep_history()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """Answer one request."""
        if self._endpoints:
            return self._endpoints(environ, start_response)
        causes = [str(each) for each in self._troubles.current()] or ["it has not finished its start"]
        status, media_type, body = _health("alive", [] if environ["PATH_INFO"] == "/healthz" else causes)
        start_response(status, [*_HEADERS, ("Content-Type", media_type), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        self._retry_at = time.monotonic() + backoff_delay(self._failures, SYSTEM.random)
        reason = getattr(error, "strerror", None) or str(error)
        advice = "the plugin works without its status page until it can listen; or set another address"
        self._troubles.begin("http.listen", f"http.listen: {self._listen}: {reason}", advice)

    def _serve(self, server: _Server) -> None:
        try:
            server.serve_forever(_TICK_SECONDS)
        except Exception:
            log.exception("the status page ended; starting it again")
        finally:
            server.server_close()
            if not self._closing:
                self._retry_at = time.monotonic() + backoff_delay(1, SYSTEM.random)
                self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        server = self._server
        if server:
            with suppress(RuntimeError):  # in the background: the loop ends only at its next tick
                SYSTEM.start(server.shutdown, name="status-page-end")
            server.server_close()


@contextmanager
def serve(
    listen: str | None,
    plugin: App,
    *,
    now_ms: Callable[[], int] = now_ms,
    max_request_seconds: float = MAX_REQUEST_SECONDS,
) -> Iterator[str | None]:
    """Serve the endpoints of `plugin` as StatusServer does; yields the URL of the status page."""
    troubles = plugin.resources.troubles
    with StatusServer(listen, troubles, now_ms=now_ms, max_request_seconds=max_request_seconds) as server:
        server.show(plugin)
        yield server.url
