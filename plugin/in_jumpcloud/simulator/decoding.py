"""What a message of the forward protocol holds, read as a Fluent Bit reads it.

Every mode of the protocol is known (Message, Forward, PackedForward, gzip). What Fluent Bit closes the connection for
is `Refused`. A packed payload is taken whatever its entries are: from a bad one on they are lost, and the message is
`poisoned`. So is one in zstd: it cannot be read here, and Fluent Bit itself loses a larger one.
"""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass
from typing import Any

import msgpack
import msgspec

from in_jumpcloud.simulator.receiver_inflate import TooLarge, compression, inflate

READ_BYTES = 262_144
SECOND_NS = 1_000_000_000
MAX_SECONDS = 2**32
MOST_TAG_BYTES = 65_531
MOST_NESTING = 64  # maps and arrays within each other
UNREADABLE = (ValueError, TypeError, msgpack.UnpackException)  # what msgpack raises for bytes that are no msgpack

_MARKERS = {(MAX_SECONDS - 1) * SECOND_NS, (MAX_SECONDS - 2) * SECOND_NS}  # of groups, in Fluent Bit's own chunks
_MARKING = tuple(b"\xd7\x00" + struct.pack(">I", MAX_SECONDS - number) for number in (1, 2))
_NO_CONTAINER = bytes(
    set(range(256)) - {*range(0x80, 0xA0), *range(0xDC, 0xE0)}
)  # bytes that begin no map and no array

Entries = list[tuple[int, dict[str, Any]]]


class Refused(Exception):
    """The connection has to be closed without an acknowledgement."""


class _EventTime(int):
    """Nanoseconds that came as an EventTime: a bare integer is seconds."""

    __slots__ = ()


@dataclass(slots=True)
class Message:
    """One request, decoded."""

    tag: str
    entries: Entries
    chunk: str | None = None  # as sent; an acknowledgement is asked for if it is there
    poisoned: bool = False  # something of it is lost, and it is acknowledged all the same
    contagious: bool = False  # a bad entry stands in the chunk of its tag
    torn: bool = False  # its entries are taken, but the connection is closed instead of an acknowledgement
    ids: list[str] | None = None  # of the entries, an empty one where an entry has none; then `entries` is not filled


class _Event(msgspec.Struct):
    id: str = ""


class _Identified(msgspec.Struct):
    event: _Event = msgspec.field(default_factory=_Event)


_split = msgspec.msgpack.Decoder(list[tuple[msgspec.Raw, msgspec.Raw]]).decode
_identify = msgspec.msgpack.Decoder(_Identified).decode


def _ids(payload: bytes, options: dict[Any, Any]) -> list[str] | None:
    """The ids of a payload of ordinary entries, at a tenth of the cost of their records; None if it has others."""
    size = options.get("size")
    if not isinstance(size, int) or not 0 < size < MAX_SECONDS:
        return None
    ids = []
    try:
        for moment, record in _split(b"\xdd" + size.to_bytes(4, "big") + payload):
            time, body = bytes(moment), bytes(record)
            if not time.startswith(b"\xd7\x00") or time.startswith(_MARKING):
                return None
            # Where so few bytes could begin a map or an array, they cannot be nested too deep.
            if len(body.translate(None, _NO_CONTAINER)) >= MOST_NESTING:
                return None
            ids.append(_identify(body).event.id)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return ids


def _extension(code: int, data: bytes) -> object:
    if code == 0 and len(data) == 8:  # noqa: PLR2004
        seconds, nanoseconds = struct.unpack(">II", data)
        return _EventTime(seconds * SECOND_NS + nanoseconds)
    return msgpack.ExtType(code, data)


def stream_unpacker(most: int) -> msgpack.Unpacker:
    """What makes objects out of bytes that come in pieces; it has room for an object of `most` bytes."""
    # A payload may come as str: escaped surrogates keep bytes that are not UTF-8.
    return msgpack.Unpacker(
        ext_hook=_extension,
        strict_map_key=False,
        unicode_errors="surrogateescape",
        max_buffer_size=2 * most + READ_BYTES,
    )


def _nanoseconds(moment: Any, *, packed: bool = False) -> int | None:
    """A time as Fluent Bit takes it; None where it takes the entry for a marker of its own, which vanishes."""
    kind = type(moment)
    if kind is _EventTime:
        if moment < min(_MARKERS):
            return int(moment)
        if moment in _MARKERS:
            return None
    elif kind is int and moment >= 0:
        if packed:
            return int(moment) * SECOND_NS
        if moment < MAX_SECONDS:
            return _nanoseconds(_EventTime(moment * SECOND_NS))
    elif kind is float and 0 <= moment < MAX_SECONDS:
        return int(moment * SECOND_NS)
    elif kind is float and moment < 0 and packed:
        return None
    raise Refused("not a time")


def _entry(entry: Any, *, packed: bool = False) -> Entries:
    """The entry, or nothing if it is one that vanishes."""
    if type(entry) is not list or len(entry) != 2 or type(entry[1]) is not dict:  # noqa: PLR2004
        raise Refused("not an entry")
    moment, record = entry
    if type(moment) is list:
        if len(moment) != 2 or type(moment[1]) is not dict:  # noqa: PLR2004
            raise Refused("not a header")
        moment = moment[0]
    time = _nanoseconds(moment, packed=packed)
    return [] if time is None else [(time, record)]


def _require_shallow(value: Any) -> None:
    """Refuse what Fluent Bit's reader of msgpack has no stack for."""
    level = [value]
    for _ in range(MOST_NESTING):
        level = [
            child
            for each in level
            for child in (each.values() if type(each) is dict else each)
            if type(child) in {dict, list}
        ]
        if not level:
            return
    raise Refused("nested too deep")


def _require_signal(options: Any) -> None:
    """Refuse options that tell of anything but logs; metrics and traces are not known here."""
    if type(options) is not dict:
        raise Refused("options are not a map")
    for key, value in options.items():
        if type(key) is not str:
            raise Refused("option is not named by a string")
        if key == "fluent_signal":
            if type(value) is not int or value != 0:
                raise Refused("not a signal that is known")
            return


def _packed(message: Message, payload: bytes, options: dict[Any, Any] | None, most: int, *, records: bool) -> Message:
    compressed = None
    if options is not None:
        compressed = compression(payload, options.get("compressed"))
    if compressed == "zstd":
        message.poisoned = True
        return message
    if compressed == "gzip":
        try:
            payload, whole = inflate(payload, most)
        except TooLarge as error:
            raise Refused(str(error)) from None
        message.poisoned = not whole
    elif not payload:
        raise Refused("empty payload")
    if not records and options:
        message.ids = _ids(payload, options)
        if message.ids is not None:
            return message
    unpacker = stream_unpacker(most)
    unpacker.feed(payload)
    end = 0
    with contextlib.suppress(Refused, *UNREADABLE):
        for entry in unpacker:
            _require_shallow(entry)
            message.entries.extend(_entry(entry, packed=True))
            end = unpacker.tell()
    message.contagious = end != len(payload)
    message.poisoned |= message.contagious
    return message


def decode(root: Any, most: int, *, records: bool = True) -> Message:
    """The message that an unpacked msgpack object is; a payload may inflate to `most` bytes.

    Without `records`, a packed payload that tells its `size` is only searched for the ids.

    Raises:
        Refused: Fluent Bit would close the connection
    """
    _require_shallow(root)
    if type(root) is not list or len(root) < 2 or type(root[0]) is not str:  # noqa: PLR2004
        raise Refused("not a request")
    tag, second = (
        root[0].encode("utf-8", "surrogateescape")[:MOST_TAG_BYTES].decode("utf-8", "surrogateescape"),
        root[1],
    )
    packed, simple = isinstance(second, bytes | str), isinstance(second, int | msgpack.ExtType)
    if not (packed or simple or type(second) is list):
        raise Refused("neither a time nor entries")
    if simple and (len(root) < 3 or type(root[2]) is not dict):  # noqa: PLR2004
        raise Refused("not a record")
    options = next(iter(root[3:] if simple else root[2:]), None)
    message = Message(tag, [], _chunk(options, simple=simple))
    if packed:
        payload = second if isinstance(second, bytes) else second.encode("utf-8", "surrogateescape")
        if len(root) != 3:  # noqa: PLR2004 - of the options of a longer one Fluent Bit sees the chunk alone
            return _packed(message, payload, None, most, records=records)
        _require_signal(root[2])
        return _packed(message, payload, root[2], most, records=records)
    if simple:
        message.entries.extend(_entry([second, root[2]]))
        return message
    try:
        for each in second:
            message.entries.extend(_entry(each))
    except Refused:
        message.torn = True
    return message


def _chunk(options: Any, *, simple: bool) -> str | None:
    if options is None:
        return None
    if type(options) is not dict:
        raise Refused("options are not a map")
    if simple and type(options.get("metadata", {})) is not dict:
        raise Refused("metadata is not a map")
    chunk = options.get("chunk", "")
    if type(chunk) is not str:
        raise Refused("chunk is not a string")
    return chunk if "chunk" in options else None


def event_id(record: dict[str, Any]) -> str:
    """The id of the event that a record is; empty where it has none."""
    event = record.get("event")
    name = event.get("id") if type(event) is dict else None
    return name if type(name) is str else ""
