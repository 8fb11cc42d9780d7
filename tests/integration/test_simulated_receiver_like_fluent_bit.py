"""The simulated receiver and a real Fluent Bit, given the same bytes: the same answers, and the same events kept."""

from __future__ import annotations

import gzip
import itertools
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgpack
import pytest
from support.command import wait_until
from support.fluent_bit import FluentBit, needs_fluent_bit
from support.receivers import END, START, TIME, Peer, Target, nested, packed, record

from in_jumpcloud.simulator.receiver import SimulatedReceiver

MOST = 6_144_000
TAGS = map("tag{}".format, itertools.count())
A, B, C = ([TIME, record(name)] for name in "abc")
ACK = {"chunk": "c"}
GZIP = {"chunk": "c", "compressed": "gzip"}
CLOSED = None


@pytest.fixture(scope="module", params=["simulated", pytest.param("fluent_bit", marks=needs_fluent_bit)])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """One that listens."""
    if request.param == "simulated":
        with SimulatedReceiver() as receiver:
            yield Target(receiver.address, lambda: Counter(receiver.ids))
    else:
        with FluentBit.with_input(tmp_path_factory.mktemp("fluent-bit"), {}) as real:
            yield Target(("127.0.0.1", real.port), real.ids)


def kept(target: Target, before: Counter[str]) -> Counter[str]:
    """What has come out since then: what was flushed before an event that is sent now, and waited for."""
    with closing(Peer(target.address)) as peer:
        fence = next(TAGS)
        assert peer.exchange([fence, TIME, record(fence), ACK]) == "c"
    wait_until(lambda: fence in target.ids())
    return target.ids() - before - Counter([fence])


def stream(*entries: Any) -> bytes:
    """The payload of PackedForward."""
    return b"".join(map(msgpack.packb, entries))


def at(seconds: int, nanoseconds: int = 0) -> msgpack.ExtType:
    """An EventTime."""
    return msgpack.ExtType(0, struct.pack(">II", seconds, nanoseconds))


def broken(payload: bytes, offset: int) -> bytes:
    """With one bit turned."""
    return payload[:offset] + bytes([payload[offset] ^ 1]) + payload[offset + 1 :]


# What stands behind the tag; the answer; the ids of the events that are kept.
CASES: dict[str, tuple[list[Any], str | None, str]] = {
    "Message": ([*A, ACK], "c", "a"),
    "Message, more elements": ([*A, ACK, 1], "c", "a"),
    "Message, metadata": ([*A, {"chunk": "c", "metadata": {}}], "c", "a"),
    "Message, metadata is no map": ([*A, {"chunk": "c", "metadata": 1}], CLOSED, ""),
    "Message, float": ([1.5, record("a"), ACK], CLOSED, ""),
    "Message, time with metadata": ([[TIME, {}], record("a"), ACK], CLOSED, ""),
    "Message, 33 bits": ([2**33, record("a"), ACK], CLOSED, ""),
    "Message, start marker": ([START, record("a"), ACK], "c", ""),
    "Message, end marker": ([END, record("a"), ACK], "c", ""),
    "Message, the marker's seconds": ([0xFFFFFFFF, record("a"), ACK], "c", ""),
    "Message, 63 maps": ([TIME, nested(63, "a"), ACK], "c", "a"),
    "Message, 64 maps": ([TIME, nested(64, "a"), ACK], CLOSED, ""),
    "Forward": ([[A, B], ACK], "c", "ab"),
    "Forward, empty": ([[], ACK], "c", ""),
    "Forward, more elements": ([[A], ACK, 1], "c", "a"),
    "Forward, metadata option": ([[A], {"chunk": "c", "metadata": 1}], "c", "a"),
    "Forward, float": ([[[1.5, record("a")]], ACK], "c", "a"),
    "Forward, time with metadata": ([[[[TIME, {"m": 1}], record("a")]], ACK], "c", "a"),
    "Forward, 33 bits": ([[A, [2**33, record("b")], C], ACK], CLOSED, "a"),
    "Forward, bad entry": ([[A, [1], C], ACK], CLOSED, "a"),
    "Forward, negative": ([[A, [-1, record("b")], C], ACK], CLOSED, "a"),
    "Forward, negative float": ([[A, [-1.5, record("b")], C], ACK], CLOSED, "a"),
    "Forward, markers": ([[A, [START, record("b")], [END, record("c")]], ACK], "c", "a"),
    "Forward, 61 maps": ([[[TIME, nested(61, "a")]], ACK], "c", "a"),
    "Forward, 62 maps": ([[[TIME, nested(62, "a")]], ACK], CLOSED, ""),
    "Packed": ([stream(A, B), ACK], "c", "ab"),
    "Packed, empty": ([b"", ACK], CLOSED, ""),
    "Packed, nil options": ([stream(A), None], CLOSED, ""),
    "Packed, nil chunk": ([stream(A), {"chunk": None}], CLOSED, ""),
    "Packed, metrics": ([stream(A), {"chunk": "c", "fluent_signal": 1}], CLOSED, ""),
    "Packed, traces": ([stream(A), {"chunk": "c", "fluent_signal": 2}], CLOSED, ""),
    "Packed, signal is true": ([stream(A), {"chunk": "c", "fluent_signal": True}], CLOSED, ""),
    "Packed, option named by a number": ([stream(A), {1: 2, "chunk": "c"}], CLOSED, ""),
    "Packed, a number behind the signal": ([stream(A), {"fluent_signal": 0, "chunk": "c", 1: 2}], "c", "a"),
    "Packed, more elements": ([stream(A), ACK, 1], "c", "a"),
    "Packed, other compression": ([stream(A), {"chunk": "c", "compressed": "lz4"}], "c", "a"),
    "Packed, 41 bits": ([stream([2**40, record("a")], B), ACK], "c", "ab"),
    "Packed, negative float": ([stream([-1.5, record("a")], B), ACK], "c", "b"),
    "Packed, markers": ([stream(A, [START, record("b")], [END, record("c")]), ACK], "c", "a"),
    "Packed, marker with nanoseconds": ([stream(A, [at(0xFFFFFFFF, 1), record("b")], C), ACK], "c", "a"),
    "Packed, the last time of all": ([stream([at(0xFFFFFFFD, 1), record("a")]), ACK], "c", "a"),
    "Packed, 63 maps": ([stream([TIME, nested(63, "a")], B), ACK], "c", "ab"),
    "Packed, 64 maps": ([stream(A, [TIME, nested(64, "b")], C), ACK], "c", "a"),
    "Packed, arrays count too": ([stream(A, [TIME, {"x": nested(62)["x"], "y": [nested(62)]}], C), ACK], "c", "a"),
    "Packed, body is no map": ([stream(A, [TIME, 1], C), ACK], "c", "a"),
    "Packed, three elements": ([stream(A, [*B, 1], C), ACK], "c", "a"),
    "gzip": ([gzip.compress(stream(A, B)), GZIP], "c", "ab"),
    "gzip, not named": ([gzip.compress(stream(A)), ACK], "c", "a"),
    "gzip, named zstd": ([gzip.compress(stream(A)), {"chunk": "c", "compressed": "zstd"}], "c", "a"),
    "gzip, more elements": ([gzip.compress(stream(A)), GZIP, 1], "c", ""),
    "gzip, plain": ([stream(A), GZIP], "c", ""),
    "gzip, no bytes": ([b"", GZIP], "c", ""),
    "gzip, of nothing": ([gzip.compress(b""), GZIP], "c", ""),
    "gzip, two members": ([gzip.compress(stream(A)) + gzip.compress(stream(B)), GZIP], "c", "ab"),
    "gzip, empty member": ([b"".join(gzip.compress(each) for each in (stream(A), b"", stream(B))), GZIP], "c", "a"),
    "gzip, wrong check sum": ([broken(gzip.compress(stream(A)), -6), GZIP], "c", "a"),
    "gzip, no check sum": ([gzip.compress(stream(A))[:-8], GZIP], "c", "a"),
    "gzip, cut off": ([gzip.compress(stream(A, B), 0)[:-12], GZIP], "c", "a"),
    "zstd, plain": ([stream(A), {"chunk": "c", "compressed": "zstd"}], "c", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_answer_and_the_same_events(target: Target, case: str) -> None:
    """A message of every kind is acknowledged or not, and kept or not."""
    message, answer, ids = CASES[case]
    before = target.ids()
    with closing(Peer(target.address)) as peer:
        assert peer.exchange([next(TAGS), *message]) == answer
    assert kept(target, before) == Counter(ids)


def test_a_bad_entry_spoils_what_follows_with_its_tag(target: Target) -> None:
    """Until the next flush all of it is acknowledged and lost; other tags are not concerned."""
    before, tag = target.ids(), next(TAGS)
    messages = [[tag, stream(A, 7), ACK], [tag, stream(B), ACK], [next(TAGS), stream(C), ACK]]
    with closing(Peer(target.address)) as peer:
        # In one piece, so that no flush comes between.
        peer.send(b"".join(map(msgpack.packb, messages)))
        assert [peer.ack() for _ in messages] == ["c"] * 3
    assert kept(target, before) == Counter("ac")


def test_what_cannot_be_inflated_spoils_nothing(target: Target) -> None:
    """Nothing of it came into the chunk of its tag."""
    before, tag = target.ids(), next(TAGS)
    messages = [[tag, stream(A), GZIP], [tag, stream(B), ACK]]
    with closing(Peer(target.address)) as peer:
        peer.send(b"".join(map(msgpack.packb, messages)))
        assert [peer.ack() for _ in messages] == ["c"] * 2
    assert kept(target, before) == Counter("b")


@pytest.mark.parametrize(("more", "answer", "ids"), [(0, "c", "large"), (1, CLOSED, "")])
def test_the_limit_of_a_message(target: Target, more: int, answer: str | None, ids: str) -> None:
    """6,144,000 bytes are taken; one more is not."""
    before, tag = target.ids(), next(TAGS)
    room = MOST + more - len(msgpack.packb([tag, TIME, record("large") | {"x": "x" * 70_000}, ACK])) + 70_000
    message = msgpack.packb([tag, TIME, record("large") | {"x": "x" * room}, ACK])
    assert len(message) == MOST + more
    with closing(Peer(target.address)) as peer:
        try:
            peer.send(message)
        except ConnectionError:
            assert answer is CLOSED
        assert peer.ack() == answer
    assert kept(target, before) == Counter([ids] if ids else [])


@pytest.mark.parametrize(("more", "answer"), [(0, "c"), (1, CLOSED)])
def test_the_limit_of_an_inflated_payload(target: Target, more: int, answer: str | None) -> None:
    """It is the same one, however small the message is."""
    before = target.ids()
    room = MOST + more - len(stream([TIME, record("inflated") | {"x": "x" * 70_000}])) + 70_000
    payload = stream([TIME, record("inflated") | {"x": "x" * room}])
    assert len(payload) == MOST + more
    with closing(Peer(target.address)) as peer:
        assert peer.exchange([next(TAGS), gzip.compress(payload, 1), GZIP]) == answer
    assert kept(target, before) == Counter([] if more else ["inflated"])


def test_an_empty_tag_has_no_output(target: Target) -> None:
    """Its records are acknowledged, and gone."""
    before = target.ids()
    with closing(Peer(target.address)) as peer:
        assert peer.exchange(["", *packed("a", chunk="c")[1:]]) == "c"
    assert kept(target, before) == Counter()
