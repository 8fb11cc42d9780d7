"""What a case is played against: a simulated receiver, or a recording of a real one."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Self

import msgpack
from conformance.case import Receiver, ingested
from conformance.certificates import Certificates
from conformance.exchange import Line

from in_jumpcloud.simulator.receiver import SimulatedReceiver

PATIENCE = 20.0
SECOND_NS = 1_000_000_000


class Peer(ABC):
    """A receiver at a port of this machine."""

    def __init__(self, receiver: Receiver, certificates: Certificates) -> None:
        self.receiver = receiver
        self.certificates = certificates

    @property
    @abstractmethod
    def port(self) -> int:
        """Where it listens."""

    @abstractmethod
    def ingested(self, count: int) -> list[Line]:
        """The records that came out of it since last time, at least `count` unless it takes too long."""

    @abstractmethod
    def resume(self) -> None:
        """End what holds it up."""

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, *exc_info: object) -> None: ...

    def connect(self, secure: bool = True) -> socket.socket:
        """A new connection; with TLS where the receiver has it and `secure` asks for it."""
        connection = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.receiver.tls and secure:
            return self.certificates.of_a_client.wrap_socket(connection, server_hostname="127.0.0.1")
        return connection


class Simulated(Peer):
    """The simulated receiver."""

    def __init__(self, receiver: Receiver, certificates: Certificates) -> None:
        super().__init__(receiver, certificates)
        context = certificates.of_a_receiver if receiver.tls else None
        self.simulated = SimulatedReceiver(tls=context, **receiver.simulated)
        self._taken = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.simulated.port

    def ingested(self, count: int) -> list[Line]:
        """The records that it kept."""
        self.simulated.wait_until(lambda: len(self.simulated.records) >= self._taken + count, PATIENCE)
        records = self.simulated.records[self._taken :]
        self._taken += len(records)
        return [ingested(each.record.get("id", "?"), each.tag, *divmod(each.time_ns, SECOND_NS)) for each in records]

    def resume(self) -> None:
        """End the pause that it began by itself."""
        self.simulated.resume()

    def __enter__(self) -> Self:
        self.simulated.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.simulated.stop()


class Recorded(Peer):
    """A socket that plays a recording: it expects what the client sent then, and answers what was answered."""

    def __init__(self, receiver: Receiver, certificates: Certificates, lines: Sequence[Line]) -> None:
        super().__init__(receiver, certificates)
        self.failures: list[str] = []
        self._lines = lines
        self._resumed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._play, name="recorded", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def ingested(self, count: int) -> list[Line]:
        """The records that came out when it was recorded."""
        del count
        return [line for line in self._lines if line.what == "ingested"]

    def resume(self) -> None:
        """Go on behind the line that says so."""
        self._resumed.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._thread.join(5)  # the client has done its part, and the rest takes no time
        for each in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        for each in (self._listener, *self._connections):
            each.close()

    def _play(self) -> None:
        try:
            for line in self._lines:
                self._do(line)
        except (OSError, AssertionError) as error:
            self.failures.append(f"{type(error).__name__}: {error}")

    def _do(self, line: Line) -> None:
        if line.what == "connect":
            self._connections.append(self._accepted(secure=not line.text))
        elif line.what == ">":
            came = self._read(line.data)
            assert came == line.data or unpacked(came) == unpacked(line.data), (
                f"{came[:200].hex()} came where {line.data[:200].hex()} was expected"
            )
        elif line.what == "<":
            self._connections[-1].sendall(line.data)
        elif line.what == "closed":
            # The client may still be sending: what it sends then, and nobody reads, is a reset.
            self._connections[-1].close()
        elif line.what == "hang up":
            assert self._connections[-1].recv(1) == b"", "more came where the client hung up"
        elif line.what == "resume":
            assert self._resumed.wait(PATIENCE), "nobody resumed it"

    def _accepted(self, *, secure: bool) -> socket.socket:
        connection, _ = self._listener.accept()
        connection.settimeout(PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.receiver.tls and secure:
            return self.certificates.of_a_receiver.wrap_socket(connection, server_side=True)
        return connection

    def _read(self, expected: bytes) -> bytes:
        """As many bytes as are expected, or the one message that is whole before."""
        connection = self._connections[-1]
        data = bytearray()
        whole = msgpack.Unpacker(raw=True, max_buffer_size=2 * len(expected) + 64)
        while len(data) < len(expected) and (more := connection.recv(min(len(expected) - len(data), 1 << 20))):
            data += more
            if b"compressed" in expected:
                whole.feed(more)
                if next(whole, None) is not None:
                    break
        return bytes(data)


def unpacked(message: bytes) -> Any:
    """A message with what was compressed in it: no two libraries compress to the same bytes."""
    try:
        tag, payload, options = msgpack.unpackb(message, raw=True)
        return tag, gzip.decompress(payload), options
    except (ValueError, TypeError, OSError, EOFError, zlib.error):
        return message


def in_order(lines: Iterable[Line]) -> list[Line]:
    """The lines with the records behind all others, sorted: they come out in no certain order."""
    lines = list(lines)
    records = sorted((line for line in lines if line.what == "ingested"), key=lambda line: line.text)
    return [*(line for line in lines if line.what != "ingested"), *records]
