"""What a check found, and how many checks run beside each other without anyone waiting for a dead end."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from in_jumpcloud.errors import ConfigError, InJumpCloudError, KeyRefused, ReceiverDown, Stopped

CONFIGURATION, KEY, RECEIVER = ConfigError.exit_code, KeyRefused.exit_code, ReceiverDown.exit_code
OTHER = InJumpCloudError.exit_code
"""Exit codes, by what failed."""
_AT_ONCE = 8


class Finding(NamedTuple):
    """One line of the report. `advice` says what to do, where `found` does not; `code` is that of a failure, else 0."""

    mark: Literal["ok", "warning", "FAILED"]
    what: str
    found: str
    advice: str = ""
    code: int = 0


def ok(what: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", what, found)


def warning(what: str, found: str, advice: str = "") -> Finding:
    """It works, and somebody should know."""
    return Finding("warning", what, found, advice)


def failed(what: str, found: str | InJumpCloudError, advice: str = "", code: int = OTHER) -> Finding:
    """It does not work. An error brings its exit code along."""
    if isinstance(found, InJumpCloudError):
        code = code if found.exit_code == OTHER else found.exit_code
    return Finding("FAILED", what, str(found), advice, code)


def exit_code(findings: Iterable[Finding]) -> int:
    """Of the whole: 2 configuration, 3 key, 4 receiver, the first of these that failed; 1: another did; 0: none did."""
    codes = {finding.code for finding in findings}
    return next((code for code in (CONFIGURATION, KEY, RECEIVER, OTHER) if code in codes), 0)


class Check:
    """One check: `run` gives its findings; `code` is that of a failure to come to an end."""

    def __init__(self, what: str, run: Callable[[], Iterable[Finding]], code: int = OTHER) -> None:
        self.what = what
        self.code = code
        self.findings: queue.SimpleQueue[Finding | None] = queue.SimpleQueue()
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


def concurrently(checks: Sequence[Check], deadline: float) -> Iterator[Finding]:
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


def _until(check: Check, deadline: float) -> Iterator[Finding]:
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
