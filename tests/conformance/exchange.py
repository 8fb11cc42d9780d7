"""Recorded exchanges: what our sender and a real Fluent Bit sent each other, line by line, in text files.

A line is what happened and, if bytes went over the wire, the bytes in hexadecimal. `78*6143900` is a byte repeated that
many times. What follows two spaces and a `#` is a comment. `tests/tools/record_exchanges.py` writes the files.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from support.command import ROOT

RECORDINGS = ROOT / "tests" / "data" / "exchanges"

What = Literal["connect", ">", "<", "closed", "ingested"]
WHATS: tuple[What, ...] = ("connect", ">", "<", "closed", "ingested")
"""The sender connects; it sends; the receiver answers; the receiver closes the connection; a record came out."""


class Line(NamedTuple):
    """One thing that happened."""

    what: What
    data: bytes = b""  # of ">" and "<"
    text: str = ""  # of "ingested": the record's id, time and tag


def load(name: str) -> list[Line]:
    """The lines of the recording with this name."""
    lines = (RECORDINGS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [_parse(line.partition("  #")[0]) for line in lines if line and not line.startswith("#")]


def _parse(line: str) -> Line:
    what = next(what for what in WHATS if line == what or line.startswith(f"{what} "))
    rest = line[len(what) + 1 :]
    return Line(what, data=_bytes(rest)) if what in {">", "<"} else Line(what, text=rest)


def _bytes(text: str) -> bytes:
    parts = (part.partition("*") for part in text.split())
    return b"".join(bytes.fromhex(piece) * int(times or 1) for piece, _, times in parts)


def ingested(event_id: str, tag: str, time_ns: int) -> Line:
    """A record came out of the receiver."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return Line("ingested", text=f"{event_id} {seconds}.{nanoseconds:09} {tag}")
