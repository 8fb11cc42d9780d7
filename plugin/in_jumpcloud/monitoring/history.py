"""The last hours, a point a minute, and what each stream delivers at present. In memory: a restart begins anew."""

from __future__ import annotations

from collections import deque

import msgspec

from in_jumpcloud.monitoring.snapshot import Snapshot

KEPT = 360
"""Points: six hours."""
_MINUTE_MS = 60_000


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One minute: its end in epoch milliseconds, the events acknowledged in it, and the largest lag in seconds."""

    end_ms: int
    acknowledged: int
    lag: float


class History:
    """Is shown a snapshot once a minute. One thread writes it; others may read meanwhile."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._points: deque[Point] = deque(maxlen=KEPT)
        self._next_ms = _next_minute(snapshot.now_ms)
        self._last = self._before = (snapshot.uptime, _counts(snapshot))

    def is_due(self, now_ms: int) -> bool:
        """Whether a minute has passed; also where the clock was set back meanwhile."""
        return not self._next_ms - _MINUTE_MS <= now_ms < self._next_ms

    def add(self, snapshot: Snapshot) -> None:
        """Keep the minute that has passed."""
        counts = _counts(snapshot)
        acknowledged = sum(_more(counts[name], self._last[1].get(name, 0)) for name in counts)
        lag = max((stream.lag for stream in snapshot.streams), default=0.0)
        self._points.append(Point(snapshot.now_ms // _MINUTE_MS * _MINUTE_MS, acknowledged, round(lag, 1)))
        self._next_ms = _next_minute(snapshot.now_ms)
        self._before, self._last = self._last, (snapshot.uptime, counts)

    def points(self) -> list[Point]:
        """What is kept, the oldest first."""
        return list(self._points)

    def rates(self, snapshot: Snapshot) -> dict[str, float]:
        """By stream, the events acknowledged per minute, over the last one to two minutes."""
        began, before = self._before
        minutes = max(1.0, snapshot.uptime - began) / 60
        return {name: _more(count, before.get(name, 0)) / minutes for name, count in _counts(snapshot).items()}


def _counts(snapshot: Snapshot) -> dict[str, int]:
    return {stream.name: stream.counters.acknowledged for stream in snapshot.streams}


def _more(count: int, before: int) -> int:
    """What was added; a stream that was set up anew counts from nothing."""
    return count - before if count >= before else count


def _next_minute(now_ms: int) -> int:
    return (now_ms // _MINUTE_MS + 1) * _MINUTE_MS
