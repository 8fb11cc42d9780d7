"""What a message of the forward protocol holds, read as a Fluent Bit reads it.

Every mode of the protocol is known (Message, Forward, PackedForward, gzip). What Fluent Bit closes the connection for
is `Refused`, and so is zstd. A packed payload is taken whatever its entries are: from a bad one on they are lost, and
the message is `poisoned`.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import msgpack
import msgspec

READ_BYTES = 262_144
SECOND_NS = 1_000_000_000
MAX_SECONDS = 2**32
UNREADABLE = (ValueError, TypeError, msgpack.UnpackException)  # what msgpack raises for bytes that are no msgpack

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
    poisoned: bool = False
    ids: list[str] | None = None  # of the entries, an empty one where an entry has none; then `entries` is not filled


class _Event(msgspec.Struct):
    id: str = ""


class _Identified(msgspec.Struct):
    event: _Event = msgspec.field(default_factory=_Event)


_identify = msgspec.msgpack.Decoder(list[tuple[msgspec.Raw, _Identified]]).decode


def _ids(payload: bytes, options: dict[Any, Any]) -> list[str] | None:
    """The ids of a payload of ordinary entries, at a twentieth of the cost of their records; None if it has others."""
    size = options.get("size")
    if not isinstance(size, int) or not 0 < size < MAX_SECONDS:
        return None
    try:
        entries = _identify(b"\xdd" + size.to_bytes(4, "big") + payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if not all(memoryview(moment)[:2].tobytes() == b"\xd7\x00" for moment, _ in entries):
        return None
    return [record.event.id for _, record in entries]


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


def _nanoseconds(moment: Any, *, entry: bool) -> int:
    """A time as Fluent Bit takes it; only entries may carry a float, or metadata beside the time."""
    kind = type(moment)
    if kind is _EventTime:
        return int(moment)
    if kind is int and 0 <= moment < MAX_SECONDS:
        return int(moment) * SECOND_NS
    if entry and kind is float and 0 <= moment < MAX_SECONDS:
        return int(moment * SECOND_NS)
    if entry and kind is list and len(moment) == 2 and type(moment[1]) is dict:  # noqa: PLR2004
        return _nanoseconds(moment[0], entry=True)
    raise Refused("not a time")


def _entry(entry: Any) -> tuple[int, dict[str, Any]]:
    if type(entry) is list and len(entry) == 2 and type(entry[1]) is dict:  # noqa: PLR2004
        return _nanoseconds(entry[0], entry=True), entry[1]
    raise Refused("not an entry")


def _inflated(payload: bytes, most: int) -> tuple[bytes, bool]:
    """Every gzip member's content, and whether it ended as it should."""
    parts: list[bytes] = []
    room = most
    while payload:
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            part = member.decompress(payload, room + 1)
        except zlib.error:
            return b"".join(parts), False
        parts.append(part)
        room -= len(part)
        if room < 0:
            raise Refused("decompressed payload exceeds limit")
        if not member.eof:
            return b"".join(parts), False
        payload = member.unused_data
    return b"".join(parts), True


def _packed(message: Message, payload: bytes, options: dict[Any, Any] | None, most: int, *, records: bool) -> Message:
    if options is not None:
        if not all(isinstance(key, str) for key in options) or options.get("fluent_signal", 0) not in {0, 1, 2}:
            raise Refused("bad option")
        compressed = options.get("compressed", "text")
        if compressed == "zstd":
            raise Refused("zstd is not supported")
        if compressed == "gzip" or payload[:2] == b"\x1f\x8b":
            payload, whole = _inflated(payload, most)
            message.poisoned = not whole
    if not payload and not message.poisoned:
        raise Refused("empty payload")
    if not records and options and not message.poisoned:
        message.ids = _ids(payload, options)
        if message.ids is not None:
            return message
    unpacker = stream_unpacker(most)
    unpacker.feed(payload)
    end = 0
    with contextlib.suppress(Refused, *UNREADABLE):
        for entry in unpacker:
            message.entries.append(_entry(entry))
            end = unpacker.tell()
    message.poisoned |= end != len(payload)
    return message


def decode(root: Any, most: int, *, records: bool = True) -> Message:
    """The message that an unpacked msgpack object is; a payload may inflate to `most` bytes.

    Without `records`, a packed payload that tells its `size` is only searched for the ids.

    Raises:
        Refused: Fluent Bit would close the connection
    """
    if type(root) is not list or not 2 <= len(root) <= 4 or type(root[0]) is not str:  # noqa: PLR2004
        raise Refused("not a request")
    tag, second, *rest = root
    packed, simple = isinstance(second, bytes | str), not isinstance(second, bytes | str | list)
    if simple and (not rest or type(rest[0]) is not dict):
        raise Refused("not a record")
    given = rest[1:] if simple else rest
    options = given[0] if given else {}
    if len(given) > 1 or (type(options) is not dict and (options is not None or packed)):
        raise Refused("options are not a map")
    chunk = (options or {}).get("chunk")
    if chunk is not None and type(chunk) is not str:
        raise Refused("chunk is not a string")
    message = Message(tag, [], chunk)
    if packed:
        payload = second if isinstance(second, bytes) else second.encode("utf-8", "surrogateescape")
        return _packed(message, payload, options if given else None, most, records=records)
    if simple:
        message.entries.append((_nanoseconds(second, entry=False), rest[0]))
    else:
        message.entries.extend(map(_entry, second))
    return message


def event_id(record: dict[str, Any]) -> str:
    """The id of the event that a record is; empty where it has none."""
    event = record.get("event")
    name = event.get("id") if type(event) is dict else None
    return name if type(name) is str else ""
