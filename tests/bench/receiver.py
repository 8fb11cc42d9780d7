"""A forward receiver that only acknowledges, in a process of its own; of a message it reads no more than that takes.

A line on standard input, the number of records to wait for, is answered with a line: how many came since the last one.
"""

from __future__ import annotations

import contextlib
import io
import socket
import sys
import threading
from typing import Any

import msgpack

_WAIT = 120.0
_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}  # of MessagePack's bin: a message in PackedForward mode has one


class Counts:
    """What came, of all connections."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._records = 0

    def add(self, records: int) -> None:
        """Count a message of so many records."""
        with self._changed:
            self._records += records
            self._changed.notify_all()

    def take(self, expected: int) -> int:
        """How many came, once they are as many as were expected, or it took too long; then begin at 0 again."""
        with self._changed:
            self._changed.wait_for(lambda: self._records >= expected, _WAIT)
            taken, self._records = self._records, 0
            return taken


def serve(connection: socket.socket, counts: Counts) -> None:
    """Read messages until the sender closes the connection."""
    with contextlib.suppress(ConnectionError), connection, connection.makefile("rb") as stream:
        while head := _head(stream):
            prefix, kind = head
            if kind not in _LENGTH_BYTES:
                _count_messages(stream, prefix, counts)
                return
            _pass_over(stream, int.from_bytes(stream.read(_LENGTH_BYTES[kind])))
            options = _options(stream)
            counts.add(options["size"])
            connection.sendall(msgpack.packb({"ack": options["chunk"]}))


def _head(stream: io.BufferedReader) -> tuple[bytes, int] | None:
    """A message up to the type of what stands behind its tag: those bytes, and the type; None at the end."""
    begin = stream.read(2)
    if not begin:
        return None
    if begin[1] == 0xD9:  # a tag of more than 31 bytes
        begin += stream.read(1)
        length = begin[2]
    else:
        length = begin[1] & 0x1F
    begin += stream.read(length + 1)
    return begin, begin[-1]


def _pass_over(stream: io.BufferedReader, length: int) -> None:
    while length:
        passed = len(stream.read(min(length, 1 << 18)))
        if not passed:
            raise ConnectionResetError
        length -= passed


def _options(stream: io.BufferedReader) -> dict[str, Any]:
    unpacker = msgpack.Unpacker()
    while data := stream.read1():  # nothing follows before the ack
        unpacker.feed(data)
        for found in unpacker:
            return dict(found)
    raise ConnectionResetError


def _count_messages(stream: io.BufferedReader, prefix: bytes, counts: Counts) -> None:
    """Message mode, without acks: pass over one message after the other."""
    unpacker = msgpack.Unpacker()
    data = prefix
    while data:
        unpacker.feed(data)
        messages = 0
        try:
            while True:
                unpacker.skip()
                messages += 1
        except msgpack.OutOfData:
            counts.add(messages)
        data = stream.read1()


def main() -> None:
    """Serve until standard input ends; the first line of standard output is the port."""
    counts = Counts()
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, counts), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print(listener.getsockname()[1], flush=True)  # noqa: T201 - whoever started it reads this
    for line in sys.stdin:
        print(counts.take(int(line)), flush=True)  # noqa: T201 - the same


if __name__ == "__main__":
    main()
