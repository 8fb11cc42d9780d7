"""Runs checks concurrently, each with a time limit."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from in_jumpcloud.checks.result import OTHER, CheckResult, failed
from in_jumpcloud.errors import InJumpCloudError, Stopped

_AT_ONCE = 8


class Check:
    """One check: `run` gives its findings; `code` is that of a failure to come to an end."""

    def __init__(self, what: str, run: Callable[[], Iterable[CheckResult]], code: int = OTHER) -> None:
        self.what = what
        self.code = code
        self.findings: queue.SimpleQueue[CheckResult | None] = queue.SimpleQueue()
        self._run = run

    def work(self) -> None:
        """Run it; what it finds goes to `findings`, behind all None."""
        try:
            for finding in self._run():
                self.findings.put(finding)
        except Stopped:
            return  # whoever waits for it says so
        except InJumpCloudError as error:
            self.findings.put(failed(self.what, error, code=self.code))
        except Exception as error:  # noqa: BLE001 - a fault of ours in one check must not hide what the others find
            self.findings.put(failed(self.what, f"an error of the check itself: {error!r}"))
        self.findings.put(None)


def run_checks(checks: Sequence[Check], deadline: float) -> Iterator[CheckResult]:
    """The findings of `checks` in their order, each as soon as it is there.

    What has not come to its end at `deadline`, in the terms of `time.monotonic`, fails; nothing waits for it.
    """
    untried: queue.SimpleQueue[Check] = queue.SimpleQueue()
    for check in checks:
        untried.put(check)
    for _ in range(min(_AT_ONCE, len(checks))):
        threading.Thread(target=_work, args=(untried, deadline), name="check", daemon=True).start()
    for check in checks:
        yield from _until(check, deadline)


def _work(untried: queue.SimpleQueue[Check], deadline: float) -> None:
    while time.monotonic() < deadline:
        try:
            check = untried.get_nowait()
        except queue.Empty:
            return
        check.work()


def _until(check: Check, deadline: float) -> Iterator[CheckResult]:
    while True:
        try:
            finding = check.findings.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if finding is None:
            return
        yield finding
    late = "did not come to its end in the time that a check has"
    yield failed(check.what, late, "a name server, proxy or host on the way does not answer", check.code)
