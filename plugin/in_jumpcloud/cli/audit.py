"""`in-jumpcloud audit`: compares JumpCloud's counts with the ledger, hour by hour."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from in_jumpcloud.cli import DURATION, examples, json_option, settings_options, show
from in_jumpcloud.cli.retries import repeat
from in_jumpcloud.cli.spans import choose_streams
from in_jumpcloud.collector import Stream
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config
from in_jumpcloud.config.types import Duration
from in_jumpcloud.counters import plural
from in_jumpcloud.errors import Fatal
from in_jumpcloud.insights import auth
from in_jumpcloud.insights.api import DirectoryInsights
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state import opening
from in_jumpcloud.state.notes import as_of_ms
from in_jumpcloud.state.reader import StateReader
from in_jumpcloud.streams import jumpcloud_of_stream
from in_jumpcloud.text import format_duration
from in_jumpcloud.timestamps import MINUTE_MS, now_ms, rfc3339

_HOUR_MINUTES = 60
_DAY_MINUTES = 24 * _HOUR_MINUTES


class _Hour(NamedTuple):
    """The counts of one hour, or of the part of it that was compared, which begins at `minute`.

    `missing` and `surplus` are sums over the minutes, so that one does not cancel out the other.
    """

    minute: int
    jumpcloud: int
    ledger: int
    missing: int
    surplus: int


class _Span(NamedTuple):
    """The minutes `[start, end)` of a stream that can be compared, and what is not compared and why.

    `is_behind`: the stream has not fetched all of the rest yet.
    """

    start: int
    end: int
    not_compared: list[str]
    is_behind: bool


class _StreamAudit(NamedTuple):
    name: str
    span: _Span
    hours: list[_Hour]


@click.command(
    "audit",
    epilog=examples(
        "in-jumpcloud audit -c jumpcloud.yaml",
        "in-jumpcloud audit -c jumpcloud.yaml --since 7d --json",
    ),
)
@settings_options()
@click.option("--since", default="24h", show_default=True, type=DURATION, help="How far back to compare.")
@json_option
def command(path: Path | None, overrides: tuple[str, ...], since: Duration, as_json: bool) -> None:
    """Compare JumpCloud's counts with the delivered events.

    Compares hour by hour. Exit code 1 if any hour differs.
    """
    settings = load_config(path, overrides)
    audits = _audit_streams(settings, since)
    if as_json:
        click.echo(json.dumps({"streams": [_as_json(each) for each in audits]}, indent=2))
    else:
        for each in audits:
            _print_stream(each)
    hours = [hour for each in audits for hour in each.hours]
    different = [hour for hour in hours if hour.missing or hour.surplus]
    if different:
        raise Fatal(
            f"{len(different)} of {len(hours)} hours differ: {sum(hour.missing for hour in different)} events that "
            f"JumpCloud counts are not in the ledger, {sum(hour.surplus for hour in different)} events in the ledger "
            "are not counted by JumpCloud"
        )
    if not as_json:
        _print_agreement(audits, hours)


def _audit_streams(settings: Config, since: Duration) -> list[_StreamAudit]:
    """Compare each configured stream.

    Raises:
        ConfigError: the state cannot be read.
        RequestRejected, CountsUnavailable, Retryable: JumpCloud does not return its counts, or list of organizations.
    """
    rate_limiter = RateLimiter(settings.jumpcloud.requests_per_second)
    with opening.open_readonly(settings.state) as state:
        api = DirectoryInsights(settings.jumpcloud, auth.create_auth(settings.jumpcloud, rate_limiter), rate_limiter)
        try:
            now = now_ms()
            rows = {row.name: row for row in state.streams()}
            is_held = state.holder is not None
            audits = []
            for stream in choose_streams(settings):
                kept_from_ms = state.kept_from_ms(stream.name)
                row = rows.get(stream.name)
                as_of = as_of_ms(row.updated_ms if row else None, now, is_held=is_held)
                span = _comparable_span(row and row.position, kept_from_ms, settings, now - since.ms, as_of)
                audits.append(_StreamAudit(stream.name, span, _compare(stream, span, api, state, settings)))
            return audits
        finally:
            api.close()


def _comparable_span(
    position: Position | None, kept_from_ms: int, settings: Config, wanted_ms: int, as_of_ms: int
) -> _Span:
    """`wanted_ms` is the start that was asked for, `kept_from_ms` that of the ledger, `as_of_ms` that of the position.

    All are epoch milliseconds.
    """
    if position is None:
        return _Span(0, 0, ["everything: the stream has not started"], is_behind=True)
    not_compared = []
    start_ms = max(wanted_ms, kept_from_ms, position.origin_ms)
    start = -(-start_ms // MINUTE_MS)
    end = max(start, (position.watermark_ms - settings.jumpcloud.overlap.ms) // MINUTE_MS)
    if start_ms > wanted_ms:
        reason = "before the start of the stream" if start_ms == position.origin_ms else "older than the ledger"
        not_compared.append(f"until {_format_minute(start)}: {reason}")
    behind_ms = as_of_ms - position.reached_ms
    is_behind = behind_ms > settings.http.max_lag.ms
    reason = "most recent minutes, still being polled"
    if is_behind:
        reason = f"not fetched yet: the stream is {format_duration(behind_ms / 1000)} behind"
    not_compared.append(f"from {_format_minute(end)}: {reason}")
    return _Span(start, end, not_compared, is_behind)


def _compare(stream: Stream, span: _Span, api: DirectoryInsights, state: StateReader, settings: Config) -> list[_Hour]:
    hours, services = [], jumpcloud_of_stream(settings.jumpcloud, stream).services
    for day_start, day_end in _split(span.start, span.end, _DAY_MINUTES):
        jumpcloud = _fetch_counts(api, stream, day_start, day_end, services)
        ledger = state.counts(stream.name, day_start, day_end)
        for start, end in _split(day_start, day_end, _HOUR_MINUTES):
            counts = [(jumpcloud.get(minute, 0), ledger.get(minute, 0)) for minute in range(start, end)]
            hours.append(
                _Hour(
                    start,
                    sum(theirs for theirs, _ in counts),
                    sum(ours for _, ours in counts),
                    missing=sum(max(0, theirs - ours) for theirs, ours in counts),
                    surplus=sum(max(0, ours - theirs) for theirs, ours in counts),
                )
            )
    return hours


def _fetch_counts(
    api: DirectoryInsights, stream: Stream, start: int, end: int, services: tuple[str, ...]
) -> dict[int, int]:
    """JumpCloud's count of each minute in `[start, end)`."""
    stop = threading.Event()
    return repeat(lambda: api.counts(start * MINUTE_MS, end * MINUTE_MS, services, stream.scope, stop), stop)


def _split(start: int, end: int, length: int) -> Iterator[tuple[int, int]]:
    """`[start, end)` in parts that end at the multiples of `length`."""
    while start < end:
        part_end = min(end, (start // length + 1) * length)
        yield start, part_end
        start = part_end


def _format_minute(minute: int) -> str:
    return f"{rfc3339(minute * MINUTE_MS)[:16]}Z"


def _print_stream(audit: _StreamAudit) -> None:
    show(audit.name)
    if audit.hours:
        click.echo(f"  {'hour':17}  {'JumpCloud':>9}  {'ledger':>9}  difference")
    for hour in audit.hours:
        parts = (f"-{hour.missing}" if hour.missing else "", f"+{hour.surplus}" if hour.surplus else "")
        difference = " ".join(filter(None, parts)) or "0"
        click.echo(f"  {_format_minute(hour.minute)}  {hour.jumpcloud:9}  {hour.ledger:9}  {difference:>10}")
    for each in audit.span.not_compared:
        show(f"  not compared: {each}")
    click.echo()


def _print_agreement(audits: list[_StreamAudit], hours: list[_Hour]) -> None:
    behind = sum(each.span.is_behind for each in audits)
    result = f"{sum(hour.ledger for hour in hours)} events in {len(hours)} hours: no difference"
    if not hours:
        result = "nothing could be compared"
    rest = f"; of {behind} of {plural(len(audits), 'stream')} not all is fetched yet, see above" if behind else ""
    click.echo(result + rest)


def _as_json(audit: _StreamAudit) -> dict[str, Any]:
    hours = []
    for hour in audit.hours:
        counts = hour._asdict()
        del counts["minute"]
        hours.append({"hour": _format_minute(hour.minute), **counts, "difference": hour.ledger - hour.jumpcloud})
    span = audit.span
    return {"name": audit.name, "not_compared": span.not_compared, "is_behind": span.is_behind, "hours": hours}
