"""An exchange: what a client and a receiver did to each other, line by line, and the text files that keep it.

A line is what happened and, where bytes went over the wire, the bytes. In a file they stand in hexadecimal; a piece
that is repeated many times is written once, such as `78*6143900`, and what is behind two blanks and a `#` is a comment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from conformance.reading import readable

What = Literal["connect", ">", "<", "gap", "closed", "silent", "hang up", "resume", "ingested"]
WHATS: tuple[What, ...] = ("connect", ">", "<", "gap", "closed", "silent", "hang up", "resume", "ingested")
"""The client connects; it sends; the receiver answers; the client waits until all is read; the receiver closes; it
says nothing for so many seconds; the client hangs up; whatever held the receiver up ends; a record has come out."""

_LONGEST_PIECE = 64
_WORTH_IT = 48  # bytes that a repetition has to save


class Line(NamedTuple):
    """One thing that happened."""

    what: What
    data: bytes = b""  # of ">" and "<"
    text: str = ""  # of the others: how to connect, seconds, a record


class Exchange(NamedTuple):
    """All that happened in one case."""

    header: Mapping[str, str]
    lines: tuple[Line, ...]

    def save(self, path: Path) -> None:
        """Write it to a file."""
        header = [f"# {name}: {value}\n" for name, value in self.header.items()]
        path.write_text("".join([*header, "\n", *(f"{_written(line)}\n" for line in self.lines)]), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Exchange:
        """Read a file that `save` wrote."""
        header: dict[str, str] = {}
        lines = []
        for line in filter(None, path.read_text(encoding="utf-8").splitlines()):
            if line.startswith("# "):
                name, _, value = line[2:].partition(": ")
                header[name] = value
            else:
                lines.append(_read(line))
        return cls(header, tuple(lines))


def _written(line: Line) -> str:
    if line.what in {">", "<"}:
        return f"{line.what} {shortened(line.data)}  # {readable(line.data)}"
    return f"{line.what} {line.text}".rstrip()


def _read(line: str) -> Line:
    line = line.partition("  #")[0]
    what = next(what for what in WHATS if line == what or line.startswith(f"{what} "))
    rest = line[len(what) + 1 :]
    return Line(what, data=lengthened(rest)) if what in {">", "<"} else Line(what, text=rest)


def shortened(data: bytes) -> str:
    """Bytes in hexadecimal, repetitions written as `piece*times`."""
    return " ".join(f"{piece.hex()}*{times}" if times > 1 else piece.hex() for piece, times in _pieces(data))


def lengthened(text: str) -> bytes:
    """The bytes that `shortened` wrote."""
    parts = (part.partition("*") for part in text.split())
    return b"".join(bytes.fromhex(piece) * int(times or 1) for piece, _, times in parts)


def _pieces(data: bytes) -> Iterator[tuple[bytes, int]]:
    start = at = 0
    while at < len(data):
        for width in range(1, _LONGEST_PIECE + 1):
            piece = data[at : at + width]
            if data[at + width : at + 2 * width] != piece:
                continue
            times = _times(data, at, piece)
            if (times - 1) * width >= _WORTH_IT:
                if start < at:
                    yield data[start:at], 1
                yield piece, times
                start = at = at + times * width
                break
        else:
            at += 1
    if start < len(data):
        yield data[start:], 1


def _times(data: bytes, at: int, piece: bytes) -> int:
    """How often `piece` stands in a row from `at` on."""
    end = at
    for run in (piece * 4096, piece * 64, piece):
        while data.startswith(run, end):
            end += len(run)
    return (end - at) // len(piece)
