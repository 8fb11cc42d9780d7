"""A forward receiver in a separate process that only acknowledges, and reads only what an ack needs.

For each line on standard input, a number of records to wait for, it prints the number received since the last line.
"""

from __future__ import annotations

import contextlib
import io
import socket
import sys
import threading
from typing import Any

import msgpack

_WAIT_SECONDS = 120.0
_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}  # of MessagePack's bin: a message in PackedForward mode has one


class Counts:
    """The number of records of all connections."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._records = 0

    def add(self, records: int) -> None:
        """Count a message with this many records."""
        with self._changed:
            self._records += records
            self._changed.notify_all()

    def take(self, expected: int) -> int:
        """Wait for `expected` records, at most _WAIT_SECONDS; return how many arrived, and reset the count."""
        with self._changed:
            self._changed.wait_for(lambda: self._records >= expected, _WAIT_SECONDS)
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
            _skip(stream, int.from_bytes(stream.read(_LENGTH_BYTES[kind])))
            options = _options(stream)
            counts.add(options["size"])
            connection.sendall(msgpack.packb({"ack": options["chunk"]}))


def _head(stream: io.BufferedReader) -> tuple[bytes, int] | None:
    """Read a message up to the type byte after its tag: these bytes, and the type; None at the end of the stream."""
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


def _skip(stream: io.BufferedReader, length: int) -> None:
    while length:
        skipped = len(stream.read(min(length, 1 << 18)))
        if not skipped:
            raise ConnectionResetError
        length -= skipped


def _options(stream: io.BufferedReader) -> dict[str, Any]:
    unpacker = msgpack.Unpacker()
    while data := stream.read1():  # nothing follows before the ack
        unpacker.feed(data)
        for options in unpacker:
            return dict(options)
    raise ConnectionResetError


def _count_messages(stream: io.BufferedReader, prefix: bytes, counts: Counts) -> None:
    """Message mode, without acks: skip each message."""
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
    print(listener.getsockname()[1], flush=True)  # noqa: T201 - the parent process reads this
    for line in sys.stdin:
        print(counts.take(int(line)), flush=True)  # noqa: T201 - the same


if __name__ == "__main__":
    main()
