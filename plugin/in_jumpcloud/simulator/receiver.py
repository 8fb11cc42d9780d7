"""A forward receiver that takes what a Fluent Bit takes, counts every event by its id, and misbehaves on demand.

What Fluent Bit refuses it refuses: the connection is closed without an acknowledgement. Like Fluent Bit it acknowledges
a packed payload whatever its entries are: from a bad one on they are lost, and so is what follows with the same tag
until the next flush, which is counted in `poisoned`. It reads no zstd: such a payload is acknowledged and lost.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import msgpack

from in_jumpcloud.simulator.decoding import (
    READ_BYTES,
    UNREADABLE,
    Entries,
    Message,
    Refused,
    decode,
    event_id,
    stream_unpacker,
)
from in_jumpcloud.simulator.receiver_buffer import InputBuffer
from in_jumpcloud.simulator.receiver_connections import Connections, reset
from in_jumpcloud.simulator.receiver_faults import ReceiverFaults
from in_jumpcloud.simulator.receiver_handshake import Denied, Handshake

_log = logging.getLogger(__name__)

OnRecords = Callable[[str, Entries], None]
HeldAcks = list[tuple[str | None, bytes]]  # the chunk (None if the answer names another one), and the answer


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
        shared_key: str | None = None,
        users: Mapping[str, str] | None = None,
        self_hostname: str = "localhost",
        tls: ssl.SSLContext | None = None,
        accept_timeout: float = 10,
        match: str = "*",
        flush_seconds: float = 1,
        pause_above_records: int | None = None,
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
            shared_key: let in only who knows it; "" asks for the handshake too, with an empty key
            users: names and passwords, of which a sender needs one as well
            self_hostname: the name that is told to senders in the handshake
            tls: a server's context; TLS is then put around every connection, also at a unix socket
            accept_timeout: seconds that a TLS handshake may take; nobody else is accepted meanwhile
            match: the tags that have an output, with `*` for any text; other records are acknowledged and dropped
            flush_seconds: how long a bad entry spoils what follows with its tag
            pause_above_records: pause by itself once more records than these came in since `flush` or `resume`

        Raises:
            ValueError: `users` without `shared_key`, or `host` is not allowed
        """
        if users and shared_key is None:
            raise ValueError("users need a shared_key")
        self.faults = ReceiverFaults()
        self.records: list[Received] = []
        self.ids: Counter[str] = Counter()
        self.chunks: list[str] = []  # of every message taken, in order
        self.acked: list[str] = []  # of those, the ones that were answered
        self.received = 0  # records, with or without an id
        self.unrouted = 0  # records acknowledged and dropped, because no output matches their tag
        self.messages = 0  # taken
        self.poisoned = 0  # taken and acknowledged although something of it is lost
        self.handshakes = 0  # completed
        self.denied = 0  # handshakes that failed
        self.bytes = 0
        self._closed = 0  # connections, for a message that is not taken
        self._answering = 0  # messages taken and not yet answered
        self._on_records = on_records
        self._keep = keep
        self._most = max_message_bytes
        self._handshake = None if shared_key is None else Handshake(shared_key, users or {}, self_hostname)
        self._match = re.compile(".*".join(map(re.escape, match.split("*"))), re.DOTALL)
        self._buffer = InputBuffer(pause_above_records, flush_seconds)
        self._changed = threading.Condition()
        self._connections = Connections(
            self._serve,
            self._changed,
            host=host,
            port=port,
            unix_path=unix_path,
            allow_remote=allow_remote,
            tls=tls,
            accept_timeout=accept_timeout,
        )

    @property
    def host(self) -> str:
        """The address that it listens on."""
        return self._connections.host

    @property
    def port(self) -> int:
        """The port, once it has listened."""
        return self._connections.port

    @property
    def unix_path(self) -> str | None:
        """The path of the unix socket, if it listens on one."""
        return self._connections.unix_path

    @property
    def address(self) -> tuple[str, int] | str:
        """Where to connect: host and port, or the path of the unix socket."""
        return self.unix_path if self.unix_path is not None else (self.host, self.port)

    @property
    def connections(self) -> int:
        """How many were accepted."""
        return self._connections.accepted

    @property
    def refused(self) -> int:
        """How many were closed for a message that is not taken, or because TLS did not come about."""
        return self._closed + self._connections.insecure

    @property
    def paused(self) -> bool:
        """Whether nothing is read."""
        return self._connections.paused

    def start(self) -> Self:
        """Listen, and serve in the background."""
        self._connections.start()
        return self

    def stop(self) -> None:
        """Close the listener and every connection; a later `start` listens at the same address again."""
        self._connections.stop()

    def pause(self) -> None:
        """Behave like a paused Fluent Bit: connections are closed, new ones succeed in the backlog, nothing is read."""
        self._connections.pause()

    def resume(self) -> None:
        """Serve again, first what waits in the backlog, even where its sender has gone."""
        self.flush()
        self._connections.resume()

    def flush(self) -> None:
        """Hand on to the outputs what has come in: no tag is spoiled any more, and there is room again."""
        with self._changed:
            self._buffer.flush()

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

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._handshake is not None:
                self._handshake.hold(connection)
                with self._changed:
                    self.handshakes += 1
                    self._changed.notify_all()
            self._converse(connection)
        except Denied as error:
            with self._changed:
                self.denied += 1
            _log.debug("not let in: %s", error)
        except (Refused, *UNREADABLE) as error:
            with self._changed:
                self._closed += 1
            _log.debug("connection closed: %s", error)
        except OSError as error:
            _log.debug("connection lost: %s", error)

    def _converse(self, connection: socket.socket) -> None:
        unpacker = stream_unpacker(self._most)
        held: HeldAcks = []
        fed = start = 0  # offsets in the stream: of what has come in, and of the message at hand
        while data := connection.recv(READ_BYTES):
            size, to_reset = self.faults.readable(len(data))
            with self._changed:
                self.bytes += size
            unpacker.feed(memoryview(data)[:size])
            fed += size
            for root in unpacker:
                end = unpacker.tell()
                self._take(connection, root, end - start, held)
                start = end
            if fed - start > self._most:
                raise Refused("incoming data exceed limit")
            if to_reset:
                reset(connection)
                return

    def _take(self, connection: socket.socket, root: Any, size: int, held: HeldAcks) -> None:
        """Count one message and answer it."""
        if size > min(self._most, self.faults.most_bytes or self._most):
            raise Refused("message too large")
        message = decode(root, self._most, records=self._keep or self._on_records is not None)
        ids = message.ids if message.ids is not None else [event_id(record) for _, record in message.entries]
        with self._changed:
            self._connections.require_live(connection)
            if self.paused:
                raise ConnectionAbortedError("paused")
            self._ingest(message, ids)
            full = self._buffer.add(len(ids))
            if full:
                # At once, so that nothing more is taken; this message still gets its answer.
                self._connections.paused = True
            self._answering += 1
            self._changed.notify_all()
        try:
            if message.torn:
                raise Refused("not an entry")
            if message.chunk is not None:
                self._acknowledge(connection, message.chunk, held)
        finally:
            with self._changed:
                self._answering -= 1
                self._changed.notify_all()
                if full:
                    # What other connections brought before it gets its answer too: Fluent Bit does one at a time.
                    self._changed.wait_for(lambda: not self._answering, timeout=5)
            if full:
                self._connections.close_all()

    def _ingest(self, message: Message, ids: list[str]) -> None:
        lost = self._buffer.is_poisoned(message.tag)
        if message.contagious:
            self._buffer.poison(message.tag)
        self.poisoned += message.poisoned or lost
        if not (message.tag and self._match.fullmatch(message.tag)):
            self.unrouted += len(ids)
        elif not lost:
            if self._on_records is not None:
                self._on_records(message.tag, message.entries)
            self.ids.update(filter(None, ids))
            if self._keep:
                self.records.extend(Received(message.tag, moment, record) for moment, record in message.entries)
            self.received += len(ids)
        if not message.torn:
            self.messages += 1
            if message.chunk is not None:
                self.chunks.append(message.chunk)

    def _acknowledge(self, connection: socket.socket, chunk: str, held: HeldAcks) -> None:
        step, seconds = self.faults.take()
        if step == "reset_before_ack":
            reset(connection)
            raise ConnectionAbortedError("reset, as ordered")
        if step == "drop_ack":
            return
        named = f"not-{chunk}" if step == "wrong_ack" else chunk
        answer = msgpack.packb({"ack": named}, unicode_errors="surrogateescape")
        held.append((None if step == "wrong_ack" else chunk, answer))
        if step == "stall":
            with self._changed:
                self._changed.wait_for(lambda: not self._connections.is_live(connection), seconds)
        if len(held) >= self.faults.together or step == "close_after_ack":
            self._answer(connection, held)
        if step == "close_after_ack":
            raise ConnectionAbortedError("closed, as ordered")

    def _answer(self, connection: socket.socket, held: HeldAcks) -> None:
        with self._changed:
            self._connections.require_live(connection)
            # Before they are sent: who has read them may look here.
            self.acked += [chunk for chunk, _ in held if chunk is not None]
        answer = b"".join(each for _, each in held)
        held.clear()
        width = 1 if self.faults.pieces else len(answer)
        for offset in range(0, len(answer), width):
            connection.sendall(answer[offset : offset + width])
