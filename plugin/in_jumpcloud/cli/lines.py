"""Whole lines on standard output, for commands that may be ended at any moment."""

from __future__ import annotations

import re
import sys
import threading
from typing import Any

from in_jumpcloud.text import printable_json

_EXIT_SECONDS = 0.5
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)


class LineOutput:
    """Standard output. Threads may share it."""

    def __init__(self) -> None:
        buffer = sys.stdout.buffer
        # Without its buffer, whose lock a thread may hold while the process exits.
        self._output: Any = getattr(buffer, "raw", buffer)
        self._is_terminal = sys.stdout.isatty()
        self._lock = threading.Lock()

    def write(self, documents: list[bytes]) -> None:
        """Write JSON documents, each on a line of its own. All of it is passed on when this returns.

        Raises:
            OSError: standard output is closed, or full.
        """
        documents = [one_line(each) if b"\n" in each else each for each in documents]
        if self._is_terminal:
            documents = [printable_json(each) for each in documents]
        rest = memoryview(b"".join([each + b"\n" for each in documents]))
        with self._lock:
            while rest:
                rest = rest[self._output.write(rest) :]

    def finish(self) -> None:
        """Wait a moment for lines that are being written: the process is about to end."""
        self._lock.acquire(timeout=_EXIT_SECONDS)


def one_line(document: bytes) -> bytes:
    r"""A JSON document on one line, with the same value: line ends become spaces, and `\n` within texts."""
    parts, end = [], 0
    for text in _STRING.finditer(document):
        parts += [document[end : text.start()].replace(b"\n", b" "), text[0].replace(b"\n", b"\\n")]
        end = text.end()
    return b"".join([*parts, document[end:].replace(b"\n", b" ")])
