"""A clock for waits on an event, so that they take no time."""

from __future__ import annotations

import threading
from collections.abc import Callable

from in_jumpcloud.runtime import Runtime


class Clock(threading.Event):
    """A clock that advances when something waits for it as an event."""

    def __init__(self, now: float = 1000.0) -> None:
        super().__init__()
        self.now = now
        self.waits = 0
        self.stop_at = float("inf")
        self.meanwhile: list[Callable[[], object]] = []  # called at the beginning of the next waits

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        """Advance by `timeout`, but not beyond `stop_at`."""
        assert timeout is not None
        assert timeout >= 0
        end = self.now + timeout
        if timeout > 0 and self.meanwhile:
            self.meanwhile.pop(0)()
        self.waits += timeout > 0
        assert self.waits < 100, "waits for ever"
        self.now = min(max(self.now, end), self.stop_at)
        return self.is_set() or self.now >= self.stop_at


class ClockRuntime(Runtime):
    """The runtime of the system, with a monotonic clock of its own."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock

    def monotonic(self) -> float:
        """The time in seconds."""
        return self._clock()
