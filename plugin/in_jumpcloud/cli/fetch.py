"""`in-jumpcloud fetch`: prints the raw events of a span of time. It needs no state and no receiver."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
import msgspec

from in_jumpcloud.cli import NAME, examples, settings_options
from in_jumpcloud.cli.lines import LineOutput
from in_jumpcloud.cli.retries import repeat
from in_jumpcloud.cli.signals import exits, watch_signals
from in_jumpcloud.cli.spans import Access, Span, choose_streams, read_span, services_of, span_options
from in_jumpcloud.collector import Stream
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.counters import plural
from in_jumpcloud.errors import Fatal, PageTooLarge
from in_jumpcloud.insights.api import DirectoryInsights
from in_jumpcloud.insights.auth import create_auth
from in_jumpcloud.insights.clock import EarlierClock
from in_jumpcloud.insights.pages import Page
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.span_reader import NewEvents, SpanReader
from in_jumpcloud.insights.window import Window
from in_jumpcloud.text import shown
from in_jumpcloud.timestamps import now_ms

_Note = Callable[[NewEvents], None]


@click.command(
    "fetch",
    epilog=examples(
        "in-jumpcloud fetch -c jumpcloud.yaml --since 2h | in-jumpcloud map -c jumpcloud.yaml",
        "in-jumpcloud fetch -c jumpcloud.yaml --since 2026-01-30Z --until 2026-01-31Z > day.ndjson",
    ),
)
@settings_options()
@span_options()
def command(
    path: Path | None,
    overrides: tuple[str, ...],
    since: str,
    until: str | None,
    names: tuple[str, ...],
    services: tuple[str, ...],
) -> None:
    """Print the raw events of a span of time.

    Prints each event as JumpCloud sends it, byte for byte, one per line, oldest first; the events of several streams
    follow one another. Needs no state and no receiver, and writes nothing: `in-jumpcloud map` makes records of the
    events.

    What may pass is tried again for two minutes. Exit code 1 if that does not help, or if an event above
    jumpcloud.event_max_bytes was left out.
    """
    output = LineOutput()
    watch_signals(exits(partial(_finish, output)))
    settings = load_config(path, overrides, only_api=True)
    span, streams = read_span(since, until, now_ms()), choose_streams(settings, names)
    left_out = _Fetch(settings.jumpcloud, services, output, threading.Event()).run(streams, span)
    if left_out:
        raise Fatal(
            f"{plural(left_out, 'event')} larger than jumpcloud.event_max_bytes left out", advice="raise it, and repeat"
        )


def _finish(output: LineOutput) -> None:
    """The process is about to end: leave whole lines, and the terminal with its cursor, which a bar hides."""
    output.finish()
    if sys.stderr.isatty():
        os.write(sys.stderr.fileno(), b"\x1b[?25h\n")


class _Fetch:
    def __init__(
        self, settings: JumpCloudSettings, services: Sequence[str], output: LineOutput, stop: threading.Event
    ) -> None:
        limiter = RateLimiter(settings.requests_per_second)
        self._clock = EarlierClock()
        self._api = DirectoryInsights(settings, create_auth(settings, limiter), limiter, clock=self._clock)
        self._settings = settings
        self._services = services
        self._output = output
        self._stop = stop
        self._left_out = 0

    def run(self, streams: Sequence[Stream], span: Span) -> int:
        """Print all of it; returns how many events are left out."""
        access = Access(self._api, self._settings, self._services, self._stop)
        access.require(streams, span, now_ms())
        end_ms = min(span.end_ms, self._clock.probable_ms())  # JumpCloud refuses, or does not know yet, what is later
        try:
            for stream in streams:
                with _progress(stream.name, span.start_ms, end_ms) as note:
                    self._print(stream, span.start_ms, end_ms, note)
        except BrokenPipeError:  # whoever reads has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)
        finally:
            self._api.close()
        return self._left_out

    def _print(self, stream: Stream, start_ms: int, end_ms: int, note: _Note) -> None:
        def fetch(window: Window, stop: threading.Event) -> Page:
            return self._api.fetch(window, stream.scope, stop)

        again = partial(repeat, stop=self._stop)
        services = services_of(self._settings, stream, self._services)
        settings = msgspec.structs.replace(self._settings, services=services)
        reader = SpanReader(settings, fetch, again, partial(self._leave_out, stream), self._stop)
        for new in reader.read(start_ms, end_ms):
            self._output.write([bytes(each) for each in new.events])
            note(new)

    def _leave_out(self, stream: Stream, error: PageTooLarge) -> None:
        self._left_out += 1
        cursor = shown(error.cursor)
        click.echo(f"{NAME}: {stream.name}: the event at cursor {cursor} is left out: {shown(error)}", err=True)


@contextmanager
def _progress(name: str, start_ms: int, end_ms: int) -> Iterator[_Note]:
    """A bar on standard error, if that is a terminal and the events do not go to it too."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda _: None
        return
    count = 0

    def show_count(_: int | None) -> str:
        return plural(count, "event")

    with click.progressbar(
        length=max(1, end_ms - start_ms), label=shown(name), file=sys.stderr, item_show_func=show_count
    ) as bar:

        def note(new: NewEvents) -> None:
            nonlocal count
            count += len(new.events)
            bar.update(max(0, min(new.until_ms, end_ms) - start_ms - bar.pos))

        yield note
