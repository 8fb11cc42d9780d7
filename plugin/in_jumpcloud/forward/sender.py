"""One connection to a receiver: one chunk at a time, and the ack of that chunk."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
from fluent.sender import FluentSender

from in_jumpcloud.config.schema import ForwardSettings, ServerSettings
from in_jumpcloud.counters import LatencyHistogram
from in_jumpcloud.errors import HandshakeRejected, ReceiverDown, ReceiverPaused, ReceiverStage, Stopped
from in_jumpcloud.forward import connection, tls, wire
from in_jumpcloud.forward.advice import advise
from in_jumpcloud.forward.connection import IoDeadline, Network, SocketAddress
from in_jumpcloud.forward.handshake import ClientHandshake, Credentials
from in_jumpcloud.forward.late_acks import LateAcks
from in_jumpcloud.forward.wire import PROBE_TAG, AckReader, AnswerReader, Chunk
from in_jumpcloud.runtime import SYSTEM, Runtime

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 15.0
"""The limit for TLS, for HELO and for PONG, each. A client that sends nothing can block a Fluent Bit for 10 s."""
_RESOLVE_SECONDS = 30.0
"""How long the system may take to resolve a name: by default two tries of 5 s at each of three name servers."""


class LastTry:
    """What all connections to a receiver know of it; the last try decides. Threads may share it."""

    def __init__(self) -> None:
        self.up: bool | None = None
        """Whether the last try succeeded; None before the first."""
        self.error: ReceiverDown | None = None
        """Why the last try failed, without the name of the receiver; None if it did not."""
        self.error_since = 0.0
        """When tries began to fail, on the monotonic clock."""
        self.latencies = LatencyHistogram()
        """Seconds from the first byte of a chunk to its ack."""


class AckSender(FluentSender):  # type: ignore[misc]  # fluent-logger ships no types
    """A FluentSender that waits for the ack of each chunk.

    After an unexpected answer or an error the connection is closed. After an ack that did not come in time it stays
    open for that ack, and the next chunk uses another connection.
    """

    socket: Any  # what the network connects, or None; of the base class

    def __init__(
        self,
        server: ServerSettings,
        settings: ForwardSettings,
        *,
        last_try: LastTry | None = None,
        network: Network = connection,
        runtime: Runtime = SYSTEM,
    ) -> None:
        """Prepare to send to `server`, one of those in `settings`; connects later.

        Senders of the same receiver share `last_try`.

        Raises:
            OSError: a certificate or key cannot be used.
        """
        super().__init__("", host=server.host or "", port=server.port, timeout=settings.connect_timeout)
        self.lock = runtime.lock()  # held during a delivery
        self.server = server
        self.last_try = last_try or LastTry()
        self.acknowledged = 0
        """Chunks with records that were acknowledged."""
        self._network = network
        self._runtime = runtime
        self._stop_timeout = settings.stop_timeout
        self._ack_timeout = settings.ack_timeout
        self._handshake_timeout = min(HANDSHAKE_SECONDS, settings.ack_timeout)
        self._tls = tls.tls_context(settings.tls) if settings.tls.enabled else None
        self._tls_name = settings.tls.server_name or server.host
        self._settings = settings
        self._credentials = _credentials(settings)
        self._max_age = settings.connection_max_age or float("inf")
        self._renew_at = 0.0
        self._acks = AckReader()
        self._answered_at = float("-inf")  # when the receiver last answered on this connection
        self._has_answered = False  # ever
        self._late_acks = LateAcks(network, runtime, ack_timeout=settings.ack_timeout)
        self._last_address: SocketAddress | None = None
        self._stage: ReceiverStage = "connect"
        self._sends_records = False
        self._closed_at_ping = 0  # how many times in a row
        self._failed_at = float("-inf")
        self._failure = ReceiverDown("")

    @property
    def max_delivery_seconds(self) -> float:
        """The longest that one `deliver` can take, without waiting for the `deliver` of another thread."""
        handshakes = 3 * self._handshake_timeout  # TLS, HELO, PONG
        acks = 2 * self._ack_timeout + self._late_acks.grace  # of a probe, of the chunk, and a late one
        return _RESOLVE_SECONDS + float(self.timeout) + handshakes + acks

    def awaits(self, chunk_id: str) -> bool:
        """Whether the ack of this chunk may still come."""
        return self._late_acks.waits_since(chunk_id) is not None

    def deliver(self, chunk: Chunk, stop: threading.Event) -> None:
        """Send `chunk` and return after the receiver has acknowledged it. One try.

        A chunk whose ack did not come in time is sent again only after the receiver has answered something on another
        connection, and its ack still has not come.

        Raises:
            ReceiverDown: the chunk may not have arrived; send the same chunk again.
            Stopped: `stop` was set before anything was sent, or the ack did not come within forward.stop_timeout.
        """
        asked_at = self._runtime.monotonic()
        with self.lock:
            if self._failed_at >= asked_at:  # it failed while this thread waited: another try would fail as slowly
                raise self._named(ReceiverDown, self._failure)
            with self._closed_on_error():
                if self._late_acks.arrived(chunk.id):
                    self.acknowledged += 1
                    return
                if stop.is_set():
                    raise Stopped
                connected = self._connected(stop)
                waits_since = self._late_acks.waits_since(chunk.id)
                if waits_since is not None:
                    if self._answered_at <= waits_since:
                        self._exchange(connected, wire.build_probe(PROBE_TAG), stop)
                    if self._late_acks.arrives(chunk.id, stop):
                        self.acknowledged += 1
                        return
                self._exchange(connected, chunk, stop)
                self._late_acks.forget(chunk.id)

    def _exchange(self, connected: Any, chunk: Chunk, stop: threading.Event) -> None:
        """Send `chunk` and wait for its ack. If that does not come in time, keep the connection for it."""
        error = _timeout(f"no ack within {self._ack_timeout:g} s")
        deadline = self._deadline(self._ack_timeout, stop, error, grace=self._stop_timeout if chunk.records else 0)
        started_at = self._runtime.monotonic()
        self._stage = "send"
        self._sends_records = chunk.records > 0
        self._network.send(connected, chunk.message, deadline)
        self._stage = "ack"
        try:
            self._await_ack(connected, chunk.id, deadline)
        except ReceiverDown as failure:
            if failure.errno == errno.ETIMEDOUT and chunk.records:
                self.socket = None
                self._late_acks.keep(chunk.id, connected, self._acks)
            raise
        self._has_answered = True
        self._answered_at = self._runtime.monotonic()
        self.acknowledged += chunk.records > 0
        seconds = self._answered_at - started_at
        self.last_try.latencies.observe(seconds)
        if log.isEnabledFor(logging.DEBUG):
            self._log_chunk(chunk, seconds)

    def _log_chunk(self, chunk: Chunk, seconds: float) -> None:
        log.debug(
            "receiver %s acknowledged chunk %s: %d records, %d bytes, tag %s, %.0f ms",
            *(self.server, chunk.id, chunk.records, len(chunk.message), chunk.tag, 1000 * seconds),
            extra={
                "fields": {
                    "server.address": str(self.server),
                    "in_jumpcloud.chunk.id": chunk.id,
                    "in_jumpcloud.chunk.records": chunk.records,
                    "in_jumpcloud.chunk.bytes": len(chunk.message),
                    "in_jumpcloud.chunk.tag": chunk.tag,
                    "event.duration": round(seconds * 1e9),
                }
            },
        )

    def _deadline(self, seconds: float, stop: threading.Event, error: ReceiverDown, *, grace: float = 0) -> IoDeadline:
        return IoDeadline(seconds, stop, error, grace=grace, runtime=self._runtime)

    def probe(self, tag: str, stop: threading.Event) -> bool:
        """Whether the receiver acknowledges a message without records.

        Raises:
            Stopped: `stop` was set.
        """
        try:
            self.deliver(wire.build_probe(tag), stop)
        except ReceiverDown:
            return False
        return True

    def connect(self, stop: threading.Event) -> None:
        """Connect and complete the handshakes, unless there is a connection already.

        Raises:
            ReceiverDown: it cannot connect, or a handshake failed.
            Stopped: `stop` was set.
        """
        with self.lock, self._closed_on_error():
            self._connected(stop)

    def close(self) -> None:
        """Close for good. A `deliver` of another thread that waits for its ack raises ReceiverDown at once."""
        self._closed = True
        is_idle = self.lock.acquire(blocking=False)
        self._close(abruptly=not is_idle)
        if is_idle:
            self.lock.release()

    def _close(self, *, abruptly: bool = False) -> None:
        connected, self.socket = self.socket, None
        if connected is not None:
            self._network.close(connected, abruptly=abruptly)
        if self._closed and not abruptly:
            self._late_acks.close()

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """Close the connection after any error, and raise it as a ReceiverDown that says where it happened."""
        self._stage, self._sends_records = "connect", False
        try:
            yield
            self.last_try.up, self.last_try.error = True, None
        except (OSError, UnicodeError, ReceiverDown) as error:  # UnicodeError: a name that no host can have
            self._close()
            cause = _as_receiver_down(error)
            cause.stage = stage = cause.stage or self._stage
            cause.advice = advise(cause, stage, has_answered=self._has_answered, uses_tls=self._tls is not None)
            self._note_error(cause)
            sent = stage in {"send", "ack"} and self._sends_records
            self._failed_at = self._runtime.monotonic()
            self._failure = cause
            raise self._named(type(cause), cause, reached=frozenset([str(self.server)] if sent else [])) from None
        except Stopped:
            self._close()
            raise

    def _named(
        self, kind: type[ReceiverDown], cause: ReceiverDown, *, reached: frozenset[str] = frozenset()
    ) -> ReceiverDown:
        """The same failure, of this receiver."""
        message = f"receiver {self.server}: {cause.message}"
        return kind(message, advice=cause.advice, stage=cause.stage, errno=cause.errno, reached=reached)

    def _note_error(self, error: ReceiverDown) -> None:
        if self.last_try.error is None:
            self.last_try.error_since = self._runtime.monotonic()
        self.last_try.up, self.last_try.error = False, error.kept()

    def _connected(self, stop: threading.Event) -> Any:
        """The connection; a new one if there is none, it is too old, or the receiver has closed it."""
        connected = self.socket  # read once: another thread may close it
        is_old = self._runtime.monotonic() >= self._renew_at
        if connected is not None and (is_old or self._network.received(connected) is not None):
            self._close()
            connected = None
        if connected is None and not self._closed:
            connected = self._open(stop)
        if connected is None or self._closed:
            raise ReceiverDown("the sender is closed")
        return connected

    def _open(self, stop: threading.Event) -> Any:
        self._stage = "resolve"
        addresses = self._network.resolve(self.server)
        addresses.sort(key=lambda address: address != self._last_address)  # the one that worked last time first
        self._stage = "connect"
        deadline = self._deadline(self.timeout, stop, _timeout(f"no connection within {self.timeout:g} s"))
        connected, self._last_address = self._network.connect(addresses, deadline)
        self.socket = connected
        self._answered_at = float("-inf")
        if self._tls:
            self._stage = "tls"
            error = _timeout(
                f"no TLS within {self._handshake_timeout:g} s: it is busy, or does not speak TLS at this port",
                ReceiverPaused,
            )
            deadline = self._deadline(self._handshake_timeout, stop, error)
            connected = self.socket = tls.start_tls(connected, self._tls, self._tls_name, deadline)
        if self._credentials:
            self._stage = "handshake"
            try:
                self._shake_hands(connected, self._credentials, stop)
            except ReceiverDown:
                self._read_secrets_again()
                raise
        self._acks = AckReader()
        # Spread, so that senders which started together do not all reconnect at the same time.
        self._renew_at = self._runtime.monotonic() + self._max_age * self._runtime.random.uniform(0.9, 1.1)
        return connected

    def _read_secrets_again(self) -> None:
        """The receiver may have another key or password now, and so may the files that ours come from."""
        settings = self._settings
        self._settings = msgspec.structs.replace(
            settings,
            shared_key=settings.shared_key and settings.shared_key.read_again(),
            password=settings.password and settings.password.read_again(),
        )
        self._credentials = _credentials(self._settings)

    def _shake_hands(self, connected: Any, credentials: Credentials, stop: threading.Event) -> None:
        handshake, answers = ClientHandshake(credentials), AnswerReader()
        causes = "it is paused, or has no shared key" + ("" if self._tls else ", or speaks TLS")
        error = _timeout(f"no HELO within {self._handshake_timeout:g} s: {causes}", ReceiverPaused)
        helo = self._read_answer(connected, answers, self._deadline(self._handshake_timeout, stop, error))
        if helo is None:
            raise ReceiverPaused("it closed the connection before its HELO", errno=errno.ECONNRESET)
        error = _timeout(f"no PONG within {self._handshake_timeout:g} s")
        deadline = self._deadline(self._handshake_timeout, stop, error)
        self._network.send(connected, handshake.ping(helo), deadline)
        pong = self._read_answer(connected, answers, deadline)
        if pong is None:
            # Fluent Bit does this for a wrong key. A single time may also be a Fluent Bit that stops.
            self._closed_at_ping += 1
            kind = ReceiverDown if self._closed_at_ping == 1 else HandshakeRejected
            raise kind(
                "it closed the connection after our PING; forward.shared_key probably does not match",
                errno=errno.ECONNRESET,
            )
        handshake.verify(pong)
        self._closed_at_ping = 0
        self._has_answered = True
        self._answered_at = self._runtime.monotonic()

    def _read_answer(self, connected: Any, answers: AnswerReader, deadline: IoDeadline) -> Any:
        """The next object that the receiver sends; None if it closes the connection."""
        while data := self._network.receive(connected, deadline):
            objects = answers.feed(data)
            if len(objects) > 1:
                raise ReceiverDown("it sent more than one answer to the handshake")
            if objects:
                return objects[0]
        return None

    def _await_ack(self, connected: Any, chunk_id: str, deadline: IoDeadline) -> None:
        while True:
            data = self._network.receive(connected, deadline)
            if not data:
                raise ReceiverDown("it closed the connection before the ack", errno=errno.ECONNRESET)
            acks = self._acks.feed(data)
            if acks == [chunk_id]:
                return
            if acks:
                raise ReceiverDown(f"it acknowledged {', '.join(acks)} instead of {chunk_id}")


def _credentials(settings: ForwardSettings) -> Credentials | None:
    """None without a shared key. Our name must differ from the receiver's: the Node implementation demands that."""
    if settings.shared_key is None:
        return None
    return Credentials(
        settings.self_hostname or f"in-jumpcloud.{socket.gethostname()}",
        settings.shared_key.reveal(),
        settings.username or "",
        settings.password.reveal() if settings.password else "",
    )


def _timeout(message: str, kind: type[ReceiverDown] = ReceiverDown) -> ReceiverDown:
    return kind(message, errno=errno.ETIMEDOUT)


def _as_receiver_down(error: OSError | UnicodeError | ReceiverDown) -> ReceiverDown:
    if isinstance(error, ReceiverDown):
        return error
    if isinstance(error, OSError):
        return tls.explain_io_error(error)
    return ReceiverDown(str(error))
