"""The last six hours, one point per minute, and the current rate of each stream. Kept in memory only."""

from __future__ import annotations

from collections import deque

import msgspec

from in_jumpcloud.monitoring.snapshot import Snapshot
from in_jumpcloud.timestamps import MINUTE_MS, whole_minute

MAX_POINTS = 360


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One minute: its end in epoch milliseconds, the events acknowledged in it, and the largest lag in seconds."""

    end_ms: int
    acknowledged: int
    lag: float


class History:
    """Takes a snapshot once a minute. One thread writes; others may read at the same time."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._points: deque[Point] = deque(maxlen=MAX_POINTS)
        self._next_ms = _next_minute(snapshot.now_ms)
        self._last = self._second_last = (snapshot.uptime, snapshot.survey.acknowledged)

    def is_due(self, now_ms: int) -> bool:
        """Whether the next point is due. A clock that was set back makes it due at once."""
        return not self._next_ms - MINUTE_MS <= now_ms < self._next_ms

    def until_due(self, now_ms: int) -> float:
        """Seconds until the next point is due."""
        return 0.0 if self.is_due(now_ms) else (self._next_ms - now_ms) / 1000

    def add(self, snapshot: Snapshot) -> None:
        """Add the point of the minute that ended."""
        counts = snapshot.survey.acknowledged
        _, before = self._last
        acknowledged = sum(_increase(count, before.get(name, 0)) for name, count in counts.items())
        lag = round(snapshot.survey.max_lag, 1)
        self._points.append(Point(whole_minute(snapshot.now_ms), acknowledged, lag))
        self._next_ms = _next_minute(snapshot.now_ms)
        self._second_last, self._last = self._last, (snapshot.uptime, counts)

    def points(self) -> list[Point]:
        """All points, the oldest first."""
        return list(self._points)

    def rates(self, snapshot: Snapshot) -> dict[str, float]:
        """Events acknowledged per minute, by stream that is shown, over the last one to two minutes.

        In the first minute it is what was acknowledged so far: a second is not taken for a minute.
        """
        began, before = self._second_last
        minutes = max(60.0, snapshot.uptime - began) / 60
        return {
            each.name: _increase(each.counters.acknowledged, before.get(each.name, 0)) / minutes
            for each in snapshot.streams
        }


def _increase(count: int, before: int) -> int:
    """The increase of a counter; a reload may have restarted it from 0."""
    return count - before if count >= before else count


def _next_minute(now_ms: int) -> int:
    return whole_minute(now_ms) + MINUTE_MS
