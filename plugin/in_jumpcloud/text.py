"""Text from outside as people see it: without secrets, and without characters that control a terminal or mislead.

Whatever shows text uses it: log, terminal, status page, metrics, service manager.
"""

from __future__ import annotations

import re
import unicodedata
import weakref

_MIN_CHARS = 8
"""A shorter secret is not looked for: it may be an ordinary word."""
_MIN_BEGINNING_CHARS = 12
"""The shortest beginning of a secret that is looked for, where a text is cut off inside the secret."""
_SHOWN_SPACES = "Zs"


class Hidden:
    """Secrets that `redact` removes while this object lives."""

    __slots__ = ("__weakref__", "texts")

    def __init__(self, *texts: str) -> None:
        self.texts = tuple(text for text in texts if len(text) >= _MIN_CHARS)
        if self.texts:
            _hidden[id(self)] = self


_hidden: weakref.WeakValueDictionary[int, Hidden] = weakref.WeakValueDictionary()


def redact(text: str) -> str:
    """`text` without secrets, and without the beginning of one where it is cut off inside it."""
    for secret in sorted({each for hidden in list(_hidden.values()) for each in hidden.texts}, key=len, reverse=True):
        if secret[:_MIN_BEGINNING_CHARS] in text:
            for length in range(len(secret), min(len(secret), _MIN_BEGINNING_CHARS) - 1, -1):
                text = text.replace(secret[:length], "***")
    return text


def printable(text: str) -> str:
    r"""`text` in one line, with `\n`, `\x1b`, `\u202e` and so on for line ends, control, bidi and unknown characters.

    Also for surrogates, which stand for bytes that are not UTF-8.
    """
    return text if text.isprintable() else "".join(map(_escape, text))


def shown(text: object) -> str:
    """`text` without secrets, in one printable line."""
    return printable(redact(str(text)))


def shown_lines(text: str) -> list[str]:
    """The lines of `text`, such as a traceback, each as `shown`."""
    return [printable(line) for line in redact(text).splitlines()]


def shown_in_one(text: object) -> str:
    """The lines of `text`, such as the problems of a configuration, as `shown`, in one line."""
    return "; ".join(shown_lines(str(text)))


def printable_json(document: bytes) -> bytes:
    r"""A JSON document, with `\u202e` and so on in its texts. Its value stays the same."""
    if document.isascii() and b"\x7f" not in document:
        return document  # JSON has no other control characters within texts
    text = document.decode(errors="replace")
    return text.encode() if text.isprintable() else re.sub(r"[^\x00-\x7e]", _escape_in_json, text).encode()


def _escape(character: str) -> str:
    is_shown = character.isprintable() or unicodedata.category(character) == _SHOWN_SPACES
    return character if is_shown else character.encode("unicode_escape").decode()


def _escape_in_json(match: re.Match[str]) -> str:
    character = match[0]
    if _escape(character) == character:
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def format_duration(seconds: float) -> str:
    """A duration in its two largest units, such as `3d 4h` or `42s`."""
    left, parts = int(seconds), []
    for unit, length in _UNITS:
        count, left = divmod(left, length)
        parts.append((count, unit))
    largest = next((index for index, (count, _) in enumerate(parts) if count), -1)
    return " ".join(f"{count}{unit}" for count, unit in parts[largest:][:2] if count) or "0s"
