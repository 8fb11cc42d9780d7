"""What the simulated receiver accepts and refuses, and what it does in a pause or at a fault."""

from __future__ import annotations

import gzip
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import pytest
from support.certificates import Certificates
from support.receivers import TIME, TIME_NS, Peer, digest, packed, ping, record

from in_jumpcloud.simulator.receiver import Received, SimulatedReceiver

LIMIT = 20_000
"""Bytes of a message, for the receiver of these tests."""
A, B = (msgpack.packb([TIME, record(name)]) for name in "ab")
USERS = {"alice": "pass: word"}


REFUSED: list[object] = [
    None,
    b'{"json": 1}',
    b"\xc1",
    ["tag", TIME, record("a"), {"chunk": "c"}],
    ["tag", [[TIME, record("a")]], {"chunk": "c", "size": 1}],
    ["tag", [], {"chunk": "c", "size": 1}],
    ["", A, {"chunk": "c", "size": 1}],
    [b"tag", A, {"chunk": "c", "size": 1}],
    ["tag", A, {"chunk": b"c", "size": 1}],
    ["tag", A, {"chunk": "c"}],
    ["tag", A, {"chunk": "c", "size": 2}],
    ["tag", A, {"chunk": "c", "size": 1, "more": 1}],
    ["tag", b"", {"chunk": "c", "size": 0}],
    ["tag", A + b"\x01", {"chunk": "c", "size": 1}],
    ["tag", A[:-1], {"chunk": "c", "size": 1}],
    ["tag", msgpack.packb([1, record("a")]), {"chunk": "c", "size": 1}],
    ["tag", msgpack.packb([[TIME, {}], record("a")]), {"chunk": "c", "size": 1}],
    ["tag", msgpack.packb([msgpack.ExtType(0, b"\xff" * 8), record("a")]), {"chunk": "c", "size": 1}],
    ["tag", msgpack.packb([TIME, "no map"]), {"chunk": "c", "size": 1}],
    ["tag", msgpack.packb([TIME, record("a"), 1]), {"chunk": "c", "size": 1}],
    ["tag", A.replace(b"\xc3", b"\xff"), {"chunk": "c", "size": 1}],
    ["tag", A, {"chunk": "c", "size": 1, "compressed": "gzip"}],
    ["tag", gzip.compress(A)[:-1], {"chunk": "c", "size": 1, "compressed": "gzip"}],
    ["tag", gzip.compress(A) + gzip.compress(B), {"chunk": "c", "size": 2, "compressed": "gzip"}],
    ["tag", gzip.compress(bytes(LIMIT + 1)), {"chunk": "c", "size": 1, "compressed": "gzip"}],
    ["tag", A, {"chunk": "c", "size": 1, "compressed": "zstd"}],
]
"""What the plugin never sends, and most of it a Fluent Bit accepts."""


@pytest.fixture
def receiver() -> Iterator[SimulatedReceiver]:
    """A receiver that listens."""
    with SimulatedReceiver(max_message_bytes=LIMIT) as receiver:
        yield receiver


@pytest.fixture
def peer(receiver: SimulatedReceiver) -> Iterator[Peer]:
    """A client of it."""
    with closing(Peer(receiver)) as peer:
        yield peer


class TestMessages:
    """What comes in."""

    @pytest.mark.parametrize(
        ("message", "names"),
        [
            (["tag", A + B, {"chunk": "c", "size": 2}], "ab"),
            (["tag", gzip.compress(A + B), {"chunk": "c", "size": 2, "compressed": "gzip"}], "ab"),
            (["tag", [], {"chunk": "c", "size": 0}], ""),
        ],
    )
    def test_accepted(self, receiver: SimulatedReceiver, peer: Peer, message: list[Any], names: str) -> None:
        """A chunk, plain or compressed, and a probe are acknowledged, and every record is kept."""
        assert peer.exchange(message) == "c"
        assert receiver.records == [Received("tag", TIME_NS, record(name)) for name in names]
        assert receiver.ids == dict.fromkeys(names, 1)
        assert (receiver.chunks, receiver.acked, receiver.messages) == (["c"], ["c"], 1)
        assert (receiver.received, receiver.refused) == (len(names), 0)

    def test_refused(self, receiver: SimulatedReceiver) -> None:
        """Whatever the plugin does not send closes the connection without an ack, and nothing of it is kept."""
        accepted = []
        for message in REFUSED:
            with closing(Peer(receiver)) as peer:
                if peer.exchange(message) is not None:
                    accepted.append(message)
        assert accepted == []
        assert receiver.wait_until(lambda: receiver.refused == len(REFUSED), 10)
        assert (receiver.records, receiver.messages, receiver.acked) == ([], 0, [])

    def test_limit(self, receiver: SimulatedReceiver) -> None:
        """A message of the limit's size is accepted; one byte more is refused, before it is complete."""
        around = len(msgpack.packb(packed("a", chunk="c")))

        def message(size: int) -> bytes:
            text = "x" * (size - around - 9)  # 9 bytes: the key, longer headers for the text and for the payload
            payload = msgpack.packb([TIME, record("a") | {"x": text}])
            built: bytes = msgpack.packb(["tag", payload, {"chunk": "c", "size": 1}])
            return built

        correction = LIMIT - len(message(LIMIT))
        with closing(Peer(receiver)) as peer:
            assert peer.exchange(message(LIMIT + correction)) == "c"
            assert peer.exchange(message(LIMIT + correction + 1)) is None
        with closing(Peer(receiver)) as peer:
            assert peer.exchange(message(9 * LIMIT)[: LIMIT + 1]) is None
        assert receiver.wait_until(lambda: receiver.refused == 2, 10)

    def test_records_are_passed_on(self) -> None:
        """`on_records` gets them before the ack is sent; without `keep` only ids are kept."""
        calls: list[Any] = []
        with (
            SimulatedReceiver(keep=False, on_records=lambda tag, entries: calls.append((tag, entries))) as receiver,
            closing(Peer(receiver)) as peer,
        ):
            assert peer.exchange(packed("a", "a", chunk="c")) == "c"
            assert calls == [("tag", [(TIME_NS, record("a"))] * 2)]
        assert (receiver.records, receiver.ids) == ([], {"a": 2})

    def test_addresses(self) -> None:
        """IPv6 and a unix socket work; an address that is not loopback must be permitted."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "forward.sock")
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(str(path))
            options: list[dict[str, Any]] = [{"host": "::1"}, {"unix_path": str(path)}]
            for each in options:
                with SimulatedReceiver(**each) as receiver, closing(Peer(receiver)) as peer:
                    assert peer.exchange(packed("a", chunk="c")) == "c"
            assert not path.exists()
        with pytest.raises(ValueError, match="loopback"):
            SimulatedReceiver(host="0.0.0.0")  # noqa: S104
        SimulatedReceiver(host="0.0.0.0", allow_remote=True)  # noqa: S104


class TestHandshake:
    """Shared key and users."""

    def test_accepted(self) -> None:
        """HELO has two strings of 16 random bytes; PONG proves the key; then messages are accepted."""
        with (
            SimulatedReceiver(shared_key="s3crét", users=USERS, self_hostname="it") as receiver,
            closing(Peer(receiver)) as peer,
        ):
            helo = peer.answer()
            assert (helo[0], list(helo[1])) == ("HELO", ["nonce", "auth"])
            assert {len(each.encode("utf-8", "surrogateescape")) for each in helo[1].values()} == {16}
            peer.send(ping(helo, "s3crét", "alice", USERS["alice"]))
            assert peer.answer() == ["PONG", True, "", "it", digest("0123", "it", helo[1]["nonce"], "s3crét")]
            assert peer.exchange(packed("a", chunk="c")) == "c"

    def test_denied(self) -> None:
        """A wrong user gets a PONG with the reason; anything else that is wrong ends the connection."""
        with SimulatedReceiver(shared_key="", users=USERS) as receiver:
            pings: list[Any] = [
                lambda helo: ping(helo, "wrong", "alice", USERS["alice"]),
                lambda helo: ping(helo, "", "alice", USERS["alice"])[:5],
                lambda helo: ["PANG", *ping(helo, "", "alice", USERS["alice"])[1:]],
                lambda helo: msgpack.packb(ping(helo, "", "alice", USERS["alice"]))[:50],
                lambda _: packed("a", chunk="c"),
            ]
            for number, made in enumerate(pings, 1):
                with closing(Peer(receiver)) as peer:
                    peer.send(made(peer.answer()))
                    assert peer.answer() is None, number
            for user in (("alice", "no"), ("eve", "no"), ("", None)):
                with closing(Peer(receiver)) as peer:
                    peer.send(ping(peer.answer(), "", *user))
                    assert peer.answer() == ["PONG", False, "username/password mismatch", "", ""]
                    assert peer.answer() is None
            assert receiver.wait_until(lambda: receiver.denied == len(pings) + 3, 10)
            assert (receiver.refused, receiver.bytes) == (0, 0)
        with pytest.raises(ValueError, match="shared_key"):
            SimulatedReceiver(users=USERS)

    def test_without_tls_at_a_tls_port(self, certificates: Certificates) -> None:
        """It counts as refused, and the next client is served."""
        context = certificates.server_context()
        with SimulatedReceiver(tls=context) as receiver, closing(Peer(receiver)) as peer:
            peer.send(b"no TLS at all" * 10)
            assert receiver.wait_until(lambda: receiver.refused == 1, 10)


class TestPause:
    """Pause, stop and start."""

    def test_pause(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """Connections are closed; new ones wait until it resumes, and are read then even if their sender has gone."""
        assert peer.exchange(packed("a", chunk="a")) == "a"
        receiver.pause()
        assert peer.answer() is None
        with closing(Peer(receiver)) as waiting:
            waiting.send(packed("b", chunk="b"))
            with closing(Peer(receiver)) as gone:
                gone.send(packed("c", chunk="c"))
            assert not receiver.wait_for(2, 0.2)
            receiver.resume()
            assert waiting.answer() == {"ack": "b"}
            assert receiver.wait_for(3, 10)

    def test_stop(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """Stopped, also in a pause, it refuses connections; then it listens at the same address and counts on."""
        assert peer.exchange(packed("a", chunk="a")) == "a"
        address = receiver.address
        receiver.pause()
        receiver.stop()
        assert peer.answer() is None
        with pytest.raises(ConnectionRefusedError):
            Peer(receiver)
        receiver.start()
        assert receiver.address == address
        with closing(Peer(receiver)) as other:
            assert other.exchange(packed("b", chunk="b")) == "b"
        assert (receiver.connections, set(receiver.ids)) == (2, {"a", "b"})


class TestFaults:
    """The script of faults."""

    def test_in_order(self, receiver: SimulatedReceiver) -> None:
        """Each fault is used once, in the order of the calls; messages are taken nevertheless."""
        receiver.faults.drop_ack(2)
        receiver.faults.wrong_ack()
        receiver.faults.close_after_ack()
        receiver.faults.reset_before_ack()
        with closing(Peer(receiver)) as peer:
            for name in "abcd":
                peer.send(packed(name, chunk=name))
            assert [peer.answer() for _ in range(3)] == [{"ack": "not-c"}, {"ack": "d"}, None]
        with closing(Peer(receiver)) as peer:
            assert peer.exchange(packed("e", chunk="e")) is None
        assert (receiver.chunks, receiver.acked) == (list("abcde"), ["d"])
        assert receiver.faults.given == {"drop_ack": 2, "wrong_ack": 1, "close_after_ack": 1, "reset_before_ack": 1}

    def test_reset_after_bytes(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """A message that is complete by then is acknowledged, the next one is not taken."""
        first, second = (msgpack.packb(packed(name, chunk=name)) for name in "ab")
        receiver.faults.reset_after_bytes(len(first) + 10)
        assert peer.exchange(first) == "a"
        assert peer.exchange(second) is None
        assert (receiver.ids, receiver.bytes) == ({"a": 1}, len(first) + 10)

    def test_stall(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """The ack comes late, or never if the receiver stops before."""
        receiver.faults.stall(0.05)
        receiver.faults.stall(600)
        assert peer.exchange(packed("a", chunk="a")) == "a"
        peer.send(packed("b", chunk="b"))
        assert receiver.wait_for(2, 10)
        receiver.stop()
        assert peer.answer() is None
        assert receiver.acked == ["a"]

    def test_until_cleared(self, receiver: SimulatedReceiver) -> None:
        """`refuse_above` and `split_acks` last until `clear`, which cancels the script too."""
        large = packed(*"abcdefgh", chunk="large")
        receiver.faults.refuse_above(len(msgpack.packb(large)) - 1)
        receiver.faults.split_acks()
        with closing(Peer(receiver)) as peer:
            assert peer.exchange(packed("a", chunk="small")) == "small"
            assert peer.exchange(large) is None
        receiver.faults.drop_ack(5)
        receiver.faults.clear()
        with closing(Peer(receiver)) as peer:
            assert peer.exchange(large) == "large"
