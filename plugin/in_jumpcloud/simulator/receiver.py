"""A forward receiver that takes only what this plugin sends, counts every event by its id, and fails on demand."""

from __future__ import annotations

import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgpack

from in_jumpcloud.simulator.receiver_connections import Listener, reset
from in_jumpcloud.simulator.receiver_faults import ReceiverFaults
from in_jumpcloud.simulator.receiver_wire import (
    READ_BYTES,
    Denied,
    Entry,
    Message,
    Refused,
    ServerHandshake,
    read_message,
    stream_unpacker,
)

_log = logging.getLogger(__name__)

OnRecords = Callable[[str, list[Entry]], None]


class Received(NamedTuple):
    """One record; its time is in nanoseconds since the epoch."""

    tag: str
    time_ns: int
    record: dict[str, Any]


class SimulatedReceiver(Listener):
    """Counts what it receives; `faults` is the script of what goes wrong."""

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
        shared_key: str | None = None,
        users: Mapping[str, str] | None = None,
        self_hostname: str = "localhost",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Create a receiver.

        Args:
            host: the address to listen on, IPv4 or IPv6
            port: 0 chooses a free one at `start`
            unix_path: listen on this unix socket instead
            on_records: called with a tag and its `(time_ns, record)` pairs before they are acknowledged
            keep: keep every record in `records`; without it only the ids
            max_message_bytes: the most bytes of a message, and of its entries when decompressed
            allow_remote: permit a host that is not a loopback address
            shared_key: accept only senders that know it; "" is a key too
            users: names and passwords; a sender needs one of them as well
            self_hostname: its name in the handshake
            tls: a server context; every connection then uses TLS, also on a unix socket

        Raises:
            ValueError: `users` without `shared_key`, or `host` is not permitted.
        """
        if users and shared_key is None:
            raise ValueError("users need a shared_key")
        super().__init__(host, port, unix_path, allow_remote=allow_remote, tls=tls)
        self.faults = ReceiverFaults()
        self.records: list[Received] = []
        self.ids: Counter[str] = Counter()
        self.chunks: list[str] = []  # ids of the messages that were taken
        self.acked: list[str] = []  # ids that were acknowledged
        self.received = 0  # records
        self.messages = 0  # taken
        self.denied = 0  # handshakes that failed
        self.bytes = 0
        self._on_records = on_records
        self._keep = keep
        self._max_bytes = max_message_bytes
        self._handshake = None if shared_key is None else ServerHandshake(shared_key, users or {}, self_hostname)

    def wait_for(self, count: int, timeout: float) -> bool:
        """Wait until `count` different event ids have come in; False after `timeout` seconds."""
        return self.wait_until(lambda: len(self.ids) >= count, timeout)

    def wait_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition on the counts is true; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._handshake is not None:
                self._handshake.run(connection)
            self._read_messages(connection)
        except Denied as error:
            with self._changed:
                self.denied += 1
            _log.debug("handshake failed: %s", error)
        except (Refused, ValueError, msgpack.UnpackException) as error:
            with self._changed:
                self.refused += 1
            _log.debug("message refused: %s", error)
        except OSError as error:
            _log.debug("connection lost: %s", error)

    def _read_messages(self, connection: socket.socket) -> None:
        unpacker = stream_unpacker(self._max_bytes)
        end_of_data = start_of_message = 0  # offsets in the stream
        while data := connection.recv(READ_BYTES):
            size, to_reset = self.faults.readable(len(data))
            with self._changed:
                self.bytes += size
            unpacker.feed(memoryview(data)[:size])
            end_of_data += size
            for message in unpacker:
                end_of_message = unpacker.tell()
                self._take(connection, message, end_of_message - start_of_message)
                start_of_message = end_of_message
            if end_of_data - start_of_message > self._max_bytes:
                raise Refused("message too large")
            if to_reset:
                reset(connection)
                return

    def _take(self, connection: socket.socket, raw: Any, size: int) -> None:
        """Count one message and acknowledge it."""
        if size > min(self._max_bytes, self.faults.max_bytes or self._max_bytes):
            raise Refused("message too large")
        message = read_message(raw, self._max_bytes)
        if message.entries and not self.faults.takes():
            raise Refused("the buffer is full")
        with self._changed:
            self._require_live(connection)
            self._count(message)
            self._changed.notify_all()
        self._acknowledge(connection, message.chunk)

    def _count(self, message: Message) -> None:
        if self._on_records is not None and message.entries:
            self._on_records(message.tag, message.entries)
        self.ids.update(filter(None, (_event_id(record) for _, record in message.entries)))
        if self._keep:
            self.records.extend(Received(message.tag, time_ns, record) for time_ns, record in message.entries)
        self.received += len(message.entries)
        self.messages += 1
        self.chunks.append(message.chunk)

    def _acknowledge(self, connection: socket.socket, chunk: str) -> None:
        step, seconds = self.faults.next_step()
        if step == "reset_before_ack":
            reset(connection)
            raise ConnectionAbortedError("reset by a fault")
        if step == "drop_ack":
            return
        with self._changed:
            if step == "stall":
                self._changed.wait_for(lambda: connection not in self._live, seconds)
            self._require_live(connection)
            if step != "wrong_ack":
                self.acked.append(chunk)  # before it is sent: a test that has the ack may look here at once
        ack = msgpack.packb({"ack": f"not-{chunk}" if step == "wrong_ack" else chunk})
        width = 1 if self.faults.splits_acks else len(ack)
        for offset in range(0, len(ack), width):
            connection.sendall(ack[offset : offset + width])
        if step == "close_after_ack":
            raise ConnectionAbortedError("closed by a fault")


def _event_id(record: dict[str, Any]) -> str:
    """`event.id` of a record, or `id` of an event as JumpCloud sent it; empty if it has neither."""
    event = record.get("event")
    name = event.get("id") if isinstance(event, dict) else record.get("id")
    return name if isinstance(name, str) else ""
