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


class Event(NamedTuple):
    """An event as JumpCloud sent it.

    `raw` is its JSON text, byte for byte. `data` is what it says, or None where it is not one JSON object; `problem`
    then says why. `strict` tells that a strict decoder took it: all its text is valid Unicode, all its numbers finite.
    `time_ns` is its timestamp in nanoseconds since the epoch, or None. `id` is its own, or a hash of its bytes where
    it has none.
    """

    raw: bytes | msgspec.Raw
    data: dict[str, Any] | None
    problem: str | None
    strict: bool
    time_ns: int | None
    id: str

    @property
    def key(self) -> Key:
        """By what the ledger knows it."""
        return (UNDATED if self.time_ns is None else self.time_ns // 60_000_000_000, self.id)


def read(raw: bytes | msgspec.Raw) -> Event:
    """Make an Event of one element of a page. Never raises: what cannot be read is carried on with the reason."""
    problem, strict = None, True
    try:
        data = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        data, problem = _decode_leniently(bytes(raw))
        strict = False
    if type(data) is not dict:
        problem = problem or "the event is not a JSON object"
        return Event(bytes(raw), None, problem, strict, None, _fingerprint(raw))
    event_id = data.get("id")
    if type(event_id) is not str or not event_id or not event_id.isprintable():
        event_id = _fingerprint(raw)
    timestamp = data.get("timestamp")
    time_ns = parse_timestamp(timestamp) if type(timestamp) is str else None
    return Event(raw, data, problem, strict, time_ns, event_id)


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


def _fingerprint(raw: bytes | msgspec.Raw) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def parse_timestamp(text: str) -> int | None:
    """RFC 3339 to nanoseconds since the epoch; None where it is not, or is outside 1970 to 2106 (EventTime's reach).

    Digits behind the ninth are cut. A timestamp without a zone is UTC, as everything that JumpCloud sends.
    """
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
