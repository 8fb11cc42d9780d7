"""How commands show backfills: a progress bar or lines while they run, a summary, a table."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Self

import click

from in_jumpcloud.counters import plural
from in_jumpcloud.progress import Pace, Progress, share_done
from in_jumpcloud.state.jobs import JobRow
from in_jumpcloud.text import format_duration, shown_in_one
from in_jumpcloud.timestamps import rfc3339

LINE_SECONDS = 30.0
"""How often a line tells the progress where there is no terminal."""
_BAR_STEPS = 1000


def share(row: JobRow) -> float:
    """How much of a unit is done, from 0 to 1."""
    if row.condition == "done":
        return 1.0
    return share_done(row.read, row.expected, row.position.watermark_ms, (row.spec.since_ms, row.spec.until_ms))


def _total(rows: Sequence[JobRow]) -> tuple[float, int, int | None]:
    """The share, the events and the count of all."""
    read = sum(row.read for row in rows)
    counts = [row.expected for row in rows]
    expected = None if None in counts else sum(filter(None, counts))
    if expected:
        return min(1.0, read / expected), read, expected
    return sum(map(share, rows)) / max(1, len(rows)), read, expected


def backfill_facts(row: JobRow) -> dict[str, Any]:
    """What `status --json` shows of a unit."""
    spec = row.spec
    return {
        "number": row.number,
        "stream": row.stream,
        "since": rfc3339(spec.since_ms),
        "until": rfc3339(spec.until_ms),
        "services": list(spec.services),
        "again": spec.again,
        "state": row.condition,
        "percent": round(100 * share(row), 1),
        "expected": row.expected,
        "read": row.read,
        "acknowledged": row.acknowledged,
        "dead_lettered": row.dead_lettered,
        "created": rfc3339(row.created_ms),
        "updated": rfc3339(row.updated_ms),
        "error": row.error,
        "error_time": row.error_ms and rfc3339(row.error_ms),
    }


def backfill_text(facts: dict[str, Any]) -> str:
    """The same in one line."""
    services = "" if facts["services"] == ["all"] else f", services {', '.join(facts['services'])}"
    what = f"{facts['since']} to {facts['until']}{services}{', delivered again' if facts['again'] else ''}"
    how = f"{facts['percent']:g} % done" if facts["state"] == "open" else facts["state"]
    if facts.get("progress"):
        how = progress_text(facts["progress"])
    dead, sent = facts["dead_lettered"], facts["acknowledged"]
    counts = f"{sent} delivered, {facts['read'] - sent - dead} not sent again, {plural(dead, 'dead letter')}"
    error = f"; {facts['error_time']}  {facts['error']}" if facts["error"] else ""
    return f"{facts['number']} of {facts['stream']}: {what}: {how}, {counts}{error}"


def progress_text(facts: dict[str, Any]) -> str:
    """A line of what the running process knows of a progress, as in `/status.json`."""
    events = f"{facts['events']:,}" + (f" of {facts['expected']:,}" if facts["expected"] is not None else "")
    left = "" if facts["left_seconds"] is None else f", {format_duration(facts['left_seconds'])} left"
    return f"{facts['percent']:g} %, {events} events, {facts['events_per_second']:g} events/s{left}"


def describe(row: JobRow) -> str:
    """A unit in one line."""
    return f"backfill {backfill_text(backfill_facts(row))}"


def summary(rows: Sequence[JobRow], seconds: float) -> str:
    """What became of a backfill that this process has followed for `seconds`."""
    read, sent = sum(row.read for row in rows), sum(row.acknowledged for row in rows)
    dead = sum(row.dead_lettered for row in rows)
    return (
        f"backfill {rows[0].number} is done: {plural(read, 'event')} of {plural(len(rows), 'stream')}, "
        f"{sent} delivered, {read - sent - dead} delivered before and not sent again, {plural(dead, 'dead letter')}, "
        f"in {format_duration(seconds)}"
    )


class Follower(AbstractContextManager["Follower"]):
    """Shows the progress of some backfills on standard error: a bar on a terminal, else a line every 30 s."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._bar: Any = None
        self._shown = 0
        self._line_at = time.monotonic() + LINE_SECONDS
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = self._stack.enter_context(
                click.progressbar(length=_BAR_STEPS, file=sys.stderr, show_eta=False, item_show_func=lambda item: item)
            )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def show(self, rows: Sequence[JobRow]) -> None:
        """Show these units, if it is time."""
        now = time.monotonic()
        done, read, expected = _total(rows)
        self._pace.note(now, read, done)
        progress = self._pace.progress(now, expected)
        error = next((row.error for row in rows if row.error and row.condition == "open"), None)
        if self._bar is not None:
            steps = int(done * _BAR_STEPS)
            self._bar.update(max(0, steps - self._shown), _details(progress) if not error else shown_in_one(error)[:60])
            self._shown = max(self._shown, steps)
        elif now >= self._line_at:
            self._line_at = now + LINE_SECONDS
            names = ", ".join(sorted({str(row.number) for row in rows}))
            click.echo(shown_in_one(f"backfill {names}: {progress}{f'; {error}' if error else ''}"), err=True)


def _details(progress: Progress) -> str:
    """What the bar does not show."""
    left = "" if progress.seconds_left is None else f"  {format_duration(progress.seconds_left)} left"
    return f"{progress.events:,} events  {progress.per_second:,.0f}/s{left}"
