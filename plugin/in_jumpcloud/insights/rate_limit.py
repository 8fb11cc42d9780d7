"""The rate limiter: how often the whole process may send requests to JumpCloud, however many streams it has."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from in_jumpcloud.errors import Stopped
from in_jumpcloud.runtime import SYSTEM, Runtime

_LEAST_SHARE = 0.01
"""A process without a stream may still send a request now and then."""
_BACKFILL_SHARE = 3
"""A backfill has at least every so many turns: under overload the other requests would never leave it one."""


class RateLimiter:
    """Spaces requests evenly, and delays all of them while JumpCloud has asked for a pause. Thread-safe.

    Requests wait in two queues, and those of a backfill give way to the others.
    """

    def __init__(
        self, per_second: float, *, paused: Callable[[float], None] = lambda _: None, runtime: Runtime = SYSTEM
    ) -> None:
        """`paused` is called with the seconds of each pause that JumpCloud asks for."""
        self._per_second = per_second
        self._spacing = 1 / per_second
        self._paused = paused
        self._clock = runtime.monotonic
        self._lock = threading.Lock()
        self._tickets = itertools.count()
        self._waiting: tuple[list[int], list[int]] = ([], [])  # tickets: of the other requests, and of backfills
        self._overtaken = 0  # turns that a waiting backfill has left to the others, in a row
        self._next_turn = 0.0
        self._paused_until = 0.0

    def acquire(self, stop: threading.Event, *, backfill: bool = False) -> None:
        """Wait until a request may be sent.

        Raises:
            Stopped: `stop` was set first.
        """
        with self._lock:
            ticket, since = next(self._tickets), self._clock()
            self._waiting[backfill].append(ticket)
        try:
            delay = 0.0
            while not stop.wait(delay):
                with self._lock:
                    delay = self._delay(ticket)
                    if delay <= 0:
                        return self._take(since, backfill=backfill)
            raise Stopped
        finally:
            with self._lock:
                self._waiting[backfill].remove(ticket)

    def pause(self, seconds: float) -> None:
        """JumpCloud asks for a pause: send no request for `seconds`. One that already lasts longer stays as it is."""
        self.hold(seconds)
        self._paused(seconds)

    def hold(self, seconds: float) -> None:
        """Send no request for `seconds`, as another process was asked to."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + seconds)

    def share(self, part: float) -> None:
        """Use this part of the limit, above 0 and up to 1: other processes use the rest."""
        with self._lock:
            self._spacing = 1 / (self._per_second * max(part, _LEAST_SHARE))
            self._next_turn = min(self._next_turn, self._clock() + self._spacing)

    @property
    def _ready_at(self) -> float:
        return max(self._next_turn, self._paused_until)

    def _delay(self, ticket: int) -> float:
        """Seconds until the turn of a ticket, or until it is known again whether it is next; 0 or less: it is now."""
        others, backfills = self._waiting
        is_backfill_next = bool(backfills) and (not others or self._overtaken >= _BACKFILL_SHARE - 1)
        delay = self._ready_at - self._clock()
        if ticket == (backfills if is_backfill_next else others)[0]:
            return delay
        before = others.index(ticket) if ticket in others else backfills.index(ticket)
        return max(0.0, delay) + max(1, before) * self._spacing

    def _take(self, since: float, *, backfill: bool) -> None:
        """Use the turn. One that was waited for counts from when it was due: a late waker does not delay the next."""
        now = self._clock()
        turn = max(self._ready_at, since, now - self._spacing)
        self._next_turn = turn + self._spacing
        self._overtaken = 0 if backfill or not self._waiting[True] else self._overtaken + 1
