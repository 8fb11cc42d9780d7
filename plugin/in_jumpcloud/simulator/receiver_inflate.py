"""How a compressed payload is unpacked as a Fluent Bit does it: leniently, and losing quietly what it cannot read."""

from __future__ import annotations

import contextlib
import zlib

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_TRAILER = 8  # bytes of check sum and length behind a gzip member, which Fluent Bit does not look at


class TooLarge(Exception):
    """The payload holds more than is allowed."""


def compression(payload: bytes, named: object) -> str | None:
    """gzip, zstd or none: the first bytes count for more than what the option says."""
    if payload.startswith(_GZIP):
        return "gzip"
    if payload.startswith(_ZSTD):
        return "zstd"
    return named if isinstance(named, str) and named in {"gzip", "zstd"} else None


def inflate(payload: bytes, most: int) -> tuple[bytes, bool]:
    """Every gzip member's content, and False if something behind it could not be read.

    Raises:
        TooLarge: there are more than `most` bytes in it
    """
    content = b""
    while payload:
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            part = member.decompress(payload[:-_TRAILER], most + 1 - len(content))
        except zlib.error:
            return content, False
        if len(content) + len(part) <= most:
            with contextlib.suppress(zlib.error):
                rest = member.unconsumed_tail + payload[-_TRAILER:]
                part += member.decompress(rest, most + 1 - len(content) - len(part))
        content += part
        if len(content) > most:
            raise TooLarge("decompressed payload exceeds limit")
        payload = member.unused_data
        if not part:
            # An empty member is the end of everything to Fluent Bit.
            return content, member.eof and not payload
    return content, True
