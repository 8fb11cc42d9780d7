"""Run `in-jumpcloud` and kill it at its n-th instant: `kill_at.py N COMMAND…` sends itself SIGKILL there.

There is an instant before and after each request and chunk, and before each SQL statement of a state in a file.
`N:PLACE` counts only those of one place, such as `3:after deliver`: between the ack of a chunk and its commit.
With N = 0 nothing is killed. The number of instants is written to standard error.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from in_jumpcloud import cli
from in_jumpcloud.forward.sender import AckSender
from in_jumpcloud.insights.api import DirectoryInsights
from in_jumpcloud.state.sqlite.store import SqliteStore


class Instants:
    """Counts the instants that the process passes, and kills it at one of them."""

    def __init__(self, fatal: int, only: str = "") -> None:
        self.passed = 0
        self._fatal = fatal
        self._only = only
        self._lock = threading.Lock()
        self._last = ""

    def pass_by(self, place: str) -> None:
        """Count one instant; all rows of an INSERT are one."""
        with self._lock:
            if place.startswith("INSERT OR IGNORE") and place == self._last:
                return
            if self._only not in {"", place}:
                return
            self._last = place
            self.passed += 1
            if self.passed == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: type, name: str) -> None:
        """Put an instant before and after each call of a method."""
        method: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(method)
        def wrapper(*arguments: Any, **options: Any) -> Any:
            self.pass_by(f"before {name}")
            result = method(*arguments, **options)
            self.pass_by(f"after {name}")
            return result

        setattr(owner, name, wrapper)


def main() -> None:
    """Run the command that follows the number."""
    number, _, only = sys.argv.pop(1).partition(":")
    instants = Instants(int(number), only)
    instants.around(DirectoryInsights, "fetch")
    instants.around(AckSender, "deliver")
    original = SqliteStore.__init__

    @functools.wraps(original)
    def traced(self: SqliteStore, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        # The first 30 characters show the statement, but no values: all rows of an INSERT look the same.
        self._database.connection.set_trace_callback(lambda statement: instants.pass_by(statement[:30]))

    SqliteStore.__init__ = traced  # type: ignore[method-assign]
    try:
        cli.main()
    finally:
        print(f"{instants.passed} instants", file=sys.stderr)  # noqa: T201 - the result


if __name__ == "__main__":
    main()
