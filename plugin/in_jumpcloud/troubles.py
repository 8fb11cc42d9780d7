"""What the plugin waits for, or does without for now: since when, why, and what to do.

A trouble is logged when it begins, when its cause changes and when it ends. Meanwhile health shows it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

log = logging.getLogger(__name__)


class Trouble(NamedTuple):
    """`what` is one line: which setting or part, and the cause. `since_ms` is when it began, in epoch milliseconds.

    `name` is what Troubles knows it by.
    """

    what: str
    since_ms: int
    advice: str
    name: str = ""

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.what}; {self.advice}" if self.advice else self.what


class Troubles:
    """The present troubles, each under a name such as `state` or `geoip.city`. Thread-safe.

    `now_ms` is the wall clock, in epoch milliseconds.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._open: dict[str, Trouble] = {}
        self._lock = threading.Lock()

    def begin(self, name: str, what: str, advice: str = "", *, is_logged: bool = False) -> None:
        """Begin a trouble, or change the cause of one that has begun. `is_logged`: its caller has logged it."""
        with self._lock:
            before = self._open.get(name)
            if before and before.what == what:
                return
            since_ms = before.since_ms if before else self._now_ms()
            trouble = self._open[name] = Trouble(what, since_ms, advice, name)
        if not is_logged:
            log.warning("%s", trouble)

    def end(self, name: str) -> None:
        """End a trouble, if it has begun."""
        with self._lock:
            trouble = self._open.pop(name, None)
        if trouble:
            log.info("recovered from: %s", trouble.what)

    def current(self) -> list[Trouble]:
        """Those that have begun and not ended, the oldest first."""
        with self._lock:
            return list(self._open.values())
