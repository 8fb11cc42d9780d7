"""A Directory Insights API on loopback, with the answers, limits and errors of the real one, and faults on demand."""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import sys
import threading
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal, Self

import msgspec

from in_jumpcloud.simulator import oauth, organizations, query
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault, Faults
from in_jumpcloud.simulator.query import Answer, Refusal
from in_jumpcloud.simulator.together import Together
from in_jumpcloud.timestamps import now_ms

_MIN_GZIP_BYTES = 500
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One received request: header names in lower case, the body `{}` if it was not a JSON object."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    time_ms: int
    status: int  # 0: closed without an answer
    query: str = ""  # what follows the `?`
    organizations: tuple[str, ...] = ()  # of each header `x-org-id`


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
        clock: Callable[[], int] = now_ms,
    ) -> None:
        """Serve one organization, or several.

        Args:
            source: the events of one organization, or organization id → its events. `x-org-id` selects one, or
                several if it is repeated, see `several`; without it
                the first answers. `x-provider-id` selects the key "provider:" plus that id. The organizations are
                listed too; one may be added to `sources`, or removed, while it serves
            host: the address to listen on, IPv4 or IPv6
            port: 0 takes a free one at `start`
            api_key: the only accepted key
            accounts: client id → secret of the service accounts, whose tokens are accepted too
            clock: now, in epoch milliseconds; later events are not visible yet
        """
        self.sources = {source.organization: source} if isinstance(source, EventSource) else dict(source)
        self.names: dict[str, str] = {}
        """The names in the lists, by organization; the others have one made of their id."""
        self.host = host
        self.port = port
        self.faults = Faults()
        self.requests: deque[Request] = deque(maxlen=10_000)
        self.events_served = 0
        self.retention_ms: int | None = None
        """How far back the plan reaches, in milliseconds; None for ever. Older events are refused with 402."""
        self.several: Literal["together", "first", "refused"] = "together"
        """What a request with several organizations gets: all of their events, those of the first, or a 400."""
        self.tokens = oauth.Tokens(accounts or {}, clock)
        self._api_key = api_key
        self.clock = clock
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

    def _respond(self, handler: _Handler) -> None:
        """Read one request and write its answer, changed by the fault if there is one."""
        path, _, options = handler.path.partition("?")
        headers = {name.lower(): value for name, value in handler.headers.items()}
        organizations = tuple(handler.headers.get_all("x-org-id", ()))
        raw = handler.rfile.read(int(headers.get("content-length", 0)))
        body = _object(raw)
        cursor = body.get("search_after")
        fault = self.faults.take(path, paging=bool(cursor))
        try:
            answer = self._answer(handler.command, path, options, headers, organizations, raw, fault)
        except Refusal as refusal:
            answer = refusal.answer
        if fault:
            fault.spoil(answer, cursor)
        with self._lock:
            self.requests.append(Request(path, body, headers, self.clock(), answer.status, options, organizations))
            self.events_served += answer.events
        takes_gzip = "gzip" in headers.get("accept-encoding", "") and "Content-Encoding" not in answer.headers
        if takes_gzip and len(answer.body) > _MIN_GZIP_BYTES:
            # The fastest level: loopback has bandwidth, and processor time would distort measurements.
            answer.body = zlib.compress(answer.body, 1, wbits=zlib.MAX_WBITS | 16)
            answer.headers["Content-Encoding"] = "gzip"
        handler.write(answer)

    def _answer(
        self,
        method: str,
        path: str,
        options: str,
        headers: Mapping[str, str],
        asked: Sequence[str],
        raw: bytes,
        fault: Fault | None,
    ) -> Answer:
        if fault and fault.kind == "delay":
            self._stopping.wait(fault.seconds)
        elif fault:
            fault.refuse()
        if organizations.is_path(path) and method == "GET":
            self._require_key(headers)
            return organizations.answer(path, options, self.sources, self.names)
        if path != oauth.PATH and path not in query.PATHS:
            raise Refusal(404, message="Not Found")
        if method != "POST":
            raise Refusal(405, message="Method Not Allowed")
        if path == oauth.PATH:
            return self.tokens.grant(headers, raw)
        source = self._source(headers, asked)
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(400, message="Content-Type must be application/json")
        body = _object(raw)
        query.require_retention(body, self.clock(), self.retention_ms)
        if fault is None:
            return query.answer(path, body, source, self.clock())
        return query.answer(path, fault.alter(body), source, self.clock() + fault.ahead_ms)

    def _require_key(self, headers: Mapping[str, str]) -> None:
        """Lists of organizations are for administrators."""
        if self.tokens.accepts(headers.get("authorization", "")):
            raise Refusal(403, message="Forbidden")
        if headers.get("x-api-key") != self._api_key:
            raise Refusal(401, message="Unauthorized")

    def _source(self, headers: Mapping[str, str], asked: Sequence[str]) -> EventSource | Together:
        """The events that these headers select, if they give access; `asked` are the organizations."""
        organization, provider = asked[0] if asked else None, headers.get("x-provider-id")
        if self.tokens.accepts(headers.get("authorization", "")):
            if not organization:
                raise Refusal(403, message="Forbidden: x-org-id is required")
        elif headers.get("x-api-key") != self._api_key:
            raise Refusal(401, message="Unauthorized")
        if organization and provider:
            raise Refusal(400, message="x-org-id and x-provider-id exclude each other")
        name = f"{organizations.PROVIDER_PREFIX}{provider}" if provider else organization or next(iter(self.sources))
        names = [name] if self.several == "first" else [name, *asked[1:]]
        if len(names) > 1 and self.several == "refused":
            raise Refusal(400, message="x-org-id: only one organization at a time")
        if any(each not in self.sources for each in names):
            raise Refusal(403, message="Forbidden: no access to the organization")
        return Together([self.sources[each] for each in names]) if len(names) > 1 else self.sources[name]


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body; an empty one if there is none."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        self.server.api._respond(self)  # noqa: SLF001 - the two classes are one server

    do_GET = do_PUT = do_PATCH = do_DELETE = do_POST  # noqa: N815

    def write(self, answer: Answer) -> None:
        """Send an answer. A cut one announces all of its bytes, sends half of them and closes the connection."""
        if answer.cut or not answer.status:
            self.close_connection = True
        if not answer.status:
            return
        self.log_request(answer.status)
        self.send_response_only(answer.status)
        if answer.date_skew is not None:
            self.send_header("Date", self.date_time_string(self.server.api.clock() / 1000 + answer.date_skew))
        self.send_header("X-Request-Id", str(uuid.uuid4()))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body[: len(answer.body) // 2] if answer.cut else answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        _log.debug(format, *args)


class _Server(socketserver.ThreadingTCPServer):
    """A thread per connection; `close_connections` ends them all."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, api: SimulatedApi) -> None:
        self.api = api
        self._connections: set[socket.socket] = set()
        self.address_family = socket.AF_INET6 if ":" in api.host else socket.AF_INET
        super().__init__((api.host, api.port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        if not isinstance(sys.exc_info()[1], OSError):
            _log.exception("request from %s failed", client_address)

    def close_connections(self) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
