"""A file of events, one a line, of which any page is one slice."""

from __future__ import annotations

import argparse
import os
import time
from array import array
from bisect import bisect_left
from pathlib import Path

import msgspec
from bench import organizations

DAYS = 14
"""The span of the events; the default jumpcloud.start is one day earlier."""
_DAY_MS = 86_400_000
_CHANGE = 105  # bytes of JSON of one change in an event that is made larger


class EventFile:
    """The events at `path`, ordered by time. The bytes of a page are contiguous; only the commas are missing.

    They are read, not mapped, because mapped bytes count as memory of the process.
    """

    def __init__(self, path: Path) -> None:
        index = array("Q")
        index.frombytes(path.with_suffix(".index").read_bytes())
        self.count = len(index) // 2
        self.times_ms = index[: self.count]
        self._ends = index[self.count :]
        self._file = os.open(path, os.O_RDONLY)

    def first(self, at_ms: int) -> int:
        """The index of the first event at or after this time, in epoch milliseconds."""
        return bisect_left(self.times_ms, at_ms)

    def page(self, begin: int, end: int) -> bytes:
        """The events with the indexes [begin, end), as a JSON array."""
        if begin >= end:
            return b"[]"
        start = self._ends[begin - 1] if begin else 0
        lines = os.pread(self._file, self._ends[end - 1] - start - 1, start)
        return b"[" + lines.replace(b"\n", b",") + b"]"


def write(path: Path, events: int, *, bytes_each: int = 0) -> None:
    """Write this many events of synthetic organizations, the last a minute ago; see bench.organizations.

    Each has 1.2 kB, or `bytes_each` if larger.
    """
    end_ms = (time.time_ns() // 1_000_000 // 60_000 - 1) * 60_000
    start_ms = end_ms - DAYS * _DAY_MS
    times, ends, length = array("Q"), array("Q"), 0
    with path.open("wb") as file:
        for time_ms, raw in organizations.events(events, start_ms, end_ms):
            length += file.write((_larger(raw, bytes_each) if bytes_each else raw) + b"\n")
            times.append(time_ms)
            ends.append(length)
    path.with_suffix(".index").write_bytes(times.tobytes() + ends.tobytes())


def _larger(raw: bytes, size: int) -> bytes:
    """The event with enough changes to have about this size."""
    event = msgspec.json.decode(raw)
    changes = range((size - len(raw)) // _CHANGE)
    event["changes"] = [
        {"field": f"attributes.custom{number:06d}", "from": f"{number:024x}", "to": f"{number * 7:024x}"}
        for number in changes
    ]
    return msgspec.json.encode(event)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("events", type=int)
    parser.add_argument("--bytes-each", type=int, default=0)
    arguments = parser.parse_args()
    write(arguments.path, arguments.events, bytes_each=arguments.bytes_each)


if __name__ == "__main__":
    main()
