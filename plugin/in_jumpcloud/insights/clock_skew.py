"""Whether this machine's clock agrees with JumpCloud's: windows are planned by it."""

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
_SAY_AGAIN = 3600.0


class ClockSkewMonitor:
    """Compares the `Date` of answers with our own time, and tells when the two part, and when they agree again."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._wrong = False
        self._said = float("-inf")

    def compare(self, date: str | None, sent_ns: int, received_ns: int) -> None:
        """`date`: the header of an answer to a request that went out and came back at these times of ours."""
        moment = parse_http_date(date)
        if moment is None:
            return
        theirs = moment.timestamp()
        ahead = max(0.0, sent_ns / 1e9 - theirs) or min(0.0, received_ns / 1e9 - theirs)
        with self._lock:
            if abs(ahead) <= MAX_SKEW:
                if self._wrong:
                    self._wrong = False
                    log.info("this machine's clock agrees with JumpCloud's again")
                return
            self._wrong = True
            if self._clock() - self._said < _SAY_AGAIN:
                return
            self._said = self._clock()
        log.warning(
            "this machine's clock is %s %s JumpCloud's: set it (NTP), or events come late and requests are refused",
            timedelta(seconds=round(abs(ahead))),
            "ahead of" if ahead > 0 else "behind",
        )
