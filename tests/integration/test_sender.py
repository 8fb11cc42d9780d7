"""Delivery of chunks to a receiver: acks, and everything that can go wrong before one comes."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from in_jumpcloud.config.schema import ForwardSettings, ServerSettings
from in_jumpcloud.config.types import Duration
from in_jumpcloud.errors import ReceiverDown, Stopped
from in_jumpcloud.forward import sender as room
from in_jumpcloud.forward.sender import AckSender
from in_jumpcloud.forward.wire import Chunk, build_chunk, pack_entry
from in_jumpcloud.simulator.receiver import SimulatedReceiver

SOON = 10.0
"""Seconds after which a test gives up waiting for what must come at once."""
NEVER = threading.Event()


def some_chunk(*ids: str) -> Chunk:
    """A chunk of small records with these event ids."""
    return build_chunk(
        "jumpcloud.events", b"".join(pack_entry(10**18, {"event": {"id": each}}) for each in ids), len(ids)
    )


def server_of(address: tuple[str, int] | str) -> ServerSettings:
    """The setting for a receiver at this address."""
    where = {"unix": Path(address)} if isinstance(address, str) else {"host": address[0], "port": address[1]}
    return ServerSettings(**where)


@pytest.fixture(params=["tcp", "ipv6", "unix"], name="anywhere")
def _anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SimulatedReceiver]:
    """A receiver on each kind of socket."""
    settings = {"tcp": {}, "ipv6": {"host": "::1"}, "unix": {"unix_path": str(tmp_path / "s")}}[request.param]
    receiver = SimulatedReceiver(**settings)  # type: ignore[arg-type]
    try:
        receiver.start()
    except OSError as error:
        if request.param == "ipv6" and error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
            pytest.skip("this machine has no IPv6 loopback address")
        raise
    with receiver:
        yield receiver


@pytest.fixture(name="receiver")
def _receiver() -> Iterator[SimulatedReceiver]:
    with SimulatedReceiver() as receiver:
        yield receiver


MakeSender = Callable[..., AckSender]


@pytest.fixture(name="sender_to")
def _sender_to() -> Iterator[MakeSender]:
    """Makes senders, and closes them."""
    with contextlib.ExitStack() as stack:

        def make(peer: SimulatedReceiver | socket.socket, *, connect: float = SOON, ack: float = SOON) -> AckSender:
            address = peer.address if isinstance(peer, SimulatedReceiver) else peer.getsockname()
            server = server_of(address)
            settings = ForwardSettings(servers=(server,), connect_timeout=Duration(connect), ack_timeout=Duration(ack))
            sender = AckSender(server, settings)
            stack.callback(sender.close)
            return sender

        yield make


class InBackground:
    """A delivery in a thread, and how it ended."""

    def __init__(self, sender: AckSender, parcel: Chunk, stop: threading.Event = NEVER) -> None:
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(sender, parcel, stop), daemon=True)
        self._thread.start()

    def _run(self, *arguments: Any) -> None:
        sender, parcel, stop = arguments
        try:
            sender.deliver(parcel, stop)
        except (ReceiverDown, Stopped) as error:
            self.error = error

    def ended(self) -> BaseException | None:
        """Wait for the end; what was raised, if anything."""
        self._thread.join(SOON)
        assert not self._thread.is_alive(), "the delivery does not end"
        return self.error


@contextlib.contextmanager
def scripted(*answers: Callable[[socket.socket, str], None]) -> Iterator[socket.socket]:
    """A listener; its n-th connection reads one chunk after the other and gives each to the n-th answer."""
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


def acknowledge(connection: socket.socket, chunk_id: str) -> None:
    """Answer as a receiver should."""
    connection.sendall(msgpack.packb({"ack": chunk_id}))


class TestDelivery:
    """The receiver does as it should."""

    def test_acknowledged(self, anywhere: SimulatedReceiver, sender_to: MakeSender) -> None:
        """Chunk after chunk is delivered over the connection made beforehand, on every kind of socket."""
        sender, chunks = sender_to(anywhere), [some_chunk("1", "2"), some_chunk("3")]
        sender.connect(NEVER)
        for each in chunks:
            sender.deliver(each, NEVER)
        assert anywhere.acked == [each.id for each in chunks]
        assert anywhere.ids == {"1": 1, "2": 1, "3": 1}
        assert (anywhere.connections, anywhere.refused, anywhere.poisoned) == (1, 0, 0)
        assert [(each.tag, each.time_ns) for each in anywhere.records] == [("jumpcloud.events", 10**18)] * 3

    def test_ack_in_pieces(self, receiver: SimulatedReceiver, sender_to: MakeSender) -> None:
        """An ack that comes byte by byte is taken as one."""
        receiver.faults.split_acks()
        sender_to(receiver).deliver(some_chunk("1"), NEVER)
        assert receiver.ids == {"1": 1}

    def test_large(self, receiver: SimulatedReceiver, sender_to: MakeSender) -> None:
        """A chunk larger than any buffer on its way arrives whole."""
        large = build_chunk("t", pack_entry(0, {"event": {"id": "1"}, "x": "y" * 6_000_000}), 1)
        sender_to(receiver).deliver(large, NEVER)
        assert (receiver.ids, receiver.bytes) == ({"1": 1}, len(large.message))

    def test_threads(self, receiver: SimulatedReceiver, sender_to: MakeSender) -> None:
        """Several threads deliver over one connection, each its own chunks."""
        sender = sender_to(receiver)
        deliveries = [InBackground(sender, some_chunk(str(number))) for number in range(20)]
        assert [delivery.ended() for delivery in deliveries] == [None] * 20
        assert (len(receiver.ids), receiver.connections) == (20, 1)


class TestNoAck:
    """The receiver fails a chunk: ReceiverDown, and the next try is the same bytes on a new connection."""

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ("drop_ack", "no ack within 0.4 s"),
            ("wrong_ack", "it acknowledged not-"),
            ("reset_before_ack", "reset by peer|it closed the connection"),
        ],
    )
    def test_again(self, anywhere: SimulatedReceiver, sender_to: MakeSender, fault: str, reason: str) -> None:
        """After a lost ack, a wrong one or a reset the resend is the same chunk, and is acknowledged."""
        sender, parcel = sender_to(anywhere, ack=0.4), some_chunk("1")
        getattr(anywhere.faults, fault)()
        with pytest.raises(ReceiverDown, match=reason) as caught:
            sender.deliver(parcel, NEVER)
        assert str(sender.server) in str(caught.value)
        sender.deliver(parcel, NEVER)
        assert anywhere.chunks == [parcel.id] * 2
        assert (anywhere.connections, anywhere.bytes) == (2, 2 * len(parcel.message))
        assert anywhere.acked == [parcel.id]

    def test_cut_off(self, receiver: SimulatedReceiver, sender_to: MakeSender) -> None:
        """A connection that is reset in the middle of a chunk is no delivery; the resend is."""
        sender, parcel = sender_to(receiver), some_chunk("1")
        receiver.faults.reset_after_bytes(10)
        with pytest.raises(ReceiverDown):
            sender.deliver(parcel, NEVER)
        sender.deliver(parcel, NEVER)
        assert receiver.ids == {"1": 1}

    def test_paused(self, receiver: SimulatedReceiver, sender_to: MakeSender) -> None:
        """A paused receiver takes the bytes into its backlog and does not answer: no delivery until it goes on."""
        sender, parcel = sender_to(receiver, ack=0.4), some_chunk("1")
        sender.deliver(some_chunk("0"), NEVER)
        receiver.pause()
        with pytest.raises(ReceiverDown, match="no ack within"):
            sender.deliver(parcel, NEVER)
        receiver.resume()
        sender.deliver(parcel, NEVER)
        assert receiver.acked[-1] == parcel.id

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (msgpack.packb(["HELO", {"nonce": b"\xff\xfe"}]), "it asks for a shared key"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "where an ack was due"),
            (b"\xc1", "not MessagePack"),
        ],
        ids=["handshake", "http", "garbage"],
    )
    def test_strange_answer(self, sender_to: MakeSender, answer: bytes, reason: str) -> None:
        """What is no ack is told, and the connection is not used again."""
        with scripted(lambda connection, _: connection.sendall(answer), acknowledge) as listener:
            sender = sender_to(listener)
            with pytest.raises(ReceiverDown, match=reason):
                sender.deliver(some_chunk("1"), NEVER)
            sender.deliver(some_chunk("1"), NEVER)

    def test_endless_answer(self, sender_to: MakeSender) -> None:
        """An answer that trickles and does not end is given up after ack_timeout too."""
        over = threading.Event()

        def trickle(connection: socket.socket, _: str) -> None:
            connection.sendall(b"\x81\xa3ack\xda\xff\xff")
            while not over.wait(0.02):
                connection.sendall(b"x")

        with scripted(trickle) as listener:
            delivery = InBackground(sender_to(listener, ack=0.5), some_chunk("1"))
            try:
                assert "no ack within 0.5 s" in str(delivery.ended())
            finally:
                over.set()


class TestStaleAcks:
    """An ack of an earlier chunk is never taken for another's."""

    def test_after_a_timeout(self, receiver: SimulatedReceiver, sender_to: MakeSender) -> None:
        """An ack that comes after ack_timeout goes to a closed connection; the next chunk waits for its own."""
        sender, first, second = sender_to(receiver, ack=0.3), some_chunk("1"), some_chunk("2")
        receiver.faults.stall(SOON)
        with pytest.raises(ReceiverDown):
            sender.deliver(first, NEVER)
        sender.deliver(second, NEVER)
        assert receiver.acked == [second.id]

    def test_while_idle(self, sender_to: MakeSender) -> None:
        """A second ack of the same chunk, lying on the idle connection, makes the next chunk take a new one."""
        seen: list[str] = []
        doubled = threading.Event()

        def twice(connection: socket.socket, chunk_id: str) -> None:
            seen.append(chunk_id)
            acknowledge(connection, chunk_id)
            acknowledge(connection, chunk_id)
            doubled.set()

        first, second = some_chunk("1"), some_chunk("2")
        with scripted(twice, acknowledge) as listener:
            sender = sender_to(listener)
            with contextlib.suppress(ReceiverDown):  # both acks in one read are a fault at once
                sender.deliver(first, NEVER)
            assert doubled.wait(SOON)
            sender.deliver(second, NEVER)
        assert seen == [first.id]

    def test_under_way(self, sender_to: MakeSender) -> None:
        """The ack of an earlier chunk in the place of the one under way is a fault, not a delivery."""
        first, second = some_chunk("1"), some_chunk("2")
        with scripted(lambda connection, _: acknowledge(connection, first.id)) as listener:
            sender = sender_to(listener)
            sender.deliver(first, NEVER)
            with pytest.raises(ReceiverDown, match=r"acknowledged .* where .* is under way"):
                sender.deliver(second, NEVER)


class TestConnection:
    """Connections that end, or are never made."""

    def test_receiver_restarted(self, anywhere: SimulatedReceiver, sender_to: MakeSender) -> None:
        """A receiver that went and came back between two chunks is noticed: a new connection, no error."""
        sender = sender_to(anywhere)
        sender.deliver(some_chunk("1"), NEVER)
        anywhere.stop()
        anywhere.start()
        sender.deliver(some_chunk("2"), NEVER)
        assert (anywhere.ids, anywhere.connections) == ({"1": 1, "2": 1}, 2)

    def test_gone(self, anywhere: SimulatedReceiver, sender_to: MakeSender) -> None:
        """A receiver that is gone is down, told by its address, and once it is back the chunk is delivered."""
        sender = sender_to(anywhere)
        sender.deliver(some_chunk("1"), NEVER)
        anywhere.stop()
        attempts: list[Callable[[], None]] = [
            lambda: sender.connect(NEVER),
            lambda: sender.deliver(some_chunk("2"), NEVER),
        ]
        for attempt in attempts:
            with pytest.raises(ReceiverDown, match=r"refused|No such file") as caught:
                attempt()
            assert str(sender.server) in str(caught.value)
        anywhere.start()
        sender.deliver(some_chunk("2"), NEVER)
        assert anywhere.ids == {"1": 1, "2": 1}

    def test_no_answer_to_connect(self, sender_to: MakeSender) -> None:
        """A connection that is not made within connect_timeout is given up."""
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(4):  # until the backlog is full
                other = stack.enter_context(socket.socket())
                other.setblocking(False)
                other.connect_ex(listener.getsockname())
            with pytest.raises(ReceiverDown, match=r"no connection within 0\.3 s"):
                sender_to(listener, connect=0.3).connect(NEVER)

    @pytest.mark.parametrize("host", ["a..b", "a" * 70])
    def test_no_host_name(self, host: str) -> None:
        """A name that no host can have is told like a receiver that is down."""
        server = ServerSettings(host=host)
        sender = AckSender(server, ForwardSettings(servers=(server,)))
        with pytest.raises(ReceiverDown, match=f"receiver {host}:24224: "):
            sender.connect(NEVER)


class TestEnd:
    """The process ends while a chunk is under way."""

    @pytest.fixture(autouse=True)
    def _short_grace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert room._GRACE <= 5
        monkeypatch.setattr(room, "_GRACE", 0.5)

    def test_while_waiting(self, receiver: SimulatedReceiver, sender_to: MakeSender) -> None:
        """Who is asked to stop while no ack comes gives up after the grace, and drops the connection."""
        receiver.faults.drop_ack()
        stop = threading.Event()
        sender = sender_to(receiver, ack=600)
        delivery = InBackground(sender, some_chunk("1"), stop)
        assert receiver.wait_for(1, SOON)
        stop.set()
        assert isinstance(delivery.ended(), Stopped)
        sender.deliver(some_chunk("1"), NEVER)
        assert receiver.connections == 2

    def test_ack_within_the_grace(self, receiver: SimulatedReceiver, sender_to: MakeSender) -> None:
        """An ack that comes within the grace still counts."""
        receiver.faults.stall(0.3)
        stop = threading.Event()
        delivery = InBackground(sender_to(receiver), some_chunk("1"), stop)
        assert receiver.wait_for(1, SOON)
        stop.set()
        assert delivery.ended() is None

    @pytest.mark.parametrize("asked", [True, False])
    def test_while_sending(self, sender_to: MakeSender, asked: bool) -> None:
        """A receiver that does not read is given up after ack_timeout, or after the grace where a stop is asked for."""
        large = build_chunk("t", bytes(32_000_000), 1)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            stop = threading.Event()
            delivery = InBackground(sender_to(listener, ack=600 if asked else 0.5), large, stop)
            with listener.accept()[0] as connection:
                assert connection.recv(1)
                if asked:
                    stop.set()
                assert isinstance(delivery.ended(), Stopped if asked else ReceiverDown)

    def test_before(self, receiver: SimulatedReceiver, sender_to: MakeSender) -> None:
        """Once asked to stop, nothing more is sent."""
        stop = threading.Event()
        stop.set()
        with pytest.raises(Stopped):
            sender_to(receiver).deliver(some_chunk("1"), stop)
        assert receiver.connections == 0

    def test_closed_while_waiting(self, anywhere: SimulatedReceiver, sender_to: MakeSender) -> None:
        """Closing the sender from another thread ends a wait for an ack at once."""
        anywhere.faults.drop_ack()
        sender = sender_to(anywhere, ack=600)
        delivery = InBackground(sender, some_chunk("1"))
        assert anywhere.wait_for(1, SOON)
        sender.close()
        assert isinstance(delivery.ended(), ReceiverDown)

    def test_closed_for_good(self, receiver: SimulatedReceiver, sender_to: MakeSender) -> None:
        """A closed sender makes no new connection."""
        sender = sender_to(receiver)
        sender.deliver(some_chunk("1"), NEVER)
        sender.close()
        sender.close()
        attempts: list[Callable[[], None]] = [
            lambda: sender.connect(NEVER),
            lambda: sender.deliver(some_chunk("2"), NEVER),
        ]
        for attempt in attempts:
            with pytest.raises(ReceiverDown, match="closed"):
                attempt()
        assert receiver.connections == 1
