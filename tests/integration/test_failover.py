"""Several receivers: which one gets a chunk, and when one that failed is used again; several addresses of one."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support.command import wait_until
from support.senders import NEVER, SOON, Delivery, SenderTo, server_of, some_chunk

from in_jumpcloud.config.schema import ForwardSettings
from in_jumpcloud.config.types import Duration, Secret
from in_jumpcloud.errors import HandshakeRejected, ReceiverDown, ReceiverPaused, Stopped
from in_jumpcloud.forward import failover as failover_module
from in_jumpcloud.forward.failover import Failover
from in_jumpcloud.simulator.receiver import SimulatedReceiver

FailoverTo = Callable[..., Failover]
Pair = tuple[SimulatedReceiver, SimulatedReceiver]


@pytest.fixture(name="failover_to")
def _failover_to() -> Iterator[FailoverTo]:
    """Makes a Failover to these receivers, and closes it."""
    with contextlib.ExitStack() as stack:

        def make(
            *receivers: SimulatedReceiver, ack: float = SOON, connections: int = 1, **settings: object
        ) -> Failover:
            forward = ForwardSettings(
                servers=tuple(map(server_of, receivers)),
                connect_timeout=Duration(SOON),
                ack_timeout=Duration(ack),
                **settings,  # type: ignore[arg-type]  # any of them
            )
            return stack.enter_context(contextlib.closing(Failover(forward, connections=connections)))

        yield make


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two receivers."""
    with SimulatedReceiver() as first, SimulatedReceiver() as second:
        yield first, second


def deliver(failover: Failover, *names: object) -> None:
    """Deliver a chunk of one record for each name."""
    for name in names:
        failover.deliver(some_chunk(str(name)), NEVER)


def wait_until_used(failover: Failover, receiver: SimulatedReceiver) -> None:
    """Deliver the same chunk until this receiver gets it."""

    def used() -> bool:
        deliver(failover, "later")
        return "later" in receiver.ids

    wait_until(used, SOON)


def test_a_receiver_that_is_back_is_found_with_nothing_to_send(failover_to: FailoverTo, pair: Pair) -> None:
    """A message without records shows it, at most every 30 s."""
    receiver, _ = pair
    failover = failover_to(receiver)
    failover.check_if_down(NEVER)
    assert failover.statistics()[0].up is None
    receiver.faults.refuse_above(1)
    with pytest.raises(ReceiverDown):
        deliver(failover, "refused")
    receiver.faults.clear()
    failover.check_if_down(NEVER)
    assert failover.statistics()[0].up
    receiver.faults.refuse_above(1)
    with pytest.raises(ReceiverDown):
        deliver(failover, "refused")
    refused = receiver.refused
    failover.check_if_down(NEVER)
    assert not failover.statistics()[0].up
    assert receiver.refused == refused


class TestConnections:
    """Several connections to one receiver."""

    def test_chunks_are_sent_at_the_same_time(self, failover_to: FailoverTo, pair: Pair) -> None:
        """Each connection has one chunk under way; a chunk alone uses the first connection."""
        receiver, _ = pair
        failover = failover_to(receiver, connections=3)
        deliver(failover, "a", "b", "c")
        assert receiver.connections == 1
        for _ in range(3):
            receiver.faults.stall(2)
        started_at = time.monotonic()
        threads = [threading.Thread(target=deliver, args=(failover, number)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - started_at < 5
        assert receiver.connections == 3
        assert set(receiver.ids.values()) == {1}
        assert failover.outcomes(None).acknowledged == 6

    def test_a_late_ack_is_found(self, failover_to: FailoverTo, pair: Pair) -> None:
        """A chunk whose ack did not come in time is not sent over another connection while it may still come."""
        receiver, _ = pair
        failover = failover_to(receiver, connections=2, ack=1)
        receiver.faults.stall(1.5)
        with pytest.raises(ReceiverDown):
            deliver(failover, "late")
        time.sleep(1)
        deliver(failover, "late")
        assert receiver.ids == {"late": 1}


class TestFailover:
    """In order of preference."""

    def test_the_first_gets_all(self, failover_to: FailoverTo, pair: Pair) -> None:
        """While the first receiver acknowledges, no other gets a chunk."""
        deliver(failover_to(*pair), *range(5))
        assert (len(pair[0].ids), pair[1].connections) == (5, 0)

    def test_over_and_back(self, failover_to: FailoverTo, pair: Pair) -> None:
        """When the first stops, the same chunk goes to the second at once; when it is back, it is used again."""
        first, second = pair
        failover = failover_to(*pair)
        deliver(failover, 1)
        first.stop()
        started_at = time.monotonic()
        deliver(failover, 2)
        assert time.monotonic() - started_at < 2
        assert second.ids == {"2": 1}
        assert [each.up for each in failover.statistics()] == [False, True]

        first.start()
        wait_until_used(failover, first)
        assert first.ids == {"1": 1, "later": 1}
        assert [each.up for each in failover.statistics()] == [True, True]

    def test_a_silent_one_costs_one_ack_timeout(self, failover_to: FailoverTo, pair: Pair) -> None:
        """A receiver that never acknowledges delays one chunk; it gets no other until it acknowledges a probe."""
        first, second = pair
        first.faults.drop_ack(100)
        failover = failover_to(*pair, ack=0.5)
        started_at = time.monotonic()
        deliver(failover, *range(20))
        assert 0.5 <= time.monotonic() - started_at < 1.5
        assert sum(second.ids.values()) == 20

        # It is checked again and again, with messages without records.
        assert first.wait_until(lambda: first.messages >= 3, SOON)
        assert first.ids == {"0": 1}
        first.faults.clear()
        wait_until_used(failover, first)

    def test_waiting_threads_do_not_wait_in_turn(self, failover_to: FailoverTo, pair: Pair) -> None:
        """Four threads with a chunk for a silent receiver lose one ack timeout together."""
        pair[0].faults.drop_ack(100)
        failover = failover_to(*pair, ack=1)
        started_at = time.monotonic()
        threads = [threading.Thread(target=deliver, args=(failover, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON)
        assert time.monotonic() - started_at < 2
        assert set(pair[1].ids) == {"0", "1", "2", "3"}

    def test_all_down(self, failover_to: FailoverTo, pair: Pair) -> None:
        """If all are down the error names each of them; the first that is back gets the chunk at the next try."""
        failover = failover_to(*pair)
        for receiver in pair:
            receiver.stop()
        with pytest.raises(ReceiverDown) as caught:
            deliver(failover, 1)
        assert all(f"receiver 127.0.0.1:{receiver.port}: " in str(caught.value) for receiver in pair)
        assert (caught.value.stage, caught.value.errno) == ("connect", errno.ECONNREFUSED)
        assert not caught.value.reached
        with pytest.raises(ReceiverDown):
            failover.connect(NEVER)
        pair[1].start()
        deliver(failover, 1)
        assert pair[1].ids == {"1": 1}

    def test_one_that_refuses_a_large_chunk(self, failover_to: FailoverTo, pair: Pair) -> None:
        """The next receiver may accept it; only those that the chunk reached are probed."""
        first, second = pair
        first.faults.refuse_above(200)
        large = some_chunk("large", padding=200)
        failover_to(*pair).deliver(large, NEVER)
        assert second.ids == {"large": 1}
        second.stop()
        failover = failover_to(*pair)
        with pytest.raises(ReceiverDown) as caught:
            failover.deliver(large, NEVER)
        assert caught.value.reached == {f"127.0.0.1:{first.port}"}
        assert caught.value.stage is None  # they failed at different ones
        assert failover.probe(caught.value.reached, NEVER)
        assert not failover.probe({f"127.0.0.1:{second.port}"}, NEVER)

    def test_class_of_the_error(self, failover_to: FailoverTo) -> None:
        """HandshakeRejected means that all reject us; if one is only down, the error says no more than that."""
        with SimulatedReceiver(shared_key="other") as first, SimulatedReceiver(shared_key="other") as second:
            failover = failover_to(first, second, shared_key=Secret("key"))
            with pytest.raises(ReceiverDown):
                failover.connect(NEVER)
            with pytest.raises(HandshakeRejected):
                failover.connect(NEVER)
            second.stop()
            with pytest.raises(ReceiverDown) as caught:
                failover.connect(NEVER)
            assert not isinstance(caught.value, HandshakeRejected | ReceiverPaused)

    def test_limits(self, failover_to: FailoverTo, pair: Pair) -> None:
        """A receiver that is back is used within half a minute; a delivery takes at most all timeouts of all."""
        assert failover_module.MAX_CHECK_SECONDS <= 30
        one, two = failover_to(pair[0]), failover_to(*pair)
        assert two.max_delivery_seconds == 2 * one.max_delivery_seconds > 4 * SOON


class TestRoundRobin:
    """Each chunk to the next receiver."""

    def test_turns(self, failover_to: FailoverTo, pair: Pair) -> None:
        """Each gets its share, and no chunk goes to two."""
        deliver(failover_to(*pair, balance="round_robin"), *range(10))
        assert [len(receiver.ids) for receiver in pair] == [5, 5]

    def test_one_is_gone(self, failover_to: FailoverTo, pair: Pair) -> None:
        """The other gets all."""
        failover = failover_to(*pair, balance="round_robin")
        pair[0].stop()
        deliver(failover, *range(10))
        assert len(pair[1].ids) == 10


@pytest.fixture
def dead_address() -> Iterator[tuple[str, int]]:
    """An address that does not answer: the backlog of its listener is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        yield listener.getsockname()


class TestAddresses:
    """A name with several addresses."""

    @staticmethod
    def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
        """Let every name have these addresses."""
        families = [socket.AF_INET6 if ":" in host else socket.AF_INET for host, _ in addresses]
        results = [(family, socket.SOCK_STREAM, 6, "", each) for family, each in zip(families, addresses, strict=True)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: list(results))

    def test_the_one_that_listens(
        self, monkeypatch: pytest.MonkeyPatch, receiver: SimulatedReceiver, sender_to: SenderTo
    ) -> None:
        """An address that refuses, or whose family this machine lacks, is skipped."""
        for dead in ("::1", "127.0.0.2"):
            self.resolve_to(monkeypatch, (dead, receiver.port), ("127.0.0.1", receiver.port))
            sender_to(receiver).deliver(some_chunk(dead), NEVER)
        assert receiver.connections == 2

    def test_a_dead_one_gets_its_part_of_the_time(
        self,
        monkeypatch: pytest.MonkeyPatch,
        receiver: SimulatedReceiver,
        sender_to: SenderTo,
        dead_address: tuple[str, int],
    ) -> None:
        """An address that does not answer uses half of connect_timeout; the one that worked is then tried first."""
        self.resolve_to(monkeypatch, dead_address, ("127.0.0.1", receiver.port))
        sender = sender_to(receiver, connect=2)
        started_at = time.monotonic()
        sender.deliver(some_chunk("1"), NEVER)
        assert 0.9 < time.monotonic() - started_at < 1.9

        receiver.stop()
        receiver.start()
        started_at = time.monotonic()
        sender.deliver(some_chunk("2"), NEVER)
        assert time.monotonic() - started_at < 0.9

    def test_none_answers(self, sender_to: SenderTo, dead_address: tuple[str, int]) -> None:
        """connect_timeout ends the wait, and so does a stop."""
        with pytest.raises(ReceiverDown, match=r"no connection within 0\.3 s") as caught:
            sender_to(dead_address, connect=0.3).connect(NEVER)
        assert (caught.value.stage, caught.value.errno) == ("connect", errno.ETIMEDOUT)
        stop = threading.Event()
        delivery = Delivery(sender_to(dead_address, connect=600), some_chunk("1"), stop)
        assert delivery.under_way(0.1)
        stop.set()
        assert isinstance(delivery.outcome(), Stopped)
