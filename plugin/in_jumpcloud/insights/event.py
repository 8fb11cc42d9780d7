"""One raw event: its bytes, what they say, and by what it is known."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

UNDATED = 0
"""The minute of events without a readable timestamp."""

Key = tuple[int, str]
"""By what an event is known: the minute of its timestamp since the epoch (or UNDATED), and its id."""

_TIMESTAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?(?:[Zz]|([+-])(\d\d):?(\d\d))?", re.ASCII
)
_EVENT_TIME_SECONDS = 2**32 - 2  # the two highest values mark groups inside Fluent Bit
_decode = msgspec.json.Decoder().decode
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE_NS = 60 * 10**9
_REFUSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Identity(msgspec.Struct, frozen=True, gc=False):
    id: str
    timestamp: str


_identity = msgspec.json.Decoder(_Identity).decode


class Event(msgspec.Struct, frozen=True, gc=False):
    """An event as JumpCloud sent it, known by time and id, and not yet decoded as a whole.

    `raw` is its JSON text, byte for byte. `key` is by what the ledger knows it. `timestamp` is its own where that is
    readable, and `time_ns` the same in nanoseconds since the epoch; both None elsewhere.
    """

    raw: bytes | msgspec.Raw
    key: Key
    timestamp: str | None
    time_ns: int | None

    @property
    def id(self) -> str:
        """Its own, or a hash of its bytes where it has none."""
        return self.key[1]


class Content(NamedTuple):
    """What an event says: `data`, or None where it is not one JSON object; `problem` then says why.

    `strict` tells that a strict decoder took it: all its text is valid Unicode, all its numbers finite.
    """

    data: dict[str, Any] | None
    problem: str | None
    strict: bool


def read(raw: bytes | msgspec.Raw) -> Event:
    """Make an Event of one element of a page. Never raises: what is odd is carried on."""
    try:
        identity = _identity(raw)
    except _REFUSED:
        return _read_odd(bytes(raw))
    event_id, timestamp = identity.id, identity.timestamp
    time_ns = parse_timestamp(timestamp)
    if time_ns is None or not event_id or not event_id.isprintable():
        return _read_odd(bytes(raw))
    return Event(raw, (time_ns // _MINUTE_NS, event_id), timestamp, time_ns)


def _read_odd(raw: bytes) -> Event:
    data = decode(raw).data or {}
    event_id, timestamp = data.get("id"), data.get("timestamp")
    if type(event_id) is not str or not event_id or not event_id.isprintable():
        event_id = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    time_ns = parse_timestamp(timestamp) if type(timestamp) is str else None
    if time_ns is None:
        return Event(raw, (UNDATED, event_id), None, None)
    return Event(raw, (time_ns // _MINUTE_NS, event_id), timestamp, time_ns)


def decode(raw: bytes | msgspec.Raw) -> Content:
    """What an event says. Never raises."""
    problem, strict = None, True
    try:
        data = _decode(raw)
    except _REFUSED:
        data, problem = _decode_leniently(bytes(raw))
        strict = False
    if type(data) is not dict:
        return Content(None, problem or "the event is not a JSON object", strict)
    return Content(data, problem, strict)


def _decode_leniently(raw: bytes) -> tuple[Any, str | None]:
    """Python's own decoder takes lone surrogates, NaN and infinities; the mapper makes them fit for the wire."""
    try:
        text = raw.decode()
        problem = None
    except UnicodeDecodeError:
        text = raw.decode(errors="replace")
        problem = "the event holds bytes that are not UTF-8; they were replaced"
    too_long: list[str] = []

    def whole_number(digits: str) -> int | str:
        try:
            return int(digits)
        except ValueError:  # Python's limit against slow conversions
            too_long.append(digits)
            return digits

    try:
        data = json.loads(text, strict=False, parse_int=whole_number)
    except ValueError as error:
        return None, f"the event is not valid JSON: {error}"
    except RecursionError:
        return None, "the event is nested too deeply to be read"
    if too_long and not problem:
        problem = f"the event holds a whole number of {len(too_long[0])} digits; kept as text"
    return data, problem


def parse_timestamp(text: str) -> int | None:
    """RFC 3339 to nanoseconds since the epoch; None where it is not, or is outside 1970 to 2106 (EventTime's reach).

    Digits behind the ninth are cut. A timestamp without a zone is UTC, as everything that JumpCloud sends.
    """
    # Most are spelled 2026-01-02T15:04:05.678Z, which Python's own parser reads in a third of the time.
    usual = len(text) == 24 and text[7] == "-" and text[10] == "T" and text[19] == "." and text[23] == "Z"  # noqa: PLR2004
    if not usual or text[11:13] > "23":
        return _parse(text)
    try:
        since = datetime.fromisoformat(text) - _EPOCH
    except ValueError:
        return None
    seconds = since.days * 86_400 + since.seconds
    return seconds * 10**9 + since.microseconds * 1000 if 0 <= seconds < _EVENT_TIME_SECONDS else None


def _parse(text: str) -> int | None:
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        return None
    day, hour, minute, second, fraction, sign, zone_hours, zone_minutes = match.groups()
    midnight = _midnight(day)
    if midnight is None or hour > "23" or minute > "59" or second > "59":
        return None
    seconds = midnight + int(hour) * 3600 + int(minute) * 60 + int(second)
    if sign:
        if zone_hours > "23" or zone_minutes > "59":
            return None
        offset = int(zone_hours) * 3600 + int(zone_minutes) * 60
        seconds += offset if sign == "-" else -offset
    if not 0 <= seconds < _EVENT_TIME_SECONDS:
        return None
    return seconds * 1_000_000_000 + (int(fraction.ljust(9, "0")) if fraction else 0)


@lru_cache(maxsize=128)
def _midnight(day: str) -> int | None:
    try:
        return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None
