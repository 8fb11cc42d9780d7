"""The one way in which the delivery path reads clocks, waits, starts threads and draws random numbers.

Production uses SYSTEM. A simulation passes a runtime with a virtual clock and its own scheduler, so nothing sleeps and
one seed decides everything. A wait through anything else, such as `time.sleep`, would escape it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol


class Task(Protocol):
    """A running thread."""

    def is_alive(self) -> bool:
        """Whether it has not ended."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, for at most `timeout` seconds."""


class Lock(Protocol):
    """A mutual exclusion that may be held during a wait."""

    def acquire(self, blocking: bool = True) -> bool:
        """Take it. Returns False, if not `blocking`, while another thread holds it."""

    def release(self) -> None:
        """Give it back."""

    def __enter__(self) -> bool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...


class Runtime:
    """The system's clocks, waits, threads and random numbers."""

    def __init__(self) -> None:
        self.random = random.Random()

    def now_ns(self) -> int:
        """This machine's wall clock, in nanoseconds since the epoch. It may be wrong, and may be set at any moment."""
        return time.time_ns()

    def now_ms(self) -> int:
        """The same in milliseconds."""
        return self.now_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds of a clock that is never set. It may stop while the machine is suspended."""
        return time.monotonic()

    def event(self) -> threading.Event:
        """A new event."""
        return threading.Event()

    def condition(self) -> threading.Condition:
        """A new condition with its own lock."""
        return threading.Condition()

    def lock(self) -> Lock:
        """A new lock that may be held during a wait. For a short section without waits `threading.Lock` is enough."""
        return threading.Lock()

    def start(self, target: Callable[[], None], *, name: str) -> Task:
        """Start a daemon thread: it does not delay the end of the process."""
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread


SYSTEM = Runtime()
