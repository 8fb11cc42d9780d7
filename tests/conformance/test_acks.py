"""What no other suite for the forward protocol tests, on the wire: odd acks, cut connections, sizes of writes."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgpack
import pytest
from conformance.case import Ping, Pong, Receiver, ingested
from conformance.cases import recording
from conformance.cases_sender import TAG
from conformance.certificates import Certificates
from conformance.conftest import SenderTo
from conformance.exchange import Exchange
from conformance.handshake import Helo, pong_bytes
from conformance.messages import entry, pack
from conformance.peers import Simulated, in_order
from conformance.sending import sender_to

from in_jumpcloud.errors import ReceiverDown
from in_jumpcloud.forward.wire import AckReader, build_chunk

NEVER = threading.Event()
FIRST = build_chunk(TAG, entry("a"), 1)
A = ingested("a", TAG)
MEGABYTE = build_chunk(TAG, b"".join(entry(f"{number}", x="x" * 960) for number in range(1000)), 1000)
PATIENCE = 20.0


@pytest.fixture(name="peer")
def _peer(certificates: Certificates) -> Iterator[Simulated]:
    with Simulated(Receiver("plain"), certificates) as peer:
        yield peer


@pytest.fixture(name="listener")
def _listener() -> Iterator[socket.socket]:
    """A socket whose other side is played by the test."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener


@contextlib.contextmanager
def in_background(listener: socket.socket, **settings: Any) -> Iterator[tuple[Future[None], socket.socket]]:
    """Our sender delivers MEGABYTE to the listener: how that ends, and the connection that it made."""
    sender = sender_to(listener.getsockname()[1], **settings)
    with ThreadPoolExecutor(1) as pool:
        delivery = pool.submit(sender.deliver, MEGABYTE, NEVER)
        connection, _ = listener.accept()
        with connection, contextlib.closing(sender):
            connection.settimeout(PATIENCE)
            yield delivery, connection


def read_message(connection: socket.socket) -> Any:
    """One whole message that came in."""
    unpacker = msgpack.Unpacker(raw=True, max_buffer_size=1 << 24)
    while data := connection.recv(1 << 16):
        unpacker.feed(data)
        for message in unpacker:
            return message
    raise AssertionError("it hung up")


def segments(connection: socket.socket) -> int:
    """TCP segments with data that came in on it, as the kernel counts them."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells how many segments came in")
    told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    count: int = struct.unpack_from("I", told, 152)[0]  # tcpi_data_segs_in of struct tcp_info
    return count


def test_ping_in_one_segment(listener: socket.socket) -> None:
    """A Fluent Bit refuses a PING in pieces; ours is one segment, however long its names, with nothing behind."""
    assert Exchange.load(recording("ping_in_two_segments")).lines[-1].what == "closed"
    user = {"username": "u" * 200, "password": "p"}
    with in_background(listener, shared_key="s3cr3t", **user) as (delivery, connection):
        helo = Helo(b"\xff" * 16, b"\xc1" * 16)
        connection.sendall(helo.data)
        ping = connection.recv(1 << 16)
        assert segments(connection) == 1
        assert msgpack.unpackb(ping)[0] == "PING"
        salt = msgpack.unpackb(ping)[2]

        connection.sendall(pong_bytes(Pong(), Ping("s3cr3t", salt=salt), helo, "s3cr3t"))
        read_message(connection)
        connection.sendall(pack({"ack": MEGABYTE.id}))
        delivery.result(PATIENCE)


def test_ack_for_a_different_chunk(peer: Simulated, sender: SenderTo) -> None:
    """It is no ack for ours: the connection is dropped, and the same chunk is sent again over another."""
    peer.simulated.faults.wrong_ack()
    made = sender(peer)

    with pytest.raises(ReceiverDown, match=r"instead of") as doubt:
        made.deliver(FIRST, NEVER)
    assert doubt.value.reached
    made.deliver(FIRST, NEVER)

    assert peer.simulated.connections == 2
    assert peer.simulated.chunks == [FIRST.id, FIRST.id]


def test_ack_split_over_two_segments(listener: socket.socket) -> None:
    """Wherever an ack is cut, the sender waits for its rest."""
    ack = pack({"ack": MEGABYTE.id})
    for cut in (1, 5, len(ack) - 1):
        with in_background(listener) as (delivery, connection):
            read_message(connection)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(ack[:cut])
            with pytest.raises(TimeoutError):
                delivery.result(0.1)
            connection.sendall(ack[cut:])
            delivery.result(PATIENCE)


class TestAckCoalesced:
    """Acks may come in one segment."""

    def test_the_reader_gives_them_all_in_order(self) -> None:
        """A Fluent Bit's five acks in one piece are five acks."""
        acks = [line.data for line in Exchange.load(recording("pipelined")).lines if line.what == "<"]

        assert AckReader().feed(b"".join(acks)) == list("abcde")

    @pytest.mark.parametrize("ours_at", [0, 1])
    def test_an_ack_that_nobody_asked_for_is_a_doubt(self, listener: socket.socket, ours_at: int) -> None:
        """With one chunk under way one ack is due: with another beside it the connection is not trusted."""
        acks = [pack({"ack": "another"})]
        acks.insert(ours_at, pack({"ack": MEGABYTE.id}))
        with in_background(listener) as (delivery, connection):
            read_message(connection)
            connection.sendall(b"".join(acks))
            with pytest.raises(ReceiverDown, match="another"):
                delivery.result(PATIENCE)
            assert connection.recv(1) == b"", "the connection is kept"


def test_receiver_closes_mid_batch(peer: Simulated, sender: SenderTo) -> None:
    """A reset in the middle of a chunk leaves nothing of it; the same chunk again comes out once."""
    peer.simulated.faults.reset_after_bytes(len(MEGABYTE.message) // 2)
    made = sender(peer)

    with pytest.raises(ReceiverDown) as doubt:
        made.deliver(MEGABYTE, NEVER)
    assert doubt.value.reached
    assert peer.simulated.records == []
    made.deliver(MEGABYTE, NEVER)
    made.deliver(FIRST, NEVER)

    records = in_order(peer.ingested(1001))
    assert len(records) == len({line.text for line in records}) == 1001
    assert A in records


class TestSlowDripSenderCost:
    """A Fluent Bit reads a message from its first byte at every read: many small writes cost it much."""

    MOST = 64

    def test_we_write_large_pieces(self, listener: socket.socket) -> None:
        """A chunk of a megabyte goes out in a few dozen segments."""
        with in_background(listener) as (delivery, connection):
            read_message(connection)
            came = segments(connection)
            connection.sendall(pack({"ack": MEGABYTE.id}))
            delivery.result(PATIENCE)

        assert came < self.MOST

    def test_small_writes_would_be_seen(self, listener: socket.socket) -> None:
        """The same chunk in writes of 1,400 bytes is many more segments, so the test above can fail."""
        with socket.create_connection(listener.getsockname()) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection, _ = listener.accept()
            with connection:
                for at in range(0, len(MEGABYTE.message), 1400):
                    piece = MEGABYTE.message[at : at + 1400]
                    client.sendall(piece)
                    left = len(piece)
                    while left:
                        left -= len(connection.recv(left))
                assert segments(connection) > 10 * self.MOST
