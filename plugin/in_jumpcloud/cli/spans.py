"""A span of time of some streams: the options `--since`, `--until`, `--stream` and `--service`, and their checks.

What is wrong with them is one line and exit code 2, before anything is sent or printed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, NoReturn, TypeVar

import click

from in_jumpcloud.cli import NAME
from in_jumpcloud.cli.retries import repeat
from in_jumpcloud.collector import Stream
from in_jumpcloud.config.schema import Config, JumpCloudSettings
from in_jumpcloud.config.types import Duration
from in_jumpcloud.discovery import list_of
from in_jumpcloud.errors import ConfigError, KeyRefused, NotLicensed, PageTooLarge, Problem, RequestRejected
from in_jumpcloud.insights.api import DirectoryInsights
from in_jumpcloud.insights.auth import create_auth
from in_jumpcloud.insights.plan import find_plan
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.window import Window
from in_jumpcloud.streams import jumpcloud_of_stream, known_streams, streams
from in_jumpcloud.timestamps import HOUR_MS, rfc3339

_Command = TypeVar("_Command", bound=Callable[..., Any])
_DAY_WITH_ZONE = re.compile(r"(\d{4}-\d\d-\d\d)(Z|[+-]\d\d:?\d\d)", re.ASCII)
_PROBE_MS = 1000


class Span(NamedTuple):
    """`[start_ms, end_ms)`, in epoch milliseconds."""

    start_ms: int
    end_ms: int


def span_options(*, required: bool = True) -> Callable[[_Command], _Command]:
    """`--since`, `--until`, `--stream` and `--service`, passed as `since`, `until`, `names` and `services`.

    Without `required`, `--since` may be left out: `since` is None.
    """
    options = (
        click.option(
            "--since",
            metavar="TIME",
            required=required,
            help="Where the span begins: a time with a zone, such as 2026-01-31T00:00:00Z, or a duration before now, "
            "such as 7d.",
        ),
        click.option("--until", metavar="TIME", help="Where it ends, in the same form; not included. Default: now."),
        click.option(
            *("--stream", "names"),
            metavar="NAME",
            multiple=True,
            help="Only this stream, by its name in `status`, or the ID in it. Repeatable. Default: all.",
        ),
        click.option(
            *("--service", "services"),
            metavar="NAME",
            multiple=True,
            help="Only this service, instead of jumpcloud.services. Repeatable.",
        ),
    )

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def read_span(since: str, until: str | None, now_ms: int) -> Span:
    """The span that `--since` and `--until` name.

    Raises:
        ConfigError: one is not a time, or is in the future, or the span ends before it begins.
    """
    start_ms = _read_time("--since", since, now_ms)
    end_ms = now_ms if until is None else _read_time("--until", until, now_ms)
    if start_ms >= end_ms:
        what = "is empty" if start_ms == end_ms else "ends before it begins"
        text = f"the span {what}: {rfc3339(start_ms)} to {rfc3339(end_ms)}"
        raise ConfigError(Problem("--since" if until is None else "--until", text))
    return Span(start_ms, end_ms)


def _read_time(option: str, text: str, now_ms: int) -> int:
    try:
        time_ms = parse_time(text, now_ms)
    except ValueError as error:
        raise ConfigError(Problem(option, str(error))) from None
    if time_ms > now_ms:
        raise ConfigError(Problem(option, f"{rfc3339(time_ms)} is in the future; it is {rfc3339(now_ms)} now"))
    return time_ms


def parse_time(text: str, now_ms: int) -> int:
    """A time with a zone, or a duration before `now_ms`; all in epoch milliseconds, never before 1970.

    Raises:
        ValueError: it is neither.
    """
    text = text.strip()
    try:
        return max(0, now_ms - Duration.parse(text).ms)
    except ValueError:
        day = _DAY_WITH_ZONE.fullmatch(text)
    try:
        moment = datetime.fromisoformat(f"{day[1]}T00:00{day[2]}" if day else text.upper())
    except ValueError:
        expected = "a time with a zone, such as 2026-01-31T00:00:00Z, or a duration before now, such as 7d"
        raise ValueError(f"expected {expected} (got {text!r:.60})") from None
    if moment.tzinfo is None:
        raise ValueError(f"the time has no zone; write {moment.isoformat()}Z for UTC, or an offset such as +01:00")
    return max(0, round(moment.timestamp() * 1000))


def choose_streams(settings: Config, names: Sequence[str] = ()) -> list[Stream]:
    """The configured streams of these names or IDs, in the order of the configuration; without names, all of them.

    Organizations that are not in the configuration are listed, or, without a key, those that the state knows.

    Raises:
        ConfigError: there is no such stream, or none.
        Fatal, RequestRejected, Retryable: the organizations cannot be listed.
    """
    if not (found := _all_streams(settings)):
        text = f"no organization is known yet; the first `{NAME} run` lists them"
        raise ConfigError(Problem("jumpcloud.organizations", text))
    wanted = set(names)
    chosen = [each for each in found if not wanted or wanted & {each.name, each.name.rpartition(" ")[2]}]
    known = {name for each in found for name in (each.name, each.name.rpartition(" ")[2])}
    for name in names:
        if name not in known:
            first, more = [each.name for each in found[:10]], "" if len(found) <= 10 else ", …"  # noqa: PLR2004
            text = f"there is no stream {name!r:.100}; those of the configuration are: {', '.join(first)}{more}"
            raise ConfigError(Problem("--stream", text))
    return chosen


def _all_streams(settings: Config) -> list[Stream]:
    jumpcloud = settings.jumpcloud
    if jumpcloud.organizations != "all" or not (jumpcloud.api_key or jumpcloud.client_id):
        return known_streams(settings)
    limiter, stop = RateLimiter(jumpcloud.requests_per_second), threading.Event()
    api = DirectoryInsights(jumpcloud, create_auth(jumpcloud, limiter), limiter)
    try:
        return streams(settings, repeat(lambda: list_of(jumpcloud, api.organizations)(stop).organizations, stop))
    finally:
        api.close()


def services_of(settings: JumpCloudSettings, stream: Stream, chosen: Sequence[str]) -> tuple[str, ...]:
    """Those of `--service`, or else those of the stream."""
    return tuple(dict.fromkeys(chosen)) or jumpcloud_of_stream(settings, stream).services


class Access(NamedTuple):
    """Asks JumpCloud whether it returns a span. `services` are those of `--service`."""

    api: DirectoryInsights
    settings: JumpCloudSettings
    services: Sequence[str]
    stop: threading.Event

    def require(self, streams: Sequence[Stream], span: Span, now_ms: int) -> None:
        """Request one event of each stream at the beginning of the span.

        Raises:
            ConfigError: the plan does not reach back that far, or JumpCloud does not know a service.
            Retryable, RequestRejected, KeyRefused, NotLicensed, Stopped: as DirectoryInsights.fetch.
        """
        for stream in streams:
            try:
                self._probe(stream, services_of(self.settings, stream, self.services), span.start_ms)
            except KeyRefused:
                raise
            except NotLicensed as error:
                self._refuse_start(stream, span, now_ms, error)
            except RequestRejected as error:
                self._refuse(stream, span, error)

    def _probe(self, stream: Stream, services: tuple[str, ...], start_ms: int) -> None:
        window = Window(start_ms=start_ms, end_ms=start_ms + _PROBE_MS, services=services, limit=1)

        def attempt() -> None:
            with suppress(PageTooLarge):  # there is an event, and JumpCloud returns it
                self.api.fetch(window, stream.scope, self.stop)

        repeat(attempt, self.stop)

    def _refuse_start(self, stream: Stream, span: Span, now_ms: int, refusal: NotLicensed) -> NoReturn:
        services = services_of(self.settings, stream, self.services)
        plan = find_plan([lambda: now_ms], span.start_ms, partial(self._probe, stream, services))
        if plan is None:
            raise refusal
        start = rfc3339(plan.begin_ms + HOUR_MS)
        text = (
            f"{rfc3339(span.start_ms)} is before what JumpCloud keeps for {stream.name}: its plan reaches back "
            f"{plan.days} days; begin at {start} or later"
        )
        raise ConfigError(Problem("--since", text))

    def _refuse(self, stream: Stream, span: Span, refusal: RequestRejected) -> NoReturn:
        """Find out whether the services are the reason."""
        if self.services:
            try:
                self._probe(stream, ("all",), span.start_ms)
            except RequestRejected:
                pass
            else:
                raise ConfigError(Problem("--service", str(refusal)))
        raise type(refusal)(f"{stream.name}: {refusal.message}", advice=refusal.advice)
