"""The workers' units."""

from __future__ import annotations

import gc
import threading
import weakref

from in_jumpcloud.counters import Counters
from in_jumpcloud.scheduler import Scheduler


class Unit:
    """One that is due an hour after each step."""

    name = "unit"
    timed_out = is_behind = False

    def __init__(self) -> None:
        self.counters = Counters()
        self.done = threading.Event()

    def step(self, stop: threading.Event) -> float:
        """Do nothing."""
        del stop
        self.done.set()
        return 3600.0


def test_a_removed_unit_is_let_go() -> None:
    """It does not stay in memory until it would have been due."""
    stepped = threading.Event()

    def after_step(unit: object, delay: float) -> bool:
        del unit, delay
        stepped.set()
        return True

    scheduler = Scheduler(
        after_step=after_step,
        after_last_step=lambda _: None,
        idle=lambda: None,
        fenced=lambda *_: None,
        corrupt=lambda _: None,
    )
    unit, other = Unit(), Unit()
    other.name = "other"
    found = weakref.ref(unit)
    scheduler.add([unit])
    scheduler.start_workers(1)
    assert stepped.wait(20)
    scheduler.remove([unit])
    scheduler.add([other])
    assert other.done.wait(20)  # the worker has another one at hand
    del unit
    gc.collect()
    assert found() is None
    scheduler.stop()
