"""Bytes of the forward protocol as a person reads them."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import msgpack

_LONGEST_TEXT = 40
_LONGEST_LINE = 160


def readable(data: bytes) -> str:
    """What the bytes say, in a few words: MessagePack objects, one after the other, or that they are none."""
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=2 * len(data) + 64)
    unpacker.feed(data)
    objects, end = [], 0
    with contextlib.suppress(ValueError, msgpack.UnpackException):
        for each in unpacker:
            objects.append(_shown(each))
            end = unpacker.tell()
    rest = len(data) - end
    if rest:
        objects.append(f"{rest} bytes" + " more" * bool(objects))
    text = ", ".join(objects)
    return text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]}…"


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, msgpack.ExtType):
        return f"ext {value.code} {value.data.hex()}"
    if isinstance(value, msgpack.Timestamp):
        return f"ext -1 {value.to_bytes().hex()}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_shown(key)}: {_shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value)


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return f"{len(value)} bytes"
    if len(text) > _LONGEST_TEXT:
        return f"{len(value)} bytes"
    return json.dumps(text, ensure_ascii=False) if text.isprintable() or text.isspace() else f"{len(value)} bytes"
