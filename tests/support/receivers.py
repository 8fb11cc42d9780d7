"""What the tests of the simulated receiver share: a client of it, and messages."""

from __future__ import annotations

import gzip
import hashlib
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from in_jumpcloud.simulator.receiver import SimulatedReceiver

TIME = msgpack.ExtType(0, struct.pack(">II", 1_767_225_600, 123_456_789))
TIME_NS = 1_767_225_600_123_456_789
START, END = (msgpack.ExtType(0, struct.pack(">II", seconds, 0)) for seconds in (0xFFFFFFFF, 0xFFFFFFFE))


Address = tuple[str, int] | str


@dataclass(frozen=True)
class Target:
    """A receiver, simulated or real: where it listens, and how often each event.id came out of it so far."""

    address: Address
    ids: Callable[[], Counter[str]]


class Peer:
    """A client of a receiver, which is given as such or by its address."""

    def __init__(self, receiver: SimulatedReceiver | Address, *, tls: ssl.SSLContext | None = None) -> None:
        address = receiver.address if isinstance(receiver, SimulatedReceiver) else receiver
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(address)
        else:
            self.socket = socket.create_connection(address)
        self.socket.settimeout(30)
        if tls is not None:
            try:
                self.socket = tls.wrap_socket(self.socket, server_hostname="localhost", suppress_ragged_eofs=False)
            except OSError:
                self.socket.close()
                raise
        self.answers = msgpack.Unpacker(unicode_errors="surrogateescape")
        self.reads = 0  # pieces that answers came in

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def send(self, message: object) -> None:
        """Send one object, or bytes as they are."""
        self.socket.sendall(message if isinstance(message, bytes) else msgpack.packb(message))

    def answer(self) -> Any:
        """The next object that comes; None when the connection ends without one."""
        while True:
            for answer in self.answers:
                return answer
            try:
                data = self.socket.recv(4096)
            except (ConnectionError, ssl.SSLEOFError):
                return None
            if not data:
                return None
            self.reads += 1
            self.answers.feed(data)

    def ack(self) -> Any:
        """The chunk of the next answer; None when the connection ends without one."""
        answer = self.answer()
        assert answer is None or list(answer) == ["ack"]
        return None if answer is None else answer["ack"]

    def exchange(self, message: object) -> Any:
        """Send, and wait for the answer."""
        self.send(message)
        return self.ack()


def digest(*parts: bytes | str) -> str:
    """The digest of the handshake; strings hold the bytes of the HELO."""
    data = b"".join(each if isinstance(each, bytes) else each.encode("utf-8", "surrogateescape") for each in parts)
    return hashlib.sha512(data).hexdigest()


def ping(helo: list[Any], key: str, name: str = "", password: str | None = None) -> list[Any]:
    """The PING of a sender with this key and user."""
    nonce, auth = helo[1]["nonce"], helo[1]["auth"]
    secret = "" if password is None else digest(auth, name, password)
    return ["PING", "sender", "0123", digest("0123", "sender", nonce, key), name, secret]


def record(name: str) -> dict[str, Any]:
    """A record with an id."""
    return {"event": {"id": name}, "n": 1, "text": "ä"}


def packed(*names: str, chunk: str | None = None, **options: Any) -> list[Any]:
    """A PackedForward message."""
    payload = b"".join(msgpack.packb([TIME, record(name)]) for name in names)
    if chunk is not None:
        options["chunk"] = chunk
    if options.get("compressed") == "gzip":
        payload = gzip.compress(payload)
    return ["tag", payload, options]


def nested(depth: int, name: str = "nested") -> dict[str, Any]:
    """A record of so many maps within each other, at least two, with an id."""
    inner: dict[str, Any] = {"x": 1}
    for _ in range(depth - 1):
        inner = {"x": inner}
    return inner | {"event": {"id": name}}
