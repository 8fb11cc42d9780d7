"""Runs units of work on a small pool of workers: each again after the delay that its last step returned."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from in_jumpcloud.backoff import MAX_DELAY
from in_jumpcloud.counters import Counters
from in_jumpcloud.errors import Fenced, StateCorrupt, Stopped
from in_jumpcloud.runtime import SYSTEM, Runtime, Task

log = logging.getLogger(__name__)

_BEHIND_SECONDS = 10.0
"""How much longer than the others a stream that is far from now waits for a worker, so that a backfill never delays
the newest events, and is never starved by them."""


class Unit(Protocol):
    """What the workers run: a stream, a stream of a backfill, or the look for new backfills.

    Of the units of one name one runs at a time, also where one was removed and another one added.
    """

    @property
    def name(self) -> str:
        """What the log calls it."""

    @property
    def counters(self) -> Counters:
        """What it has done."""

    @property
    def timed_out(self) -> bool:
        """Whether its last request timed out."""

    @property
    def is_behind(self) -> bool:
        """Whether it gives way to others."""

    def step(self, stop: threading.Event) -> float:
        """Do one thing; returns the seconds until the next step is due. `stop` ends its waits."""


class _Slot:
    """A unit that was added. `removed`: it runs no more steps."""

    __slots__ = ("is_background", "removed", "stop", "unit")

    def __init__(self, unit: Unit, *, is_background: bool) -> None:
        self.unit = unit
        self.is_background = is_background
        self.removed = False
        self.stop: threading.Event | None = None
        """Stops the step that runs. Each has a new one, since thousands of them take much memory."""

    def end(self) -> None:
        self.removed = True
        if self.stop:
            self.stop.set()


_Heap = list[tuple[float, int, _Slot]]


class Scheduler:
    """The workers and the units that they run. All methods are safe in any thread."""

    def __init__(
        self,
        *,
        after_step: Callable[[Unit, float], bool],
        after_last_step: Callable[[Unit], None],
        idle: Callable[[], None],
        fenced: Callable[[Unit, Fenced], None],
        corrupt: Callable[[StateCorrupt], None],
        runtime: Runtime = SYSTEM,
    ) -> None:
        """The workers call the functions, all but `fenced` and `corrupt` with the lock of the scheduler held.

        `after_step` gets the delay until the next step, and says whether there is one. `after_last_step`: a unit
        that was removed during a step has ended it. `idle`: no unit runs or waits, but those in the background.
        `fenced`: another process has taken over the stream of a unit, which was removed.
        """
        self._after_step = after_step
        self._after_last_step = after_last_step
        self._idle = idle
        self._fenced = fenced
        self._corrupt = corrupt
        self._runtime = runtime
        self._changed = runtime.condition()
        self._slots: dict[str, _Slot] = {}  # by name
        self._running: dict[str, _Slot] = {}  # those of which a worker runs a step, the removed ones included
        self._blocked: dict[str, _Slot] = {}  # those that are due while one of the same name runs its last step
        # Heaps of (moment, sequence, slot): those that wait, those that are due, and those that are due and whose last
        # request timed out. The sequence number keeps slots from being compared.
        self._later: _Heap = []
        self._due: _Heap = []
        self._hanging: _Heap = []
        self._hanging_busy = False
        self._sequence = itertools.count()
        self._workers: list[Task] = []
        self._stopped = False
        self._waiting = 0  # workers that wait
        self._leads_until: float | None = None  # until when one of them does so for the next moment; None: none does

    @property
    def alive(self) -> bool:
        """Whether no worker has died."""
        return all(worker.is_alive() for worker in self._workers)

    @property
    def workers(self) -> list[Task]:
        """The workers that were started."""
        return list(self._workers)

    def running(self) -> list[Unit]:
        """The units of which a worker runs a step, those included that were removed meanwhile."""
        return [slot.unit for slot in list(self._running.values())]

    def add(self, units: Iterable[Unit], *, is_background: bool = False) -> None:
        """Run units from now on. No unit of their names may be there, unless it was removed."""
        with self._changed:
            for unit in units:
                slot = self._slots[unit.name] = _Slot(unit, is_background=is_background)
                self._push(slot, 0.0)
            self._changed.notify_all()

    def remove(self, units: Iterable[Unit]) -> None:
        """Run no more steps of units, and stop those that run. It does not wait for them."""
        with self._changed:
            for unit in units:
                slot = self._slots.get(unit.name)
                if slot and slot.unit is unit:
                    del self._slots[unit.name]
                    slot.end()
            for heap in (self._later, self._due, self._hanging):  # what is due in an hour would be kept so long
                heap[:] = [each for each in heap if not each[-1].removed]
                heapq.heapify(heap)

    def start_workers(self, count: int) -> None:
        """Start workers until there are `count`.

        Raises:
            RuntimeError: the system starts no more threads.
        """
        for number in range(len(self._workers), count):
            self._workers.append(self._runtime.start(self._work, name=f"worker-{number}"))

    def stop(self) -> None:
        """Stop all steps, and end the workers. It does not wait for them."""
        with self._changed:
            self._stopped = True
            for slot in self._running.values():
                slot.end()
            self._changed.notify_all()

    def _push(self, slot: _Slot, delay: float) -> None:
        heapq.heappush(self._later, (self._runtime.monotonic() + delay, next(self._sequence), slot))

    def _work(self) -> None:
        while (slot := self._next()) is not None:
            unit, stop = slot.unit, slot.stop
            was_hanging = unit.timed_out
            try:
                delay = unit.step(stop or self._runtime.event())
            except Fenced as error:
                self.remove([unit])
                self._fenced(unit, error)
                delay = 0.0
            except Stopped:
                delay = 0.0
            except StateCorrupt as error:
                self._corrupt(error)
                return
            except Exception:
                log.exception("%s: unexpected error; retrying in %.0f s", unit.name, MAX_DELAY)
                delay = MAX_DELAY
            with self._changed:
                self._hanging_busy = self._hanging_busy and not was_hanging
                self._done(slot, delay)

    def _done(self, slot: _Slot, delay: float) -> None:
        name, slot.stop = slot.unit.name, None
        del self._running[name]
        if blocked := self._blocked.pop(name, None):
            self._push(blocked, 0.0)
        if slot.removed:
            self._after_last_step(slot.unit)
        elif self._after_step(slot.unit, delay):
            self._push(slot, delay)

    def _next(self) -> _Slot | None:
        """Wait for the next due unit; None at the end.

        The unit that is due for the longest time is next. Units that hang share one worker.
        """
        with self._changed:
            while not self._stopped:
                now = self._runtime.monotonic()
                self._note_due(now)
                if slot := self._take():
                    self._wake_another()
                    return slot
                if not self._running and all(slot.is_background for *_, slot in self._later):
                    self._idle()
                self._wait(now)
        return None

    def _take(self) -> _Slot | None:
        while heap := self._next_heap():
            slot = heapq.heappop(heap)[-1]
            if slot.removed:
                continue
            if slot.unit.name in self._running:
                self._blocked[slot.unit.name] = slot
                continue
            self._hanging_busy |= slot.unit.timed_out
            slot.stop = self._runtime.event()
            self._running[slot.unit.name] = slot
            return slot
        return None

    def _wait(self, now: float) -> None:
        """Wait for the next moment, or, while another worker does that, until this one is woken."""
        until = self._later[0][0] if self._later else float("inf")
        leads = until < float("inf") and (self._leads_until is None or until < self._leads_until)
        if leads:
            self._leads_until = until
        self._waiting += 1
        try:
            self._changed.wait(until - now if leads else None)
        finally:
            self._waiting -= 1
            if leads and self._leads_until == until:
                self._leads_until = None

    def _wake_another(self) -> None:
        """This worker is going to be busy: another one takes what else is due, or waits for the next moment."""
        if self._waiting and (self._next_heap() or (self._later and self._leads_until is None)):
            self._changed.notify()

    def _note_due(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            since, number, slot = heapq.heappop(self._later)
            since += _BEHIND_SECONDS if _is_behind(slot.unit) else 0
            heapq.heappush(self._hanging if slot.unit.timed_out else self._due, (since, number, slot))

    def _next_heap(self) -> _Heap | None:
        """The heap whose first unit is next; None if none can run now."""
        heaps = [self._due] if self._hanging_busy else [self._due, self._hanging]
        return min(filter(None, heaps), key=lambda heap: heap[0], default=None)


def _is_behind(unit: Unit) -> bool:
    """Whether it gives way to others. A defect must not lose it, nor end the worker that asks."""
    try:
        return unit.is_behind
    except Exception:
        log.exception("%s: unexpected error; continuing", unit.name)
        return False
