"""The simulated receiver as the input of a pipeline: tags without an output, spoiled chunks, a full buffer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest
from support.fluent_bit import FluentBit, needs_fluent_bit
from support.receivers import TIME, Peer, Target, packed, record

from in_jumpcloud.simulator.receiver import SimulatedReceiver

SPOILED = msgpack.packb([TIME, record("before")]) + b"\x07"


class TestRouting:
    """What no output matches is acknowledged and dropped."""

    @pytest.mark.parametrize(
        ("match", "tag", "routed"),
        [
            ("*", "any.tag", True),
            ("*", "", False),
            ("jumpcloud.*", "jumpcloud.events", True),
            ("jumpcloud.*", "other.events", False),
            ("*.events", "a.b.events", True),
            ("a*c", "abbc", True),
            ("a*c", "abbcd", False),
            ("a.c", "abc", False),
            ("tag", "tag", True),
        ],
    )
    def test_an_output_matches_tags(self, match: str, tag: str, routed: bool) -> None:
        """`*` stands for any text, everything else for itself."""
        seen: list[Any] = []
        with (
            SimulatedReceiver(match=match, on_records=lambda *what: seen.append(what)) as receiver,
            closing(Peer(receiver)) as peer,
        ):
            assert peer.exchange([tag, *packed("a", "b", chunk="c")[1:]]) == "c"
            assert (receiver.received, receiver.unrouted) == ((2, 0) if routed else (0, 2))
            assert len(receiver.records) == len(receiver.ids) == 2 * len(seen) == 2 * routed
            assert (receiver.messages, receiver.acked) == (1, ["c"])

    def test_a_tag_has_an_end(self) -> None:
        """What stands behind its 65,531st byte is cut off, even within a letter."""
        with SimulatedReceiver() as receiver, closing(Peer(receiver)) as peer:
            for tag in ("t" * 65_531, "t" * 65_532, "t" * 65_530 + "ä"):
                assert peer.exchange([tag, *packed("a", chunk="c")[1:]]) == "c"
            kept = [each.tag.encode("utf-8", "surrogateescape") for each in receiver.records]
            assert kept == [b"t" * 65_531] * 2 + [b"t" * 65_530 + "ä".encode()[:1]]


class TestPoison:
    """A bad entry spoils the chunk of its tag until the next flush."""

    @pytest.mark.parametrize("keep", [True, False])
    def test_until_the_flush(self, keep: bool) -> None:
        """What follows with its tag is acknowledged, lost and counted; then all is well again."""
        with SimulatedReceiver(keep=keep, flush_seconds=600) as receiver, closing(Peer(receiver)) as peer:
            assert peer.exchange(["tag", SPOILED, {"chunk": "c"}]) == "c"
            assert peer.exchange(packed("lost", chunk="d", size=1)) == "d"
            assert peer.exchange(["other", *packed("elsewhere", chunk="e")[1:]]) == "e"
            assert receiver.poisoned == 2
            receiver.flush()
            assert peer.exchange(packed("after", chunk="f")) == "f"
            assert receiver.acked == list("cdef")
            assert receiver.ids == {"before": 1, "elsewhere": 1, "after": 1}
            assert receiver.poisoned == 2

    def test_it_is_flushed_by_and_by(self) -> None:
        """Of itself, after its time."""
        with SimulatedReceiver(flush_seconds=0) as receiver, closing(Peer(receiver)) as peer:
            assert peer.exchange(["tag", SPOILED, {"chunk": "c"}]) == "c"
            assert peer.exchange(packed("after", chunk="d")) == "d"
            assert receiver.ids == {"before": 1, "after": 1}

    @pytest.mark.parametrize(
        ("payload", "compressed"),
        [(b"\x28\xb5\x2f\xfd1234", "text"), (b"\x1f\x8b" + b"1234" * 9, "gzip"), (b"1234", "zstd")],
    )
    def test_what_cannot_be_inflated_is_counted(self, payload: bytes, compressed: str) -> None:
        """It is acknowledged and lost, and spoils nothing else."""
        with SimulatedReceiver() as receiver, closing(Peer(receiver)) as peer:
            assert peer.exchange(["tag", payload, {"chunk": "c", "compressed": compressed}]) == "c"
            assert receiver.poisoned == 1
            assert peer.exchange(packed("a", chunk="d")) == "d"
            assert (receiver.ids, receiver.poisoned) == ({"a": 1}, 1)


class TestPause:
    """A receiver that is full pauses by itself."""

    @pytest.fixture(params=["simulated", pytest.param("fluent_bit", marks=needs_fluent_bit)])
    def full_soon(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
        """One that has room for one message, and whose room is not freed while this test runs."""
        if request.param == "simulated":
            with SimulatedReceiver(pause_above_records=1) as receiver:
                yield Target(receiver.address, lambda: receiver.ids)
        else:
            settings = {"storage.type": "memory", "mem_buf_limit": "100"}
            with FluentBit.with_input(tmp_path, settings, service={"flush": 300}) as real:
                yield Target(("127.0.0.1", real.port), real.ids)

    def test_the_message_that_fills_it_is_still_acknowledged(self, full_soon: Target) -> None:
        """Then all connections are closed, and new ones wait unread."""
        with closing(Peer(full_soon.address)) as other, closing(Peer(full_soon.address)) as peer:
            assert peer.exchange(packed(*"abcdefgh", chunk="c")) == "c"
            assert peer.ack() is None
            assert other.ack() is None
        with closing(Peer(full_soon.address)) as waiting:
            waiting.send(packed("late", chunk="d"))
            waiting.socket.settimeout(0.3)
            with pytest.raises(TimeoutError):
                waiting.ack()

    def test_what_is_pipelined_behind_it_is_not_taken(self) -> None:
        """Neither kept nor acknowledged."""
        with SimulatedReceiver(pause_above_records=1) as receiver, closing(Peer(receiver)) as peer:
            peer.send(b"".join(msgpack.packb(packed(*names, chunk=names)) for names in ("ab", "c")))
            assert peer.ack() == "ab"
            assert peer.ack() is None
            assert receiver.paused
            assert (receiver.ids, receiver.acked) == ({"a": 1, "b": 1}, ["ab"])

    @pytest.mark.parametrize("relief", ["resume", "flush"])
    def test_the_count_begins_anew(self, relief: str) -> None:
        """After each relief there is room for as many records again."""
        with SimulatedReceiver(pause_above_records=2) as receiver, closing(Peer(receiver)) as peer:
            for name in "ab":
                assert peer.exchange(packed(name, name, chunk=name)) == name
                assert not receiver.paused
                getattr(receiver, relief)()
            assert peer.exchange(packed("c", "c", "c", chunk="c")) == "c"
            assert peer.ack() is None
            assert receiver.paused
            with closing(Peer(receiver)) as waiting:
                waiting.send(packed("d", chunk="d"))
                receiver.resume()
                assert waiting.ack() == "d"

    def test_several_senders_at_once(self) -> None:
        """Only one message above the limit is taken, and each that is taken is answered."""
        with SimulatedReceiver(pause_above_records=20) as receiver:
            peers = [Peer(receiver) for _ in range(8)]
            for number, peer in enumerate(peers * 4):
                with suppress(ConnectionError):
                    peer.send(packed(f"id{number}", chunk=f"c{number}"))
            assert receiver.wait_until(lambda: receiver.paused, 30)
            for peer in peers:
                while peer.ack() is not None:
                    pass
                peer.close()
            assert receiver.received == len(receiver.acked) == 21
            receiver.resume()
            with closing(Peer(receiver)) as peer:
                assert peer.exchange(packed("after", chunk="after")) == "after"
