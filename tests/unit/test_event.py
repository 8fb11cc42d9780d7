"""One raw event: its time, its id, and what happens to unusual events."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from in_jumpcloud.insights.event import DIGEST_BYTES, UNDATED, EventKey, RawEvent, decode_event, parse_event
from in_jumpcloud.insights.nesting import MAX_NESTING
from in_jumpcloud.timestamps import parse_rfc3339

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = 1_767_366_245  # 2026-01-02T15:04:05Z


def digest(raw: bytes) -> str:
    """The id of an event that has none of its own."""
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


# Timestamps


def test_fractions_and_zones() -> None:
    """A fraction may have any number of digits; those after the ninth are cut. Without a zone the time is UTC."""
    fractions = {"": 0, ".4": 400_000_000, ".049": 49_000_000, ".000001": 1000, ".12345678": 123_456_780}
    fractions |= {".123456789": 123_456_789, ".123456789999": 123_456_789}
    times = {
        f"2026-01-02T15:04:05{fraction}{zone}": SECOND * 10**9 + nanoseconds
        for fraction, nanoseconds in fractions.items()
        for zone in ("Z", "z", "", "+00:00", "-00:00", "+0000")
    }
    others = ("2026-01-02T17:04:05+02:00", "2026-01-02T10:34:05-0430", "2026-01-03T15:03:05+23:59")
    times |= dict.fromkeys((*others, "2026-01-02t15:04:05z", "2026-01-02 15:04:05Z"), SECOND * 10**9)
    assert {text: parse_rfc3339(text) for text in times} == times


def test_invalid_timestamps() -> None:
    """Text that is not an RFC 3339 timestamp, or names a moment that does not exist, is not accepted."""
    texts = ["", "now", "1767366245", "2026-01-02", "2026-01-02T15:04Z", "2026-01-02T15:04:05.Z"]
    texts += ["2026-01-02T15:04:05,5Z", "2026-01-02T15:04:05 Z", "2026-01-02T15:04:05Z\n", " 2026-01-02T15:04:05Z"]
    texts += ["2026-1-2T15:04:05Z", "20260102T150405Z", "2026-13-02T15:04:05Z", "2026-02-29T15:04:05Z"]
    texts += ["0000-01-02T15:04:05Z", "2026-01-02T24:00:00Z", "2026-01-02T15:60:05Z", "2026-01-02T15:04:05+24:00"]
    texts += ["2026-01-02T15:04:05+01:60", "2026-01-02T15:04:05+1", "٢٠٢٦-01-02T15:04:05Z"]
    texts += ["2026-12-31T23:59:60Z"]  # a leap second, which Python's clock cannot express
    assert [text for text in texts if parse_rfc3339(text) is not None] == []


def test_range_of_timestamps() -> None:
    """A moment that Fluent Bit's EventTime cannot hold (before 1970, or in or after February 2106) is not accepted."""
    times = {
        "1970-01-01T00:00:00Z": 0,
        "1969-12-31T23:59:59.999Z": None,
        "1970-01-01T00:30:00+01:00": None,
        "1969-12-31T23:30:00-01:00": 1_800_000_000_000,
        "2106-02-07T06:28:13.999999999Z": 4_294_967_293_999_999_999,
        "2106-02-07T06:28:14Z": None,
        "2106-02-07T06:28:14+00:01": 4_294_967_234_000_000_000,
        "9999-12-31T23:59:59Z": None,
    }
    assert {text: parse_rfc3339(text) for text in times} == times


@given(
    st.datetimes(min_value=datetime(1970, 1, 3), max_value=datetime(2106, 2, 5)),  # noqa: DTZ001 - the zone comes below
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
    st.sampled_from(["seconds", "milliseconds", "microseconds"]),
)
def test_agrees_with_datetime(moment: datetime, offset: int, precision: str) -> None:
    """Every moment in range, in every zone and precision, is read as datetime reads it."""
    text = moment.replace(tzinfo=timezone(timedelta(minutes=offset))).isoformat(timespec=precision)
    since = datetime.fromisoformat(text) - EPOCH
    assert parse_rfc3339(text) == since // timedelta(microseconds=1) * 1000


@given(st.text() | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", fullmatch=True))
def test_timestamp_never_raises(text: str) -> None:
    """Any text is a moment in range, or None."""
    time_ns = parse_rfc3339(text)
    assert time_ns is None or 0 <= time_ns < (2**32 - 2) * 10**9


# Ids


AT = "2026-01-02T15:04:59.999Z"


def key_of(**fields: object) -> EventKey:
    """The key of an event with these fields."""
    return parse_event(json.dumps(fields).encode()).key


def test_own_id() -> None:
    """An id is opaque text."""
    for event_id in ("5f1b3c", "d1d2D3-UPPER", "not hex at all", "ünï", "0"):
        assert parse_event(json.dumps({"id": event_id, "timestamp": AT}).encode()).id == event_id


def test_identity() -> None:
    """Id, timestamp and type identify an event: more fields and other places change nothing, each of these does."""
    key = key_of(id="a", timestamp=AT, event_type="user_create")
    assert (key.minute, len(key.digest)) == (SECOND // 60, DIGEST_BYTES)
    for more in ({"geoip": {"country": "NL"}}, {"deep": json.loads("[" * 500 + "]" * 500)}, {"odd": "\ud800"}):
        assert key_of(**more, event_type="user_create", timestamp=AT, id="a") == key
    others = [
        key_of(id="a", timestamp=AT),
        key_of(id="b", timestamp=AT, event_type="user_create"),
        key_of(id="a", timestamp=AT, event_type="user_delete"),
        key_of(id="a", timestamp="2026-01-02T15:04:59.998Z", event_type="user_create"),
        key_of(id="a", timestamp="2026-01-02T15:05:59.999Z", event_type="user_create"),
        key_of(id="a", timestamp="soon", event_type="user_create"),
        key_of(id="a\ud800", timestamp=AT, event_type="user_create"),
    ]
    assert len({key, *others}) == len(others) + 1


def test_no_readable_type_or_time() -> None:
    """A type that is not text counts as none; without a readable timestamp an event is UNDATED."""
    unreadable: list[Any] = [None, 1_767_366_245, "", {}]
    assert {key_of(id="a", timestamp=AT, event_type=each) for each in unreadable} == {key_of(id="a", timestamp=AT)}
    for timestamp in (*unreadable, "soon"):
        event = parse_event(json.dumps({"id": "a", "timestamp": timestamp}).encode())
        assert (event.time_ns, event.timestamp, event.key.minute, event.id) == (None, None, UNDATED, "a")


def test_hash_instead_of_an_id() -> None:
    """An event whose id is missing, empty or not text is identified by a hash of its bytes.

    An id that is not printable identifies it, but is not shown.
    """
    for fields in ("", ',"id":""', ',"id":null', ',"id":5', ',"id":["a"]', r',"id":"a\u0000"', r',"id":"\ud800"'):
        raw = f'{{"timestamp":"2026-01-02T15:04:05Z"{fields}}}'.encode()
        event = parse_event(raw)
        assert event.id == digest(raw) == parse_event(msgspec.Raw(raw)).id
        assert event.key == parse_event(msgspec.Raw(raw)).key
        assert event.key.minute == SECOND // 60
        other = parse_event(raw.replace(b"{", b"{ ", 1))
        assert other.id != event.id
        assert (other.key == event.key) == ("\\u" in fields)


# Decoding


def test_ordinary() -> None:
    """An ordinary event is decoded strictly, and its bytes are kept."""
    raw = b' {"id": "a", "n": 1.50, "timestamp":"2026-01-02T15:04:05.1Z"} '
    event = parse_event(raw)
    assert (event.raw, event.timestamp) == (raw, "2026-01-02T15:04:05.1Z")
    assert event.time_ns == SECOND * 10**9 + 100_000_000
    assert decode_event(raw) == ({"id": "a", "n": 1.5, "timestamp": "2026-01-02T15:04:05.1Z"}, None, True)


def test_lenient() -> None:
    """Lone surrogates, NaN, infinities and control characters are accepted, and `strict` says so.

    Bytes that are not UTF-8 are replaced and reported.
    """
    values = {rb'"\ud800"': "\ud800", b"NaN": float("nan"), b"-Infinity": float("-inf"), b"1e999": float("inf")}
    for value, decoded in (values | {b'"a\nb\x00"': "a\nb\x00", b'"caf\xe9"': "caf\ufffd"}).items():
        raw = b'{"id":"a","x":' + value + b"}"
        assert parse_event(raw).id == "a"
        data, problem, strict = decode_event(raw)
        assert repr(data) == repr({"id": "a", "x": decoded})
        assert not strict
        assert ("not UTF-8" in (problem or "")) == (problem is not None) == (b"\xe9" in raw)


def nested(levels: int, value: str = "1") -> str:
    """Arrays and objects in turn around `value`."""
    for level in range(levels):
        value = f"[{value}]" if level % 2 else f'{{"a": {value}}}'
    return value


def test_nesting_is_limited() -> None:
    """A value deeper than MAX_NESTING becomes its text, which is reported. Id, time and other fields are kept."""
    head = '{"id":"a","timestamp":"2026-01-02T15:04:05Z","b":"x]","c":'
    deepest = nested(MAX_NESTING - 1)
    assert decode_event(f"{head}{deepest}}}".encode()) == (json.loads(f"{head}{deepest}}}"), None, True)
    for deep in (nested(1), nested(500), "[" * 5000 + "]" * 5000, "[" * 20_000 + '"}"' + "]" * 20_000, '{"x":NaN}'):
        raw = f"{head}{nested(MAX_NESTING - 1, deep)},{json.dumps('d')}:2}}".encode()
        data, problem, strict = decode_event(raw)
        assert data == json.loads(f"{head}{nested(MAX_NESTING - 1, json.dumps(deep))},{json.dumps('d')}:2}}")
        assert problem is not None
        assert f"deeper than {MAX_NESTING} levels" in problem
        assert strict
        assert parse_event(raw).key == key_of(id="a", timestamp="2026-01-02T15:04:05Z")


def test_unreadable() -> None:
    """An event that is not one JSON object has no time and no fields, a hash for an id, and the reason."""
    problems = {
        b'{"id":"a"': "is not valid JSON: Expecting ',' delimiter: line 1 column 10 (char 9)",
        b"": "is not valid JSON: Expecting value: line 1 column 1 (char 0)",
        b'{"id":"a","x":' + b"[" * 20_000: "is not valid JSON: ",
    }
    problems |= dict.fromkeys([b'["id"]', b'"text"', b"null", b"NaN"], "is not a JSON object")
    for raw, words in problems.items():
        data, problem, _ = decode_event(raw)
        assert data is None
        assert problem is not None
        assert words in problem
        event = parse_event(raw)
        assert event == parse_event(msgspec.Raw(raw)) == RawEvent(raw, event.key, digest(raw), None, None, "", "")
        assert event.key.minute == UNDATED


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
@example(b'{"id":' + b"9" * 5000 + b"}")
@example(b"\xef\xbb\xbf{}")
@example(b'{"id":"\xed\xa0\x80"}')
def test_never_raises(raw: bytes) -> None:
    """Any bytes make an event. Its bytes and its key are the same every time; without data it has a reason."""
    event = parse_event(raw)
    assert bytes(event.raw) == raw
    assert event.key == parse_event(msgspec.Raw(raw)).key
    data, problem, _ = decode_event(raw)
    assert (data is None) <= (problem is not None)
    assert event.id
    assert event.id.isprintable()


@given(st.dictionaries(st.text(), JSON))
def test_decodes_as_json(data: dict[str, Any]) -> None:
    """Every JSON object that can be sent is decoded as Python's own decoder decodes it."""
    raw = json.dumps(data).encode()
    assert repr(decode_event(raw).data) == repr(json.loads(raw))
