"""A Directory Insights API on loopback, with the answers, limits and errors of the real one, and faults on demand."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import socket
import socketserver
import sys
import threading
import time
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import msgspec

from in_jumpcloud.simulator import oauth, query
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault, Faults
from in_jumpcloud.simulator.query import Answer, Query, Refusal
from in_jumpcloud.timestamps import now_ms

BASE = "/insights/directory/v1"
MAX_BODY_BYTES = 1_000_000
_ENDPOINTS: dict[str, Callable[[Query], Answer]] = {
    f"{BASE}/events": query.page,
    f"{BASE}/events/count": query.count,
    f"{BASE}/events/interval": query.interval,
}
_MIN_GZIP_BYTES = 500
_RECORDED_HEADERS = {"accept-encoding", "authorization", "content-type", "user-agent"}
_RECORDED_HEADERS |= {"x-api-key", "x-org-id", "x-provider-id"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One received request: header names in lower case, the body `{}` if it was not a JSON object."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    time_ms: int
    status: int  # 0: closed without an answer
    fault: str = ""


class SimulatedApi:
    """The API, served on one port from `start` to `stop`, or as a context manager."""

    def __init__(
        self,
        source: EventSource | Mapping[str, EventSource],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str = "simulated-key",
        accounts: Mapping[str, str] | None = None,
        token_lifetime: float = 3600,
        clock: Callable[[], int] = now_ms,
        gzip: bool = True,
        faults: Faults | None = None,
        allow_remote: bool = False,
    ) -> None:
        """Serve one organization, or several.

        Args:
            source: the events of one organization, or organization id → its events. `x-org-id` selects one; without it
                the first answers. `x-provider-id` selects the key "provider:" plus that id
            host: the address to listen on, IPv4 or IPv6
            port: 0 takes a free one at `start`
            api_key: the only accepted key
            accounts: client id → secret of the service accounts, whose tokens are accepted too
            token_lifetime: seconds that a token is valid
            clock: now, in epoch milliseconds; later events are not visible yet
            gzip: compress for clients that accept it
            faults: what goes wrong; `SimulatedApi.faults` can be changed at any time
            allow_remote: permit a host that is not a loopback address

        Raises:
            ValueError: the host is not a loopback address.
        """
        if not (allow_remote or ipaddress.ip_address(host).is_loopback):
            raise ValueError(f"{host} is not a loopback address")
        self.sources = {source.organization: source} if isinstance(source, EventSource) else dict(source)
        self.host = host
        self.port = port
        self.faults = faults or Faults()
        self.requests: deque[Request] = deque(maxlen=10_000)
        self.events_served = 0
        self.date_skew = 0.0
        """Seconds added to the `Date` of every answer."""
        self.tokens = oauth.Tokens(accounts or {}, lifetime=token_lifetime, clock=clock)
        self._api_key = api_key
        self._clock = clock
        self._gzip = gzip
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._server: _Server | None = None

    @property
    def token_url(self) -> str:
        """The URL at which service accounts get their tokens."""
        return self.url + oauth.PATH

    @property
    def url(self) -> str:
        """The base URL, without a path. With port 0 it is valid after `start`."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def start(self) -> Self:
        """Listen, and serve in the background. Raises OSError if the address is in use or not available."""
        if self._server is None:
            self._stopping.clear()
            self._server = _Server(self)
            self.port = self._server.server_address[1]
            threading.Thread(target=self._server.serve_forever, args=(0.05,), name="simulated-api", daemon=True).start()
        return self

    def stop(self) -> None:
        """Close the port and every connection. A later `start` uses the same port."""
        if self._server is not None:
            self._stopping.set()
            self._server.shutdown()
            self._server.close_connections()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _answer(self, method: str, path: str, headers: Mapping[str, str], body: dict[str, Any] | None) -> Answer:
        """The answer without a fault. Header names are in lower case; the body is None if it is not a JSON object."""
        if path not in _ENDPOINTS:
            raise Refusal("Not Found", HTTPStatus.NOT_FOUND)
        if method != "POST":
            raise Refusal("Method Not Allowed", HTTPStatus.METHOD_NOT_ALLOWED)
        source = self._source(headers)
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal("Content-Type must be application/json")
        if body is None:
            raise Refusal("Invalid/unknown query JSON body")
        return _ENDPOINTS[path](Query.parse(body, source, self._clock()))

    def _source(self, headers: Mapping[str, str]) -> EventSource:
        """The events that these headers select, if they give access."""
        organization, provider = headers.get("x-org-id"), headers.get("x-provider-id")
        if self.tokens.accepts(headers.get("authorization", "")):
            if not organization:
                raise Refusal("Forbidden: x-org-id is required", HTTPStatus.FORBIDDEN)
        elif headers.get("x-api-key") != self._api_key:
            raise Refusal("Unauthorized", HTTPStatus.UNAUTHORIZED)
        if organization and provider:
            raise Refusal("x-org-id and x-provider-id exclude each other")
        name = f"provider:{provider}" if provider else organization or next(iter(self.sources))
        if name not in self.sources:
            raise Refusal("Forbidden: no access to the organization", HTTPStatus.FORBIDDEN)
        return self.sources[name]

    def _respond(self, handler: _Handler) -> None:
        """Read one request and write its answer, changed by the fault if there is one."""
        path = handler.path.partition("?")[0]
        headers = {name.lower(): value for name, value in handler.headers.items()}
        raw = handler.read_body()
        body = _object(raw)
        cursor = (body or {}).get("search_after")
        fault = self.faults.take(path, paging=bool(cursor))
        kind = fault.kind if fault else ""
        if fault and kind == "delay":
            self._stopping.wait(fault.seconds)
        try:
            answer = _faulty(fault)
            if answer is None and path == oauth.PATH:
                answer = self.tokens.grant(handler.command, headers, raw or b"")
            elif answer is None:
                answer = self._answer(handler.command, path, headers, body)
        except Refusal as refusal:
            answer = refusal.answer
        if kind == "wrong_count" and "X-Result-Count" in answer.headers:
            answer.headers["X-Result-Count"] = str(int(answer.headers["X-Result-Count"]) + 1)
        elif kind == "repeat_cursor" and "X-Search_after" in answer.headers:
            answer.headers["X-Search_after"] = json.dumps(cursor, separators=(",", ":"))
        elif kind == "bad_json":
            answer.body = answer.body[: len(answer.body) // 2]
        recorded = {name: value for name, value in headers.items() if name in _RECORDED_HEADERS}
        status = 0 if kind == "drop" else answer.status
        with self._lock:
            self.requests.append(Request(path, body or {}, recorded, self._clock(), status, kind))
            self.events_served += 0 if kind in {"cut", "bad_json", "drop"} else answer.events
        if kind == "drop":
            handler.close_connection = True
            return
        if self._gzip and "gzip" in headers.get("accept-encoding", "") and len(answer.body) > _MIN_GZIP_BYTES:
            # The fastest level: loopback has bandwidth, and processor time would distort measurements.
            answer.body = zlib.compress(answer.body, 1, wbits=zlib.MAX_WBITS | 16)
            answer.headers["Content-Encoding"] = "gzip"
        handler.write(answer, cut=kind == "cut")


def _faulty(fault: Fault | None) -> Answer | None:
    """The answer of a fault that replaces the real answer; None for other faults."""
    if fault is None or fault.kind not in {"status", "redirect", "drop"}:
        return None
    if fault.kind == "redirect":
        return Answer(302, b"", {"Location": "/elsewhere"})
    message = fault.message or HTTPStatus(fault.status).phrase
    headers = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
    return Answer(fault.status, msgspec.json.encode({"message": message}), headers)


def _object(body: bytes | None) -> dict[str, Any] | None:
    """The JSON object in a body; None if there is none."""
    try:
        return msgspec.json.decode(body or b"", type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "simulated"
    sys_version = ""
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        self.server.api._respond(self)  # noqa: SLF001 - the two classes are one server

    do_GET = do_PUT = do_PATCH = do_DELETE = do_POST  # noqa: N815

    def read_body(self) -> bytes | None:
        """The request's body; None if it cannot be read."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            # The end of the body is unknown, so the next request cannot be found.
            self.close_connection = True
            return None
        return self.rfile.read(int(length))

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The `Date`, off by `date_skew`."""
        return super().date_time_string((timestamp or time.time()) + self.server.api.date_skew)

    def write(self, answer: Answer, *, cut: bool) -> None:
        """Send an answer. A cut one announces all of its bytes, sends half of them and closes the connection."""
        self.send_response(answer.status)
        self.send_header("X-Request-Id", str(uuid.uuid4()))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body[: len(answer.body) // 2] if cut else answer.body)
        self.close_connection = self.close_connection or cut

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        _log.debug(format, *args)


class _Server(ThreadingHTTPServer):
    """A thread per connection; `close_connections` ends them all."""

    request_queue_size = 128

    def __init__(self, api: SimulatedApi) -> None:
        self.api = api
        self._connections: set[socket.socket] = set()
        self._changed = threading.Condition()
        self.address_family = socket.AF_INET6 if ":" in api.host else socket.AF_INET
        super().__init__((api.host, api.port), _Handler)

    def server_bind(self) -> None:
        # The base class resolves the host's name, which may take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        if not isinstance(sys.exc_info()[1], OSError):
            _log.exception("request from %s failed", client_address)

    def close_connections(self) -> None:
        """Close every connection and wait up to 5 s for their threads."""
        with self._changed:
            for connection in list(self._connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._connections, timeout=5)
