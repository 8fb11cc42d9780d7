"""The rate limiter: how often the whole process may send requests to JumpCloud, however many streams it has."""

from __future__ import annotations

import threading

from in_jumpcloud.errors import Stopped
from in_jumpcloud.runtime import SYSTEM, Runtime


class RateLimiter:
    """Spaces requests evenly, and delays all of them while JumpCloud has asked for a pause. Thread-safe."""

    def __init__(self, per_second: float, *, runtime: Runtime = SYSTEM) -> None:
        self._spacing = 1 / per_second
        self._clock = runtime.monotonic
        self._lock = threading.Lock()
        self._next_turn = 0.0
        self._paused_until = 0.0

    def acquire(self, stop: threading.Event) -> None:
        """Wait until a request may be sent.

        Raises:
            Stopped: `stop` was set first.
        """
        turn = self._reserve()
        while True:
            delay = turn - self._clock()
            if stop.wait(max(0.0, delay)):
                raise Stopped
            if delay > 0:
                continue
            if turn >= self._paused_until:
                return
            turn = self._reserve()  # a pause began after this turn was reserved: reserve one after the pause

    def pause(self, seconds: float) -> None:
        """Send no request for `seconds`. A pause that already lasts longer stays as it is."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + seconds)
            self._next_turn = max(self._next_turn, self._paused_until)

    def _reserve(self) -> float:
        with self._lock:
            turn = max(self._clock(), self._next_turn)
            self._next_turn = turn + self._spacing
            return turn
