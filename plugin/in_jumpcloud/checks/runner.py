"""Runs checks in parallel, with a common deadline."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from in_jumpcloud.checks.result import OTHER, CheckResult, failed
from in_jumpcloud.errors import InJumpCloudError, Stopped

_MAX_PARALLEL = 8


class Check:
    """One check. `run` yields its results; `code` is the exit code if it does not finish in time."""

    def __init__(self, name: str, run: Callable[[], Iterable[CheckResult]], code: int = OTHER) -> None:
        self.name = name
        self.code = code
        self.results: queue.SimpleQueue[CheckResult | None] = queue.SimpleQueue()
        """The results so far, then None once the check has finished."""
        self._run = run

    def run(self) -> None:
        """Run the check and put its results into `results`."""
        try:
            for result in self._run():
                self.results.put(result)
        except Stopped:
            return  # reported as not finished
        except InJumpCloudError as error:
            self.results.put(failed(self.name, error, code=self.code))
        except Exception as error:  # noqa: BLE001 - a bug in one check must not hide the results of the others
            self.results.put(failed(self.name, f"internal error of the check: {error!r}"))
        self.results.put(None)


def run_checks(checks: Sequence[Check], deadline: float) -> Iterator[CheckResult]:
    """The results of `checks` in their order, each as soon as it is known.

    A check that has not finished at `deadline`, on the monotonic clock, fails; its thread is abandoned.
    """
    waiting: queue.SimpleQueue[Check] = queue.SimpleQueue()
    for check in checks:
        waiting.put(check)
    for _ in range(min(_MAX_PARALLEL, len(checks))):
        threading.Thread(target=_work, args=(waiting, deadline), name="check", daemon=True).start()
    for check in checks:
        yield from _results_until(check, deadline)


def _work(waiting: queue.SimpleQueue[Check], deadline: float) -> None:
    while time.monotonic() < deadline:
        try:
            check = waiting.get_nowait()
        except queue.Empty:
            return
        check.run()


def _results_until(check: Check, deadline: float) -> Iterator[CheckResult]:
    while True:
        try:
            result = check.results.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if result is None:
            return
        yield result
    advice = "a name server, proxy or host on the way does not answer"
    yield failed(check.name, "did not finish in time", advice, check.code)
