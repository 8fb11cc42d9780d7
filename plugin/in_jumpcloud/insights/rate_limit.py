"""The request rate_limiter: what the whole process may ask of JumpCloud, whatever the number of streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from in_jumpcloud.errors import Stopped


class RateLimiter:
    """Spaces requests evenly, and holds them all back while JumpCloud has asked us to wait."""

    def __init__(self, per_second: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._spacing = 1 / per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._next = 0.0
        self._held_until = 0.0

    def acquire(self, stop: threading.Event) -> None:
        """Return when a request may be sent.

        Raises:
            Stopped: `stop` was set first.
        """
        turn = self._book()
        while True:
            delay = turn - self._clock()
            if stop.wait(max(0.0, delay)):
                raise Stopped
            if delay > 0:
                continue
            if turn >= self._held_until:
                return
            turn = self._book()  # the hold came after the turn was given: all who wait are spaced anew behind it

    def pause(self, seconds: float) -> None:
        """Let no request out for so long."""
        with self._lock:
            self._held_until = max(self._held_until, self._clock() + seconds)
            self._next = max(self._next, self._held_until)

    def _book(self) -> float:
        with self._lock:
            turn = max(self._clock(), self._next)
            self._next = turn + self._spacing
            return turn
