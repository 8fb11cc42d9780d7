"""Whether this machine's clock agrees with JumpCloud's. Windows are planned by this machine's clock."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from in_jumpcloud.timestamps import parse_http_date

log = logging.getLogger(__name__)

MAX_SKEW = 300.0
"""Seconds that the clocks may differ by."""
_WARN_EVERY_SECONDS = 3600.0


class ClockSkewMonitor:
    """Compares the `Date` header of responses with this machine's clock, and logs when they differ. Thread-safe."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._skewed = False
        self._warned_at = float("-inf")

    def compare(self, date: str | None, sent_ns: int, received_ns: int) -> None:
        """Compare `date`, the header of a response, with the times the request was sent and the response arrived.

        Both times are in nanoseconds since the epoch. A missing or unreadable date is ignored.
        """
        moment = parse_http_date(date)
        if moment is None:
            return
        theirs = moment.timestamp()
        ahead = max(0.0, sent_ns / 1e9 - theirs) or min(0.0, received_ns / 1e9 - theirs)
        with self._lock:
            if abs(ahead) <= MAX_SKEW:
                if self._skewed:
                    self._skewed = False
                    log.info("this machine's clock agrees with JumpCloud's again")
                return
            self._skewed = True
            if self._clock() - self._warned_at < _WARN_EVERY_SECONDS:
                return
            self._warned_at = self._clock()
        log.warning(
            "this machine's clock is %s %s JumpCloud's; set it (NTP), otherwise events arrive late and requests are "
            "refused",
            timedelta(seconds=round(abs(ahead))),
            "ahead of" if ahead > 0 else "behind",
        )
