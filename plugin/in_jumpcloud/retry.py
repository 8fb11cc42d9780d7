"""Repeats what cannot succeed now but may later, with growing pauses, until it does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from in_jumpcloud.backoff import backoff_delay
from in_jumpcloud.errors import Fatal, InJumpCloudError, StateUnavailable, Stopped, may_pass
from in_jumpcloud.runtime import Runtime
from in_jumpcloud.troubles import Troubles

T = TypeVar("T")
_TICK_SECONDS = 0.25


class Retry:
    """Waits for what the start of the process needs. While it waits, there is a trouble."""

    def __init__(
        self,
        troubles: Troubles,
        stop: threading.Event,
        *,
        on_tick: Callable[[str], None],
        give_up_after: float | None,
        runtime: Runtime,
    ) -> None:
        """`on_tick` is called several times a second during an attempt or a wait, with what is waited for.

        All waits together last at most about `give_up_after` seconds; None: for ever.
        """
        self._troubles = troubles
        self._stop = stop
        self._on_tick = on_tick
        self._runtime = runtime
        self._deadline = float("inf") if give_up_after is None else runtime.monotonic() + give_up_after
        self._at_once = False

    def at_once(self) -> None:
        """End the present pause. Call it in any thread."""
        self._at_once = True

    def __call__(self, name: str, attempt: Callable[[], T]) -> T:
        """Call `attempt` until it succeeds. `name` is that of the trouble.

        Raises:
            Stopped: `stop` was set.
            Fatal: it did not succeed in time.
            InJumpCloudError, OSError: waiting does not help.
        """
        failures = 0
        while not self._stop.is_set():
            try:
                result = self._try(attempt)
            except (InJumpCloudError, OSError, MemoryError) as error:
                failures += 1
                until = self._runtime.monotonic() + self._pause(error, failures)
                if not may_pass(error):
                    raise
                what, advice = _describe(error)
                if until > self._deadline:
                    raise Fatal(what, advice=advice) from None
                self._troubles.begin(name, what, "; ".join(filter(None, (advice, "the start waits until it works"))))
                self._wait(until, what)
            else:
                self._troubles.end(name)
                return result
        raise Stopped

    def _pause(self, error: BaseException, failures: int) -> float:
        after = error.after if isinstance(error, StateUnavailable) else None
        return backoff_delay(failures, self._runtime.random) if after is None else after

    def _try(self, attempt: Callable[[], T]) -> T:
        """Call `attempt` in a thread of its own, because a slow disk or a large state may hold it for minutes."""
        done = self._runtime.event()
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(attempt())
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
                errors.append(error)
            finally:
                done.set()

        try:
            self._runtime.start(work, name="start")
        except RuntimeError:  # the system has no more threads
            return attempt()
        while not done.wait(_TICK_SECONDS):
            if self._stop.is_set():
                raise Stopped
            self._on_tick("the start takes long")
        if errors:
            raise errors[0]
        return results[0]

    def _wait(self, until: float, what: str) -> None:
        while not (self._at_once or self._stop.is_set()) and self._runtime.monotonic() < until:
            self._on_tick(what)
            self._stop.wait(_TICK_SECONDS)
        self._at_once = False


def _describe(error: BaseException) -> tuple[str, str]:
    """What is wrong, in one line, and the advice."""
    if isinstance(error, InJumpCloudError):
        return " and ".join(error.message.splitlines()), error.advice
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}", ""
    return "not enough memory", ""
