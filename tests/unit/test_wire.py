"""Messages of the forward protocol, byte for byte, and how entries are grouped into chunks."""

from __future__ import annotations

import base64
import itertools
import struct
import zlib
from typing import Any, NamedTuple

import msgpack
import pytest
from fluent.sender import EventTime
from hypothesis import given
from hypothesis import strategies as st

from in_jumpcloud.errors import ReceiverDown
from in_jumpcloud.forward.chunks import batch
from in_jumpcloud.forward.wire import SAFE_COMPRESSED_BYTES, AckReader, build_chunk, message_bytes, pack_entry
from in_jumpcloud.insights.event import EventKey

SECOND = 1_000_000_000


def fixstr(text: str) -> bytes:
    """A string of at most 31 bytes in MessagePack."""
    raw = text.encode()
    return bytes([0xA0 | len(raw)]) + raw


def ack(chunk_id: str) -> bytes:
    """An ack as a receiver sends it."""
    return b"\x81" + fixstr("ack") + fixstr(chunk_id)


class TestEntry:
    """One record in a chunk."""

    def test_bytes(self) -> None:
        """An entry is a pair of an EventTime, D7 00 with big-endian seconds and nanoseconds, and a map."""
        moment = 0x65A1B2C3 * SECOND + 987_654_321
        expected = b"\x92\xd7\x00" + struct.pack(">II", 0x65A1B2C3, 987_654_321) + b"\x81" + fixstr("a") + b"\x01"
        assert pack_entry(moment, {"a": 1}) == expected

    def test_seconds_beyond_31_bits(self) -> None:
        """Seconds are unsigned: the last one before Fluent Bit's group markers, in 2106, fits."""
        packed = pack_entry((2**32 - 3) * SECOND + 999_999_999, {})
        assert packed == b"\x92\xd7\x00\xff\xff\xff\xfd\x3b\x9a\xc9\xff\x80"

    def test_text_is_str_and_floats_are_doubles(self) -> None:
        """Text is packed as str in UTF-8, a float as 64 bits."""
        packed = pack_entry(0, {"é": -27.658})
        assert packed[11:] == b"\x81\xa2\xc3\xa9\xcb" + struct.pack(">d", -27.658)

    @given(
        st.integers(0, 2**32 * SECOND - 1),
        st.dictionaries(
            st.text(st.characters(codec="utf-8")),
            st.recursive(
                st.none()
                | st.booleans()
                | st.integers(-(2**63), 2**64 - 1)
                | st.floats(allow_nan=False)
                | st.text(st.characters(codec="utf-8")),
                lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
            ),
        ),
    )
    def test_as_the_reference_packs_it(self, time_ns: int, body: dict[str, Any]) -> None:
        """An entry has the bytes that fluent-logger and msgpack produce for the same time and record."""
        expected = msgpack.packb((EventTime.from_unix_nano(time_ns), body))
        assert pack_entry(time_ns, body) == expected

    def test_long_texts_and_many_members(self) -> None:
        """Lengths are written in as few bytes as they need, on either side of each bound."""
        for length in (15, 16, 31, 32, 255, 256, 65_535, 65_536):
            body = {"text": "x" * length, "list": [1] * length, "map": {str(each): each for each in range(length)}}
            assert pack_entry(0, body) == msgpack.packb((EventTime(0), body))

    def test_after_one_that_cannot_be_packed(self) -> None:
        """Bytes of a record that could not be packed do not get into the next one."""
        before = pack_entry(0, {"a": 1})
        with pytest.raises((TypeError, ValueError)):
            pack_entry(0, {"a": "half", "b": object()})
        assert pack_entry(0, {"a": 1}) == before


class TestChunk:
    """One message."""

    def test_bytes(self) -> None:
        """A message is tag as str, entries as bin, and the options chunk (str) and size (int): PackedForward."""
        made = build_chunk("a.tag", b"\x92\x00\x80", 1)
        options = b"\x82" + fixstr("chunk") + fixstr(made.id) + fixstr("size") + b"\x01"
        assert made.message == b"\x93" + fixstr("a.tag") + b"\xc4\x03\x92\x00\x80" + options
        assert made.records == 1

    def test_id(self) -> None:
        """The id is Base64 of 16 bytes."""
        assert len(base64.b64decode(build_chunk("t", b"x", 1).id, validate=True)) == 16

    def test_same_records(self) -> None:
        """The same records with the same tag give the same message: a resend is the same chunk."""
        assert build_chunk("t", b"abc", 2) == build_chunk("t", b"abc", 2)

    @pytest.mark.parametrize(("tag", "entries"), [("u", b"abc"), ("t", b"abd"), ("ta", b"bc"), ("t\0a", b"bc")])
    def test_other_ids(self, tag: str, entries: bytes) -> None:
        """Another tag or other records give another id, also if tag and records together are the same bytes."""
        assert build_chunk(tag, entries, 2).id != build_chunk("t", b"abc", 2).id

    @given(st.text(st.characters(codec="utf-8"), min_size=1), st.binary(), st.integers(0, 2**31))
    def test_read_back(self, tag: str, entries: bytes, records: int) -> None:
        """A MessagePack decoder returns any tag and entries unchanged."""
        made = build_chunk(tag, entries, records)
        assert msgpack.unpackb(made.message) == [tag, entries, {"chunk": made.id, "size": records}]


class TestCompressed:
    """gzip, up to a safe size."""

    @given(st.binary(max_size=5000))
    def test_one_member(self, entries: bytes) -> None:
        """The payload is one gzip member of the same entries, the option says so, and the chunk id is the same."""
        made = build_chunk("t", entries, 1, compress="gzip")
        _, payload, options = msgpack.unpackb(made.message)
        member = zlib.decompressobj(wbits=31)
        assert member.decompress(payload) == entries
        assert (member.eof, member.unused_data) == (True, b"")
        assert options == {"chunk": build_chunk("t", entries, 1).id, "size": 1, "compressed": "gzip"}

    def test_same_bytes(self) -> None:
        """A resend has the same bytes: gzip has no time in it."""
        assert build_chunk("t", b"x" * 1000, 1, compress="gzip") == build_chunk("t", b"x" * 1000, 1, compress="gzip")
        assert msgpack.unpackb(build_chunk("t", b"x", 1, compress="gzip").message)[1][4:8] == bytes(4)

    def test_never_more_than_is_safe(self) -> None:
        """Entries that an older Fluent Bit would split when decompressed are sent uncompressed."""
        assert SAFE_COMPRESSED_BYTES < 1_024_000
        for size, compressed in ((SAFE_COMPRESSED_BYTES, True), (SAFE_COMPRESSED_BYTES + 1, False)):
            options = msgpack.unpackb(build_chunk("t", bytes(size), 1, compress="gzip").message)[2]
            assert ("compressed" in options) == compressed

    @given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=100), st.binary(max_size=300))
    def test_bound(self, tag: str, entries: bytes) -> None:
        """No message is larger than `message_bytes` says, compressed or not."""
        for compress in ("none", "gzip"):
            made = build_chunk(tag, entries, 2**31, compress=compress)
            assert len(made.message) <= message_bytes(tag, len(entries))


class TestAckReader:
    """Answers of the receiver."""

    @pytest.mark.parametrize("cut", range(len(ack("some id")) + 1))
    def test_split(self, cut: int) -> None:
        """An ack in two pieces is returned when it is complete, wherever it is cut."""
        reader, whole = AckReader(), ack("some id")
        first, second = reader.feed(whole[:cut]), reader.feed(whole[cut:])
        assert first + second == ["some id"]
        assert (first == ["some id"]) == (cut == len(whole))

    def test_byte_by_byte(self) -> None:
        """An ack that comes byte by byte is returned with its last byte."""
        reader, whole = AckReader(), ack("some id")
        assert [reader.feed(whole[at : at + 1]) for at in range(len(whole))] == [[]] * (len(whole) - 1) + [["some id"]]

    def test_coalesced(self) -> None:
        """Two acks and the start of a third may come in one read."""
        reader = AckReader()
        assert reader.feed(ack("a") + ack("b") + ack("c")[:4]) == ["a", "b"]
        assert reader.feed(ack("c")[4:]) == ["c"]

    @pytest.mark.parametrize(
        "answer",
        [
            {"ack": "a", "more": [1]},
            {b"ack": b"a"},
        ],
        ids=["more keys", "bin"],
    )
    def test_other_shapes(self, answer: Any) -> None:
        """More keys are ignored, and key and id may be bin."""
        assert AckReader().feed(msgpack.packb(answer)) == ["a"]

    @pytest.mark.parametrize(
        "answer",
        [None, 1, "ack", [], ["ack", "a"], {}, {"ack": None}, {"ack": 1}, {"nack": "a"}],
        ids=repr,
    )
    def test_not_an_ack(self, answer: Any) -> None:
        """Any other MessagePack is refused, and the error shows it."""
        with pytest.raises(ReceiverDown, match="instead of an ack"):
            AckReader().feed(msgpack.packb(answer))

    @pytest.mark.parametrize(
        "garbage",
        [
            b"\xc1",
            b"\x81\xc1",
            b"\x81\x90\x01",
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
            b"\x91" * 1500,
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\xd6\xff\x00\x00\x00\x00",
            b"\xc7\x03\xff\x00\x00\x00",
        ],
        ids=lambda garbage: repr(garbage[:12]),
    )
    def test_garbage(self, garbage: bytes) -> None:
        """Bytes that are not an answer raise ReceiverDown, and nothing else."""
        with pytest.raises(ReceiverDown):
            AckReader().feed(garbage)

    def test_nested(self) -> None:
        """An answer nested to the decoder's limit is refused, with a short message."""
        with pytest.raises(ReceiverDown) as caught:
            AckReader().feed(b"\x91" * 1000 + b"\xc0")
        assert len(str(caught.value)) < 200

    @pytest.mark.parametrize(
        "begin", [b"\xdb\x7f\xff\xff\xff", b"\xdd\x00\x00\xea\x60"], ids=["a text of 2 GB", "a list of 60,000"]
    )
    def test_oversize(self, begin: bytes) -> None:
        """An answer that does not end within 64 KiB is refused."""
        reader = AckReader()
        taken = 0
        with pytest.raises(ReceiverDown):  # noqa: PT012 - which feed is refused is the decoder's business
            for data in [begin, *[fixstr("x" * 31) * 128] * 100]:
                reader.feed(data)
                taken += len(data)
        assert taken <= 64 * 1024

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes give a list of ids, or ReceiverDown."""
        try:
            acks = AckReader().feed(data)
        except ReceiverDown:
            return
        assert all(type(each) is str for each in acks)


class Packed(NamedTuple):
    """A packed entry."""

    key: EventKey
    packed: bytes
    tag: str = "t"


def fill(sizes: list[int], chunk_bytes: int) -> tuple[list[list[Packed]], list[Packed]]:
    """The chunks for entries of these sizes, and these entries."""
    entries = [Packed((number, f"id-{number}"), bytes([number % 256]) * size) for number, size in enumerate(sizes)]
    made = list(batch(entries, chunk_bytes))
    assert [is_last for _, is_last in made] == [False] * (len(made) - 1) + [True] * bool(made)
    return [each for each, _ in made], entries


def payload(entries: list[Packed]) -> bytes:
    """The entries in the message of their chunk."""
    message = build_chunk("t", b"".join(entry.packed for entry in entries), len(entries)).message
    packed: bytes = msgpack.unpackb(message)[1]
    return packed


class TestBatch:
    """Grouping entries into chunks."""

    @given(st.lists(st.integers(1, 120), max_size=40), st.integers(1, 100))
    def test_in_order_and_bounded(self, sizes: list[int], chunk_bytes: int) -> None:
        """The chunks together have all entries in order; only a chunk of one entry may be above the limit."""
        made, entries = fill(sizes, chunk_bytes)
        assert b"".join(map(payload, made)) == b"".join(entry.packed for entry in entries)
        assert [entry.key for each in made for entry in each] == [entry.key for entry in entries]
        for each in made:
            assert len(each) > 0
            assert len(payload(each)) <= chunk_bytes or len(each) == 1

    @given(st.lists(st.integers(1, 120), max_size=40), st.integers(1, 100))
    def test_full(self, sizes: list[int], chunk_bytes: int) -> None:
        """A chunk ends only if the next entry does not fit."""
        made, _ = fill(sizes, chunk_bytes)
        for each, following in itertools.pairwise(made):
            assert len(payload(each)) + len(following[0].packed) > chunk_bytes

    def test_exact_limit(self) -> None:
        """A chunk may hold exactly the limit, not a byte more."""
        assert [len(each) for each in fill([40, 60, 1], 100)[0]] == [2, 1]
        assert [len(each) for each in fill([40, 61], 100)[0]] == [1, 1]

    def test_large_one_alone(self) -> None:
        """An entry above the limit is a chunk by itself."""
        assert [len(each) for each in fill([10, 10, 500, 10], 100)[0]] == [2, 1, 1]

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 120)), max_size=40), st.integers(1, 100))
    def test_tags(self, entries: list[tuple[str, int]], chunk_bytes: int) -> None:
        """A chunk has one tag; the entries of a tag keep their order, and none is lost."""
        packed = [Packed((number, "id"), bytes(size), tag) for number, (tag, size) in enumerate(entries)]
        batches = list(batch(packed, chunk_bytes))
        assert [is_last for _, is_last in batches] == [False] * (len(batches) - 1) + [True] * bool(batches)
        made = [each for each, _ in batches]
        assert all(len({entry.tag for entry in each}) == 1 for each in made)
        for tag in "abc":
            kept = [entry for each in made for entry in each if entry.tag == tag]
            assert kept == [entry for entry in packed if entry.tag == tag]

    def test_nothing(self) -> None:
        """Without entries there is no chunk."""
        assert fill([], 100)[0] == []
