"""The runtime of a simulated process: a virtual clock, waits that take no time, and tasks instead of threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from random import Random
from types import TracebackType
from typing import Protocol

from simulation.scheduler import Group, Killed, Scheduler, SimTask

from in_jumpcloud.runtime import Runtime


class MachineClock(Protocol):
    """The clocks of the machine, which may be wrong."""

    def wall_ns(self) -> int:
        """What the wall clock shows, in nanoseconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds for which the machine was not suspended."""


class SimEvent(threading.Event):
    """An event whose wait advances the virtual clock."""

    def __init__(self, process: SimRuntime) -> None:
        super().__init__()
        self._process = process
        self._set = False
        self._waiting: list[SimTask] = []

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._set

    def set(self) -> None:
        """Set it, and end all waits."""
        self._set = True
        for task in self._waiting:
            self._process.scheduler.wake(task)
        self._waiting.clear()

    def clear(self) -> None:
        """Reset it."""
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set. Returns whether it is."""
        self._process.point("wait")
        if not self._set:
            task = self._process.scheduler.current
            self._waiting.append(task)
            self._process.scheduler.wait(timeout)
            if task in self._waiting:
                self._waiting.remove(task)
        return self._set


class SimLock:
    """A lock that may be held during a wait."""

    def __init__(self, process: SimRuntime) -> None:
        self._process = process
        self._held = False
        self._waiting: deque[SimTask] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: ARG002 - of threading.Lock
        """Take it. Returns False, if not `blocking`, while another task holds it."""
        if self._process.group.dead:
            raise Killed
        while self._held:
            if not blocking:
                return False
            self._waiting.append(self._process.scheduler.current)
            self._process.scheduler.wait(None)
        self._held = True
        return True

    def release(self) -> None:
        """Give it back."""
        self._held = False
        if self._waiting:
            self._process.scheduler.wake(self._waiting.popleft())

    def locked(self) -> bool:
        """Whether a task holds it."""
        return self._held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.release()


class SimCondition(threading.Condition):
    """A condition whose wait advances the virtual clock."""

    def __init__(self, process: SimRuntime) -> None:
        super().__init__()
        self._process = process
        self._mutex = SimLock(process)
        self._sleeping: list[SimTask] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take its lock."""
        return self._mutex.acquire(blocking, timeout)

    def release(self) -> None:
        """Give its lock back."""
        self._mutex.release()

    def __enter__(self) -> bool:
        return self._mutex.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self._mutex.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a notification. Returns whether there was one."""
        task = self._process.scheduler.current
        self._sleeping.append(task)
        self._mutex.release()
        woken = self._process.scheduler.wait(timeout)
        if task in self._sleeping:
            self._sleeping.remove(task)
        self._mutex.acquire()
        return woken

    def notify(self, n: int = 1) -> None:
        """Wake the first waits."""
        for task in self._sleeping[:n]:
            self._process.scheduler.wake(task)
        del self._sleeping[:n]

    def notify_all(self) -> None:
        """Wake all waits."""
        self.notify(len(self._sleeping))


class SimRuntime(Runtime):
    """The runtime of one process. Every call is a point at which the world may end the process."""

    def __init__(
        self, scheduler: Scheduler, group: Group, clock: MachineClock, random: Random, point: Callable[[str], None]
    ) -> None:
        super().__init__()
        self.random = random
        self.scheduler = scheduler
        self.group = group
        self._clock = clock
        self.point = point
        """Called with the name of a seam before each call of it; raises Killed if the process ends here."""

    def now_ns(self) -> int:
        """The wall clock of the machine, which may be wrong."""
        return self._clock.wall_ns()

    def monotonic(self) -> float:
        """The virtual time."""
        return self._clock.monotonic()

    def event(self) -> threading.Event:
        """A new event."""
        return SimEvent(self)

    def condition(self) -> threading.Condition:
        """A new condition."""
        return SimCondition(self)

    def lock(self) -> SimLock:
        """A new lock."""
        return SimLock(self)

    def start(self, target: Callable[[], None], *, name: str) -> SimTask:
        """Start a task."""
        self.point("start")
        return self.scheduler.start(target, name, self.group)
