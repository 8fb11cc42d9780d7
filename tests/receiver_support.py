"""What the tests of the simulated receiver share: a client of it, and messages."""

from __future__ import annotations

import gzip
import socket
import struct
from typing import Any

import msgpack

from in_jumpcloud.simulator.receiver import SimulatedReceiver

TIME = msgpack.ExtType(0, struct.pack(">II", 1_767_225_600, 123_456_789))
TIME_NS = 1_767_225_600_123_456_789


class Peer:
    """A client of a receiver."""

    def __init__(self, receiver: SimulatedReceiver) -> None:
        address = receiver.address
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(address)
        else:
            self.socket = socket.create_connection(address)
        self.socket.settimeout(10)
        self.answers = msgpack.Unpacker()
        self.reads = 0  # pieces that answers came in

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def send(self, message: object) -> None:
        """Send one object, or bytes as they are."""
        self.socket.sendall(message if isinstance(message, bytes) else msgpack.packb(message))

    def ack(self) -> Any:
        """The chunk of the next answer; None when the connection ends without one."""
        while True:
            for answer in self.answers:
                assert list(answer) == ["ack"]
                return answer["ack"]
            try:
                data = self.socket.recv(4096)
            except ConnectionError:
                return None
            if not data:
                return None
            self.reads += 1
            self.answers.feed(data)

    def exchange(self, message: object) -> Any:
        """Send, and wait for the answer."""
        self.send(message)
        return self.ack()


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
