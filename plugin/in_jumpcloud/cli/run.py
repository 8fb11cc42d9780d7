"""`in-jumpcloud run`: runs the plugin."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import click
import msgspec

from in_jumpcloud import __version__, app, memory, supervised
from in_jumpcloud.checks import local
from in_jumpcloud.cli import examples, settings_options
from in_jumpcloud.cli.destinations import Destination, StandardOutput
from in_jumpcloud.cli.dry_run import DryRun
from in_jumpcloud.cli.signals import ends, watch_signals
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.locations import describe_config_file
from in_jumpcloud.config.schema import Config, LogSettings
from in_jumpcloud.config.watch import ConfigWatch
from in_jumpcloud.errors import ConfigError, InJumpCloudError, Stopped
from in_jumpcloud.monitoring import logs, snapshot
from in_jumpcloud.monitoring.health import not_alive
from in_jumpcloud.monitoring.server import StatusServer
from in_jumpcloud.monitoring.systemd import ServiceManager
from in_jumpcloud.once import ONCE_SECONDS
from in_jumpcloud.retry import Retry
from in_jumpcloud.runtime import SYSTEM
from in_jumpcloud.timestamps import now_ms
from in_jumpcloud.troubles import Troubles

log = logging.getLogger("in_jumpcloud")

_MAX_TICK_SECONDS, _RETRY_SECONDS = 60.0, 1.0
"""How often the main thread looks after what no event tells: in general, and after an error."""
_OVERLOAD_ENDS_SECONDS = 300.0
"""How long polls must keep their interval until that is logged: one that is late now and then is no new overload."""


@click.command(
    "run",
    epilog=examples(
        "in-jumpcloud run -c jumpcloud.yaml",
        "in-jumpcloud run -c jumpcloud.yaml --once -o jumpcloud.start=1d",
        "in-jumpcloud run -c jumpcloud.yaml --dry-run",
        "in-jumpcloud run -c jumpcloud.yaml --output - -o jumpcloud.start=now",
    ),
)
@settings_options()
@click.option("--once", is_flag=True, help="Catch up once, then exit.")
@click.option(
    "--supervised",
    "is_supervised",
    is_flag=True,
    help="For a parent such as Fluent Bit's exec input: log JSON to standard output, and end with the parent.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Catch up once, but send and commit nothing: show what would be sent. Needs no receiver.",
)
@click.option(
    "--output",
    type=click.Choice(["-"]),
    help="Print the records instead of sending them: lines of JSON as `map` prints them. Uses no state and gives no "
    "guarantee. Starts at jumpcloud.start.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with --dry-run.")
def command(
    path: Path | None,
    overrides: tuple[str, ...],
    once: bool,
    is_supervised: bool,
    dry_run: bool,
    output: str | None,
    as_json: bool,
) -> None:
    """Poll JumpCloud and deliver the events to Fluent Bit.

    Runs until it is stopped by SIGTERM or Ctrl-C. SIGHUP reloads the configuration; with reload: auto, so does a change
    of the file.
    """
    uses_output = {"--supervised": is_supervised, "--dry-run": dry_run, "--output": output}
    given = [option for option, value in uses_output.items() if value]
    if given[1:]:
        raise ConfigError(f"{given[0]} cannot be used together with {given[1]}: both use standard output")
    if as_json and not dry_run:
        raise ConfigError("--json can only be used together with --dry-run")
    if is_supervised:
        supervised.require_output()
    memory.share_one_arena()
    run = _Run(path, overrides, once=once or dry_run, is_supervised=is_supervised)
    if dry_run:
        run.destination = DryRun(as_json=as_json)
    elif output:
        run.destination = StandardOutput(run.end)
    try:
        failure = run.run()
        if failure:
            raise failure
    except Stopped:
        log.info("stopped before the start was complete")
    except InJumpCloudError as error:
        if not is_supervised:
            raise
        for line in str(error).splitlines():
            log.error("%s", line)  # noqa: TRY400 - no traceback
        click.get_current_context().exit(error.exit_code)


class _Run:
    """One run of the plugin: its start, which waits for what may pass, and its end."""

    def __init__(self, path: Path | None, overrides: tuple[str, ...], *, once: bool, is_supervised: bool) -> None:
        self.destination = Destination()
        self._path = path
        self._overrides = overrides
        self._is_supervised = is_supervised
        self._watch = ConfigWatch(path)
        self._once = once
        self._overloaded_at: float | None = None  # the last time
        self._was_too_high = False  # at the last look
        self._note_load_at = 0.0
        self._started = time.monotonic()
        self._manager = ServiceManager()
        self._troubles = Troubles(now_ms)
        self._plugin: app.App | None = None
        self._page: StatusServer | None = None
        self._stop = threading.Event()
        self._reload_requested = False
        self._retry = Retry(
            self._troubles,
            self._stop,
            on_tick=self._tick_of_start,
            give_up_after=ONCE_SECONDS if once else None,
            runtime=SYSTEM,
        )

    def run(self) -> InJumpCloudError | None:
        """Run until the end; the error that ended it, if any."""
        watch_signals({**ends(self.end), signal.SIGHUP: self._reload})
        self._configure_logging(LogSettings())
        if self._is_supervised:
            supervised.end_with_parent(self.end, partial(logs.write_json_line, sys.stderr, log.name))
        with ExitStack() as stack:
            settings = self._retry("configuration", lambda: self._first_load(stack))
            page = self._apply(stack, settings)
            page.retry()  # it answers while everything else is opened
            plugin = self._plugin = self._retry("start", lambda: self._open(stack, settings))
            page.show(plugin)
            self._announce(plugin)
            self.destination.began(plugin)
            error = plugin.run(lambda: self._tick(plugin, page))
            self._manager.stopping()
            return self.destination.ended(plugin, error)

    def _load(self) -> Config:
        self._watch.loading()
        return self.destination.adapt(load_config(self._path, self._overrides))

    def _configure_logging(self, settings: LogSettings) -> None:
        if self._is_supervised:
            logs.configure_logging(msgspec.structs.replace(settings, format="json"), sys.stdout)
        else:
            logs.configure_logging(settings)

    def _first_load(self, stack: ExitStack) -> Config:
        """Load the configuration. While only a file that it names is missing, the rest of it is applied already."""
        try:
            return self._load()
        except ConfigError as error:
            if error.may_pass and isinstance(error.settings, Config):
                self._apply(stack, error.settings)
            raise

    def _apply(self, stack: ExitStack, settings: Config) -> StatusServer:
        self._configure_logging(settings.log)
        if not self._page:
            listen = None if self._once or self.destination.is_trial else settings.http.listen
            self._page = stack.enter_context(StatusServer(listen, self._troubles))
        return self._page

    def _open(self, stack: ExitStack, settings: Config) -> app.App:
        """Open the plugin; with new settings after a SIGHUP, if they are valid."""
        if self._reload_requested:
            self._reload_requested = False
            try:
                settings = self._load()
                self._configure_logging(settings.log)
            except InJumpCloudError as error:
                log.error("configuration not reloaded: %s", error)  # noqa: TRY400 - no traceback
            self._manager.starting("")
        outside = self.destination.outside
        return stack.enter_context(app.open_app(settings, once=self._once, troubles=self._troubles, outside=outside))

    def _announce(self, plugin: app.App) -> None:
        settings = plugin.resources.settings
        with suppress(OSError, ConfigError):  # a file was removed since it was read
            for result in local.check_secrets(self._path, settings):
                if result.status == "warning":
                    log.warning("%s; %s", result.message, result.advice)
        log.info("configuration: %s; state: %s", describe_config_file(self._path), plugin.resources.state.where)
        log.info(
            "in_jumpcloud %s: %s, polled %s, from %s to %s",
            __version__,
            _names(plugin),
            plugin.load().interval_text,
            settings.jumpcloud.base_url,
            ", ".join(each.name for each in plugin.resources.receivers.statistics()),
        )
        self._note_ignored_start(plugin)
        memory.started()
        self._manager.ready(_status(plugin))

    def _note_ignored_start(self, plugin: app.App) -> None:
        if not any(each.startswith("jumpcloud.start=") for each in self._overrides):
            return
        known = sorted(plugin.streams.resumed)
        if known:
            log.warning(
                "-o jumpcloud.start is ignored for %s: a stream continues at its position in %s; `in-jumpcloud "
                "backfill --since TIME` delivers a span again",
                ", ".join(known[:5]) + (", …" if known[5:] else ""),
                plugin.resources.state.where,
            )

    def _tick_of_start(self, waits_for: str) -> None:
        if self._page:
            self._page.retry()
        self._manager.starting(waits_for)

    def _tick(self, plugin: app.App, page: StatusServer) -> float:
        """Do what is due; returns the seconds until something is due again."""
        if self._stop.is_set():  # it was set before there was a plugin
            plugin.end()
        seconds = _MAX_TICK_SECONDS
        try:
            seconds = min(seconds, plugin.resources.retry(), page.retry())
        except Exception:  # collection does not depend on these
            log.exception("unexpected error; continuing")
            seconds = _RETRY_SECONDS
        alive = self._manager.alive(lambda: _is_alive(plugin, self._started))
        return min(seconds, alive, self._note_load(plugin), self._look_after_files(plugin))

    def _look_after_files(self, plugin: app.App) -> float:
        """Reload when a file has changed, if that is wanted; returns the seconds until the next look."""
        settings = plugin.resources.settings
        if settings.reload != "auto":
            return _MAX_TICK_SECONDS
        look = self._watch.look(settings)
        if look.changed:
            log.info("%s: changed; reloading the configuration", ", ".join(map(str, look.changed)))
            self._reload()
        return look.seconds

    def _note_load(self, plugin: app.App) -> float:
        """Log when polls cannot keep their interval, and when they can again; returns the seconds until the next look.

        The gaps between polls change once an interval.
        """
        now = time.monotonic()
        if now < self._note_load_at:
            return self._note_load_at - now
        interval = min(_MAX_TICK_SECONDS, max(_RETRY_SECONDS, plugin.resources.settings.jumpcloud.interval))
        self._note_load_at = now + interval
        load = plugin.load()
        was_too_high, self._was_too_high = self._was_too_high, load.is_too_high
        if load.needed > load.possible or (was_too_high and load.is_too_high):  # once it may be what an outage leaves
            if self._overloaded_at is None:
                log.warning("overload: %s; %s", load, load.advice)
            self._overloaded_at = now
        elif self._overloaded_at is not None and now > self._overloaded_at + _OVERLOAD_ENDS_SECONDS:
            self._overloaded_at = None
            log.info("polls keep their interval again")
        return interval

    def end(self) -> None:
        """Stop it. Safe in any thread."""
        self._stop.set()
        if self._plugin:
            self._plugin.end()

    def _reload(self) -> None:
        self._manager.reloading()
        if self._plugin:
            self._plugin.reload(self._load, done=self._reloaded)
        else:
            self._reload_requested = True
            self._retry.at_once()

    def _reloaded(self) -> None:
        if self._plugin:
            self._configure_logging(self._plugin.resources.settings.log)
            self._manager.ready(_status(self._plugin))


def _names(plugin: app.App) -> str:
    names = [each.stream.name for each in plugin.collectors[:6]]
    none = "the organizations are listed first" if plugin.discovery else "no stream of the group yet"
    return ", ".join(names[:5] or [none]) + (", …" if names[5:] else "")


def _status(plugin: app.App) -> str:
    """For the service manager; it is not sent again when streams join or leave."""
    do_change = plugin.resources.settings.jumpcloud.is_discovered or plugin.resources.state.group
    return "streams come and go" if do_change else f"{len(plugin.collectors)} streams"


def _is_alive(plugin: app.App, started: float) -> bool:
    try:
        return not not_alive(snapshot.take_snapshot(plugin, now_ms=now_ms(), began=started))
    except Exception:
        log.exception("cannot tell whether the plugin is alive")
        return True  # a restart does not help
