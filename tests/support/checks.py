"""Runs `in-jumpcloud check` and reads its report."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from support.command import KEY, invoke

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.timestamps import MINUTE_MS, now_ms


class Report:
    """The lines of a report, the exit code, and the only line that failed."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        assert "Traceback" not in done.stderr.decode()
        self.text = done.stdout.decode()
        assert KEY not in self.text + done.stderr.decode()
        self.lines = self.text.splitlines()
        self.code = done.returncode

    @property
    def failures(self) -> list[str]:
        """The lines that failed."""
        return [line for line in self.lines if line.startswith("FAILED")]

    @property
    def failure(self) -> str:
        """The only line that failed."""
        (line,) = self.failures
        return line


def check(*arguments: object, environ: dict[str, str] | None = None) -> Report:
    """Run the command in this process."""
    return Report(invoke("check", *arguments, stdin=b"", **environ or {}))


def recent_events(**options: Any) -> EventSource:
    """Events of the last ten minutes."""
    end_ms = now_ms() - MINUTE_MS
    return EventSource(start_ms=end_ms - 9 * MINUTE_MS, end_ms=end_ms, **options)


@contextmanager
def jumpcloud() -> Iterator[SimulatedApi]:
    """JumpCloud with recent events."""
    with SimulatedApi(recent_events()) as api:
        yield api
