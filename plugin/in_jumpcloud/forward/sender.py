"""One receiver: a connection, a chunk, its ack."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

from fluent.sender import FluentSender

from in_jumpcloud.config.schema import ForwardSettings, ServerSettings
from in_jumpcloud.counters import LatencyHistogram
from in_jumpcloud.errors import HandshakeRejected, ReceiverDown, ReceiverPaused, Stopped
from in_jumpcloud.forward import connection, tls, wire
from in_jumpcloud.forward.connection import IoDeadline
from in_jumpcloud.forward.handshake import ClientHandshake, Credentials
from in_jumpcloud.forward.wire import AckReader, AnswerReader, Chunk

_GRACE = 3.0
"""Seconds that an ack under way is still waited for once the process was asked to end."""
_HANDSHAKE = 15.0
"""Seconds for TLS, for HELO and for PONG each: another client that is silent holds up a Fluent Bit for 10 s."""


class AckSender(FluentSender):  # type: ignore[misc]  # fluent-logger ships no types
    """A FluentSender that waits for the ack.

    One chunk is under way at a time. After any doubt (a timeout, a strange answer, a closed connection) the
    connection is dropped, so that a late ack can never be taken for another chunk's.
    """

    socket: Any  # None or a socket.socket; the base's

    def __init__(self, server: ServerSettings, settings: ForwardSettings) -> None:
        """Make ready for `server`, which is one of those in `settings`.

        Raises:
            OSError: a certificate cannot be used.
        """
        super().__init__("", host=server.host or "", port=server.port, timeout=settings.connect_timeout)
        self.server = server
        self.up: bool | None = None
        """Whether the last try went well; None before the first."""
        self.latencies = LatencyHistogram()
        """From the beginning of a chunk to its ack."""
        self._ack_timeout = settings.ack_timeout
        self._handshake_timeout = min(_HANDSHAKE, settings.ack_timeout)
        self._tls = tls.tls_context(settings.tls) if settings.tls.enabled else None
        self._server_name = settings.tls.server_name or server.host
        self._credentials = _credentials(settings)
        self._max_age = settings.connection_max_age or float("inf")
        self._renew_at = 0.0
        self._acks = AckReader()
        self._reached = False
        self._closings_at_ping = 0
        self._failed_at = float("-inf")
        self._failure = ""

    @property
    def max_delivery_seconds(self) -> float:
        """The longest that one `deliver` can take, without waiting for the `deliver` of another thread."""
        return float(self.timeout + 3 * self._handshake_timeout + self._ack_timeout)

    def deliver(self, chunk: Chunk, stop: threading.Event) -> None:
        """Send `chunk` and return once the receiver has acknowledged it. One try.

        Raises:
            ReceiverDown: no ack is certain; the same chunk has to be sent again.
            Stopped: `stop` was set before there was anything sent, or the ack did not come within a short grace.
        """
        asked_at = time.monotonic()
        with self.lock:
            if self._failed_at >= asked_at:  # each of those that waited for their turn would wait as long again
                raise ReceiverDown(self._failure)
            with self._dropped_on_doubt():
                if stop.is_set():
                    raise Stopped
                connected = self._connected(stop)
                self._reached = True
                late = ReceiverDown(f"no ack within {self._ack_timeout:g} s")
                deadline = IoDeadline(self._ack_timeout, stop, late, grace=_GRACE)
                began = time.monotonic()
                connection.send(connected, chunk.message, deadline)
                self._await_ack(connected, chunk.id, deadline)
                self.latencies.observe(time.monotonic() - began)

    def probe(self, tag: str, stop: threading.Event) -> bool:
        """Whether the receiver acknowledges a message without records."""
        try:
            self.deliver(wire.build_probe(tag), stop)
        except ReceiverDown:
            return False
        return True

    def connect(self, stop: threading.Event) -> None:
        """Make sure that there is a connection, and the handshake held.

        Raises:
            ReceiverDown: there is none to be had.
            Stopped: `stop` was set.
        """
        with self.lock, self._dropped_on_doubt():
            self._connected(stop)

    def close(self) -> None:
        """Close for good, also while another thread waits for an ack: that one gets ReceiverDown."""
        self._closed = True
        if self.lock.acquire(blocking=False):
            try:
                self._hang_up()
            finally:
                self.lock.release()
        else:
            self._close()

    @contextlib.contextmanager
    def _dropped_on_doubt(self) -> Iterator[None]:
        self._reached = False
        try:
            yield
            self.up = True
        except (OSError, UnicodeError, ReceiverDown) as error:  # UnicodeError: a name that no host can have
            self._close()
            self.up = False
            told = _told(error)
            self._failed_at = time.monotonic()
            self._failure = f"receiver {self.server}: {told}"
            reached = self._reached and not isinstance(told, HandshakeRejected)
            raise type(told)(self._failure, reached=frozenset([str(self.server)] if reached else [])) from None
        except Stopped:
            self._close()
            raise

    def _connected(self, stop: threading.Event) -> socket.socket:
        """The connection, made anew where there is none, it is old, or the receiver has closed it while it was idle."""
        connected: socket.socket | None = self.socket  # read once: another thread may close it
        if connected is not None and (time.monotonic() >= self._renew_at or not connection.is_idle(connected)):
            self._hang_up()
            connected = None
        if connected is None and not self._closed:
            connected = self._open(stop)
        if connected is None or self._closed:
            raise ReceiverDown("the connection was closed for good")
        return connected

    def _open(self, stop: threading.Event) -> socket.socket:
        late = ReceiverDown(f"no connection within {self.timeout:g} s")
        connected = self.socket = connection.connect(self.server, IoDeadline(self.timeout, stop, late))
        if self._tls:
            late = ReceiverPaused(
                f"no TLS within {self._handshake_timeout:g} s: it is busy, or speaks none at this port"
            )
            deadline = IoDeadline(self._handshake_timeout, stop, late)
            connected = self.socket = connection.start_tls(connected, self._tls, self._server_name, deadline)
        if self._credentials:
            self._shake_hands(connected, self._credentials, stop)
        self._acks = AckReader()
        # Not to the second: many senders that were started together must not all come back together.
        self._renew_at = time.monotonic() + self._max_age * random.uniform(0.9, 1.1)
        return connected

    def _shake_hands(self, connected: socket.socket, credentials: Credentials, stop: threading.Event) -> None:
        handshake, answers = ClientHandshake(credentials), AnswerReader()
        causes = "it is paused, or has no shared key" + ("" if self._tls else ", or speaks TLS")
        late: ReceiverDown = ReceiverPaused(f"no HELO within {self._handshake_timeout:g} s: {causes}")
        helo = _answer(connected, answers, IoDeadline(self._handshake_timeout, stop, late))
        if helo is None:
            raise ReceiverPaused("it closed the connection before its HELO")
        late = ReceiverDown(f"no PONG within {self._handshake_timeout:g} s")
        deadline = IoDeadline(self._handshake_timeout, stop, late)
        connection.send(connected, handshake.ping(helo), deadline)
        pong = _answer(connected, answers, deadline)
        if pong is None:
            # Fluent Bit does so where the key differs; once, it may as well be its end.
            self._closings_at_ping += 1
            kind = ReceiverDown if self._closings_at_ping == 1 else HandshakeRejected
            raise kind("it closed the connection at our PING, as where forward.shared_key differs from its own")
        handshake.verify(pong)
        self._closings_at_ping = 0

    def _await_ack(self, connected: socket.socket, chunk_id: str, deadline: IoDeadline) -> None:
        while True:
            data = connection.receive(connected, deadline)
            if not data:
                raise ReceiverDown("it closed the connection before the ack")
            acks = self._acks.feed(data)
            if acks == [chunk_id]:
                return
            if acks:
                raise ReceiverDown(f"it acknowledged {', '.join(acks)}, where {chunk_id} is under way")

    def _hang_up(self) -> None:
        if self.socket is not None:
            connection.close_tls(self.socket)
        self._close()


def _credentials(settings: ForwardSettings) -> Credentials | None:
    """None where the settings ask for no handshake. The name differs from any receiver's, as Fluentd's kin demand."""
    if settings.shared_key is None:
        return None
    return Credentials(
        settings.self_hostname or f"in-jumpcloud.{socket.gethostname()}",
        settings.shared_key.reveal(),
        settings.username or "",
        settings.password.reveal() if settings.password else "",
    )


def _answer(connected: socket.socket, answers: AnswerReader, deadline: IoDeadline) -> Any:
    """The next object that the receiver sends; None where it closes the connection instead."""
    while data := connection.receive(connected, deadline):
        found = answers.feed(data)
        if len(found) > 1:
            raise ReceiverDown("it sent more than one answer to the handshake")
        if found:
            return found[0]
    return None


def _told(error: OSError | UnicodeError | ReceiverDown) -> ReceiverDown:
    if isinstance(error, ReceiverDown):
        return error
    if isinstance(error, ssl.SSLError):
        return tls.explain_tls_error(error)
    return ReceiverDown(str(error.strerror or error) if isinstance(error, OSError) else str(error))
