"""The result of a check."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from in_jumpcloud.errors import ConfigError, InJumpCloudError, KeyRefused, ReceiverDown

CONFIGURATION, KEY, RECEIVER = ConfigError.exit_code, KeyRefused.exit_code, ReceiverDown.exit_code
OTHER = InJumpCloudError.exit_code
"""Exit codes, by what failed."""


class CheckResult(NamedTuple):
    """One line of the report.

    `advice` says what to do if `message` does not. `code` is the exit code of a failure, else 0.
    """

    status: Literal["ok", "warning", "FAILED"]
    check: str
    message: str
    advice: str = ""
    code: int = 0


def ok(check: str, message: str) -> CheckResult:
    """The check passed."""
    return CheckResult("ok", check, message)


def warning(check: str, message: str, advice: str = "") -> CheckResult:
    """It works, but something needs attention."""
    return CheckResult("warning", check, message, advice)


def failed(check: str, message: str | InJumpCloudError, advice: str = "", code: int = OTHER) -> CheckResult:
    """It does not work. An error brings its own exit code, unless that is the general one, and may bring advice."""
    if isinstance(message, InJumpCloudError):
        code = code if message.exit_code == OTHER else message.exit_code
        return CheckResult("FAILED", check, message.message, advice or message.advice, code)
    return CheckResult("FAILED", check, message, advice, code)


def exit_code(results: Iterable[CheckResult]) -> int:
    """The exit code of the command: configuration before key before receiver before any other failure; else 0."""
    codes = {result.code for result in results}
    return next((code for code in (CONFIGURATION, KEY, RECEIVER, OTHER) if code in codes), 0)
