"""Late events: finds the time spans in which JumpCloud counts other events than the ledger, to be read again."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import msgspec

from in_jumpcloud.config.schema import Config
from in_jumpcloud.counters import plural
from in_jumpcloud.errors import CountsUnavailable
from in_jumpcloud.insights.window import Position, Window
from in_jumpcloud.state.store import StateStore
from in_jumpcloud.timestamps import HOUR_MS, MINUTE_MS, remaining_ms

log = logging.getLogger(__name__)

MERGE_WITHIN_MINUTES = 5
"""Minutes that differ are read in one span if fewer minutes than this are between them: a request costs more."""
_REREAD_WITHOUT_COUNTS_MS = 6 * HOUR_MS

Counts = Mapping[int, int]
"""The number of events by minute since the epoch."""


class Reconciler:
    """Compares the counts of one stream with the ledger, and queues the windows that must be read again."""

    def __init__(
        self, stream: str, count: Callable[[int, int, threading.Event], Counts], state: StateStore, settings: Config
    ) -> None:
        """`count` asks JumpCloud for the counts between two times in epoch milliseconds."""
        self._stream = stream
        self._count = count
        self._state = state
        self._settings = settings
        self._windows: deque[Window] = deque()
        self._mismatches = CountMismatches()
        self._next_comparison_ms = 0
        self._next_reread_without_counts_ms = 0

    @property
    def window(self) -> Window | None:
        """The window to read again next."""
        return self._windows[0] if self._windows else None

    def until_due_ms(self, now_ms: int) -> int:
        """Milliseconds until the next comparison."""
        return remaining_ms(self._next_comparison_ms, now_ms, self._settings.reconcile.every.ms)

    def compare(self, position: Position, now_ms: int, limit: int, stop: threading.Event) -> None:
        """Compare the counts, and queue windows of `limit` events a page for the minutes that differ.

        It leaves out the newest minutes, which are still being polled, and the time before the stream began.

        Raises:
            Retryable, RequestRejected, Stopped: as DirectoryInsights.counts.
        """
        settings = self._settings
        self._next_comparison_ms = now_ms + settings.reconcile.every.ms
        start = -(-max(position.origin_ms, now_ms - settings.reconcile.window.ms) // MINUTE_MS)
        end = (position.watermark_ms - settings.jumpcloud.overlap.ms) // MINUTE_MS
        if start >= end:
            return
        try:
            theirs = self._count(start * MINUTE_MS, end * MINUTE_MS, stop)
        except CountsUnavailable as error:
            if now_ms < self._next_reread_without_counts_ms:
                return
            self._next_reread_without_counts_ms = now_ms + _REREAD_WITHOUT_COUNTS_MS
            log.warning("%s: %s; re-reading all of reconcile.window", self._stream, error)
            differing = [(start * MINUTE_MS, end * MINUTE_MS)]
        else:
            differing = spans(self._mismatches.minutes(theirs, self._state.counts(self._stream, start, end)))
            if differing:
                log.info(
                    "%s: counts differ in %s; re-reading %s",
                    *(self._stream, plural(len(differing), "time span"), "it" if len(differing) == 1 else "them"),
                )
        services = settings.jumpcloud.services
        self._windows.extend(
            Window(start_ms=start_ms, end_ms=end_ms, services=services, limit=limit) for start_ms, end_ms in differing
        )

    def window_done(self) -> None:
        """The first window was read to its end."""
        self._windows.popleft()

    def set_limit(self, limit: int) -> None:
        """Change the number of events a page of all queued windows."""
        self._windows = deque(msgspec.structs.replace(window, limit=limit) for window in self._windows)

    def abandon(self) -> None:
        """Drop the queued windows: JumpCloud rejects requests. The next comparison finds their minutes again."""
        self._windows.clear()
        self._mismatches.forget()


class CountMismatches:
    """Compares counts by minute, and remembers the minutes that still differ after a second reading.

    Some minutes never agree: JumpCloud counts an event in another minute than its timestamp says, or twice. Such a
    minute is read again once, and then only when a count has changed.
    """

    def __init__(self) -> None:
        self._settled: dict[int, tuple[int, int]] = {}
        self._requested: dict[int, int] = {}

    def minutes(self, theirs: Counts, ours: Counts) -> list[int]:
        """The minutes to read again, in order."""
        different = {
            minute: theirs.get(minute, 0)
            for minute in theirs.keys() | ours.keys()
            if theirs.get(minute, 0) != ours.get(minute, 0)
        }
        # A minute that was requested last time and still differs has been read: another reading will not settle it.
        self._settled = {
            minute: (count, ours.get(minute, 0))
            for minute, count in different.items()
            if self._requested.get(minute) == count or self._settled.get(minute) == (count, ours.get(minute, 0))
        }
        self._requested = {minute: count for minute, count in different.items() if minute not in self._settled}
        return sorted(self._requested)

    def forget(self) -> None:
        """The minutes requested last were not read to the end."""
        self._requested = {}


def spans(minutes: Iterable[int]) -> list[tuple[int, int]]:
    """Group minutes since the epoch into spans `[start, end)` in epoch milliseconds."""
    grouped: list[tuple[int, int]] = []
    for minute in sorted(minutes):
        start = minute * MINUTE_MS
        if grouped and start - grouped[-1][1] < MERGE_WITHIN_MINUTES * MINUTE_MS:
            grouped[-1] = (grouped[-1][0], start + MINUTE_MS)
        else:
            grouped.append((start, start + MINUTE_MS))
    return grouped
