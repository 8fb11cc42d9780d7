"""One raw event: its time, its id, and what becomes of events that are odd."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from in_jumpcloud.insights.event import UNDATED, RawEvent, decode_event, parse_event
from in_jumpcloud.timestamps import parse_rfc3339

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime(2106, 2, 7, 6, 28, 13, 999_999, tzinfo=UTC)  # EventTime's 32 bits, less two marks of Fluent Bit
SECOND = 1_767_366_245  # 2026-01-02T15:04:05Z
DEEP = b"[" * 5000 + b"]" * 5000


def digest(raw: bytes) -> str:
    """What identifies an event without an id of its own."""
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


# Timestamps


@pytest.mark.parametrize(
    ("fraction", "nanoseconds"),
    [
        ("", 0),
        (".4", 400_000_000),
        (".049", 49_000_000),
        (".000001", 1000),
        (".12345678", 123_456_780),
        (".123456789", 123_456_789),
        (".123456789999", 123_456_789),
    ],
)
@pytest.mark.parametrize("zone", ["Z", "z", "", "+00:00", "-00:00", "+0000"])
def test_fractions(fraction: str, nanoseconds: int, zone: str) -> None:
    """A second's fraction may have any number of digits; those behind the ninth are cut. No zone is UTC."""
    assert parse_rfc3339(f"2026-01-02T15:04:05{fraction}{zone}") == SECOND * 10**9 + nanoseconds


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-02T17:04:05+02:00",
        "2026-01-02T10:34:05-0430",
        "2026-01-03T15:03:05+23:59",
        "2026-01-02t15:04:05z",
        "2026-01-02 15:04:05Z",
    ],
)
def test_zones_and_spellings(text: str) -> None:
    """Offsets are taken off; lower case, and a blank in the middle, are allowed as RFC 3339 does."""
    assert parse_rfc3339(text) == SECOND * 10**9


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1767366245",
        "2026-01-02",
        "2026-01-02T15:04Z",
        "2026-01-02T15:04:05.Z",
        "2026-01-02T15:04:05,5Z",
        "2026-01-02T15:04:05 Z",
        "2026-01-02T15:04:05Z\n",
        " 2026-01-02T15:04:05Z",
        "2026-1-2T15:04:05Z",
        "20260102T150405Z",
        "2026-13-02T15:04:05Z",
        "2026-02-29T15:04:05Z",
        "0000-01-02T15:04:05Z",
        "2026-01-02T24:00:00Z",
        "2026-01-02T15:60:05Z",
        "2026-12-31T23:59:60Z",  # a leap second, which no clock here can express
        "2026-01-02T15:04:05+24:00",
        "2026-01-02T15:04:05+01:60",
        "2026-01-02T15:04:05+1",
        "٢٠٢٦-01-02T15:04:05Z",
    ],
)
def test_no_timestamp(text: str) -> None:
    """What is no RFC 3339 timestamp, or names no moment, is none."""
    assert parse_rfc3339(text) is None


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999Z", None),
        ("1970-01-01T00:30:00+01:00", None),
        ("1969-12-31T23:30:00-01:00", 1_800_000_000_000),
        ("2106-02-07T06:28:13.999999999Z", 4_294_967_293_999_999_999),
        ("2106-02-07T06:28:14Z", None),
        ("2106-02-07T06:28:14+00:01", 4_294_967_234_000_000_000),
        ("9999-12-31T23:59:59Z", None),
    ],
)
def test_reach(text: str, time_ns: int | None) -> None:
    """Moments that an EventTime cannot hold, before 1970 or in and after February 2106, are none."""
    assert parse_rfc3339(text) == time_ns


@given(
    st.datetimes(min_value=datetime(1970, 1, 3), max_value=datetime(2106, 2, 5)),  # noqa: DTZ001 - the zone comes below
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
    st.sampled_from(["seconds", "milliseconds", "microseconds"]),
)
def test_agrees_with_datetime(moment: datetime, offset: int, precision: str) -> None:
    """Every moment within reach, in every zone and precision, reads as datetime reads it."""
    text = moment.replace(tzinfo=timezone(timedelta(minutes=offset))).isoformat(timespec=precision)
    since = datetime.fromisoformat(text) - EPOCH
    assert parse_rfc3339(text) == since // timedelta(microseconds=1) * 1000


@given(st.text() | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", fullmatch=True))
def test_timestamp_never_raises(text: str) -> None:
    """Any text is a moment within reach or none."""
    time_ns = parse_rfc3339(text)
    assert time_ns is None or 0 <= time_ns < (2**32 - 2) * 10**9


# Ids


@pytest.mark.parametrize("event_id", ["5f1b3c", "d1d2D3-UPPER", "not hex at all", "ünï", "0"])
def test_own_id(event_id: str) -> None:
    """An id is opaque text, taken as it is; with the minute of the timestamp it is the event's key."""
    event = parse_event(json.dumps({"id": event_id, "timestamp": "2026-01-02T15:04:59.999Z"}).encode())
    assert event.id == event_id
    assert event.key == (SECOND // 60, event_id)


@pytest.mark.parametrize(
    "fields", ["", '"id":""', '"id":null', '"id":5', '"id":["a"]', r'"id":"a\u0000"', r'"id":"\ud800"']
)
def test_hash_for_an_id(fields: str) -> None:
    """An event whose id is missing, empty, no text or not printable is known by a hash of its bytes, every time."""
    raw = f'{{"timestamp":"2026-01-02T15:04:05Z"{"," if fields else ""}{fields}}}'.encode()
    event = parse_event(raw)
    assert event.id == digest(raw) == parse_event(msgspec.Raw(raw)).id
    assert event.key == (SECOND // 60, digest(raw))
    assert parse_event(raw.replace(b"{", b"{ ", 1)).id != event.id


@pytest.mark.parametrize("timestamp", [None, 1_767_366_245, "soon", "", {}])
def test_undated(timestamp: object) -> None:
    """An event without a readable timestamp has no time, and a key all the same."""
    event = parse_event(json.dumps({"id": "a", "timestamp": timestamp}).encode())
    assert event.time_ns is None
    assert event.key == (UNDATED, "a")


# Oddities


def test_ordinary() -> None:
    """An ordinary event is decoded strictly, and its bytes are kept as they came."""
    raw = b' {"id": "a", "n": 1.50, "timestamp":"2026-01-02T15:04:05.1Z"} '
    event = parse_event(raw)
    assert (event.raw, event.timestamp) == (raw, "2026-01-02T15:04:05.1Z")
    assert event.time_ns == SECOND * 10**9 + 100_000_000
    assert decode_event(raw) == ({"id": "a", "n": 1.5, "timestamp": "2026-01-02T15:04:05.1Z"}, None, True)


@pytest.mark.parametrize(
    ("value", "decoded"),
    [
        (rb'"\ud800"', "\ud800"),
        (b"Infinity", float("inf")),
        (b"-Infinity", float("-inf")),
        (b"1e999", float("inf")),
        (b'"a\nb\x00"', "a\nb\x00"),
    ],
)
def test_lenient(value: bytes, decoded: object) -> None:
    """Lone surrogates, infinities and raw control characters are read leniently, and `strict` says so."""
    raw = b'{"id":"a","x":' + value + b"}"
    assert parse_event(raw).id == "a"
    assert decode_event(raw) == ({"id": "a", "x": decoded}, None, False)


def test_not_a_number() -> None:
    """NaN is read, and can be told by being unequal to itself."""
    data, problem, _ = decode_event(b'{"id":"a","x":NaN}')
    assert data is not None
    assert data["x"] != data["x"]
    assert problem is None


def test_invalid_utf8() -> None:
    """Bytes that are not UTF-8 are replaced, the rest of the event stays, and the problem is named."""
    raw = b'{"id":"a","x":"caf\xe9"}'
    data, problem, _ = decode_event(raw)
    assert data == {"id": "a", "x": "caf\ufffd"}
    assert parse_event(raw).id == "a"
    assert problem == "the event holds bytes that are not UTF-8; they were replaced"


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b'{"id":"a","x":' + DEEP + b"}", "the event is nested too deeply to be read"),
        (b'{"id":"a"', "the event is not valid JSON: Expecting ',' delimiter: line 1 column 10 (char 9)"),
        (b"", "the event is not valid JSON: Expecting value: line 1 column 1 (char 0)"),
        (b'["id"]', "the event is not a JSON object"),
        (b'"text"', "the event is not a JSON object"),
        (b"null", "the event is not a JSON object"),
        (b"NaN", "the event is not a JSON object"),
    ],
)
def test_unreadable(raw: bytes, problem: str) -> None:
    """What is not one JSON object is carried on undated, with its bytes, a hash for an id, and the reason."""
    assert decode_event(raw)[:2] == (None, problem)
    assert parse_event(raw) == parse_event(msgspec.Raw(raw)) == RawEvent(raw, (UNDATED, digest(raw)), None, None)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
@example(b'{"id":' + b"9" * 5000 + b"}")
@example(b"\xef\xbb\xbf{}")
@example(b'{"id":"\xed\xa0\x80"}')
def test_never_raises(raw: bytes) -> None:
    """Any bytes make an event: its bytes are kept, its key is the same again, and without data it has a reason."""
    event = parse_event(raw)
    assert bytes(event.raw) == raw
    assert event.key == parse_event(msgspec.Raw(raw)).key
    data, problem, _ = decode_event(raw)
    assert (data is None) <= (problem is not None)
    assert event.id
    assert event.id.isprintable()
