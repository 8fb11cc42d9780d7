"""What a check found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from in_jumpcloud.errors import ConfigError, InJumpCloudError, KeyRefused, ReceiverDown

CONFIGURATION, KEY, RECEIVER = ConfigError.exit_code, KeyRefused.exit_code, ReceiverDown.exit_code
OTHER = InJumpCloudError.exit_code
"""Exit codes, by what failed."""


class CheckResult(NamedTuple):
    """One line of the report. `advice` says what to do, where `found` does not; `code` is that of a failure, else 0."""

    mark: Literal["ok", "warning", "FAILED"]
    what: str
    found: str
    advice: str = ""
    code: int = 0


def ok(what: str, found: str) -> CheckResult:
    """Nothing to do."""
    return CheckResult("ok", what, found)


def warning(what: str, found: str, advice: str = "") -> CheckResult:
    """It works, and somebody should know."""
    return CheckResult("warning", what, found, advice)


def failed(what: str, found: str | InJumpCloudError, advice: str = "", code: int = OTHER) -> CheckResult:
    """It does not work. An error brings its exit code along."""
    if isinstance(found, InJumpCloudError):
        code = code if found.exit_code == OTHER else found.exit_code
    return CheckResult("FAILED", what, str(found), advice, code)


def exit_code(findings: Iterable[CheckResult]) -> int:
    """Of the whole: 2 configuration, 3 key, 4 receiver, the first of these that failed; 1: another did; 0: none did."""
    codes = {finding.code for finding in findings}
    return next((code for code in (CONFIGURATION, KEY, RECEIVER, OTHER) if code in codes), 0)
