"""Runs tasks one at a time on a virtual clock. A seed picks which task that can run is next."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from random import Random

from greenlet import getcurrent, greenlet

MIN_SECONDS = 1e-6
"""Every wait takes some time: the last digit of a clock must not decide whether a moment has come."""


class Killed(BaseException):
    """The process of this task has ended: nothing may catch this and go on."""


class Stuck(BaseException):
    """A task never waits. Nothing may catch this."""


class Group:
    """The tasks of one process. Once it is dead, none of them runs again."""

    def __init__(self) -> None:
        self.dead = False
        self.frozen = False
        self.held: list[SimTask] = []
        """Those that would run if the group were not frozen."""
        self.tasks: list[SimTask] = []


class SimTask:
    """A thread of the simulated process, as `Runtime.start` returns it."""

    def __init__(self, scheduler: Scheduler, target: Callable[[], None], name: str, group: Group) -> None:
        self.name = name
        self.group = group
        self.error: BaseException | None = None
        self.turn = 0
        """Grows with every wait, so that an old timer never wakes a later wait."""
        self.woken = False
        self._scheduler = scheduler
        self._target = target
        self._ended = False
        self._joiners: list[SimTask] = []
        self.greenlet = greenlet(self._run, parent=scheduler.hub)

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return not self._ended

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended."""
        if not self._ended:
            self._joiners.append(self._scheduler.current)
            self._scheduler.wait(timeout)

    def _run(self) -> None:
        try:
            self._target()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - the world judges it
            self.error = error
            self._scheduler.failed(self)
        finally:
            self._ended = True
            for task in self._joiners:
                self._scheduler.wake(task)


class Scheduler:
    """The virtual clock, in seconds since the beginning of the run, and the tasks."""

    MAX_TURNS_A_SECOND = 20_000
    MAX_CALLS_A_TURN = 20_000

    def __init__(self, random: Random) -> None:
        self.now = 0.0
        self.turns = 0
        self.calls = 0
        """Of seams, in the present turn."""
        self.halted = False
        """Set it to end `run` before its time."""
        self.hub = getcurrent()
        self.current: SimTask = None  # type: ignore[assignment]  # set while a task runs
        self.failed: Callable[[SimTask], None] = lambda _: None
        self._random = random
        self._sequence = itertools.count()
        self._ready: list[SimTask] = []
        self._timers: list[tuple[float, int, SimTask, int]] = []
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._busy_since = (0.0, 0)

    def start(self, target: Callable[[], None], name: str, group: Group) -> SimTask:
        """A new task, which runs at the next wait of the current one."""
        task = SimTask(self, target, name, group)
        group.tasks.append(task)
        self._ready.append(task)
        return task

    def at(self, moment: float, call: Callable[[], None]) -> None:
        """Call a function of the world at `moment`. It must not wait."""
        heapq.heappush(self._calls, (moment, next(self._sequence), call))

    def note_call(self) -> None:
        """The current task calls a seam. Many calls without a wait are a loop that keeps a processor busy."""
        self.calls += 1
        if self.calls > self.MAX_CALLS_A_TURN:
            raise Stuck("a task never waits")

    def wait(self, seconds: float | None) -> bool:
        """Let other tasks run until this one is woken, or `seconds` have passed. Returns whether it was woken."""
        task = self.current
        if task.group.dead:
            raise Killed
        task.turn += 1
        task.woken = False
        if seconds is not None:
            heapq.heappush(
                self._timers, (self.now + max(0.0, seconds) + MIN_SECONDS, next(self._sequence), task, task.turn)
            )
        self.hub.switch()
        if task.group.dead:
            raise Killed
        return task.woken

    def wake(self, task: SimTask) -> None:
        """End the wait of a task."""
        if not task.woken and task.is_alive():
            task.woken = True
            task.turn += 1
            self._ready.append(task)

    def run(self, until: float) -> None:
        """Run everything up to a moment."""
        while not self.halted:
            if self._ready:
                self._run_one()
                continue
            timer = self._timers[0][0] if self._timers else until
            call = self._calls[0][0] if self._calls else until
            moment = min(timer, call)
            if moment >= until:
                self.now = until
                return
            self.now = max(self.now, moment)
            if call <= timer:
                heapq.heappop(self._calls)[2]()
            else:
                _, _, task, turn = heapq.heappop(self._timers)
                if task.turn == turn and not task.group.dead:
                    task.turn += 1
                    self._ready.append(task)

    def thaw(self, group: Group) -> None:
        """Let the tasks of a frozen group run again."""
        group.frozen = False
        self._ready += group.held
        group.held.clear()

    def end(self, group: Group) -> None:
        """Throw the tasks of a group away. Whatever they still try to do raises Killed."""
        group.dead = True
        self._ready = [task for task in self._ready if task.group is not group]
        for task in group.tasks:
            if task.greenlet:  # it has begun, and has not ended
                self.current = task
                task.greenlet.throw(Killed)
        self.current = None  # type: ignore[assignment]
        group.tasks.clear()

    def _run_one(self) -> None:
        index = self._random.randrange(len(self._ready)) if len(self._ready) > 1 else 0
        task = self._ready.pop(index)
        if task.group.dead:
            return
        if task.group.frozen:
            task.group.held.append(task)
            return
        second, turns = self._busy_since
        self._busy_since = (second, turns + 1) if self.now < second + 1 else (self.now, 0)
        if turns > self.MAX_TURNS_A_SECOND:
            raise Stuck(f"{task.name} never waits")
        self.turns += 1
        self.calls = 0
        self.current = task
        task.greenlet.switch()
        self.current = None  # type: ignore[assignment]
