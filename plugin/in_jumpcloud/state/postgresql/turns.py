"""A function that is called again and again, on a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from in_jumpcloud.errors import InJumpCloudError, StateUnavailable

log = logging.getLogger(__name__)

_STOP_SECONDS = 2.0
"""How long the end waits for a statement under way: a server that is frozen answers none."""


class Turns:
    """The thread. `trouble` is why the last call failed."""

    def __init__(self, name: str, turn: Callable[[], float | None], seconds: float, *, first: float) -> None:
        """`seconds` are between two calls, unless `turn` returns fewer; the first is after `first`."""
        self.trouble: StateUnavailable | None = None
        self._turn = turn
        self._seconds, self._first = seconds, first
        self._soon = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread.

        Raises:
            StateUnavailable: the system has no more threads.
        """
        try:
            self._thread.start()
        except RuntimeError as error:
            raise StateUnavailable(f"the thread of the state: {error}") from None

    def hurry(self) -> None:
        """Call it now. Safe in any thread."""
        self._soon.set()

    def stop(self) -> None:
        """Stop the thread, after its statement under way."""
        self._stopped = True
        self._soon.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        seconds = self._first
        while True:
            self._soon.wait(seconds)
            self._soon.clear()
            if self._stopped:
                return
            seconds = self._seconds
            try:
                seconds = min(seconds, self._turn() or seconds)
                self.trouble = None
            except StateUnavailable as error:
                self.trouble = error.kept()
            except InJumpCloudError as error:  # it does not pass: the streams find that out too
                self.trouble = StateUnavailable(error.message, advice=error.advice)
            except Exception:
                log.exception("unexpected error; continuing")
