"""`in-jumpcloud backfill`: delivers a span of time, whether the plugin is running or not."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from in_jumpcloud import app
from in_jumpcloud.cli import NAME, ParsedType, examples, settings_options, show
from in_jumpcloud.cli.job_progress import Follower, describe, summary
from in_jumpcloud.cli.signals import stop_on_signals
from in_jumpcloud.cli.spans import Access, Span, choose_streams, read_span, services_of, span_options
from in_jumpcloud.collector import Stream
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config
from in_jumpcloud.counters import plural
from in_jumpcloud.errors import Fatal, InJumpCloudError, StateMissing, Stopped
from in_jumpcloud.insights.api import DirectoryInsights
from in_jumpcloud.insights.auth import create_auth
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.monitoring import logs
from in_jumpcloud.state import opening
from in_jumpcloud.state.jobs import JobRow, Jobs, JobSpec
from in_jumpcloud.text import shown
from in_jumpcloud.timestamps import now_ms

_ALL = "all"
_RESUME = f"`{NAME} backfill --resume` or `{NAME} run` delivers the rest"
_LOOK_SECONDS = 0.5
"""How often the progress is read."""


def _parse_number(text: str) -> int | None:
    """The number of a backfill; None for all."""
    if text == _ALL:
        return None
    if not text.isascii() or not text.isdecimal():
        raise ValueError(f"expected the number of a backfill, or {_ALL} (got {text!r:.40})")
    return int(text)


class _Wanted(NamedTuple):
    """New backfills: streams that have the same services make one. None: all that are open."""

    parts: list[tuple[list[Stream], JobSpec]] | None
    services: tuple[str, ...] = ()
    """Those of `--service`."""

    def add_to(self, jobs: Jobs) -> set[int]:
        """Create it; returns the numbers of the backfills to follow.

        Raises:
            Fatal: there is none.
        """
        if self.parts is not None:
            return {jobs.create([each.name for each in streams], spec, now_ms()) for streams, spec in self.parts}
        numbers = {row.number for row in jobs.rows(only_open=True)}
        if not numbers:
            raise Fatal("no backfill is open; --since begins one")
        return numbers


@click.command(
    "backfill",
    epilog=examples(
        "in-jumpcloud backfill -c jumpcloud.yaml --since 7d",
        "in-jumpcloud backfill -c jumpcloud.yaml --since 2026-01-31Z --until 2026-02-01Z --again",
        "in-jumpcloud backfill -c jumpcloud.yaml --cancel",
    ),
)
@settings_options()
@span_options(required=False)
@click.option("--again", is_flag=True, help="Also send what was delivered before: the receiver has lost it.")
@click.option("--resume", is_flag=True, help="Continue the backfills that are open.")
@click.option(
    "--cancel",
    "cancelled",
    metavar="[NUMBER]",
    is_flag=False,
    flag_value=_ALL,
    type=ParsedType("NUMBER", lambda text: (_parse_number(text),)),
    help="Cancel this backfill, or all that are open.",
)
@click.option("--list", "listed", is_flag=True, help="List the backfills.")
def command(
    path: Path | None,
    overrides: tuple[str, ...],
    since: str | None,
    until: str | None,
    names: tuple[str, ...],
    services: tuple[str, ...],
    again: bool,
    resume: bool,
    cancelled: tuple[int | None] | None,
    listed: bool,
) -> None:
    """Deliver the events of a span of time, again if need be.

    The positions of the streams stay where they are. Events that were delivered before are not sent, unless with
    --again. While `run` uses the state, it does the work, and this command shows the progress; Ctrl-C ends the command
    only. Otherwise the command does the work itself. A backfill that was interrupted is continued by `run`, by
    --resume, or by the same command.
    """
    if sum([since is not None, resume, cancelled is not None, listed]) != 1:
        raise click.UsageError("give one of --since, --resume, --cancel and --list")
    if since is None and (until or names or services or again):
        raise click.UsageError("--until, --stream, --service and --again belong to --since")
    settings = load_config(path, overrides, needs_key=False)
    if listed:
        _list(settings)
    elif cancelled is not None:
        _cancel(settings, *cancelled)
    else:
        wanted = _Wanted(None)
        if since is not None:
            wanted = _wanted(settings, _span(settings, since, until), names, services, again=again)
        stop = stop_on_signals()
        logs.configure_logging(msgspec.structs.replace(settings.log, level=_log_level(settings)))
        if _wait_for_commands(settings, stop):
            _hand_over(settings, wanted, stop)
        else:
            _run(load_config(path, overrides), wanted, stop)


def _span(settings: Config, since: str, until: str | None) -> Span:
    """The span; until now it ends where the polls of a stream end."""
    now = now_ms()
    span = read_span(since, until, now)
    return span if until is not None else read_span(since, f"{settings.jumpcloud.lag.ms}ms", now)


def _wanted(settings: Config, span: Span, names: tuple[str, ...], services: tuple[str, ...], *, again: bool) -> _Wanted:
    groups: dict[tuple[str, ...], list[Stream]] = {}
    for stream in choose_streams(settings, names):
        groups.setdefault(services_of(settings.jumpcloud, stream, services), []).append(stream)
    parts = [(streams, JobSpec(span.start_ms, span.end_ms, each, again)) for each, streams in groups.items()]
    return _Wanted(parts, services)


def _log_level(settings: Config) -> str:
    """What a person at the terminal needs to see: the progress is shown anyway."""
    return "warning" if settings.log.level == "info" else settings.log.level


def _list(settings: Config) -> None:
    rows: list[JobRow] = []
    with suppress(StateMissing), opening.open_readonly(settings.state) as state:
        rows = state.jobs.rows()
    for row in rows:
        show(describe(row))
    if not rows:
        click.echo("no backfills")


def _cancel(settings: Config, number: int | None) -> None:
    numbers: list[int] = []
    with suppress(StateMissing), opening.open_shared(settings.state) as state:
        numbers = state.jobs.cancel(number, now_ms())
    if not numbers:
        raise Fatal("no backfill is open" if number is None else f"backfill {number} is not open; see --list")
    for each in numbers:
        click.echo(f"backfill {each} is cancelled; what it has delivered stays delivered")


def _wait_for_commands(settings: Config, stop: threading.Event) -> bool:
    """Wait while a command such as `state export` has the state to itself. Returns whether another process holds it.

    Raises:
        Fatal: `stop` was set.
    """
    waits_for = None
    while (holder := opening.holder(settings.state)) and holder.is_alone:
        if holder != waits_for:
            waits_for = holder
            click.echo(shown(f"waiting: {holder} exports, imports or migrates the state"), err=True)
        if stop.wait(_LOOK_SECONDS):
            raise Fatal("interrupted; nothing was begun")
    return holder is not None


def _hand_over(settings: Config, wanted: _Wanted, stop: threading.Event) -> None:
    """Have the process that holds the state do it, and follow.

    Raises:
        Fatal: it failed, or was cancelled; the process ended; `stop` was set.
    """
    began = time.monotonic()
    with opening.open_shared(settings.state) as state:
        numbers, holder = wanted.add_to(state.jobs), state.holder
    named = " and ".join(f"backfill {number}" for number in sorted(numbers))
    click.echo(shown(f"{named}: the state is in use by {holder}; delivery begins there within seconds"), err=True)
    with opening.open_readonly(settings.state) as state, Follower() as follower:
        while True:
            rows = _rows(state.jobs, numbers)
            follower.show(rows)
            if not any(row.condition == "open" for row in rows):
                break
            if stop.wait(_LOOK_SECONDS):
                raise Fatal(f"{named}: not complete; left to {holder}", advice=f"`{NAME} backfill --cancel` ends it")
            if opening.holder(settings.state) is None:
                rows = _rows(state.jobs, numbers)
                if any(row.condition == "open" for row in rows):
                    raise Fatal(f"{named}: not complete, and no process uses the state any more", advice=_RESUME)
    _conclude(rows, time.monotonic() - began)


def _run(settings: Config, wanted: _Wanted, stop: threading.Event) -> None:
    """Do it in this process, together with other backfills that are open.

    Raises:
        InJumpCloudError: it failed, or is not complete.
    """
    if wanted.parts is not None:
        _require_access(settings, wanted, stop)
    began = time.monotonic()
    with app.open_app(settings, once=True, only_backfills=True) as plugin, ThreadPoolExecutor(1) as pool:
        plugin.resources.receivers.connect(stop)
        jobs = plugin.resources.state.jobs
        numbers = wanted.add_to(jobs)
        others = sorted({row.number for row in jobs.rows(only_open=True)} - numbers)
        if others:
            click.echo(f"also continued, since not complete: backfill {', '.join(map(str, others))}", err=True)
        running = pool.submit(plugin.run)
        try:
            with Follower() as follower:
                while not running.done():
                    follower.show(_rows(jobs, numbers))
                    if stop.wait(_LOOK_SECONDS):
                        break
        finally:
            plugin.end()
        error = running.result()
        rows = _rows(jobs, numbers)
    if any(row.condition == "open" for row in rows):
        named = " and ".join(f"backfill {number}" for number in sorted(numbers))
        if error is None:
            reason = next((row.error for row in rows if row.error), None)
            error = Fatal("interrupted" if stop.is_set() or not reason else reason)
        click.echo(f"{NAME}: {named}: not complete; {_RESUME}", err=True)
        raise error
    _conclude(rows, time.monotonic() - began, error)


def _require_access(settings: Config, wanted: _Wanted, stop: threading.Event) -> None:
    """Raise an error if JumpCloud does not return the span: before anything is sent."""
    rate_limiter = RateLimiter(settings.jumpcloud.requests_per_second)
    api = DirectoryInsights(settings.jumpcloud, create_auth(settings.jumpcloud, rate_limiter), rate_limiter)
    try:
        access = Access(api, settings.jumpcloud, wanted.services, stop)
        for streams, spec in wanted.parts or ():
            access.require(streams, Span(spec.since_ms, spec.until_ms), now_ms())
    except Stopped:
        raise Fatal("interrupted; nothing was sent") from None
    finally:
        api.close()


def _rows(jobs: Jobs, numbers: set[int]) -> list[JobRow]:
    return [row for row in jobs.rows() if row.number in numbers]


def _conclude(rows: list[JobRow], seconds: float, error: InJumpCloudError | None = None) -> None:
    """Print what became of backfills that have ended.

    Raises:
        InJumpCloudError: something was not delivered.
    """
    for number in sorted({row.number for row in rows}):
        of_it = [row for row in rows if row.number == number]
        if all(row.condition == "done" for row in of_it):
            show(summary(of_it, seconds))
        else:
            for row in of_it:
                show(describe(row))
    failed = [row for row in rows if row.condition == "failed"]
    cancelled = [row for row in rows if row.condition == "cancelled"]
    dead = sum(row.dead_lettered for row in rows)
    if failed:
        raise error or Fatal(f"{failed[0].name} failed: {failed[0].error}")
    if cancelled:
        raise Fatal(f"backfill {cancelled[0].number} was cancelled")
    if dead:
        raise Fatal(f"{plural(dead, 'event')} could not be delivered", advice="see the dead letters")
    if error:
        raise error
