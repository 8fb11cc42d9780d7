"""`in-jumpcloud`, killed at its n-th instant: `kill_at.py N COMMAND…` with SIGKILL, from within, at a known place.

An instant lies before and after each request, each chunk, each dead letter, and before each statement of the state.
With N = 0 nothing is killed, and the number of instants is written to standard error.
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
from in_jumpcloud.state.dead_letters import DeadLetterFile
from in_jumpcloud.state.store import StateStore


class Instants:
    """Counts the places that the process passes, and ends it at one of them."""

    def __init__(self, fatal: int) -> None:
        self.passed = 0
        self._fatal = fatal
        self._lock = threading.Lock()
        self._last = ""

    def pass_by(self, place: str) -> None:
        """One instant; rows of one statement are one."""
        with self._lock:
            if place.startswith("INSERT OR IGNORE") and place == self._last:
                return
            self._last = place
            self.passed += 1
            if self.passed == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: type, name: str) -> None:
        """Make an instant of the moments before and after a method."""
        method: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(method)
        def watched(*arguments: Any, **options: Any) -> Any:
            self.pass_by(f"before {name}")
            result = method(*arguments, **options)
            self.pass_by(f"after {name}")
            return result

        setattr(owner, name, watched)


def main() -> None:
    """Run the command line that follows the number."""
    instants = Instants(int(sys.argv.pop(1)))
    instants.around(DirectoryInsights, "fetch")
    instants.around(AckSender, "deliver")
    instants.around(DeadLetterFile, "add")
    opened = StateStore.__init__

    @functools.wraps(opened)
    def watched(self: StateStore, *arguments: Any, **options: Any) -> None:
        opened(self, *arguments, **options)
        # Rows differ in their values, which the statement's first words do not show.
        self._database.set_trace_callback(lambda statement: instants.pass_by(statement[:30]))

    StateStore.__init__ = watched  # type: ignore[method-assign]
    try:
        cli.main()
    finally:
        print(f"{instants.passed} instants", file=sys.stderr)  # noqa: T201 - the result


if __name__ == "__main__":
    main()
