"""The simulated forward receiver when it misbehaves, pauses, stops and starts again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import msgpack
import pytest
from support.receivers import Peer, packed

from in_jumpcloud.simulator.receiver import SimulatedReceiver


@pytest.fixture
def peer(receiver: SimulatedReceiver) -> Iterator[Peer]:
    """A client of the receiver."""
    with closing(Peer(receiver)) as peer:
        yield peer


class TestFaults:
    """What goes wrong on demand, once each and in order."""

    def test_acks_are_dropped_then_wrong_then_right(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """The messages are taken all the same."""
        receiver.faults.drop_ack(2)
        receiver.faults.wrong_ack()
        for name in "abcd":
            peer.send(packed(name, chunk=name))
        assert peer.ack() == "not-c"
        assert peer.ack() == "d"
        assert receiver.acked == ["d"]
        assert receiver.chunks == list("abcd")
        assert receiver.faults.given == {"drop_ack": 2, "wrong_ack": 1}

    def test_reset_before_the_ack(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """The record is there, the answer is not, and the connection is reset rather than closed."""
        receiver.faults.reset_before_ack()
        peer.send(packed("a", chunk="a"))
        with pytest.raises(ConnectionResetError):
            peer.socket.recv(100)
        assert (receiver.ids, receiver.acked) == ({"a": 1}, [])

    def test_close_after_the_ack(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """First the answer, then the end."""
        receiver.faults.close_after_ack()
        assert peer.exchange(packed("a", chunk="a")) == "a"
        assert peer.ack() is None
        assert receiver.acked == ["a"]

    def test_reset_after_bytes(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """What was complete by then is taken and answered, the message that was cut is not."""
        first, second = (msgpack.packb(packed(name, chunk=name)) for name in "ab")
        receiver.faults.reset_after_bytes(len(first) + 10)
        assert peer.exchange(first) == "a"
        assert peer.exchange(second) is None
        assert receiver.wait_until(lambda: not receiver.faults.readable(0)[1] and receiver.bytes > len(first), 10)
        assert (receiver.ids, receiver.bytes) == ({"a": 1}, len(first) + 10)
        with closing(Peer(receiver)) as other:
            assert other.exchange(second) == "b"

    def test_a_stalled_ack_comes_late_or_never(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """It comes after the time, unless the receiver stops before."""
        receiver.faults.stall(0.05)
        receiver.faults.stall(600)
        assert peer.exchange(packed("a", chunk="a")) == "a"
        peer.send(packed("b", chunk="b"))
        assert receiver.wait_for(2, 10)
        receiver.stop()
        assert peer.ack() is None
        assert receiver.acked == ["a"]

    def test_refuse_above(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """Larger messages are refused until that is taken back."""
        large = packed(*"abcdefgh", chunk="large")
        receiver.faults.refuse_above(len(msgpack.packb(large)) - 1)
        assert peer.exchange(packed("a", chunk="small")) == "small"
        assert peer.exchange(large) is None
        receiver.faults.refuse_above(None)
        with closing(Peer(receiver)) as other:
            assert other.exchange(large) == "large"

    def test_split_acks(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """They come in pieces that make the same answer."""
        receiver.faults.split_acks()
        chunk = "c" * 200
        # The kernel may put the pieces of one answer together again, but hardly those of all.
        for _ in range(50):
            assert peer.exchange(packed("a", chunk=chunk)) == chunk
        assert peer.reads > 50

    def test_coalesced_acks(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """They are held back until so many are due on the connection, and come in one piece."""
        receiver.faults.coalesce_acks(3)
        with closing(Peer(receiver)) as other:
            for name in "abc":
                assert receiver.acked == []
                other.send(packed(f"other {name}", chunk=name)[:2])
                peer.send(packed(name, chunk=name))
            assert [peer.ack() for _ in "abc"] == list("abc")
        assert peer.reads == 1
        assert receiver.acked == list("abc")

    def test_coalesced_acks_may_be_wrong_or_the_last(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """Other faults keep their places; one that closes the connection sends first what is held back."""
        receiver.faults.coalesce_acks(10)
        receiver.faults.drop_ack()
        receiver.faults.wrong_ack()
        receiver.faults.close_after_ack()
        for name in "abc":
            peer.send(packed(name, chunk=name))
        assert [peer.ack() for _ in range(3)] == ["not-b", "c", None]
        assert (peer.reads, receiver.acked) == (1, ["c"])

    def test_orders_can_be_forgotten(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """After `clear` everything is right."""
        receiver.faults.drop_ack(5)
        receiver.faults.refuse_above(1)
        receiver.faults.coalesce_acks(5)
        receiver.faults.clear()
        assert peer.exchange(packed("a", chunk="a")) == "a"


class TestLife:
    """Pause, stop, start, waiting."""

    def test_a_pause_closes_and_resumes_from_the_backlog(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """New connections succeed but are not read until the end of the pause, even if their sender has gone."""
        assert peer.exchange(packed("a", chunk="a")) == "a"
        receiver.pause()
        assert peer.ack() is None
        with closing(Peer(receiver)) as waiting:
            waiting.send(packed("b", chunk="b"))
            with closing(Peer(receiver)) as gone:
                gone.send(packed("c", chunk="c"))
            assert not receiver.wait_for(2, 0.2)
            assert receiver.connections == 1
            receiver.resume()
            assert waiting.ack() == "b"
            assert receiver.wait_for(3, 10)

    def test_it_may_be_paused_from_its_own_callback(self) -> None:
        """As when the message itself brings the input over its limit."""
        pausing: list[SimulatedReceiver] = []
        with (
            SimulatedReceiver(on_records=lambda _tag, _entries: pausing[0].pause()) as overloaded,
            closing(Peer(overloaded)) as peer,
        ):
            pausing.append(overloaded)
            assert peer.exchange(packed("a", chunk="a")) is None
        # Only now is its thread surely done.
        assert (overloaded.ids, overloaded.acked) == ({"a": 1}, [])

    def test_stopped_it_refuses_connections(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """The port is closed, and the same one when it starts again; the counts go on."""
        assert peer.exchange(packed("a", chunk="a")) == "a"
        address = receiver.address
        receiver.stop()
        assert peer.ack() is None
        with pytest.raises(ConnectionRefusedError):
            Peer(receiver)
        receiver.start()
        assert receiver.address == address
        with closing(Peer(receiver)) as other:
            assert other.exchange(packed("b", chunk="b")) == "b"
        assert (receiver.connections, set(receiver.ids)) == (2, {"a", "b"})

    def test_it_stops_while_paused(self, receiver: SimulatedReceiver) -> None:
        """And is not paused when it starts again."""
        receiver.pause()
        with closing(Peer(receiver)):
            receiver.stop()
        receiver.start()
        with closing(Peer(receiver)) as peer:
            assert peer.exchange(packed("a", chunk="a")) == "a"

    def test_waiting_counts_different_ids(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """A repeated id does not end the wait, another does; too few end in False."""
        assert peer.exchange(packed("a", "a", chunk="c")) == "c"
        assert not receiver.wait_for(2, 0.05)
        results: list[bool] = []
        waiter = threading.Thread(target=lambda: results.append(receiver.wait_for(2, 10)))
        waiter.start()
        peer.send(packed("b"))
        waiter.join(10)
        assert results == [True]

    def test_connections_are_served_side_by_side(self, receiver: SimulatedReceiver) -> None:
        """One that sends half a message keeps nobody else waiting."""
        half = msgpack.packb(packed("a", chunk="a"))
        with closing(Peer(receiver)) as slow, closing(Peer(receiver)) as quick:
            slow.send(half[:20])
            assert quick.exchange(packed("b", chunk="b")) == "b"
            assert slow.exchange(half[20:]) == "a"
