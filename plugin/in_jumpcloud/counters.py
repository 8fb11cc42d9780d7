"""Counters and liveness. The code that does the work updates them; monitoring reads them."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of a histogram's buckets, in seconds. One more bucket holds everything slower."""


def plural(count: int, noun: str) -> str:
    """`1 stream`, `2 streams`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@dataclass(slots=True)
class Liveness:
    """When a stream last showed activity, in seconds of the monotonic clock."""

    monotonic: Callable[[], float] = time.monotonic
    touched_at: float = field(init=False)
    """The last activity: a page arrived, a chunk is being sent, a wait ended."""
    progress_at: float = field(init=False)
    """The last new ids that were committed, the last window that was completed, or the start of the process."""
    due_at: float | None = 0.0
    """When a worker must run the stream; None while a worker runs it."""
    caught_up_once: bool = False
    """Whether it has caught up since the process started."""

    def __post_init__(self) -> None:
        self.mark_progress()

    def touch(self) -> None:
        """Record activity."""
        self.touched_at = self.monotonic()

    def mark_progress(self) -> None:
        """Record new ids or a completed window."""
        self.progress_at = self.touched_at = self.monotonic()

    def begin(self) -> float:
        """A worker starts a step of the stream. Returns for how many seconds it was due."""
        due_at, self.due_at = self.due_at, None
        self.touch()
        return max(0.0, self.touched_at - due_at) if due_at else 0.0

    def around(self, step: Callable[[], float]) -> float:
        """A step of a worker, which returns the seconds until the next one is due, or raises: then it is due now."""
        delay = 0.0
        self.begin()
        try:
            delay = step()
        finally:
            self.idle(delay)
        return delay

    def idle(self, seconds: float) -> None:
        """The step ended. The next one is due in `seconds`."""
        self.touch()
        self.due_at = self.touched_at + seconds


@dataclass(slots=True)
class Counters:
    """Counters of one stream since the process started. Only its collector writes them."""

    pages: int = 0
    page_bytes: int = 0
    received: int = 0
    duplicates: int = 0
    """Events that the ledger knew: read again because of the overlap or a restart, and not sent again."""
    late: int = 0
    """Events that appeared only after their time had been polled."""
    latest_seconds: float = 0.0
    """The longest delay between the timestamp and the arrival of a late event."""
    foreign: int = 0
    """Events of an organization other than the requested one. They are delivered too."""
    mapped: int = 0
    with_problems: int = 0
    """Events that could not be mapped completely. They are delivered too."""
    looked_up: int = 0
    """Events with an address that the GeoIP database has a place for."""
    sent: int = 0
    """Records sent. A resend counts again."""
    sent_bytes: int = 0
    """Bytes of these messages. A resend counts again."""
    acknowledged: int = 0
    """Records that were acknowledged and committed."""
    dead_lettered: int = 0
    """Events that the receiver refuses for good, kept on disk."""
    open_minutes: int = 0
    """Minutes in which JumpCloud counts other events than the ledger; they are read again."""
    given_up_minutes: int = 0
    """Minutes that still differed when they left the reach, or after the last re-read."""
    unavailable_seconds: float = 0.0
    """Time before what the plan of the organization reaches, and was therefore not collected."""
    left_out: int = 0
    """Events that are larger than jumpcloud.event_max_bytes and were not collected."""
    unexpected: int = 0
    """Errors that are defects of this program. The page is delivered again."""
    unexpected_in_a_row: int = 0
    poll_gap: float = 0.0
    """Seconds between polls: jumpcloud.interval, and how long the last one waited for a worker."""
    parked: int = 0
    """Events that the receiver refused alone, and that are sent once more."""
    in_flight: tuple[int, int] | None = None
    """The time of the oldest unacknowledged event, and when its page arrived; both in epoch nanoseconds."""
    awaits_ack: bool = False
    """Whether a chunk is being sent, or its ack awaited."""
    held_up: tuple[Exception, float] | None = None
    """Why the delivery under way cannot go on and is tried again, and since when, by the monotonic clock."""
    liveness: Liveness = field(default_factory=Liveness)

    @property
    def needs_attention(self) -> bool:
        """Whether something was counted that a person should know."""
        counted = self.open_minutes or self.given_up_minutes or self.left_out or self.parked
        return bool(counted or self.unavailable_seconds or self.unexpected_in_a_row)

    def hold_up(self, error: Exception) -> None:
        """The delivery waits because of `error`, for the first time or still."""
        self.held_up = (error, self.held_up[1] if self.held_up else self.liveness.monotonic())

    def found_late(self, seconds: float) -> None:
        """Count one late event, which arrived `seconds` after its timestamp."""
        self.late += 1
        self.latest_seconds = max(self.latest_seconds, seconds)


class LatencyHistogram:
    """A histogram of durations in seconds. Threads may share it."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        with self._lock:
            self._counts[bisect_left(BOUNDS, seconds)] += 1
            self._sum += seconds

    def mean(self) -> float:
        """The mean duration; 0 before the first."""
        counts, total = self.read()
        return total / sum(counts) if any(counts) else 0.0

    def read(self) -> tuple[list[int], float]:
        """The count of each bucket (one more than BOUNDS, not cumulative), and the sum of all durations."""
        with self._lock:
            return list(self._counts), self._sum


class RequestCounters:
    """Counts API requests by the status of the response. Threads may share it."""

    def __init__(self) -> None:
        self.latencies = LatencyHistogram()
        self._codes: dict[str, int] = {}
        self._lock = threading.Lock()

    def count(self, status: int | None, seconds: float) -> None:
        """Count one request that took `seconds`. A `status` of None, no complete response, has the code "none"."""
        code = "none" if status is None else str(status)
        with self._lock:
            self._codes[code] = self._codes.get(code, 0) + 1
        self.latencies.observe(seconds)

    def codes(self) -> dict[str, int]:
        """The number of requests of each code."""
        with self._lock:
            return dict(self._codes)
