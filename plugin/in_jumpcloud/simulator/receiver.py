"""A forward receiver that takes what a Fluent Bit takes, counts every event by its id, and misbehaves on demand.

It knows neither handshake nor TLS. What Fluent Bit refuses it refuses: the connection is closed without an
acknowledgement. Like Fluent Bit it acknowledges a packed payload whatever its entries are: from a bad one on they are
lost, which is counted in `poisoned`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import selectors
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgpack

from in_jumpcloud.simulator.decoding import (
    READ_BYTES,
    UNREADABLE,
    Entries,
    Refused,
    decode,
    event_id,
    stream_unpacker,
)
from in_jumpcloud.simulator.receiver_faults import ReceiverFaults

_log = logging.getLogger(__name__)

OnRecords = Callable[[str, Entries], None]


class Received(NamedTuple):
    """One record as it came in; its time is in nanoseconds since the epoch."""

    tag: str
    time_ns: int
    record: dict[str, Any]


class SimulatedReceiver:
    """The receiver, listening from `start` to `stop` (or as a context manager) at one address that stays the same."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        unix_path: str | None = None,
        on_records: OnRecords | None = None,
        keep: bool = True,
        max_message_bytes: int = 6_144_000,
        allow_remote: bool = False,
    ) -> None:
        """Count what comes in.

        Args:
            host: the address to listen on, IPv4 or IPv6
            port: 0 takes a free one at `start`
            unix_path: listen on this socket instead
            on_records: called with a tag and its `(time_ns, record)` pairs before they are acknowledged
            keep: keep every record in `records`; without it only the ids are kept
            max_message_bytes: of a whole message, and of its payload when decompressed
            allow_remote: permit a host that is not a loopback address
        """
        if unix_path is None and not (allow_remote or ipaddress.ip_address(host).is_loopback):
            raise ValueError(f"{host} is not a loopback address")
        self.host = host
        self.port = port
        self.unix_path = unix_path
        self.faults = ReceiverFaults()
        self.records: list[Received] = []
        self.ids: Counter[str] = Counter()
        self.chunks: list[str] = []  # of every message taken, in order
        self.acked: list[str] = []  # of those, the ones that were answered
        self.received = 0  # records, with or without an id
        self.messages = 0  # taken
        self.refused = 0  # not taken, connection closed
        self.poisoned = 0  # taken and acknowledged although a packed entry could not be read
        self.connections = 0  # accepted
        self.bytes = 0
        self._on_records = on_records
        self._keep = keep
        self._most = max_message_bytes
        self._changed = threading.Condition()
        self._paused = False
        self._stopping = False
        self._listener: socket.socket | None = None
        self._waker: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._live: set[socket.socket] = set()  # connections whose messages still count
        self._threads: dict[socket.socket, threading.Thread] = {}

    @property
    def address(self) -> tuple[str, int] | str:
        """Where to connect: host and port, or the path of the unix socket."""
        return self.unix_path if self.unix_path is not None else (self.host, self.port)

    def start(self) -> Self:
        """Listen, and serve in the background."""
        if self._listener is None:
            self._paused = self._stopping = False
            self._listener = self._listen()
            self._waker, woken = socket.socketpair()
            arguments = (self._listener, woken)
            self._acceptor = threading.Thread(target=self._accept, args=arguments, name="receiver", daemon=True)
            self._acceptor.start()
        return self

    def stop(self) -> None:
        """Close the listener and every connection; a later `start` listens at the same address again."""
        if self._listener is None or self._waker is None or self._acceptor is None:
            return
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._waker.close()
        self._acceptor.join()
        self._listener.close()
        self._listener = self._waker = self._acceptor = None
        if self.unix_path is not None:
            Path(self.unix_path).unlink(missing_ok=True)
        self._close_connections()

    def pause(self) -> None:
        """Behave like a paused Fluent Bit: connections are closed, new ones succeed in the backlog, nothing is read."""
        with self._changed:
            self._paused = True
        self._close_connections()

    def resume(self) -> None:
        """Serve again, first what waits in the backlog, even where its sender has gone."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def wait_for(self, count: int, timeout: float) -> bool:
        """Wait until so many different event ids have come in; False after `timeout` seconds."""
        return self.wait_until(lambda: len(self.ids) >= count, timeout)

    def wait_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition on the counts is true; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def _listen(self) -> socket.socket:
        if self.unix_path is None:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            listener = socket.create_server((self.host, self.port), family=family, backlog=128)
            self.port = listener.getsockname()[1]
        else:
            path = Path(self.unix_path)
            if path.is_socket():
                path.unlink()
            listener = socket.socket(socket.AF_UNIX)
            try:
                listener.bind(self.unix_path)
                listener.listen(128)
            except OSError:
                listener.close()
                raise
        listener.setblocking(False)
        return listener

    def _accept(self, listener: socket.socket, woken: socket.socket) -> None:
        with woken, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while True:
                selector.select()
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping or not self._paused)
                    if self._stopping:
                        return
                    # The peer may have gone, or the pause may have been the reason to be here.
                    with contextlib.suppress(BlockingIOError, ConnectionError):
                        self._admit(listener.accept()[0])

    def _admit(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections += 1
        self._live.add(connection)
        thread = threading.Thread(target=self._serve, args=(connection,), name="receiver-connection", daemon=True)
        self._threads[connection] = thread
        self._changed.notify_all()
        thread.start()

    def _close_connections(self) -> None:
        """End every connection and wait, at most 5 s, for all threads but the caller's."""
        with self._changed:
            for connection in self._live:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._live.clear()
            self._changed.notify_all()
            mine = threading.current_thread()
            self._changed.wait_for(lambda: all(thread is mine for thread in self._threads.values()), timeout=5)

    def _serve(self, connection: socket.socket) -> None:
        refused = False
        try:
            self._converse(self._opened(connection))
        except (Refused, *UNREADABLE) as error:
            refused = True
            _log.debug("connection closed: %s", error)
        except OSError as error:
            _log.debug("connection lost: %s", error)
        finally:
            with self._changed:
                connection.close()
                self.refused += refused
                self._live.discard(connection)
                del self._threads[connection]
                self._changed.notify_all()

    def _opened(self, connection: socket.socket) -> socket.socket:
        """The connection as messages come over it: here a handshake would be held, or TLS be put around."""
        return connection

    def _converse(self, connection: socket.socket) -> None:
        unpacker = stream_unpacker(self._most)
        fed = start = 0  # offsets in the stream: of what has come in, and of the message at hand
        while data := connection.recv(READ_BYTES):
            size, reset = self.faults.readable(len(data))
            with self._changed:
                self.bytes += size
            unpacker.feed(memoryview(data)[:size])
            fed += size
            for root in unpacker:
                end = unpacker.tell()
                self._take(connection, root, end - start)
                start = end
            if fed - start > self._most:
                raise Refused("incoming data exceed limit")
            if reset:
                _reset(connection)
                return

    def _take(self, connection: socket.socket, root: Any, size: int) -> None:
        """Count one message and answer it."""
        if size > min(self._most, self.faults.most_bytes or self._most):
            raise Refused("message too large")
        message = decode(root, self._most, records=self._keep or self._on_records is not None)
        ids = message.ids if message.ids is not None else [event_id(record) for _, record in message.entries]
        with self._changed:
            self._require_live(connection)
            if self._on_records is not None:
                self._on_records(message.tag, message.entries)
            self.ids.update(filter(None, ids))
            if self._keep:
                self.records.extend(Received(message.tag, moment, record) for moment, record in message.entries)
            self.received += len(ids)
            self.messages += 1
            self.poisoned += message.poisoned
            if message.chunk is not None:
                self.chunks.append(message.chunk)
            self._changed.notify_all()
        if message.chunk is not None:
            self._acknowledge(connection, message.chunk)

    def _acknowledge(self, connection: socket.socket, chunk: str) -> None:
        step, seconds = self.faults.take()
        if step == "reset_before_ack":
            _reset(connection)
            raise ConnectionAbortedError("reset, as ordered")
        if step == "drop_ack":
            return
        with self._changed:
            if step == "stall":
                self._changed.wait_for(lambda: connection not in self._live, seconds)
            self._require_live(connection)
            if step != "wrong_ack":
                # Before it is sent: who has read it may look here.
                self.acked.append(chunk)
        named = f"not-{chunk}" if step == "wrong_ack" else chunk
        answer = msgpack.packb({"ack": named}, unicode_errors="surrogateescape")
        width = 1 if self.faults.pieces else len(answer)
        for offset in range(0, len(answer), width):
            connection.sendall(answer[offset : offset + width])
        if step == "close_after_ack":
            raise ConnectionAbortedError("closed, as ordered")

    def _require_live(self, connection: socket.socket) -> None:
        if connection not in self._live:
            raise ConnectionAbortedError("closed by a pause or the end")


def _reset(connection: socket.socket) -> None:
    """Make closing a reset (on TCP) rather than an orderly end."""
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
