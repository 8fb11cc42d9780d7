"""The clock by which positions move: the earlier of this machine's clock and JumpCloud's.

A window that ends in JumpCloud's future would be taken for read before its events exist. So a clock that is ahead must
not move a position. JumpCloud's clock is the `Date` of its answers, which then continues on the monotonic clock.
"""

from __future__ import annotations

import logging
import threading
from datetime import timedelta
from typing import NamedTuple

from in_jumpcloud.runtime import SYSTEM, Runtime
from in_jumpcloud.timestamps import parse_http_date

log = logging.getLogger(__name__)

WARN_SKEW_SECONDS = 30.0
"""A larger difference between the clocks is logged."""
MAX_SKEW_SECONDS = 300.0
"""A larger difference makes the plugin not ready."""
_AGREE_SECONDS = 5.0
"""Two dates agree if they differ from the time that passed between them by at most this much, and by what their answers
took."""
ANSWERS_THAT_AGREE = 2
"""So many answers in a row must agree, or must have no date: one alone may come from a cache."""
_MAX_UNSETTLED = 10
"""So many answers in a row whose dates agree with nothing make JumpCloud's clock unknown."""
_WARN_EVERY_SECONDS = 3600.0


class _Reading(NamedTuple):
    """JumpCloud's clock at one moment of the monotonic clock: at least `seconds`, in epoch seconds.

    It may have been up to `unknown` seconds more: an answer that takes long was dated at some moment of that time.
    """

    seconds: float
    at: float
    unknown: float

    def seconds_at(self, at: float) -> float:
        return self.seconds + at - self.at

    def agrees(self, later: _Reading) -> bool:
        """Whether one clock can have shown both."""
        difference = later.seconds - self.seconds_at(later.at)
        return -later.unknown - _AGREE_SECONDS <= difference <= self.unknown + _AGREE_SECONDS

    def with_later(self, later: _Reading) -> _Reading:
        """What both say together, at the moment of `later`."""
        earliest = max(self.seconds_at(later.at), later.seconds)
        latest = min(self.seconds_at(later.at) + self.unknown, later.seconds + later.unknown)
        return _Reading(earliest, later.at, max(0.0, latest - earliest))


class EarlierClock:
    """The earlier of this machine's clock and JumpCloud's. Thread-safe."""

    def __init__(self, runtime: Runtime = SYSTEM) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._trusted: _Reading | None = None
        self._candidate: _Reading | None = None
        self._newest: _Reading | None = None  # of any answer
        self._undated = 0  # answers in a row without a date, or with one that agrees with no other
        self._is_undated = False
        self._warned_at: float | None = None

    @property
    def confirmed(self) -> bool:
        """Whether JumpCloud's clock is known, or is known to be unknown."""
        return self._trusted is not None or self._is_undated

    @property
    def skew_seconds(self) -> float | None:
        """How far this machine's clock is ahead of JumpCloud's, negative if it is behind; None if that is unknown."""
        return self._ahead_of(self._trusted)

    @property
    def newest_skew_seconds(self) -> float | None:
        """The same by the newest answer alone, of whatever status."""
        return self._ahead_of(self._newest)

    def now_ms(self) -> int:
        """The earlier of the two clocks, in epoch milliseconds. Without JumpCloud's it is this machine's."""
        return self._earlier(self._runtime.now_ms(), self._trusted)

    def probable_ms(self) -> int:
        """A moment that is most likely not in JumpCloud's future: good for a question, not for a position."""
        return self._earlier(self.now_ms(), self._newest)

    def newest_ms(self) -> int:
        """JumpCloud's clock by its newest answer alone, of whatever status; this machine's if that had no date."""
        reading = self._newest
        return int(reading.seconds_at(self._runtime.monotonic()) * 1000) if reading else self._runtime.now_ms()

    def _ahead_of(self, reading: _Reading | None) -> float | None:
        return None if reading is None else self._runtime.now_ns() / 1e9 - reading.seconds_at(self._runtime.monotonic())

    def _earlier(self, ms: int, reading: _Reading | None) -> int:
        return ms if reading is None else min(ms, int(reading.seconds_at(self._runtime.monotonic()) * 1000))

    def observe(self, date: str | None, *, authenticated: bool, took: float = 0.0) -> None:
        """Note the `Date` of an answer that just arrived, `took` seconds after its request was begun.

        `authenticated`: it has status 200, so JumpCloud accepted the key. Others may come from a proxy or a login page.
        """
        moment = parse_http_date(date)
        reading = _Reading(moment.timestamp(), self._runtime.monotonic(), took) if moment else None
        with self._lock:
            self._newest = reading or self._newest
            if not authenticated:
                return
            if reading is None:
                self._undated += 1
                self._candidate = None
            else:
                self._compare(reading)
            if self._undated >= _MAX_UNSETTLED or (reading is None and self._undated >= ANSWERS_THAT_AGREE):
                self._trust_ours()
            self._report()

    def _trust_ours(self) -> None:
        self._trusted = None
        if not self._is_undated:
            self._is_undated = True
            log.info("JumpCloud's answers have no usable date; positions move by this machine's clock alone")

    def _compare(self, reading: _Reading) -> None:
        if self._trusted and self._trusted.agrees(reading):
            self._candidate, self._undated = None, 0
            self._trusted = self._trusted.with_later(reading)
        elif self._candidate and self._candidate.agrees(reading):
            self._trusted, self._candidate = reading, None
            self._undated, self._is_undated = 0, False
        else:
            self._candidate = reading
            self._undated += 1

    def _report(self) -> None:
        skew, now = self.skew_seconds, self._runtime.monotonic()
        if skew is None:
            return
        if abs(skew) <= WARN_SKEW_SECONDS:
            if self._warned_at is not None:
                self._warned_at = None
                log.info("this machine's clock agrees with JumpCloud's again")
        elif self._warned_at is None or now - self._warned_at >= _WARN_EVERY_SECONDS:
            self._warned_at = now
            log.warning(
                "this machine's clock is %s %s JumpCloud's; set it (NTP). Positions move by the earlier clock, so no "
                "event is lost",
                timedelta(seconds=round(abs(skew))),
                "ahead of" if skew > 0 else "behind",
            )
