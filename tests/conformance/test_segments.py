"""How our sender's bytes are cut into TCP segments: what a Fluent Bit needs of a PING, and of a large chunk."""

from __future__ import annotations

import hashlib
import socket
import struct
import sys
from collections.abc import Iterator

import msgpack
import pytest
from support.senders import SOON, Delivery, SenderTo, some_chunk

from in_jumpcloud.config.types import Secret

MEGABYTE = some_chunk(*map(str, range(1000)), padding=960)
MAX_SEGMENTS = 64
HELO = b"\x92\xa4HELO\x82\xa5nonce\xb0" + b"\xff" * 16 + b"\xa4auth\xb0" + b"\xc1" * 16

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux counts the segments")


@pytest.fixture(name="listener")
def _listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SOON)
        yield listener


def segments(connection: socket.socket) -> int:
    """The TCP segments with data that came in, as the kernel counts them."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    count: int = struct.unpack_from("I", info, 152)[0]  # tcpi_data_segs_in of struct tcp_info
    return count


def read(connection: socket.socket, size: int) -> None:
    """Read this many bytes."""
    while size:
        data = connection.recv(size)
        assert data, "it hung up"
        size -= len(data)


def acknowledge(connection: socket.socket) -> None:
    """Acknowledge the chunk."""
    connection.sendall(msgpack.packb({"ack": MEGABYTE.id}))


def test_ping_in_one_segment(listener: socket.socket, sender_to: SenderTo) -> None:
    """A Fluent Bit refuses a PING in pieces. Ours is one segment, however long its names, with nothing after it."""
    user = {"shared_key": Secret("s3cr3t"), "username": "u" * 200, "password": Secret("p")}
    delivery = Delivery(sender_to(listener, **user), MEGABYTE)
    with listener.accept()[0] as connection:
        connection.settimeout(SOON)
        connection.sendall(HELO)
        ping = connection.recv(1 << 16)
        assert segments(connection) == 1
        word, _, salt, *_ = msgpack.unpackb(ping)
        assert word == "PING"

        proof = hashlib.sha512(salt.encode() + b"it" + b"\xff" * 16 + b"s3cr3t").hexdigest()
        connection.sendall(msgpack.packb(["PONG", True, "", "it", proof]))
        read(connection, len(MEGABYTE.message))
        acknowledge(connection)
        assert delivery.outcome() is None


def test_a_chunk_in_large_segments(listener: socket.socket, sender_to: SenderTo) -> None:
    """A Fluent Bit parses a message from its first byte at every read: many small writes would cost it much."""
    delivery = Delivery(sender_to(listener), MEGABYTE)
    with listener.accept()[0] as connection:
        read(connection, len(MEGABYTE.message))
        assert segments(connection) < MAX_SEGMENTS
        acknowledge(connection)
        assert delivery.outcome() is None


def test_small_writes_would_be_counted(listener: socket.socket) -> None:
    """The same chunk in writes of 1,400 bytes has many more segments: the test above can fail."""
    with socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as connection:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for offset in range(0, len(MEGABYTE.message), 1400):
            piece = MEGABYTE.message[offset : offset + 1400]
            client.sendall(piece)
            read(connection, len(piece))
        assert segments(connection) > 10 * MAX_SEGMENTS
