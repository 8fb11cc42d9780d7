"""One raw event: its bytes, what identifies it, and its decoded fields."""

from __future__ import annotations

import hashlib
import json
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from in_jumpcloud.insights.nesting import MAX_NESTING, limit_nesting
from in_jumpcloud.timestamps import parse_rfc3339

UNDATED = 0
"""The minute of events without a readable timestamp."""
DIGEST_BYTES = 16


class EventKey(NamedTuple):
    """What identifies an event.

    `minute` is that of its timestamp since the epoch, or UNDATED. `digest` has DIGEST_BYTES bytes: a hash of the
    event's id, timestamp and type, or of all its bytes if it has no id. So an event that is read again with more fields
    is the same event, and an id that is used again for another event is not.
    """

    minute: int
    digest: bytes


_new_key = tuple.__new__  # in half the time of EventKey(…), for every event
_MINUTE_NS = 60 * 10**9
_SHALLOW_LEVELS = 6


class _Identity(msgspec.Struct, frozen=True, gc=False):
    id: str
    timestamp: str
    event_type: str = ""
    organization: str | None = None


def _shallow_object() -> Any:
    """The type of a JSON object of at most _SHALLOW_LEVELS + 1 levels."""
    value: Any = None | bool | int | float | str
    for _ in range(_SHALLOW_LEVELS):
        value = None | bool | int | float | str | list[value] | dict[str, value]
    return dict[str, value]


_decode_identity = msgspec.json.Decoder(_Identity).decode
# Nearly every event is shallow. This decoder proves it at no cost; counting brackets takes a quarter of the decoding.
_decode_shallow = msgspec.json.Decoder(_shallow_object()).decode
_decode = msgspec.json.Decoder().decode


class RawEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as JumpCloud sent it; only what identifies it is decoded.

    `raw` is its JSON text, byte for byte. `key` identifies it in the ledger. `id` is the event's own id, or a hash of
    its bytes if it has no printable one. `timestamp` is the event's own text, and `time_ns` the same in nanoseconds
    since the epoch; both are None if the event has no readable timestamp. `event_type` and `organization` are empty if
    the event has none.
    """

    raw: bytes | msgspec.Raw
    key: EventKey
    id: str
    timestamp: str | None
    time_ns: int | None
    event_type: str
    organization: str


class DecodedEvent(NamedTuple):
    """The fields of an event.

    `data` is None if the event is not a JSON object. It nests at most MAX_NESTING levels. `problem` says what could not
    be decoded, if anything. `strict` is true if a strict decoder accepted the event: all its text is then valid
    Unicode, and all its numbers are finite.
    """

    data: dict[str, Any] | None
    problem: str | None
    strict: bool


def parse_event(raw: bytes | msgspec.Raw) -> RawEvent:
    """Identify one element of a page. Never raises: an event that cannot be decoded is delivered all the same."""
    try:
        identity = _decode_identity(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _parse_unusual(bytes(raw))
    event_id, timestamp = identity.id, identity.timestamp
    time_ns = parse_rfc3339(timestamp)
    if time_ns is None or not event_id or not event_id.isprintable():
        return _parse_unusual(bytes(raw))
    event_type = identity.event_type
    digest = blake2b(f"{event_id}\0{timestamp}\0{event_type}".encode(), digest_size=DIGEST_BYTES).digest()
    key = _new_key(EventKey, (time_ns // _MINUTE_NS, digest))
    return RawEvent(raw, key, event_id, timestamp, time_ns, event_type, identity.organization or "")


def _parse_unusual(raw: bytes) -> RawEvent:
    data = decode_event(raw).data or {}
    event_id, timestamp, *rest = (_text(data.get(name)) for name in ("id", "timestamp", "event_type", "organization"))
    identity = "\0".join((event_id, timestamp, rest[0])).encode(errors="surrogatepass") if event_id else raw
    digest = blake2b(identity, digest_size=DIGEST_BYTES).digest()
    if not event_id or not event_id.isprintable():
        event_id = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    time_ns = parse_rfc3339(timestamp)
    if time_ns is None:
        return RawEvent(raw, EventKey(UNDATED, digest), event_id, None, None, *rest)
    return RawEvent(raw, EventKey(time_ns // _MINUTE_NS, digest), event_id, timestamp, time_ns, *rest)


def _text(value: object) -> str:
    return value if type(value) is str else ""


def decode_event(raw: bytes | msgspec.Raw) -> DecodedEvent:
    """Decode all fields of an event. Never raises.

    A value that nests deeper than MAX_NESTING levels becomes text, and `problem` says so.
    """
    try:
        return DecodedEvent(_decode_shallow(raw), None, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text, replaced = limit_nesting(bytes(raw))
    try:
        data, problem, strict = _decode(text), None, True
    except (msgspec.DecodeError, UnicodeDecodeError):
        data, problem = _decode_leniently(text)
        strict = False
    if replaced and not problem:
        problem = f"the event nests deeper than {MAX_NESTING} levels; what is nested deeper is kept as text"
    if type(data) is not dict:
        return DecodedEvent(None, problem or "the event is not a JSON object", strict)
    return DecodedEvent(data, problem, strict)


def is_json(raw: bytes | msgspec.Raw) -> bool:
    """Whether `decode_event` can decode it, whether it is an object or not."""
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        data, problem = _decode_leniently(limit_nesting(bytes(raw))[0])
        return data is not None or problem is None
    return True


def _decode_leniently(raw: bytes) -> tuple[Any, str | None]:
    """Decode with Python's own decoder: it accepts lone surrogates, NaN and infinities, which the mapper replaces."""
    problem = None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode(errors="replace")
        problem = "the event contains bytes that are not UTF-8; they were replaced"
    digits_beyond_limit: list[int] = []

    def parse_int(digits: str) -> int | str:
        try:
            return int(digits)
        except ValueError:  # Python limits the digits of a conversion, because it is slow
            digits_beyond_limit.append(len(digits))
            return digits

    try:
        data = json.loads(text, strict=False, parse_int=parse_int)
    except ValueError as error:
        return None, f"the event is not valid JSON: {error}"
    if digits_beyond_limit and not problem:
        problem = f"the event contains an integer of {digits_beyond_limit[0]} digits; it is kept as text"
    return data, problem
