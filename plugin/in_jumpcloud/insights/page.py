"""A page: one answer of `/events`, split into raw events without decoding them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from in_jumpcloud.errors import TryAgain

_split = msgspec.json.Decoder(list[msgspec.Raw]).decode
# A string (one that breaks off reaches to the end), or one character of structure: all that is needed to see where an
# element ends.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)


class Page(NamedTuple):
    """What one request brought.

    `cursor` leads to the page behind this one; it is None where this is the window's last. `size` is the body's
    length in bytes, decompressed. `received_ns` is when it arrived, in nanoseconds since the epoch.
    """

    events: Sequence[bytes | msgspec.Raw]
    cursor: str | None
    size: int
    received_ns: int


def split(body: bytes | bytearray) -> Sequence[bytes | msgspec.Raw]:
    """The elements of a JSON array, byte for byte.

    An array that a strict decoder refuses (a lone surrogate, NaN, nesting without end) is split by its brackets, so
    that one odd event does not keep the others of its page back.

    Raises:
        TryAgain: it is no array, or it breaks off.
    """
    try:
        return _split(body)
    except (msgspec.DecodeError, RecursionError):
        return _split_by_brackets(bytes(body))


def _split_by_brackets(body: bytes) -> list[bytes]:
    text = body.strip()
    if not text.startswith(b"["):
        raise TryAgain(f"the answer is not a JSON array; it begins with {text[:40].decode(errors='replace')!r}")
    elements: list[bytes] = []
    depth, begin, end = 0, 1, 0
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in b"[{":
            depth += 1
        elif mark in b"]}":
            depth -= 1
            if depth == 0:
                end = token.start()
                break
        elif mark == b"," and depth == 1:
            elements.append(text[begin : token.start()].strip())
            begin = token.end()
    if depth or end != len(text) - 1:
        raise TryAgain("the answer breaks off in the middle of its JSON array")
    last = text[begin:end].strip()
    if last or elements:
        elements.append(last)
    return elements
