"""One raw event: its bytes, what they say, and by what it is known."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import msgspec

from in_jumpcloud.timestamps import parse_rfc3339

UNDATED = 0
"""The minute of events without a readable timestamp."""

EventKey = tuple[int, str]
"""By what an event is known: the minute of its timestamp since the epoch (or UNDATED), and its id."""

_decode = msgspec.json.Decoder().decode
_MINUTE_NS = 60 * 10**9
_REFUSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Identity(msgspec.Struct, frozen=True, gc=False):
    id: str
    timestamp: str


_identity = msgspec.json.Decoder(_Identity).decode


class RawEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as JumpCloud sent it, known by time and id, and not yet decoded as a whole.

    `raw` is its JSON text, byte for byte. `key` is by what the ledger knows it. `timestamp` is its own where that is
    readable, and `time_ns` the same in nanoseconds since the epoch; both None elsewhere.
    """

    raw: bytes | msgspec.Raw
    key: EventKey
    timestamp: str | None
    time_ns: int | None

    @property
    def id(self) -> str:
        """Its own, or a hash of its bytes where it has none."""
        return self.key[1]


class DecodedEvent(NamedTuple):
    """What an event says: `data`, or None where it is not one JSON object; `problem` then says why.

    `strict` tells that a strict decoder took it: all its text is valid Unicode, all its numbers finite.
    """

    data: dict[str, Any] | None
    problem: str | None
    strict: bool


def parse_event(raw: bytes | msgspec.Raw) -> RawEvent:
    """Make an Event of one element of a page. Never raises: what is odd is carried on."""
    try:
        identity = _identity(raw)
    except _REFUSED:
        return _read_odd(bytes(raw))
    event_id, timestamp = identity.id, identity.timestamp
    time_ns = parse_rfc3339(timestamp)
    if time_ns is None or not event_id or not event_id.isprintable():
        return _read_odd(bytes(raw))
    return RawEvent(raw, (time_ns // _MINUTE_NS, event_id), timestamp, time_ns)


def _read_odd(raw: bytes) -> RawEvent:
    data = decode_event(raw).data or {}
    event_id, timestamp = data.get("id"), data.get("timestamp")
    if type(event_id) is not str or not event_id or not event_id.isprintable():
        event_id = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    time_ns = parse_rfc3339(timestamp) if type(timestamp) is str else None
    if time_ns is None:
        return RawEvent(raw, (UNDATED, event_id), None, None)
    return RawEvent(raw, (time_ns // _MINUTE_NS, event_id), timestamp, time_ns)


def decode_event(raw: bytes | msgspec.Raw) -> DecodedEvent:
    """What an event says. Never raises."""
    problem, strict = None, True
    try:
        data = _decode(raw)
    except _REFUSED:
        data, problem = _decode_leniently(bytes(raw))
        strict = False
    if type(data) is not dict:
        return DecodedEvent(None, problem or "the event is not a JSON object", strict)
    return DecodedEvent(data, problem, strict)


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
