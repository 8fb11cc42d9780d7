"""Several receivers: who gets a chunk, who is left alone, and how one comes back."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support.command import wait_until

from in_jumpcloud.config.schema import ForwardSettings, ServerSettings
from in_jumpcloud.config.types import Duration, Secret
from in_jumpcloud.errors import HandshakeRejected, ReceiverDown, ReceiverPaused
from in_jumpcloud.forward import connection, failover
from in_jumpcloud.forward.failover import Failover
from in_jumpcloud.forward.wire import Chunk, build_chunk, pack_entry
from in_jumpcloud.simulator.receiver import SimulatedReceiver

NEVER = threading.Event()
SOON = 10.0


def some_chunk(name: str) -> Chunk:
    """A chunk of one record with this event id."""
    return build_chunk("t", pack_entry(10**18, {"event": {"id": name}}), 1)


Make = Callable[..., Failover]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make the plugin's end for these receivers."""
    with contextlib.ExitStack() as stack:

        def make(*receivers: SimulatedReceiver, ack: float = SOON, **settings: object) -> Failover:
            each = tuple(ServerSettings(host="127.0.0.1", port=receiver.port) for receiver in receivers)
            made = Failover(
                ForwardSettings(
                    servers=each,
                    connect_timeout=Duration(SOON),
                    ack_timeout=Duration(ack),
                    **settings,  # type: ignore[arg-type]  # whatever a test sets
                )
            )
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def pair() -> Iterator[tuple[SimulatedReceiver, SimulatedReceiver]]:
    """Two receivers."""
    with SimulatedReceiver() as first, SimulatedReceiver() as second:
        yield first, second


Pair = tuple[SimulatedReceiver, SimulatedReceiver]


class TestFailover:
    """In order of preference."""

    def test_the_first_gets_all(self, make: Make, pair: Pair) -> None:
        """While the preferred receiver acknowledges, no other gets a chunk."""
        sender = make(*pair)
        for number in range(5):
            sender.deliver(some_chunk(str(number)), NEVER)
        assert (len(pair[0].ids), pair[1].connections) == (5, 0)

    def test_over_and_back(self, make: Make, pair: Pair) -> None:
        """When it goes, the same chunk goes to the next at once; when it is back, it is used again."""
        first, second = pair
        sender = make(*pair)
        sender.deliver(some_chunk("1"), NEVER)
        first.stop()
        began = time.monotonic()
        sender.deliver(some_chunk("2"), NEVER)
        assert time.monotonic() - began < 2
        assert second.ids == {"2": 1}

        first.start()
        numbers = iter(range(3, 1000))

        def returned() -> bool:
            sender.deliver(some_chunk(str(next(numbers))), NEVER)
            return len(first.ids) > 1

        wait_until(returned, 20)
        assert sum((first.ids + second.ids).values()) == next(numbers) - 1

    def test_a_silent_one_costs_one_ack_timeout(self, make: Make, pair: Pair) -> None:
        """One that takes chunks and is silent is waited for once; it stays out while it acknowledges no probe."""
        first, second = pair
        first.faults.drop_ack(100)
        sender = make(*pair, ack=0.5)
        began = time.monotonic()
        for number in range(20):
            sender.deliver(some_chunk(str(number)), NEVER)
        assert 0.5 <= time.monotonic() - began < 1.5
        assert sum(second.ids.values()) == 20

        # It is looked at again and again, by probes without records.
        assert first.wait_until(lambda: first.messages >= 3, 20)
        assert first.ids == {"0": 1}
        first.faults.clear()

        def returned() -> bool:
            sender.deliver(some_chunk("later"), NEVER)
            return "later" in first.ids

        wait_until(returned, 20)

    def test_waiting_for_their_turn_costs_nothing(self, make: Make, pair: Pair) -> None:
        """Four streams that all have a chunk for a silent receiver lose one ack timeout together, not each in turn."""
        pair[0].faults.drop_ack(100)
        sender = make(*pair, ack=1)
        began = time.monotonic()
        threads = [threading.Thread(target=sender.deliver, args=(some_chunk(str(n)), NEVER)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON)
        assert time.monotonic() - began < 2
        assert set(pair[1].ids) == {"0", "1", "2", "3"}

    def test_all_down(self, make: Make, pair: Pair) -> None:
        """When all are down the error names each; the first that is back gets the chunk at the next try."""
        sender = make(*pair)
        for receiver in pair:
            receiver.stop()
        with pytest.raises(ReceiverDown) as caught:
            sender.deliver(some_chunk("1"), NEVER)
        assert all(f"receiver 127.0.0.1:{receiver.port}: Connection refused" in str(caught.value) for receiver in pair)
        assert not caught.value.reached
        with pytest.raises(ReceiverDown):
            sender.connect(NEVER)
        pair[1].start()
        sender.deliver(some_chunk("1"), NEVER)
        assert pair[1].ids == {"1": 1}

    def test_one_that_refuses_a_large_chunk(self, make: Make, pair: Pair) -> None:
        """What one receiver refuses the next may take; only those that the chunk has reached are probed."""
        first, second = pair
        first.faults.refuse_above(100)
        sender = make(*pair)
        large = build_chunk("t", pack_entry(0, {"event": {"id": "large"}, "x": "y" * 200}), 1)
        sender.deliver(large, NEVER)
        assert second.ids == {"large": 1}
        second.stop()
        with pytest.raises(ReceiverDown) as caught:
            make(*pair).deliver(large, NEVER)
        assert caught.value.reached == {f"127.0.0.1:{first.port}"}
        assert sender.probe(caught.value.reached, NEVER)
        assert not sender.probe({f"127.0.0.1:{second.port}"}, NEVER)

    def test_kinds(self, make: Make) -> None:
        """If all do not know the key, that is the error; if one is merely down, it is that one that is waited for."""
        with SimulatedReceiver(shared_key="other") as first, SimulatedReceiver(shared_key="other") as second:
            sender = make(first, second, shared_key=Secret("key"))
            for _ in range(2):
                with pytest.raises(ReceiverDown):
                    sender.connect(NEVER)
            with pytest.raises(HandshakeRejected):
                sender.connect(NEVER)
            second.stop()
            with pytest.raises(ReceiverDown) as caught:
                sender.connect(NEVER)
            assert not isinstance(caught.value, HandshakeRejected | ReceiverPaused)


class TestRoundRobin:
    """A chunk to each in turn."""

    def test_turns(self, make: Make, pair: Pair) -> None:
        """Each gets its share, and no chunk goes to two."""
        sender = make(*pair, balance="round_robin")
        for number in range(10):
            sender.deliver(some_chunk(str(number)), NEVER)
        assert [len(receiver.ids) for receiver in pair] == [5, 5]

    def test_one_is_gone(self, make: Make, pair: Pair) -> None:
        """The other gets all, until it is back."""
        sender = make(*pair, balance="round_robin")
        pair[0].stop()
        for number in range(10):
            sender.deliver(some_chunk(str(number)), NEVER)
        assert len(pair[1].ids) == 10


class TestConnections:
    """How long they live, and which address they go to."""

    def test_renewed(self, make: Make, pair: Pair) -> None:
        """After connection_max_age the next chunk takes a new connection, so that a load balancer can share out."""
        sender = make(pair[0], connection_max_age=Duration(0.2))
        sender.deliver(some_chunk("1"), NEVER)
        wait_until(lambda: sender._senders[0]._renew_at < time.monotonic())
        sender.deliver(some_chunk("2"), NEVER)
        assert (pair[0].connections, pair[0].ids) == (2, {"1": 1, "2": 1})

    def test_never_renewed(self, make: Make, pair: Pair) -> None:
        """With 0s it lives as long as the receiver keeps it."""
        sender = make(pair[0], connection_max_age=Duration(0))
        for number in range(3):
            sender.deliver(some_chunk(str(number)), NEVER)
        assert pair[0].connections == 1
        assert sender._senders[0]._renew_at == float("inf")

    @pytest.mark.parametrize("listening", ["127.0.0.1", "::1"])
    def test_a_name_with_two_addresses(self, make: Make, monkeypatch: pytest.MonkeyPatch, listening: str) -> None:
        """Of IPv6 and IPv4 the one where somebody listens is used, in no time."""
        try:
            receiver = SimulatedReceiver(host=listening).start()
        except OSError:
            pytest.skip("this machine has no IPv6 loopback address")
        with receiver:
            _resolve(monkeypatch, [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")])
            began = time.monotonic()
            make(receiver).deliver(some_chunk("1"), NEVER)
            assert time.monotonic() - began < 2
            assert receiver.ids == {"1": 1}

    def test_a_dead_address_is_no_obstacle(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """An address that never answers holds a connection up for a quarter of a second, not for connect_timeout."""
        with contextlib.ExitStack() as stack, SimulatedReceiver() as receiver:
            full = stack.enter_context(socket.socket())
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            for _ in range(4):  # until the backlog is full
                other = stack.enter_context(socket.socket())
                other.setblocking(False)
                other.connect_ex(full.getsockname())
            order = [("127.0.0.1", full.getsockname()[1]), ("127.0.0.1", receiver.port)]
            monkeypatch.setattr(
                connection, "_in_turn", lambda _: iter([(socket.AF_INET, address) for address in order])
            )
            began = time.monotonic()
            make(receiver).deliver(some_chunk("1"), NEVER)
            assert 0.2 < time.monotonic() - began < 3
            assert receiver.ids == {"1": 1}

    def test_load_is_shared_within_a_family(self) -> None:
        """IPv6 and IPv4 take turns, the system's choice first; within one the order is any."""
        found = [(socket.AF_INET6, 0, 0, "", (f"::{n}", 1)) for n in range(3)]
        found += [(socket.AF_INET, 0, 0, "", (f"127.0.0.{n}", 1)) for n in range(2)]
        orders = {tuple(address[0] for _, address in connection._in_turn(found)) for _ in range(200)}
        assert len(orders) == 12
        assert all([":" in address for address in order] == [True, False, True, False, True] for order in orders)


def _resolve(monkeypatch: pytest.MonkeyPatch, addresses: list[tuple[socket.AddressFamily, str]]) -> None:
    def getaddrinfo(_: str, port: int, **__: object) -> list[object]:
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_looks_are_bounded() -> None:
    """A receiver that comes back is used again within half a minute, however long it was away."""
    assert failover._LAST_LOOK <= 30
