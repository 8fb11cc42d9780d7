"""How deep JSON from JumpCloud may nest. Python has a limit too, but it differs between versions."""

from __future__ import annotations

import json
import re

MAX_NESTING = 128
"""Levels of arrays and objects that are decoded. JSON decoders of Python 3.11 to 3.14 and msgspec handle as many."""

TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)
"""A string (an unterminated one reaches to the end) or one structural character: enough to find where values end."""


def limit_nesting(text: bytes) -> tuple[bytes, bool]:
    """Replace each value below MAX_NESTING levels by a JSON string that holds its text.

    Returns the new text and whether anything was replaced. Invalid JSON stays invalid, but nests no deeper either.
    """
    if text.count(b"[") + text.count(b"{") <= MAX_NESTING:
        return text, False
    parts: list[bytes] = []
    depth = copied = begin = 0
    for token in TOKEN.finditer(text):
        if token[0] in b"[{":
            depth += 1
            if depth == MAX_NESTING + 1:
                begin = token.start()
        elif token[0] in b"]}":
            if depth == MAX_NESTING + 1:
                parts += text[copied:begin], _as_string(text[begin : token.end()])
                copied = token.end()
            depth -= 1
    if depth > MAX_NESTING:  # the text ends inside this value
        parts += text[copied:begin], _as_string(text[begin:])
        copied = len(text)
    return b"".join([*parts, text[copied:]]), bool(parts)


def _as_string(text: bytes) -> bytes:
    return json.dumps(text.decode(errors="replace")).encode()
