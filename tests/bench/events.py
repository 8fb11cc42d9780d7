"""A file of events, one a line, of which any page is one slice."""

from __future__ import annotations

import argparse
import os
import time
from array import array
from bisect import bisect_left
from pathlib import Path

import msgspec

from in_jumpcloud.simulator.events import EventSource

DAYS = 14
"""The span of the events; the default jumpcloud.start is one day earlier."""
_DAY_MS = 86_400_000
_STEP_MS = _DAY_MS // 24
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


def write(path: Path, events: int, *, bytes_each: int = 0, unlike: bool = False) -> None:
    """Write this many of the simulator's events, the last a minute ago; each has 1.2 kB, or `bytes_each` if larger.

    `unlike`: each has a different user name.
    """
    end_ms = (time.time_ns() // 1_000_000 // 60_000 - 1) * 60_000
    start_ms = end_ms - DAYS * _DAY_MS
    source = EventSource(seed=1, start_ms=start_ms, end_ms=end_ms, per_minute=(events + 1) / (DAYS * 1440))
    times, ends, length = array("Q"), array("Q"), 0
    with path.open("wb") as file:
        for step_ms in range(start_ms, end_ms, _STEP_MS):
            for item in source.between(step_ms, step_ms + _STEP_MS, now_ms=end_ms):
                if len(times) == events:
                    break
                raw = _larger(item.raw, bytes_each) if bytes_each else item.raw
                if unlike:
                    raw = _unlike(raw, len(times))
                length += file.write(raw + b"\n")
                times.append(item.timestamp_ms)
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


def _unlike(raw: bytes, number: int) -> bytes:
    """The event with a unique user name."""
    return msgspec.json.encode(msgspec.json.decode(raw) | {"username": f"{number:06x}"})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("events", type=int)
    parser.add_argument("--bytes-each", type=int, default=0)
    parser.add_argument("--unlike", action="store_true")
    arguments = parser.parse_args()
    write(arguments.path, arguments.events, bytes_each=arguments.bytes_each, unlike=arguments.unlike)


if __name__ == "__main__":
    main()
