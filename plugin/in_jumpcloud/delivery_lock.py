"""One delivery at a time of the events of a stream, and the commits that could not be written yet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from in_jumpcloud.errors import Fenced, Stopped
from in_jumpcloud.runtime import SYSTEM, Runtime

_LOOK_SECONDS = 0.2
"""How often one that waits for the lock looks whether it has it."""


class DeliveryLock:
    """Held by the stream, or by a backfill of it, while it delivers: none sends what another one is sending.

    A commit that could not be written stays here. It is written before anything else is sent, by whoever has the lock
    next: what a receiver has acknowledged is not sent again while the process lives, whatever the disk does.
    """

    def __init__(self, runtime: Runtime = SYSTEM) -> None:
        self._lock = runtime.lock()
        self._owed: list[Callable[[], None]] = []

    @property
    def owes(self) -> bool:
        """Whether a commit is still to be written."""
        return bool(self._owed)

    @contextmanager
    def held(self, stop: threading.Event, *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold it, once what is owed is written. `waiting` is called now and then until then.

        Raises:
            StateCorrupt, StateUnavailable: what is owed cannot be written.
            Fenced: another process has the stream. Nothing is owed any more: it reads again what was not committed.
            Stopped: `stop` was set.
        """
        while not self._lock.acquire(blocking=False):
            waiting()
            if stop.wait(_LOOK_SECONDS):
                raise Stopped
        try:
            self._write_owed()
            yield
        finally:
            self._lock.release()

    def owe(self, write: Callable[[], None]) -> None:
        """Keep a commit that could not be written. Only its holder calls it."""
        self._owed.append(write)

    def drop(self) -> None:
        """Another process has the stream: what is owed is never written. Safe in any thread."""
        self._owed = []

    def write_owed(self, stop: threading.Event) -> None:
        """Write what is owed. Raises as `held`."""
        with self.held(stop):
            pass

    def _write_owed(self) -> None:
        try:
            while owed := self._owed:
                owed[0]()
                del owed[0]
        except Fenced:
            self.drop()
            raise
