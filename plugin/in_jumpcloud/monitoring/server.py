"""The web server: a few pages for people and their monitoring, read-only, bounded, and never in the plugin's way."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module, resources
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

from in_jumpcloud.app import App
from in_jumpcloud.config import addresses
from in_jumpcloud.errors import ConfigError
from in_jumpcloud.monitoring import health, snapshot, status_json
from in_jumpcloud.monitoring.history import History
from in_jumpcloud.timestamps import now_ms

log = logging.getLogger(__name__)

_PLACES = 8
"""Requests that are answered at a time; a further one is turned away."""
_LONGEST = 10.0
"""Seconds that a request may take, from its first byte to the last of its answer."""
_TICK = 0.25
"""Seconds after which the server looks at the clock, and whether it is to end."""
_HEADERS = [
    ("Server", "in_jumpcloud"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
_TEXT = "text/plain; charset=utf-8"
_Page = tuple[str, str, bytes]
"""Status, media type, body."""


class StatusEndpoints:
    """The pages, as a WSGI application."""

    def __init__(self, plugin: App, *, now_ms: Callable[[], int] = now_ms) -> None:
        self._plugin = plugin
        self._now_ms = now_ms
        self._began = time.monotonic()
        self._history = History(self.snapshot())
        self._metrics: Any = None
        self._page = resources.files(__package__).joinpath("page.html").read_bytes()
        self._policy = _policy(self._page)
        self._pages: dict[str, Callable[[WSGIEnvironment], _Page]] = {
            "/": lambda _: ("200 OK", "text/html; charset=utf-8", self._page),
            "/status.json": lambda _: (
                "200 OK",
                "application/json",
                status_json.encode_status(self.snapshot(), self._history),
            ),
            "/metrics": self._show_metrics,
            "/healthz": lambda _: _verdict("alive", health.not_alive(self.snapshot())),
            "/readyz": lambda _: _verdict("ready", health.not_ready(self.snapshot())),
            "/favicon.ico": lambda _: ("204 No Content", _TEXT, b""),
        }

    def snapshot(self) -> snapshot.Snapshot:
        """How the plugin is doing now."""
        return snapshot.take_snapshot(self._plugin, now_ms=self._now_ms(), began=self._began)

    def keep_history(self) -> None:
        """To be called now and then: once a minute a point is kept."""
        try:
            if self._history.is_due(self._now_ms()):
                self._history.add(self.snapshot())
        except Exception:
            log.exception("the history of the status page lacks a minute")

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """Answer one request."""
        headers = [*_HEADERS, ("Content-Security-Policy", self._policy)]
        page = self._pages.get(environ["PATH_INFO"])
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            headers.append(("Allow", "GET, HEAD"))
            status, media_type, body = "405 Method Not Allowed", _TEXT, b"only GET and HEAD\n"
        elif page is None:
            known = ", ".join(path for path in self._pages if path != "/favicon.ico")
            status, media_type, body = "404 Not Found", _TEXT, f"there are {known}\n".encode()
        else:
            try:
                status, media_type, body = page(environ)
            except Exception:
                log.exception("%s: an error of the plugin itself", environ["PATH_INFO"])
                status, media_type, body = "500 Internal Server Error", _TEXT, b"an error of the plugin itself\n"
        start_response(status, [*headers, ("Content-Type", media_type), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _show_metrics(self, environ: WSGIEnvironment) -> _Page:
        if self._metrics is None:  # imported when first asked for: its library costs memory and time
            self._metrics = import_module("in_jumpcloud.monitoring.metrics").Metrics(self.snapshot)
        body, media_type = self._metrics.encode(environ.get("HTTP_ACCEPT", ""))
        return "200 OK", media_type, body


def _verdict(good: str, reasons: list[str]) -> _Page:
    lines = "".join(f"{' '.join(line.split())}\n" for line in reasons or [good])
    return "503 Service Unavailable" if reasons else "200 OK", _TEXT, lines.encode(errors="replace")


def _policy(page: bytes) -> str:
    """A Content-Security-Policy that lets the page's own style and script in, by their hashes, and nothing else."""
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
    timeout = _LONGEST
    server_version = "in_jumpcloud"
    sys_version = ""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, where: tuple[str, int], pages: StatusEndpoints) -> None:
        self.address_family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        self._pages = pages
        self._until: dict[Any, float] = {}
        self._lock = threading.Lock()
        super().__init__(where, _Handler)
        self.set_app(pages)

    def server_bind(self) -> None:
        """Bind without asking a name server for our own name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - the base calls it
        """Let it in where there is a place left."""
        with self._lock:
            if len(self._until) >= _PLACES:
                return False
            self._until[request] = time.monotonic() + _LONGEST
            return True

    def shutdown_request(self, request: Any) -> None:
        """It is done with."""
        with self._lock:
            self._until.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Hang up on those that take too long; keep the history."""
        now = time.monotonic()
        with self._lock:
            overdue = [request for request, until in self._until.items() if until < now]
        for request in overdue:
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)
        self._pages.keep_history()

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is none of our business."""
        log.debug("a request to the status page broke off")


@contextmanager
def serve(listen: str | None, plugin: App, *, now_ms: Callable[[], int] = now_ms) -> Iterator[str | None]:
    """Show how `plugin` is doing at `listen`, which is `http.listen`; None: nowhere. Gives the address of the page.

    Raises:
        ConfigError: nobody can listen there.
    """
    if listen is None:
        yield None
        return
    try:
        server = _Server(addresses.parse_address(listen), StatusEndpoints(plugin, now_ms=now_ms))
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(f"http.listen: {listen}: {why}; name another address, or null to go without") from None
    url = f"http://{addresses.format_address(server.server_name, server.server_port)}/"
    log.info("status page at %s", url)
    threading.Thread(target=server.serve_forever, args=(_TICK,), name="status-page", daemon=True).start()
    try:
        yield url
    finally:
        # Its loop ends when it looks up the next time; nobody waits for that.
        threading.Thread(target=server.shutdown, daemon=True).start()
        server.server_close()
