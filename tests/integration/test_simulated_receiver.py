"""What the simulated forward receiver takes and refuses, spoken to over sockets."""

from __future__ import annotations

import gzip
import socket
import struct
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import pytest
from support.receivers import END, START, TIME, TIME_NS, Peer, nested, packed, record

from in_jumpcloud.simulator.receiver import Received, SimulatedReceiver

LIMIT = 20_000  # bytes of a message, for the receiver of these tests


@pytest.fixture
def receiver() -> Iterator[SimulatedReceiver]:
    """A receiver that is listening."""
    with SimulatedReceiver(max_message_bytes=LIMIT) as receiver:
        yield receiver


@pytest.fixture
def peer(receiver: SimulatedReceiver) -> Iterator[Peer]:
    """A client of that receiver."""
    with closing(Peer(receiver)) as peer:
        yield peer


class TestModes:
    """Every shape of a message arrives as the same records."""

    @pytest.mark.parametrize(
        ("message", "times"),
        [
            (["tag", TIME, record("a"), {"chunk": "c"}], [TIME_NS]),
            (["tag", 1_767_225_600, record("a"), {"chunk": "c"}], [1_767_225_600 * 10**9]),
            (["tag", [[TIME, record("a")], [7, record("b")]], {"chunk": "c"}], [TIME_NS, 7 * 10**9]),
            (
                ["tag", [[[TIME, {"meta": 1}], record("a")], [1.5, record("b")]], {"chunk": "c"}],
                [TIME_NS, 1_500_000_000],
            ),
            (["tag", [], {"chunk": "c"}], []),
            (packed("a", "b", chunk="c"), [TIME_NS, TIME_NS]),
            (packed("a", "b", chunk="c", compressed="gzip", size=2), [TIME_NS, TIME_NS]),
            (packed("a", chunk="c", compressed="text", fluent_signal=0), [TIME_NS]),
            (["tag", msgpack.packb([[TIME, {}], record("a")]), {"chunk": "c"}], [TIME_NS]),
            (["tag", gzip.compress(msgpack.packb([7, record("a")])), {"chunk": "c"}], [7 * 10**9]),
        ],
    )
    def test_a_message_is_taken_and_acknowledged(
        self, receiver: SimulatedReceiver, peer: Peer, message: list[Any], times: list[int]
    ) -> None:
        """Records, times, ids and the answer."""
        assert peer.exchange(message) == "c"
        names = ["a", "b"][: len(times)]
        expected = [Received(message[0], moment, record(name)) for moment, name in zip(times, names, strict=True)]
        assert receiver.records == expected
        assert receiver.ids == dict.fromkeys(names, 1)
        assert (receiver.chunks, receiver.acked, receiver.messages, receiver.received) == (["c"], ["c"], 1, len(times))
        assert (receiver.poisoned, receiver.refused) == (0, 0)

    def test_a_payload_may_be_text(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """Old clients pack it as str, gzip too."""
        for payload in (msgpack.packb([TIME, record("a")]), gzip.compress(msgpack.packb([TIME, record("b")]))):
            head = b"\x93\xa1t\xda" + struct.pack(">H", len(payload))
            assert peer.exchange(head + payload + msgpack.packb({"chunk": "c"})) == "c"
        assert receiver.ids == {"a": 1, "b": 1}

    def test_without_a_chunk_there_is_no_answer(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """Only the message that asks for one is acknowledged."""
        peer.send(["tag", 1, record("a")])
        peer.send(["tag", [[1, record("b")]]])
        peer.send(packed("c")[:2])
        assert peer.exchange(["tag", 1, record("d"), {"chunk": ""}]) == ""
        assert set(receiver.ids) == {"a", "b", "c", "d"}
        assert (receiver.chunks, receiver.messages) == ([""], 4)

    def test_many_messages_in_a_row_are_answered_in_order(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """Also when they come in pieces of any size."""
        stream = b"".join(msgpack.packb(packed(f"id{n}", chunk=f"c{n}")) for n in range(50))
        for offset in range(0, len(stream), 97):
            peer.send(stream[offset : offset + 97])
        answers = [peer.ack() for _ in range(50)]
        assert answers == receiver.acked == [f"c{n}" for n in range(50)]
        assert receiver.bytes == len(stream)

    def test_records_are_handed_on_and_need_not_be_kept(self) -> None:
        """The callback has them before the acknowledgement is sent."""
        seen: list[Any] = []
        with (
            SimulatedReceiver(keep=False, on_records=lambda tag, entries: seen.append((tag, entries))) as receiver,
            closing(Peer(receiver)) as peer,
        ):
            assert peer.exchange(packed("a", "a", chunk="c")) == "c"
            assert seen == [("tag", [(TIME_NS, record("a"))] * 2)]
        assert receiver.records == []
        assert receiver.ids == {"a": 2}

    @pytest.mark.parametrize(
        ("entries", "size", "ids", "poisoned"),
        [
            ([[TIME, record("a")], [TIME, record("b")], [TIME, {"x": 1}]], 3, {"a": 1, "b": 1}, 0),
            ([[TIME, record("a")], [TIME, record("b")]], 1, {"a": 1, "b": 1}, 0),
            ([[TIME, record("a")], [TIME, record("b")]], 3, {"a": 1, "b": 1}, 0),
            ([[TIME, record("a")], [7, record("b")]], 2, {"a": 1, "b": 1}, 0),
            ([[TIME, record("a")], [[TIME, {}], record("b")]], 2, {"a": 1, "b": 1}, 0),
            ([[TIME, record("a")], [TIME, {"event": {"id": 7}}]], 2, {"a": 1}, 0),
            ([[TIME, record("a")], [-1, record("b")], [TIME, record("c")]], 3, {"a": 1}, 1),
            ([[TIME, record("a")], [START, record("b")], [END, record("c")]], 3, {"a": 1}, 0),
            ([[TIME, record("a")], [TIME, nested(64)], [TIME, record("c")]], 3, {"a": 1}, 1),
            ([[TIME, record("a")], [TIME, nested(63) | {"event": {"id": "b"}}]], 2, {"a": 1, "b": 1}, 0),
            ([[TIME, record("a")], [TIME, "no map"]], 2, {"a": 1}, 1),
            ([[TIME, record("a")], [TIME, record("b"), 3]], 2, {"a": 1}, 1),
        ],
    )
    def test_counting_alone_sees_what_keeping_sees(
        self, entries: list[Any], size: int, ids: dict[str, int], poisoned: int
    ) -> None:
        """The shorter way without records comes to the same counts, whatever the payload holds."""
        message = ["tag", b"".join(map(msgpack.packb, entries)), {"chunk": "c", "size": size}]
        counts = []
        for keep in (True, False):
            with SimulatedReceiver(keep=keep) as receiver, closing(Peer(receiver)) as peer:
                assert peer.exchange(message) == "c"
                counts.append((dict(receiver.ids), receiver.received, receiver.poisoned))
        assert counts[0] == counts[1]
        assert (counts[0][0], counts[0][2]) == (ids, poisoned)

    def test_records_without_an_id_are_counted(self, receiver: SimulatedReceiver, peer: Peer) -> None:
        """They are received, though they have no place in `ids`."""
        records: list[dict[str, Any]] = [{}, {"event": 1}, {"event": {"id": 7}}, record("a")]
        assert peer.exchange(["tag", [[1, each] for each in records], {"chunk": "c"}]) == "c"
        assert (receiver.received, receiver.ids) == (4, {"a": 1})

    @pytest.mark.parametrize("family", ["ipv6", "unix"])
    def test_other_addresses(self, family: str) -> None:
        """IPv6 and a unix socket, whose stale file is replaced and removed at the end."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "forward.sock")
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(str(path))
            options: dict[str, Any] = {"host": "::1"} if family == "ipv6" else {"unix_path": str(path)}
            with SimulatedReceiver(**options) as receiver, closing(Peer(receiver)) as peer:
                assert peer.exchange(packed("a", chunk="c")) == "c"
            assert path.exists() == (family == "ipv6")

    def test_only_loopback_by_default(self) -> None:
        """A public address has to be asked for."""
        with pytest.raises(ValueError, match="loopback"):
            SimulatedReceiver(host="0.0.0.0")  # noqa: S104
        SimulatedReceiver(host="0.0.0.0", allow_remote=True)  # noqa: S104


class TestRefusals:
    """What Fluent Bit closes the connection for, and what it loses."""

    @pytest.mark.parametrize(
        "message",
        [
            None,
            {"tag": 1},
            b'{"json": 1}',
            b"\xc1",
            [b"tag", 1, record("a"), {"chunk": "c"}],
            ["tag"],
            ["tag", 1],
            ["tag", 1, "no map", {"chunk": "c"}],
            ["tag", 1.5, record("a"), {"chunk": "c"}],
            ["tag", -1, record("a"), {"chunk": "c"}],
            ["tag", 2**40, record("a"), {"chunk": "c"}],
            ["tag", [TIME, {}], record("a"), {"chunk": "c"}],
            ["tag", msgpack.Timestamp(1), record("a"), {"chunk": "c"}],
            ["tag", 1, record("a"), {"chunk": b"c"}],
            ["tag", 1, record("a"), "no map"],
            ["tag", [[-1, record("a")]], {"chunk": "c"}],
            [*packed("a")[:2], None],
            [*packed("a")[:2], {"chunk": b"c"}],
            [*packed("a")[:2], {"chunk": "c", 1: 2}],
            packed("a", chunk="c", fluent_signal=3),
            packed(chunk="c"),
            ["tag", gzip.compress(bytes(LIMIT + 1), mtime=0), {"chunk": "c", "compressed": "gzip"}],
        ],
        ids=repr,
    )
    def test_it_closes_without_an_answer(self, receiver: SimulatedReceiver, peer: Peer, message: object) -> None:
        """Nothing of the message is taken, and another connection is served."""
        assert peer.exchange(message) is None
        assert receiver.wait_until(lambda: receiver.refused == 1, 10)
        assert (receiver.records, receiver.messages, receiver.acked) == ([], 0, [])
        with closing(Peer(receiver)) as other:
            assert other.exchange(packed("b", chunk="d")) == "d"

    def test_nil_options_are_none(self, peer: Peer) -> None:
        """Message and Forward mode tolerate them."""
        peer.send(["tag", 1, record("a"), None])
        peer.send(["tag", [[1, record("b")]], None])
        assert peer.exchange(packed("c", chunk="c")) == "c"

    def test_the_limit_is_exact(self, receiver: SimulatedReceiver) -> None:
        """A message of the limit's size is taken; one byte more is refused, before it is complete."""
        head = len(msgpack.packb(["tag", 1, {"x": bytes(LIMIT - 100)}, {"chunk": "c"}])) - (LIMIT - 100)
        with closing(Peer(receiver)) as peer:
            assert peer.exchange(["tag", 1, {"x": bytes(LIMIT - head)}, {"chunk": "c"}]) == "c"
            assert peer.exchange(["tag", 1, {"x": bytes(LIMIT - head + 1)}, {"chunk": "c"}]) is None
        with closing(Peer(receiver)) as peer:
            assert peer.exchange(msgpack.packb(["tag", 1, {"x": bytes(9 * LIMIT)}])[: LIMIT + 1]) is None
        assert receiver.wait_until(lambda: receiver.refused == 2, 10)

    @pytest.mark.parametrize(
        "payload",
        [
            msgpack.packb([TIME, record("a")]) + b"\x01",
            msgpack.packb([TIME, record("a")]) + msgpack.packb([-1, record("b")]) + msgpack.packb([1, record("c")]),
            msgpack.packb([TIME, record("a")]) + msgpack.packb([TIME, record("b")])[:-1],
            msgpack.packb([TIME, record("a")]) + b"\xc1",
            gzip.compress(msgpack.packb([TIME, record("a")]))[:-20],
        ],
    )
    def test_a_bad_entry_is_acknowledged_and_lost(
        self, receiver: SimulatedReceiver, peer: Peer, payload: bytes
    ) -> None:
        """As with Fluent Bit: what is before it arrives, the rest is gone, and `poisoned` says so."""
        assert peer.exchange(["tag", payload, {"chunk": "c"}]) == "c"
        assert receiver.poisoned == 1
        assert "b" not in receiver.ids
        assert "c" not in receiver.ids
        assert payload[:2] == b"\x1f\x8b" or receiver.ids == {"a": 1}
