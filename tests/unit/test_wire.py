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
from in_jumpcloud.forward.wire import (
    SAFE_COMPRESSED_BYTES,
    AckReader,
    Compression,
    build_chunk,
    message_bytes,
    pack_entry,
)
from in_jumpcloud.insights.event import EventKey

SECOND = 1_000_000_000
COMPRESSIONS: tuple[Compression, ...] = ("none", "gzip")
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=25,
)


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
        """An entry is a pair of an EventTime, D7 00 with big-endian unsigned seconds and nanoseconds, and a map."""
        moment = 0x65A1B2C3 * SECOND + 987_654_321
        expected = b"\x92\xd7\x00" + struct.pack(">II", 0x65A1B2C3, 987_654_321) + b"\x81" + fixstr("a") + b"\x01"
        assert pack_entry(moment, {"a": 1}) == expected
        last = pack_entry((2**32 - 3) * SECOND + 999_999_999, {})  # before Fluent Bit's group markers, in 2106
        assert last == b"\x92\xd7\x00\xff\xff\xff\xfd\x3b\x9a\xc9\xff\x80"

    @given(st.integers(0, 2**32 * SECOND - 1), st.dictionaries(TEXT, VALUES, max_size=4))
    def test_as_the_reference_packs_it(self, time_ns: int, body: dict[str, Any]) -> None:
        """An entry has the bytes that fluent-logger and msgpack produce for the same time and record."""
        assert pack_entry(time_ns, body) == msgpack.packb((EventTime.from_unix_nano(time_ns), body))

    def test_long_texts_and_many_members(self) -> None:
        """So is one with lengths on either side of each bound of the format."""
        for length in (15, 16, 31, 32, 255, 256, 65_535, 65_536):
            body = {"text": "x" * length, "list": [1] * length, "map": {str(each): each for each in range(length)}}
            assert pack_entry(0, body) == msgpack.packb((EventTime(0), body))

    def test_after_one_that_cannot_be_packed(self) -> None:
        """A part of a record that could not be packed does not get into the next one."""
        before = pack_entry(0, {"a": 1})
        with pytest.raises((TypeError, ValueError)):
            pack_entry(0, {"a": "half", "b": object()})
        assert pack_entry(0, {"a": 1}) == before


class TestChunk:
    """One message."""

    def test_bytes(self) -> None:
        """A message is tag as str, entries as bin, and the options chunk (Base64 of 16 bytes) and size."""
        chunk = build_chunk("a.tag", b"\x92\x00\x80", 1)
        options = b"\x82" + fixstr("chunk") + fixstr(chunk.id) + fixstr("size") + b"\x01"
        assert chunk.message == b"\x93" + fixstr("a.tag") + b"\xc4\x03\x92\x00\x80" + options
        assert chunk.records == 1
        assert len(base64.b64decode(chunk.id, validate=True)) == 16

    def test_same_records(self) -> None:
        """The same records under the same tag make the same message; another tag or other records make another id."""
        for compress in COMPRESSIONS:
            assert build_chunk("t", b"abc", 2, compress=compress) == build_chunk("t", b"abc", 2, compress=compress)
        chunks = [("t", b"abc"), ("u", b"abc"), ("t", b"abd"), ("ta", b"bc"), ("t\0a", b"bc")]
        assert len({build_chunk(tag, entries, 2).id for tag, entries in chunks}) == len(chunks)

    @given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=100), st.binary(max_size=300))
    def test_read_back(self, tag: str, entries: bytes) -> None:
        """Any tag and entries are read back as they were put in; message_bytes is the upper bound of the size."""
        chunk = build_chunk(tag, entries, 2**31)
        assert msgpack.unpackb(chunk.message) == [tag, entries, {"chunk": chunk.id, "size": 2**31}]
        for compress in COMPRESSIONS:
            assert len(build_chunk(tag, entries, 2**31, compress=compress).message) <= message_bytes(tag, len(entries))


class TestCompressed:
    """gzip, up to a safe size."""

    @given(st.binary(max_size=5000))
    def test_one_member(self, entries: bytes) -> None:
        """The payload is one gzip member of the same entries, without a time; the id is the one without compression."""
        _, payload, options = msgpack.unpackb(build_chunk("t", entries, 1, compress="gzip").message)
        member = zlib.decompressobj(wbits=31)
        assert member.decompress(payload) == entries
        assert (member.eof, member.unused_data) == (True, b"")
        assert payload[4:8] == bytes(4)
        assert options == {"chunk": build_chunk("t", entries, 1).id, "size": 1, "compressed": "gzip"}

    def test_never_more_than_is_safe(self) -> None:
        """Entries that an older Fluent Bit would split when decompressed are sent uncompressed."""
        assert SAFE_COMPRESSED_BYTES < 1_024_000
        for size, compressed in ((SAFE_COMPRESSED_BYTES, True), (SAFE_COMPRESSED_BYTES + 1, False)):
            options = msgpack.unpackb(build_chunk("t", bytes(size), 1, compress="gzip").message)[2]
            assert ("compressed" in options) == compressed


class TestAckReader:
    """Answers of the receiver."""

    def test_split(self) -> None:
        """An ack is returned once it is complete, wherever its bytes are divided; two in one read are both returned."""
        whole = ack("some id")
        for cut in range(len(whole) + 1):
            reader = AckReader()
            first, second = reader.feed(whole[:cut]), reader.feed(whole[cut:])
            assert (first, second) == ((["some id"], []) if cut == len(whole) else ([], ["some id"]))
        reader = AckReader()
        assert [reader.feed(whole[at : at + 1]) for at in range(len(whole))] == [[]] * (len(whole) - 1) + [["some id"]]
        assert reader.feed(ack("a") + ack("b") + ack("c")[:4]) == ["a", "b"]
        assert reader.feed(ack("c")[4:]) == ["c"]

    def test_other_answers(self) -> None:
        """More keys, or bin, are accepted. Anything else is a ReceiverDown with a short message."""
        accepted: list[Any] = [{"ack": "a", "more": [1]}, {b"ack": b"a"}]
        assert [AckReader().feed(msgpack.packb(answer)) for answer in accepted] == [["a"], ["a"]]
        answers: list[Any] = [None, 1, "ack", [], ["ack", "a"], {}, {"ack": None}, {"ack": 1}, {"nack": "a"}]
        for answer in answers:
            with pytest.raises(ReceiverDown, match="instead of an ack"):
                AckReader().feed(msgpack.packb(answer))
        garbage = [
            b"\xc1",
            b"\x81\xc1",
            b"\x81\x90\x01",
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
            b"\x91" * 1500,
        ]
        garbage += [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xd6\xff\x00\x00\x00\x00", b"\xc7\x03\xff\x00\x00\x00"]
        for data in [*garbage, b"\x91" * 1000 + b"\xc0"]:  # the last nests to the decoder's limit
            with pytest.raises(ReceiverDown) as caught:
                AckReader().feed(data)
            assert len(str(caught.value)) < 200, data

    def test_oversize(self) -> None:
        """An answer that does not end within 64 KiB (a text of 2 GB, a list of 60,000) is refused."""
        for begin in (b"\xdb\x7f\xff\xff\xff", b"\xdd\x00\x00\xea\x60"):
            reader = AckReader()
            accepted_bytes = 0
            with pytest.raises(ReceiverDown):  # noqa: PT012 - the decoder decides which feed is refused
                for data in [begin, *[fixstr("x" * 31) * 128] * 100]:
                    reader.feed(data)
                    accepted_bytes += len(data)
            assert accepted_bytes <= 64 * 1024

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes are a list of ids or a ReceiverDown."""
        try:
            acks = AckReader().feed(data)
        except ReceiverDown:
            return
        assert all(type(each) is str for each in acks)


class Packed(NamedTuple):
    """An entry of this many bytes."""

    key: EventKey
    packed: bytes
    tag: str = "t"


def fill(entries: list[tuple[str, int]], chunk_bytes: int) -> tuple[list[list[Packed]], list[Packed]]:
    """The chunks for entries of these tags and sizes, and the entries."""
    packed = [
        Packed(EventKey(number, bytes(16)), bytes([number % 256]) * size, tag)
        for number, (tag, size) in enumerate(entries)
    ]
    chunks = list(batch(packed, chunk_bytes))
    assert [is_last for _, is_last in chunks] == [False] * (len(chunks) - 1) + [True] * bool(chunks)
    return [each for each, _ in chunks], packed


def size_of(entries: list[Packed]) -> int:
    """The bytes of the entries."""
    return sum(len(entry.packed) for entry in entries)


class TestBatch:
    """Grouping entries into chunks."""

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 120)), max_size=40), st.integers(1, 100))
    def test_in_order_and_bounded(self, entries: list[tuple[str, int]], chunk_bytes: int) -> None:
        """A chunk has one tag; the entries of each tag keep their order, and none is lost.

        No chunk is above the limit unless a single entry is, and none is closed while the next entry still fits.
        """
        chunks, packed = fill(entries, chunk_bytes)
        for tag in "abc":
            of_tag = [each for each in chunks if each[0].tag == tag]
            assert [entry for each in of_tag for entry in each] == [entry for entry in packed if entry.tag == tag]
            assert all(size_of(each) <= chunk_bytes or len(each) == 1 for each in of_tag)
            for each, following in itertools.pairwise(of_tag):
                assert size_of(each) + len(following[0].packed) > chunk_bytes

    def test_limits(self) -> None:
        """A chunk may have exactly the limit, not a byte more; an entry above it is alone; no entries make no chunk."""
        table = {(40, 60, 1): [2, 1], (40, 61): [1, 1], (10, 10, 500, 10): [2, 1, 1], (): []}
        for sizes, counts in table.items():
            assert [len(each) for each in fill([("t", size) for size in sizes], 100)[0]] == counts
