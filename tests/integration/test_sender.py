"""Delivery of chunks to one receiver: acks, and everything that can go wrong before one comes."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from support.senders import NEVER, SOON, TAG, TIME_NS, Delivery, SenderTo, some_chunk

from in_jumpcloud.config.types import Duration
from in_jumpcloud.errors import HandshakeRejected, ReceiverDown, Stopped
from in_jumpcloud.forward.sender import AckSender
from in_jumpcloud.simulator.receiver import SimulatedReceiver


@pytest.fixture(params=["tcp", "ipv6", "unix"], name="anywhere")
def _anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SimulatedReceiver]:
    """A receiver on each kind of socket."""
    options: dict[str, Any] = {"tcp": {}, "ipv6": {"host": "::1"}, "unix": {"unix_path": str(tmp_path / "s")}}
    receiver = SimulatedReceiver(**options[request.param])
    try:
        receiver.start()
    except OSError as error:
        if request.param == "ipv6" and error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
            pytest.skip("this machine has no IPv6 loopback address")
        raise
    with receiver:
        yield receiver


@contextlib.contextmanager
def scripted(*answers: Callable[[socket.socket, str], None]) -> Iterator[socket.socket]:
    """A listener; its n-th connection reads chunks and passes the id of each to the n-th answer."""
    accepted: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            for answer in answers:
                connection, _ = listener.accept()
                accepted.append(connection)
                with connection, contextlib.suppress(OSError):
                    unpacker = msgpack.Unpacker()
                    while data := connection.recv(65_536):
                        unpacker.feed(data)
                        for message in unpacker:
                            answer(connection, message[2]["chunk"])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener
        for each in (listener, *accepted):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        thread.join(SOON)


def acknowledge(connection: socket.socket, *chunk_ids: str) -> None:
    """Send the acks of these chunks at once."""
    connection.sendall(b"".join(msgpack.packb({"ack": each}) for each in chunk_ids))


def attempts(sender: AckSender) -> list[Callable[[], None]]:
    """The two things to do with a sender."""
    return [lambda: sender.connect(NEVER), lambda: sender.deliver(some_chunk("2"), NEVER)]


class TestDelivery:
    """The receiver acknowledges."""

    def test_acknowledged(self, anywhere: SimulatedReceiver, sender_to: SenderTo) -> None:
        """Every chunk is delivered over one connection, on every kind of socket."""
        sender, chunks = sender_to(anywhere), [some_chunk("1", "2"), some_chunk("3")]
        sender.connect(NEVER)
        for each in chunks:
            sender.deliver(each, NEVER)
        assert anywhere.acked == [each.id for each in chunks]
        assert anywhere.ids == {"1": 1, "2": 1, "3": 1}
        assert (anywhere.connections, anywhere.refused) == (1, 0)
        assert [(each.tag, each.time_ns) for each in anywhere.records] == [(TAG, TIME_NS)] * 3

    def test_ack_in_pieces(self, receiver: SimulatedReceiver, sender_to: SenderTo) -> None:
        """An ack may arrive byte by byte."""
        receiver.faults.split_acks()
        sender_to(receiver).deliver(some_chunk("1"), NEVER)
        assert receiver.ids == {"1": 1}

    def test_large(self, receiver: SimulatedReceiver, sender_to: SenderTo) -> None:
        """A chunk larger than every buffer on its way arrives complete."""
        large = some_chunk("1", padding=6_000_000)
        sender_to(receiver).deliver(large, NEVER)
        assert (receiver.ids, receiver.bytes) == ({"1": 1}, len(large.message))

    def test_threads(self, receiver: SimulatedReceiver, sender_to: SenderTo) -> None:
        """Several threads share one connection."""
        sender = sender_to(receiver)
        deliveries = [Delivery(sender, some_chunk(str(number))) for number in range(20)]
        assert [delivery.outcome() for delivery in deliveries] == [None] * 20
        assert (len(receiver.ids), receiver.connections) == (20, 1)


class TestNoAck:
    """The receiver does not acknowledge: ReceiverDown; the next try sends the same bytes over a new connection."""

    @pytest.mark.parametrize(
        ("fault", "reason", "code"),
        [
            ("drop_ack", r"no ack within 0\.4 s", errno.ETIMEDOUT),
            ("wrong_ack", "acknowledged not-", None),
            ("reset_before_ack", "closed the connection before the ack", errno.ECONNRESET),
        ],
    )
    def test_resend(
        self, anywhere: SimulatedReceiver, sender_to: SenderTo, fault: str, reason: str, code: int | None
    ) -> None:
        """After a lost ack, a wrong one or a reset the resend is the same chunk, and is acknowledged."""
        sender, chunk = sender_to(anywhere, ack=0.4), some_chunk("1")
        getattr(anywhere.faults, fault)()
        with pytest.raises(ReceiverDown, match=reason) as caught:
            sender.deliver(chunk, NEVER)
        assert str(sender.server) in str(caught.value)
        assert (caught.value.stage, caught.value.errno) == ("ack", code)
        assert caught.value.reached == {str(sender.server)}
        sender.deliver(chunk, NEVER)
        assert anywhere.chunks.count(chunk.id) == 2  # after a timeout, a message without records comes in between
        assert anywhere.connections == 2
        assert anywhere.acked[-1] == chunk.id

    def test_cut_off(self, receiver: SimulatedReceiver, sender_to: SenderTo) -> None:
        """A reset in the middle of a chunk leaves none of its records; the resend arrives once."""
        sender, chunk = sender_to(receiver), some_chunk("1", "2", padding=500_000)
        receiver.faults.reset_after_bytes(len(chunk.message) // 2)
        with pytest.raises(ReceiverDown) as caught:
            sender.deliver(chunk, NEVER)
        assert caught.value.reached
        assert receiver.ids == {}
        sender.deliver(chunk, NEVER)
        assert receiver.ids == {"1": 1, "2": 1}

    def test_paused(self, receiver: SimulatedReceiver, sender_to: SenderTo) -> None:
        """A receiver that is frozen acknowledges a chunk late: it is not sent again."""
        sender, chunk = sender_to(receiver, ack=0.4), some_chunk("1")
        sender.deliver(some_chunk("0"), NEVER)
        receiver.pause()
        with pytest.raises(ReceiverDown) as caught:
            sender.deliver(chunk, NEVER)
        assert caught.value.reached
        receiver.resume()
        sender.deliver(chunk, NEVER)
        assert receiver.wait_until(lambda: receiver.ids == {"0": 1, "1": 1}, SOON)

    @pytest.mark.parametrize(
        ("answer", "kind", "reason", "stage"),
        [
            (msgpack.packb(["HELO", {"nonce": b"\xff"}]), HandshakeRejected, r"set forward\.shared_key", "handshake"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", ReceiverDown, "it is an HTTP server", "ack"),
            (b"\xc1", ReceiverDown, "not MessagePack", "ack"),
        ],
    )
    def test_unexpected_answer(
        self, sender_to: SenderTo, answer: bytes, kind: type[ReceiverDown], reason: str, stage: str
    ) -> None:
        """The error shows an answer that is not an ack, and the connection is not used again."""
        with scripted(lambda connection, _: connection.sendall(answer), acknowledge) as listener:
            sender = sender_to(listener)
            with pytest.raises(kind, match=reason) as caught:
                sender.deliver(some_chunk("1"), NEVER)
            assert caught.value.stage == stage
            sender.deliver(some_chunk("1"), NEVER)

    def test_endless_answer(self, sender_to: SenderTo) -> None:
        """ack_timeout also ends an answer that arrives slowly and never ends."""
        over = threading.Event()

        def trickle(connection: socket.socket, _: str) -> None:
            connection.sendall(b"\x81\xa3ack\xda\xff\xff")
            while not over.wait(0.02):
                connection.sendall(b"x")

        with scripted(trickle) as listener:
            delivery = Delivery(sender_to(listener, ack=0.5), some_chunk("1"))
            try:
                assert "no ack within 0.5 s" in str(delivery.outcome())
            finally:
                over.set()


class TestStaleAcks:
    """The ack of one chunk is never taken for the ack of another."""

    def test_after_a_timeout(self, receiver: SimulatedReceiver, sender_to: SenderTo) -> None:
        """An ack after ack_timeout goes to a closed connection; the next chunk waits for its own ack."""
        sender, first, second = sender_to(receiver, ack=0.3), some_chunk("1"), some_chunk("2")
        receiver.faults.stall(SOON)
        with pytest.raises(ReceiverDown):
            sender.deliver(first, NEVER)
        sender.deliver(second, NEVER)
        assert receiver.acked == [second.id]

    @pytest.mark.parametrize("number_of_ours", [0, 1])
    def test_two_acks_at_once(self, sender_to: SenderTo, number_of_ours: int) -> None:
        """A second ack in the same read is an error, in either order: only one chunk is in flight."""
        chunk = some_chunk("1")
        acks = ["another"]
        acks.insert(number_of_ours, chunk.id)
        with (
            scripted(lambda connection, _: acknowledge(connection, *acks), acknowledge) as listener,
            pytest.raises(ReceiverDown, match="another"),
        ):
            sender_to(listener).deliver(chunk, NEVER)

    def test_while_idle(self, sender_to: SenderTo) -> None:
        """A second ack that arrives on the idle connection makes the next chunk use a new connection."""
        chunk_ids: list[str] = []
        sent = threading.Event()

        def acknowledge_twice(connection: socket.socket, chunk_id: str) -> None:
            chunk_ids.append(chunk_id)
            acknowledge(connection, chunk_id)
            acknowledge(connection, chunk_id)
            sent.set()

        first, second = some_chunk("1"), some_chunk("2")
        with scripted(acknowledge_twice, acknowledge) as listener:
            sender = sender_to(listener)
            with contextlib.suppress(ReceiverDown):  # if both acks arrive in one read
                sender.deliver(first, NEVER)
            assert sent.wait(SOON)
            sender.deliver(second, NEVER)
        assert chunk_ids == [first.id]

    def test_instead_of_its_own(self, sender_to: SenderTo) -> None:
        """The ack of the previous chunk is an error, not a delivery."""
        first, second = some_chunk("1"), some_chunk("2")
        with scripted(lambda connection, _: acknowledge(connection, first.id)) as listener:
            sender = sender_to(listener)
            sender.deliver(first, NEVER)
            with pytest.raises(ReceiverDown, match=re.escape(f"acknowledged {first.id} instead of {second.id}")):
                sender.deliver(second, NEVER)


class TestConnection:
    """Connections that end, or cannot be made."""

    def test_receiver_restarted(self, anywhere: SimulatedReceiver, sender_to: SenderTo) -> None:
        """A receiver that restarts between two chunks costs a new connection and no error."""
        sender = sender_to(anywhere)
        sender.deliver(some_chunk("1"), NEVER)
        anywhere.stop()
        anywhere.start()
        sender.deliver(some_chunk("2"), NEVER)
        assert (anywhere.ids, anywhere.connections) == ({"1": 1, "2": 1}, 2)

    def test_gone(self, anywhere: SimulatedReceiver, sender_to: SenderTo) -> None:
        """Without a receiver the error has its address and the system's code; when it is back the chunk arrives."""
        sender = sender_to(anywhere)
        sender.deliver(some_chunk("1"), NEVER)
        anywhere.stop()
        for attempt in attempts(sender):
            with pytest.raises(ReceiverDown) as caught:
                attempt()
            assert str(sender.server) in str(caught.value)
            assert caught.value.stage == "connect"
            assert caught.value.errno in {errno.ECONNREFUSED, errno.ENOENT}
            assert not caught.value.reached
        anywhere.start()
        sender.deliver(some_chunk("2"), NEVER)
        assert anywhere.ids == {"1": 1, "2": 1}

    @pytest.mark.parametrize("host", ["a..b", "a" * 70])
    def test_impossible_name(self, sender_to: SenderTo, host: str) -> None:
        """A name that no host can have is reported like a receiver that is down."""
        with pytest.raises(ReceiverDown, match=f"receiver {host}:24224: ") as caught:
            sender_to((host, 24224)).connect(NEVER)
        assert caught.value.stage == "resolve"

    def test_renewed(self, receiver: SimulatedReceiver, sender_to: SenderTo) -> None:
        """After connection_max_age the next chunk uses a new connection; 0 keeps it as long as the receiver does."""
        for max_age, connections in ((0.1, 2), (0, 3)):
            sender = sender_to(receiver, connection_max_age=max_age)
            sender.deliver(some_chunk("1"), NEVER)
            time.sleep(0.15)  # longer than the age, which varies by 10 %
            sender.deliver(some_chunk("2"), NEVER)
            assert receiver.connections == connections


class TestEnd:
    """The process stops while a chunk is in flight."""

    def test_while_waiting(self, receiver: SimulatedReceiver, sender_to: SenderTo) -> None:
        """After a stop it waits for the ack no longer than the grace, and drops the connection."""
        receiver.faults.drop_ack()
        stop = threading.Event()
        sender = sender_to(receiver, ack=600, stop_timeout=Duration(0.5))
        delivery = Delivery(sender, some_chunk("1"), stop)
        assert receiver.wait_for(1, SOON)
        stop.set()
        assert isinstance(delivery.outcome(), Stopped)
        sender.deliver(some_chunk("1"), NEVER)
        assert receiver.connections == 2

    def test_ack_within_the_grace(self, receiver: SimulatedReceiver, sender_to: SenderTo) -> None:
        """An ack that comes within the grace counts."""
        receiver.faults.stall(0.3)
        stop = threading.Event()
        delivery = Delivery(sender_to(receiver), some_chunk("1"), stop)
        assert receiver.wait_for(1, SOON)
        stop.set()
        assert delivery.outcome() is None

    @pytest.mark.parametrize("stopped", [True, False])
    def test_while_sending(self, sender_to: SenderTo, stopped: bool) -> None:
        """A receiver that does not read is given up after ack_timeout, or after the grace."""
        large = some_chunk("1", padding=32_000_000)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            stop = threading.Event()
            delivery = Delivery(
                sender_to(listener, ack=600 if stopped else 0.5, stop_timeout=Duration(0.5)), large, stop
            )
            with listener.accept()[0] as connection:
                assert connection.recv(1)
                if stopped:
                    stop.set()
                error = delivery.outcome()
        assert isinstance(error, Stopped) if stopped else isinstance(error, ReceiverDown) and error.stage == "send"

    def test_before(self, receiver: SimulatedReceiver, sender_to: SenderTo) -> None:
        """After a stop nothing more is sent."""
        stop = threading.Event()
        stop.set()
        with pytest.raises(Stopped):
            sender_to(receiver).deliver(some_chunk("1"), stop)
        assert receiver.connections == 0

    def test_closed_while_waiting(self, anywhere: SimulatedReceiver, sender_to: SenderTo) -> None:
        """`close` from another thread ends a wait for an ack at once, and the sender does not connect again."""
        anywhere.faults.drop_ack()
        sender: AckSender = sender_to(anywhere, ack=600)
        delivery = Delivery(sender, some_chunk("1"))
        assert anywhere.wait_for(1, SOON)
        sender.close()
        sender.close()
        assert isinstance(delivery.outcome(), ReceiverDown)
        for attempt in attempts(sender):
            with pytest.raises(ReceiverDown, match="closed"):
                attempt()
        assert anywhere.connections == 1
