"""One receiver: a connection, a chunk, its ack."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from fluent.sender import FluentSender

from in_jumpcloud import config
from in_jumpcloud.errors import ReceiverDown, Stopped
from in_jumpcloud.forward import wire
from in_jumpcloud.forward.wire import AckReader, Chunk

_LOOK_UP = 0.25
"""Seconds after which a wait for the receiver looks whether the process was asked to end."""
_GRACE = 3.0
"""Seconds that an ack under way is still waited for once it was."""


class AckSender(FluentSender):  # type: ignore[misc]  # fluent-logger ships no types
    """A FluentSender that waits for the ack.

    One chunk is under way at a time. After any doubt (a timeout, a strange answer, a closed connection) the
    connection is dropped, so that a late ack can never be taken for another chunk's.
    """

    socket: Any  # None or a socket.socket; the base's

    def __init__(self, server: config.Server, *, connect_timeout: float, ack_timeout: float) -> None:
        host = f"unix://{server.unix}" if server.unix else server.host
        super().__init__("", host=host, port=server.port, timeout=connect_timeout)
        self.server = server
        self._ack_timeout = ack_timeout
        self._acks = AckReader()
        self._reached = False

    def deliver(self, chunk: Chunk, stop: threading.Event) -> None:
        """Send `chunk` and return once the receiver has acknowledged it. One try.

        Raises:
            ReceiverDown: no ack is certain; the same chunk has to be sent again.
            Stopped: `stop` was set before there was anything sent, or the ack did not come within a short grace.
        """
        with self.lock, self._dropped_on_doubt():
            if stop.is_set():
                raise Stopped
            connection = self._connected()
            self._reached = True
            connection.settimeout(min(_LOOK_UP, self._ack_timeout))
            self._send_all(connection, chunk.message, _Deadline(self._ack_timeout, stop))
            self._await_ack(connection, chunk.id, _Deadline(self._ack_timeout, stop))

    def probe(self, tag: str, stop: threading.Event) -> bool:
        """Whether the receiver acknowledges a message without records, on a connection of its own."""
        try:
            self.deliver(wire.probe(tag), stop)
        except ReceiverDown:
            return False
        return True

    def connect(self) -> None:
        """Make sure that there is a connection.

        Raises:
            ReceiverDown: there is none to be had.
        """
        with self.lock, self._dropped_on_doubt():
            self._connected()

    def close(self) -> None:
        """Close for good, also while another thread waits for an ack: that one gets ReceiverDown."""
        self._closed = True
        self._close()

    @contextlib.contextmanager
    def _dropped_on_doubt(self) -> Iterator[None]:
        self._reached = False
        try:
            yield
        except (OSError, UnicodeError, ReceiverDown) as error:  # UnicodeError: a name that no host can have
            self._close()
            reason = error.strerror or error if isinstance(error, OSError) else error
            raise ReceiverDown(f"receiver {self.server}: {reason}", reached=self._reached) from None
        except Stopped:
            self._close()
            raise

    def _connected(self) -> socket.socket:
        """The connection, made anew where there is none or where the receiver has closed it while it was idle."""
        connection: socket.socket | None = self.socket  # read once: another thread may close it
        if connection is not None and not _is_quiet(connection):
            self._close()
            connection = None
        if connection is None and not self._closed:
            self._acks = AckReader()
            try:
                self._reconnect()
            except TimeoutError:
                raise ReceiverDown(f"no connection within {self.timeout:g} s") from None
            connection = self.socket
        if connection is None or self._closed:
            raise ReceiverDown("the connection was closed for good")
        return connection

    def _reconnect(self) -> None:
        if self.server.unix:
            super()._reconnect()
        else:  # the base knows only IPv4
            connection = socket.create_connection((self.host, self.port), self.timeout)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket = connection

    @staticmethod
    def _send_all(connection: socket.socket, message: bytes, deadline: _Deadline) -> None:
        unsent = memoryview(message)
        while unsent:
            deadline.check()
            with contextlib.suppress(TimeoutError):
                unsent = unsent[connection.send(unsent) :]

    def _await_ack(self, connection: socket.socket, chunk_id: str, deadline: _Deadline) -> None:
        while True:
            deadline.check()
            try:
                data = connection.recv(4096)
            except TimeoutError:
                continue
            if not data:
                raise ReceiverDown("it closed the connection before the ack")
            acks = self._acks.feed(data)
            if acks == [chunk_id]:
                return
            if acks:
                raise ReceiverDown(f"it acknowledged {', '.join(acks)}, where {chunk_id} is under way")


class _Deadline:
    """The end of a wait for the receiver; it comes closer when `stop` is set."""

    def __init__(self, seconds: float, stop: threading.Event) -> None:
        self._seconds = seconds
        self._stop = stop
        self._stopping = False
        self._at = time.monotonic() + seconds

    def check(self) -> None:
        """Raise Stopped or ReceiverDown once it is over."""
        now = time.monotonic()
        if self._stop.is_set() and not self._stopping:
            self._stopping = True
            self._at = min(self._at, now + _GRACE)
        if now >= self._at:
            raise Stopped if self._stopping else ReceiverDown(f"no ack within {self._seconds:g} s")


def _is_quiet(connection: socket.socket) -> bool:
    """Whether an idle connection is still open, and nothing came on it that nobody asked for."""
    connection.setblocking(False)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
