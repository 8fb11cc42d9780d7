"""The progress of a stream that is far behind now, and one line about it a minute."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from in_jumpcloud.errors import InJumpCloudError, Stopped
from in_jumpcloud.progress import Pace, Progress, share_done
from in_jumpcloud.timestamps import rfc3339

log = logging.getLogger(__name__)

REPORT_SECONDS = 60.0
"""How often the progress is logged."""
_COUNT_AFTER_SECONDS = 5.0
"""A stream that catches up sooner needs no count."""
_COUNT_EVERY_SECONDS = 600.0
_COUNT_EVERY_PAGES = 10
"""A count costs a request: it must not take the place of a page where few requests are allowed."""


class CatchUp:
    """From where a stream was found to be behind until `end`. One thread at a time uses it; any may read `progress`."""

    def __init__(
        self, name: str, count: Callable[[int, int, threading.Event], int], monotonic: Callable[[], float]
    ) -> None:
        """`count` returns how many events JumpCloud has of `[start_ms, end_ms)`."""
        self._name = name
        self._count = count
        self._monotonic = monotonic
        self._is_over = True
        self._from_ms = self._from_events = 0
        self._expected: int | None = None
        self._count_at = self._report_at = 0.0
        self._pages = 0  # since the last count
        self._pace = Pace()

    @property
    def progress(self) -> Progress | None:
        """How far it has come since it began; None while it is not behind."""
        return None if self._is_over else self._pace.progress(self._monotonic(), self._expected)

    def note(self, reached_ms: int, until_ms: int, events: int, stop: threading.Event) -> None:
        """The stream is behind: with a page it came to `reached_ms` of `until_ms`, and has received so many events.

        Raises:
            Stopped: `stop` was set.
        """
        now = self._monotonic()
        if self._is_over:
            self._is_over, self._pace, self._expected = False, Pace(), None
            self._from_ms, self._from_events = reached_ms, events
            self._count_at, self._report_at = now + _COUNT_AFTER_SECONDS, now + REPORT_SECONDS
            self._pages = 0
        done = events - self._from_events
        self._pages += 1
        if now >= self._count_at and self._pages >= _COUNT_EVERY_PAGES:
            self._count_at, self._pages = now + _COUNT_EVERY_SECONDS, 0
            self._ask(done, reached_ms, until_ms, stop)
            now = self._monotonic()
        self._pace.note(now, done, share_done(done, self._expected, reached_ms, (self._from_ms, until_ms)))
        if now >= self._report_at:
            self._report_at = now + REPORT_SECONDS
            log.info("%s: catching up, at %s: %s", self._name, rfc3339(reached_ms), self.progress)

    def end(self) -> None:
        """It is no longer behind."""
        if not self._is_over:
            self._is_over, self._pace = True, Pace()

    def _ask(self, done: int, reached_ms: int, until_ms: int, stop: threading.Event) -> None:
        if reached_ms >= until_ms:
            return
        try:
            self._expected = done + self._count(reached_ms, until_ms, stop)
        except Stopped:
            raise
        except InJumpCloudError as error:  # the share of the time is shown
            self._expected = None
            log.debug("%s: its events are not counted: %s", self._name, error)
