"""What was done, in numbers; each is written where the work is done, and read by whoever watches."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from dataclasses import dataclass, field

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds: the upper bounds of the buckets of a histogram; one more bucket holds what took longer."""


@dataclass(slots=True)
class Liveness:
    """When a stream last showed that it is alive; seconds of the monotonic clock."""

    touched_at: float = field(default_factory=time.monotonic)
    """The last sign of life: a page, a chunk that is sent, a wait that has ended."""
    progress_at: float = field(default_factory=time.monotonic)
    """The last time that something was committed, or the beginning."""
    due_at: float | None = 0.0
    """When a worker is to take it up; None while one is at it."""
    caught_up_once: bool = False
    """Whether it has ever come up to now since the process began."""

    def touch(self) -> None:
        """It goes on."""
        self.touched_at = time.monotonic()

    def mark_progress(self) -> None:
        """It goes on, and is further than before."""
        self.progress_at = self.touched_at = time.monotonic()

    def begin(self) -> None:
        """A worker is at it."""
        self.due_at = None
        self.touch()

    def idle(self, seconds: float) -> None:
        """No worker need look at it for so long."""
        self.touch()
        self.due_at = self.touched_at + seconds


@dataclass(slots=True)
class Counters:
    """Counts of one stream since the process began; written by its collector alone."""

    pages: int = 0
    page_bytes: int = 0
    received: int = 0
    duplicates: int = 0
    """Events that the ledger knew: read again by the overlap or after a restart, and not sent again."""
    late: int = 0
    """Events that appeared only after their time had been asked for."""
    latest_seconds: float = 0.0
    """By how much the latest of them came after its timestamp."""
    foreign: int = 0
    """Events of another organization than the one asked for; delivered all the same."""
    mapped: int = 0
    with_problems: int = 0
    """Events that could not be mapped as a whole; delivered all the same."""
    looked_up: int = 0
    sent: int = 0
    """Records in chunks that were sent, each sending counted."""
    sent_bytes: int = 0
    """Of those messages, each sending counted."""
    acknowledged: int = 0
    """Records whose chunk was acknowledged and committed."""
    dead_lettered: int = 0
    """Events that the receiver refuses for good, kept on disk."""
    in_flight: tuple[int, int] | None = None
    """The oldest event that is fetched and not yet acknowledged: its time and that of its page, epoch nanoseconds."""
    liveness: Liveness = field(default_factory=Liveness)

    def found_late(self, seconds: float) -> None:
        """Count one late event, so many seconds after its timestamp."""
        self.late += 1
        self.latest_seconds = max(self.latest_seconds, seconds)


class LatencyHistogram:
    """A histogram of seconds. Several threads may write it."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, seconds: float) -> None:
        """Count one that took so long."""
        with self._lock:
            self._counts[bisect_left(BOUNDS, seconds)] += 1
            self._sum += seconds

    def read(self) -> tuple[list[int], float]:
        """How many took up to each of BOUNDS and no less than the one before, and longer; and the sum of all."""
        with self._lock:
            return list(self._counts), self._sum


class RequestCounters:
    """The requests of the API, by the status of the answer. Several threads may write it."""

    def __init__(self) -> None:
        self.latencies = LatencyHistogram()
        self._codes: dict[str, int] = {}
        self._lock = threading.Lock()

    def count(self, status: int | None, seconds: float) -> None:
        """Count one, answered with this status after so long; None: no whole answer came, "none" among the codes."""
        code = "none" if status is None else str(status)
        with self._lock:
            self._codes[code] = self._codes.get(code, 0) + 1
        self.latencies.observe(seconds)

    def codes(self) -> dict[str, int]:
        """How many there were of each code."""
        with self._lock:
            return dict(self._codes)
