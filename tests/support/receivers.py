"""A client of a receiver, for tests that send their own bytes."""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct
from typing import Any

import msgpack

from in_jumpcloud.simulator.receiver import SimulatedReceiver

TIME = msgpack.ExtType(0, struct.pack(">II", 1_767_225_600, 123_456_789))
TIME_NS = 1_767_225_600_123_456_789
Address = tuple[str, int] | str


class Peer:
    """A connection to a receiver, which is given as such or by its address."""

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
        self._answers = msgpack.Unpacker(unicode_errors="surrogateescape")

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def send(self, message: object) -> None:
        """Send one object, or bytes as they are."""
        self.socket.sendall(message if isinstance(message, bytes) else msgpack.packb(message))

    def answer(self) -> Any:
        """The next object that comes; None if the connection ends without one."""
        while True:
            for answer in self._answers:
                return answer
            try:
                data = self.socket.recv(4096)
            except (ConnectionError, ssl.SSLEOFError):
                return None
            if not data:
                return None
            self._answers.feed(data)

    def exchange(self, message: object) -> Any:
        """Send, and return the chunk of the ack; None if the connection ends without one."""
        self.send(message)
        answer = self.answer()
        assert answer is None or list(answer) == ["ack"]
        return None if answer is None else answer["ack"]


def digest(*parts: bytes | str) -> str:
    """A digest of the handshake; strings may hold the bytes of a HELO."""
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


def packed(*names: str, chunk: str) -> list[Any]:
    """A PackedForward message of records with these ids."""
    payload = b"".join(msgpack.packb([TIME, record(name)]) for name in names)
    return ["tag", payload, {"chunk": chunk, "size": len(names)}]
