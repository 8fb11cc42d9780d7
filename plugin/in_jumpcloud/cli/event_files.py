"""Raw events in files as people have them: NDJSON, arrays, indented objects; plain or gzip; UTF-8 or UTF-16."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from in_jumpcloud.errors import Fatal
from in_jumpcloud.insights.event import is_json

Event = bytes | msgspec.Raw
Report = Callable[[str], None]

STANDARD_INPUT = Path("-")
_GZIP = b"\x1f\x8b"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MAX_DEPTH = 128
"""Levels of a value on several lines: what does not end nests deeper with each line."""
_PREVIEW = 60  # characters of a line in a message

# A string, whose group is empty if it does not end on its line, or one structural character.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)|[\[\]{},]', re.DOTALL)
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


def read_events(files: Sequence[Path], report: Report) -> Iterator[Event]:
    """The events in `files`, or in standard input if there are none; STANDARD_INPUT may be one of them.

    What cannot be read is passed to `report`, as one line of text, and left out. Only the value that is being read is
    held in memory.

    Raises:
        Fatal: standard input is closed.
    """
    for file in files or [STANDARD_INPUT]:
        if file == STANDARD_INPUT:
            if sys.stdin is None:
                raise Fatal("standard input is closed")
            yield from _read(sys.stdin.buffer, "standard input", report)
            continue
        try:
            stream = file.open("rb")
        except OSError as error:
            report(f"{file}: cannot be read: {error.strerror}")
            continue
        with stream:
            yield from _read(stream, str(file), report)


def _read(stream: BinaryIO, name: str, report: Report) -> Iterator[Event]:
    return _Splitter(_lines(stream, name, report), name, report).events()


def _lines(stream: BinaryIO, name: str, report: Report) -> Iterator[bytes]:
    """The lines of a stream as UTF-8."""
    try:
        head = stream.read(len(_GZIP))
        if head == _GZIP:
            stream = gzip.GzipFile(fileobj=_Rest(head, stream))  # type: ignore[assignment]
            head = stream.read(len(_UTF_16[0]))
        rest = io.BufferedReader(_Rest(head, stream))
        if head in _UTF_16:
            # A lone surrogate stays one, and is reported in the record of its event.
            text = io.TextIOWrapper(rest, encoding="utf-16", errors="surrogatepass", newline="\n")
            yield from (line.encode(errors="surrogatepass") for line in text)
            return
        yield next(rest, b"").removeprefix(codecs.BOM_UTF8)
        yield from rest
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        report(f"{name}: cannot be read to its end: {getattr(error, 'strerror', None) or error}")


class _Rest(io.RawIOBase):
    """A stream whose first bytes, `head`, were read already. Waits for no more bytes than there are."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head, self._stream = head, stream

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read into `buffer`; returns the number of bytes."""
        part = self._head or self._stream.read1(len(buffer))  # type: ignore[attr-defined]
        part, self._head = part[: len(buffer)], part[len(buffer) :] if self._head else b""
        buffer[: len(part)] = part
        return len(part)


class _NotJson(Exception):
    """What is being read is not JSON, and its end is not certain; the argument is the rest of the line."""


class _Splitter:
    """Splits lines into JSON values: the elements of arrays, and values one after the other.

    What is not JSON is reported with the number of its first line. If its end is certain, because its brackets match
    or it is between commas of an array, reading continues after it. Otherwise the rest of its first line is left out,
    and its other lines are read again: a value that does not end has swallowed those behind it.
    """

    def __init__(self, lines: Iterable[bytes], name: str, report: Report) -> None:
        self._lines = enumerate(lines, 1)
        self._again: deque[tuple[int, bytes]] = deque()
        self._name, self._report = name, report
        self._array = 0  # the line on which the array begins; 0 outside an array
        self._may_have_ended = False  # the array: something was left out that has a closing bracket
        self._value: list[tuple[int, bytes]] = []  # the lines of the value that has begun
        self._depth = 0  # its open brackets
        self._indent = 0  # of its first line
        self._skip = False  # lines that are indented further than the value that was refused

    def events(self) -> Iterator[Event]:
        """Every value that is JSON."""
        while (numbered := self._next_line()) or self._value:
            number, line = numbered or (0, b"")
            if not number or (self._value and self._begins_another(line)):
                self._refuse(number, line)
                continue
            try:
                yield from self._whole(line.strip()) or self._scan(number, line)
            except _NotJson as error:
                self._refuse(number, error.args[0])
        if self._array and not self._may_have_ended:
            self._report(f"{self._name}: line {self._array}: the array that begins here does not end")

    def _next_line(self) -> tuple[int, bytes] | None:
        """The next line that is not empty, with its number."""
        while numbered := self._again.popleft() if self._again else next(self._lines, None):
            number, line = numbered
            if not line.strip() or (self._skip and _indent(line) > self._indent):
                continue
            if self._skip and line.lstrip().startswith(b"}"):  # the end of the value that was refused
                line = line.lstrip().lstrip(b"}, \t")
            self._skip = False
            return number, line
        return None

    def _whole(self, text: bytes) -> Sequence[Event]:
        """The events of a line that is a whole object or array, as most are; empty if it is not."""
        if self._value:
            return ()
        try:
            if text.startswith(b"{"):
                _decode_object(text := text.removesuffix(b","))
                return (text,)
            return _decode_array(text) if text.startswith(b"[") and not self._array else ()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return ()

    def _begins_another(self, line: bytes) -> bool:
        """Whether the value that has begun does not end: another one begins where it cannot have one in itself."""
        before = self._value[-1][1].rstrip()[-1:]
        return self._depth > _MAX_DEPTH or (line.lstrip()[:1] in (b"{", b"[") and before not in (b"[", b",", b":"))

    def _scan(self, number: int, line: bytes) -> Iterator[Event]:
        """The events that end on a line.

        Raises:
            _NotJson: something on the line is not JSON, and where it ends is not certain.
        """
        begin = 0  # of the part of the line that is not used yet
        for token in _TOKEN.finditer(line):
            character = token[0][:1]
            if character == b'"':
                if not token[1]:
                    raise _NotJson(line[begin:])
            elif self._depth:
                self._depth += 1 if character in b"{[" else -1 if character in b"]}" else 0
                if self._depth == 0:
                    first = self._value[0][0] if self._value else number
                    value = b"".join(part for _, part in self._value) + line[begin : token.end()]
                    if self._is_event(first, value, line[begin:]):
                        yield value
                    self._value, begin = [], token.end()
            else:
                if self._is_event(number, text := line[begin : token.start()].strip(), line[begin:]):
                    yield text
                begin = token.start()
                if character == b"{" or (character == b"[" and self._array and not self._may_have_ended):
                    self._depth, self._indent = 1, _indent(line)
                    continue
                if character == b"[":
                    self._array, self._may_have_ended = number, False
                elif character == b"]" and self._array:
                    self._array = 0
                elif character != b",":
                    raise _NotJson(line[begin:])
                begin = token.end()
        if self._depth:
            self._value.append((number, line[begin:]))
        elif self._is_event(number, text := line[begin:].strip(), line[begin:]):
            yield text

    def _is_event(self, number: int, text: bytes, rest: bytes) -> bool:
        """Whether `text` is an event. What is not JSON is reported, or raises _NotJson with the `rest` of the line."""
        if not text or is_json(text):
            return bool(text)
        if not (_brackets_match(text) if text[:1] in (b"{", b"[") else self._array):
            raise _NotJson(rest)
        self._report_value(number, text)
        return False

    def _refuse(self, number: int, rest: bytes) -> None:
        """Report the value that has begun, or else the rest of a line; read the lines after its first one again."""
        lines = [*self._value, (number, rest)] if number else self._value
        first, text = lines[0]
        self._again.extendleft(each for each in reversed(lines) if each[0] != first)
        self._skip, self._value, self._depth = bool(self._depth or self._value), [], 0
        self._may_have_ended |= b"]" in text
        self._report_value(first, text, "the rest of the line is ")

    def _report_value(self, number: int, text: bytes, what: str = "") -> None:
        preview = b" ".join(text[: 4 * _PREVIEW].split()).decode(errors="replace")[:_PREVIEW]
        self._report(f"{self._name}: line {number}: {what}not JSON: {preview!r}")


def _brackets_match(value: bytes) -> bool:
    """Whether each bracket of a value is closed by one of its kind, the first one by the last."""
    closing = []
    for token in _TOKEN.finditer(value):
        if token[0] in (b"{", b"["):
            closing.append(b"}" if token[0] == b"{" else b"]")
        elif token[0] in (b"}", b"]") and closing.pop() != token[0]:
            return False
    return not closing


def _indent(line: bytes) -> int:
    return len(line) - len(line.lstrip(b" \t"))
