"""`in-jumpcloud audit`: JumpCloud's own counts beside the ledger's, hour by hour."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from in_jumpcloud import app
from in_jumpcloud.backoff import backoff_delay
from in_jumpcloud.cli import config_option, examples, overrides_option
from in_jumpcloud.collector import Stream
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config
from in_jumpcloud.config.types import Duration
from in_jumpcloud.errors import ConfigError, Fatal, Retryable
from in_jumpcloud.insights import auth
from in_jumpcloud.insights.api import DirectoryInsights
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state.store import StateReader, open_readonly
from in_jumpcloud.timestamps import rfc3339

_MINUTE_MS = 60_000
_HOUR = 60
_DAY = 24 * _HOUR
_TRIES = 4
_NOW = "the newest span, which the polls still go over"


class _Hour(NamedTuple):
    """What both sides have of one hour, or of the part of it that was compared: it begins at `minute`.

    `missing` and `surplus` are summed up by minute, so that one does not hide the other.
    """

    minute: int
    jumpcloud: int
    ledger: int
    missing: int
    surplus: int


class _Span(NamedTuple):
    """The minutes of a stream that can be compared, and what is left out for which reason."""

    start: int
    end: int
    left_out: list[str]


class _Compared(NamedTuple):
    name: str
    span: _Span
    hours: list[_Hour]


def audit(settings: Config, *, since: str, as_json: bool) -> None:
    """Compare, and print what is found.

    Raises:
        Failed: the counts differ somewhere.
        ConfigError: `since` has not its form, or the state cannot be read.
        KeyRefused, Refused, NoCounts, TryAgain: JumpCloud does not give its counts.
    """
    try:
        back_ms = Duration.parse(since).ms
    except ValueError as error:
        raise ConfigError(f"--since: {error}") from None
    rate_limiter = RateLimiter(settings.jumpcloud.requests_per_second)
    with open_readonly(settings.state.path) as state:
        api = DirectoryInsights(settings.jumpcloud, auth.auth_for(settings.jumpcloud, rate_limiter), rate_limiter)
        try:
            now_ms = time.time_ns() // 1_000_000
            positions = {row.name: row.position for row in state.streams()}
            found = []
            for stream in app.streams(settings):
                span = _span(positions.get(stream.name), settings, now_ms, back_ms)
                found.append(_Compared(stream.name, span, _compare(stream, span, api, state, settings)))
        finally:
            api.close()
    if as_json:
        click.echo(json.dumps({"streams": [_as_json(each) for each in found]}, indent=2, ensure_ascii=False))
    else:
        for each in found:
            _show(each)
    hours = [hour for each in found for hour in each.hours]
    wrong = [hour for hour in hours if hour.missing or hour.surplus]
    if wrong:
        raise Fatal(
            f"{len(wrong)} of {len(hours)} hours differ: the ledger lacks {sum(hour.missing for hour in wrong)} events "
            f"that JumpCloud counts, and has {sum(hour.surplus for hour in wrong)} that JumpCloud does not count"
        )
    if not as_json:
        click.echo(f"{sum(hour.ledger for hour in hours)} events in {len(hours)} hours: no difference")


def _span(position: Position | None, settings: Config, now_ms: int, back_ms: int) -> _Span:
    if position is None:
        return _Span(0, 0, ["everything: the stream has not begun"])
    wanted_ms, left_out = now_ms - back_ms, []
    kept_ms = now_ms - settings.ledger.keep.ms
    start_ms = max(wanted_ms, kept_ms, position.origin_ms)
    start = -(-start_ms // _MINUTE_MS)
    end = (position.watermark_ms - settings.jumpcloud.overlap.ms) // _MINUTE_MS
    if start_ms > wanted_ms:
        reason = "the stream began there" if start_ms == position.origin_ms else "it is older than ledger.keep"
        left_out.append(f"before {_minute(start)}: {reason}")
    left_out.append(f"from {_minute(max(start, end))}: {_NOW}")
    return _Span(start, max(start, end), left_out)


def _compare(stream: Stream, span: _Span, api: DirectoryInsights, state: StateReader, settings: Config) -> list[_Hour]:
    hours = []
    services, stop = settings.jumpcloud.services, threading.Event()
    for start, end in _parts(span.start, span.end, _DAY):

        def ask(start: int = start, end: int = end) -> dict[int, int]:
            return api.counts(start * _MINUTE_MS, end * _MINUTE_MS, services, stream.scope, stop)

        theirs = _patiently(ask)
        ours = state.counts(stream.name, start, end)
        for first, last in _parts(start, end, _HOUR):
            pairs = [(theirs.get(minute, 0), ours.get(minute, 0)) for minute in range(first, last)]
            hours.append(
                _Hour(
                    first,
                    sum(their for their, _ in pairs),
                    sum(our for _, our in pairs),
                    missing=sum(max(0, their - our) for their, our in pairs),
                    surplus=sum(max(0, our - their) for their, our in pairs),
                )
            )
    return hours


def _patiently(ask: Callable[[], dict[int, int]]) -> dict[int, int]:
    for failures in range(1, _TRIES):
        try:
            return ask()
        except Retryable as error:
            time.sleep(error.after if error.after is not None else backoff_delay(failures))
    return ask()


def _parts(start: int, end: int, length: int) -> Iterator[tuple[int, int]]:
    """`[start, end)`, cut where a multiple of `length` is."""
    while start < end:
        part_end = min(end, (start // length + 1) * length)
        yield start, part_end
        start = part_end


def _minute(minute: int) -> str:
    return f"{rfc3339(minute * _MINUTE_MS)[:16]}Z"


def _show(compared: _Compared) -> None:
    click.echo(compared.name)
    if compared.hours:
        click.echo(f"  {'hour':17}  {'JumpCloud':>9}  {'ledger':>9}  difference")
    for hour in compared.hours:
        parts = (f"-{hour.missing}" if hour.missing else "", f"+{hour.surplus}" if hour.surplus else "")
        difference = " ".join(filter(None, parts)) or "0"
        click.echo(f"  {_minute(hour.minute)}  {hour.jumpcloud:9}  {hour.ledger:9}  {difference:>10}")
    for each in compared.span.left_out:
        click.echo(f"  not compared: {each}")
    click.echo()


def _as_json(compared: _Compared) -> dict[str, Any]:
    return {
        "name": compared.name,
        "not_compared": compared.span.left_out,
        "hours": [
            {"hour": _minute(hour.minute), **_figures(hour), "difference": hour.ledger - hour.jumpcloud}
            for hour in compared.hours
        ],
    }


def _figures(hour: _Hour) -> dict[str, int]:
    return {name: value for name, value in hour._asdict().items() if name != "minute"}


@click.command(
    "audit",
    epilog=examples(
        "in-jumpcloud audit -c jumpcloud.yaml",
        "in-jumpcloud audit -c jumpcloud.yaml --since 7d --json",
    ),
)
@config_option()
@overrides_option
@click.option("--since", default="24h", show_default=True, metavar="DURATION", help="How far back.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(path: Path, overrides: tuple[str, ...], since: str, as_json: bool) -> None:
    """Compare JumpCloud's own counts with what was delivered, hour by hour; exit code 1 where they differ."""
    audit(load_config(path, overrides), since=since, as_json=as_json)
