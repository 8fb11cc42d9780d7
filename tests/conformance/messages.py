"""Messages of the forward protocol, built by hand and not with the plugin's own code."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import msgpack

SECONDS = 1_767_225_600
NANOSECONDS = 123_456_789
LIMIT = 6_144_000
"""in_forward's buffer_max_size: bytes of a message, and of its payload when decompressed."""
BLOCK = 1_024_000
"""in_forward's buffer_chunk_size."""


def pack(value: object) -> bytes:
    """One MessagePack object."""
    packed: bytes = msgpack.packb(value, unicode_errors="surrogateescape")
    return packed


def event_time(seconds: int = SECONDS, nanoseconds: int = NANOSECONDS) -> msgpack.ExtType:
    """An EventTime."""
    return msgpack.ExtType(0, struct.pack(">II", seconds, nanoseconds))


TIME = event_time()


def entry(name: str, time: object = TIME, **more: object) -> bytes:
    """An entry whose record has this id."""
    return pack([time, {"id": name, **more}])


def message(name: str, *, tag: object = "tag", time: object = TIME, **options: object) -> bytes:
    """A record in Message mode."""
    return pack([tag, time, {"id": name}, options])


def forward(*names: str, tag: object = "tag", time: object = TIME, **options: object) -> bytes:
    """Records in Forward mode."""
    return pack([tag, [[time, {"id": name}] for name in names], options])


def packed(*names: str, tag: object = "tag", time: object = TIME, **options: object) -> bytes:
    """Records in PackedForward mode."""
    return payload(b"".join(entry(name, time) for name in names), tag=tag, **options)


def payload(entries: bytes | str, *, tag: object = "tag", **options: object) -> bytes:
    """PackedForward mode with whatever payload."""
    return pack([tag, entries, options])


def padded(name: str, size: int) -> tuple[bytes, int]:
    """The beginning of an entry of `size` bytes, and how many `x` have to follow it."""
    head = b"\x92" + pack(TIME) + b"\x82" + pack("id") + pack(name) + pack("x") + b"\xdb"
    count = size - len(head) - 4
    return head + struct.pack(">I", count), count


def padded_entry(name: str, size: int) -> bytes:
    """An entry of exactly so many bytes."""
    head, count = padded(name, size)
    return head + b"x" * count


def message_of(length: int, name: str, /, **options: object) -> bytes:
    """A PackedForward message of exactly so many bytes, with one record."""
    around = len(payload(padded_entry(name, 100_000), **options)) - 100_000
    return payload(padded_entry(name, length - around), **options)


def nested(name: str, depth: int, leaf: object = 1) -> list[Any]:
    """An entry whose record is so many maps deep, with `leaf` in the last one."""
    inner: Any = leaf
    for _ in range(depth - 1):
        inner = {"n": inner}
    return [TIME, {"id": name, "n": inner}]


def gzip_member(content: bytes, *, run: int = 0) -> bytes:
    """A gzip member of `content` and then `run` times `x`.

    Libraries compress differently from version to version; what is built by hand stays the same bytes.
    """
    crc = zlib.crc32(content)
    matches, literals = divmod(run, 258)
    if run and not literals:
        matches, literals = matches - 1, 258
    blocks = b"".join(
        struct.pack("<BHH", 0, len(part), len(part) ^ 0xFFFF) + part
        for part in (content[at : at + 0xFFFF] for at in range(0, len(content), 0xFFFF))
    )
    # One last block with the fixed codes: `x` itself, then "258 bytes like the one before", then the end.
    bits = "110" + f"{0x30 + ord('x'):08b}" * literals + (f"{0xC5:08b}" + "00000") * matches + "0000000"
    blocks += int(bits[::-1], 2).to_bytes((len(bits) + 7) // 8, "little")
    for at in range(0, run, 1 << 20):
        crc = zlib.crc32(b"x" * min(1 << 20, run - at), crc)
    return b"\x1f\x8b\x08" + bytes(6) + b"\xff" + blocks + struct.pack("<II", crc, len(content) + run)


def zstd_frame(content: bytes, *, run: int = 0) -> bytes:
    """A zstd frame of `content` (raw blocks) and then `run` times `x` (repeating blocks)."""
    blocks = [(0, content[at : at + 0x10000], 0) for at in range(0, len(content), 0x10000)]
    blocks += [(1, b"x", min(0x10000, run - at)) for at in range(0, run, 0x10000)]
    frame = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(content) + run)
    for number, (kind, data, times) in enumerate(blocks, 1):
        header = (number == len(blocks)) | kind << 1 | (times or len(data)) << 3
        frame += header.to_bytes(3, "little") + data
    return frame
