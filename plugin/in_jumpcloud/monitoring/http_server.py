"""An HTTP server for small answers that are made at once. No client can block it, or make it use much memory.

One thread serves all connections and never waits for one of them. Each has a deadline, and one request. If there are
too many, the oldest is closed for a new one: clients that are slow on purpose only push out each other.
"""

from __future__ import annotations

import contextlib
import errno
import math
import selectors
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

MAX_CONNECTIONS = 64
"""Open connections; an answer that the client does not read stays in memory."""
MAX_REQUEST_BYTES = 32 * 1024
"""A browser sends the cookies of everything on the same host."""
_BACKLOG = 128
_READ_BYTES = 65_536
_EXHAUSTED_SECONDS = 0.25
"""How long a new connection waits while the system has no more file descriptors."""
_END = b"\r\n\r\n"
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Request(NamedTuple):
    """The beginning of a request: the path without its query, and headers by their names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


class Response(NamedTuple):
    """An answer, such as `Response("200 OK", "text/plain", b"hello")`, with further headers."""

    status: str
    media_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


Respond = Callable[[Request], Response]


class _Connection:
    """One client: its request as far as it came, then the rest of the answer."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self.socket = connected
        self.deadline = deadline
        self.request = bytearray()
        self.answer: memoryview | None = None


class HttpServer:
    """Listens at an address, and answers in `serve`."""

    def __init__(
        self, address: tuple[str, int], respond: Respond, *, on_tick: Callable[[], float], max_request_seconds: float
    ) -> None:
        """Listen. `max_request_seconds` is the time for one connection.

        `on_tick` is called after each request and returns the seconds after which it is due again.

        Raises:
            OSError, UnicodeError: it cannot listen at this address.
        """
        self._respond = respond
        self._on_tick = on_tick
        self._max_request_seconds = max_request_seconds
        self._connections: dict[_Connection, None] = {}  # the oldest first
        self._closing = self._serving = False
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.socket(family)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(address)
            self._listener.listen(_BACKLOG)
            self._listener.setblocking(False)
            self.address: tuple[str, int] = self._listener.getsockname()[:2]
            self._selector = selectors.DefaultSelector()
            self._waker, self._woken = socket.socketpair()
        except BaseException:
            self._listener.close()
            raise
        for each in (self._waker, self._woken):
            each.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def serve(self) -> None:
        """Answer until `close`."""
        self._serving = True
        try:
            while not self._closing:
                for key, _ in self._selector.select(self._wait_seconds()):
                    if isinstance(key.data, _Connection):
                        self._continue(key.data)
                    elif key.fileobj is self._woken:
                        self._woken.recv(_READ_BYTES)
                    else:
                        self._accept()
                now = time.monotonic()
                for overdue in [each for each in self._connections if each.deadline <= now]:
                    self._end(overdue)
        finally:
            self._closing = True
            for connection in list(self._connections):
                self._end(connection)
            self._release()

    def close(self) -> None:
        """Stop listening now; `serve` ends soon. Call it in any thread."""
        self._closing = True
        self._listener.close()
        self.wake()
        if not self._serving:
            self._release()

    def _release(self) -> None:
        self._listener.close()
        self._selector.close()
        self._waker.close()
        self._woken.close()

    def wake(self) -> None:
        """Have `on_tick` called now. Call it in any thread."""
        with contextlib.suppress(OSError):  # it is closed, or many calls wait to be read
            self._waker.send(b"\0")

    def _wait_seconds(self) -> float | None:
        """How long there is nothing to do but to wait for clients; None: for ever."""
        seconds = self._on_tick()
        if oldest := next(iter(self._connections), None):
            seconds = min(seconds, oldest.deadline - time.monotonic())
        return max(0.0, seconds) if seconds < math.inf else None

    def _accept(self) -> None:
        try:
            connected, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED and not self._end_oldest():
                # The connection keeps waiting: without a pause, the loop would use the CPU.
                time.sleep(_EXHAUSTED_SECONDS)
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            self._end_oldest()
        connected.setblocking(False)
        connection = _Connection(connected, time.monotonic() + self._max_request_seconds)
        self._connections[connection] = None
        self._selector.register(connected, selectors.EVENT_READ, connection)

    def _end_oldest(self) -> bool:
        oldest = next(iter(self._connections), None)
        if oldest:
            self._end(oldest)
        return oldest is not None

    def _end(self, connection: _Connection) -> None:
        if self._connections.pop(connection, 0) is None:
            self._selector.unregister(connection.socket)
            connection.socket.close()

    def _continue(self, connection: _Connection) -> None:
        if connection not in self._connections:  # it was closed for a newer one
            return
        try:
            if connection.answer is None:
                self._read(connection)
            elif connection.answer:
                self._write(connection)
            elif not connection.socket.recv(_READ_BYTES):
                self._end(connection)
        except BlockingIOError:
            return
        except OSError:  # the client is gone
            self._end(connection)

    def _read(self, connection: _Connection) -> None:
        part = connection.socket.recv(_READ_BYTES)
        request = connection.request
        request += part
        end = request.find(_END, max(0, len(request) - len(part) - len(_END)))
        if not part:
            self._end(connection)
        elif (len(request) if end < 0 else end) > MAX_REQUEST_BYTES:
            response = Response("431 Request Header Fields Too Large", "text/plain", b"the request is too large\n")
            self._answer(connection, response)
        elif end >= 0:
            parsed = parse_request(bytes(request[:end]))
            if parsed is None:
                self._answer(connection, Response("400 Bad Request", "text/plain", b"not an HTTP request\n"))
            else:
                self._answer(connection, self._respond(parsed), has_body=parsed.method != "HEAD")

    def _answer(self, connection: _Connection, response: Response, *, has_body: bool = True) -> None:
        connection.request.clear()
        connection.answer = memoryview(_encode(response, has_body=has_body))
        self._selector.modify(connection.socket, selectors.EVENT_WRITE, connection)
        self._write(connection)

    def _write(self, connection: _Connection) -> None:
        answer = connection.answer or memoryview(b"")
        connection.answer = answer[connection.socket.send(answer) :]
        if not connection.answer:
            # Until the client closes: to close first while it still sends would discard the answer on its way.
            connection.socket.shutdown(socket.SHUT_WR)
            self._selector.modify(connection.socket, selectors.EVENT_READ, connection)


def parse_request(head: bytes) -> Request | None:
    """The request before its empty line; None if it is not one."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    target, _, version = rest.rpartition(" ")
    if not version.startswith("HTTP/1.") or not target.startswith("/") or not method.isalpha():
        return None
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not name or name != name.strip() or (name == "host" and name in headers):
            return None
        headers[name] = value.strip()
    return Request(method, target.partition("?")[0], headers)


def _encode(response: Response, *, has_body: bool) -> bytes:
    headers = [
        ("Date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())),
        ("Connection", "close"),
        ("Content-Type", response.media_type),
        ("Content-Length", str(len(response.body))),
        *response.headers,
    ]
    lines = [f"HTTP/1.1 {response.status}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1") + (response.body if has_body else b"")
