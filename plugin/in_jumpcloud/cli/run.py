"""`in-jumpcloud run`: runs the plugin."""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

import click

from in_jumpcloud import __version__, app
from in_jumpcloud.checks import local
from in_jumpcloud.cli import examples, settings_options
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config
from in_jumpcloud.monitoring import logs, server, snapshot
from in_jumpcloud.monitoring.health import not_alive
from in_jumpcloud.monitoring.systemd import ServiceManager
from in_jumpcloud.timestamps import now_ms

log = logging.getLogger("in_jumpcloud")

_GC_THRESHOLD_OBJECTS = 20_000
"""More than the new objects of one page. See https://docs.python.org/3/library/gc.html#gc.set_threshold."""


@click.command(
    "run",
    epilog=examples(
        "in-jumpcloud run -c jumpcloud.yaml",
        "in-jumpcloud run -c jumpcloud.yaml --once -o jumpcloud.start=1d",
    ),
)
@settings_options()
@click.option("--once", is_flag=True, help="Catch up once, then exit.")
def command(path: Path, overrides: tuple[str, ...], once: bool) -> None:
    """Poll JumpCloud and deliver the events to Fluent Bit.

    Runs until it is stopped by SIGTERM or Ctrl-C. SIGHUP reloads the configuration.
    """
    load = partial(load_config, path, overrides)
    settings = load()
    manager = ServiceManager()
    started = time.monotonic()
    listen = None if once else settings.http.listen
    logs.configure_logging(settings.log)
    with app.open_app(settings, once=once) as plugin, server.serve(listen, plugin):
        _install_signal_handlers(plugin, load, manager)
        for result in local.check_secrets(path, settings):
            if result.status == "warning":
                log.warning("%s; %s", result.message, result.advice)
        log.info(
            "in_jumpcloud %s: %s, from %s to %s",
            __version__,
            ", ".join(each.stream.name for each in plugin.collectors[:5]) + (", …" if plugin.collectors[5:] else ""),
            settings.jumpcloud.base_url,
            ", ".join(map(str, settings.forward.servers)),
        )
        # Mapping creates many short-lived objects but no cycles: looking for cycles often is wasted time.
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD_OBJECTS)
        manager.ready(f"{len(plugin.collectors)} streams")

        def on_tick() -> None:
            plugin.resources.retry()
            manager.alive(lambda: _is_alive(plugin, started))

        error = plugin.run(on_tick)
        manager.stopping()
        counters = [each.counters for each in plugin.collectors]
        log.info(
            "stopped after %.1f s: %d events received, %d duplicates, %d records acknowledged (%d late), "
            "%d dead letters",
            time.monotonic() - started,
            sum(each.received for each in counters),
            sum(each.duplicates for each in counters),
            sum(each.acknowledged for each in counters),
            sum(each.late for each in counters),
            sum(each.dead_lettered for each in counters),
        )
    if error:
        raise error


def _is_alive(plugin: app.App, started: float) -> bool:
    return not not_alive(snapshot.take_snapshot(plugin, now_ms=now_ms(), began=started))


def _install_signal_handlers(plugin: app.App, load: Callable[[], Config], manager: ServiceManager) -> None:
    def end(number: int, _: FrameType | None) -> None:
        if plugin.stop.is_set():  # a second signal: exit at once, which loses nothing
            os._exit(128 + number)
        plugin.stop.set()

    def reload(_: int, __: FrameType | None) -> None:
        manager.reloading()
        plugin.reload(load, done=reloaded)

    def reloaded() -> None:
        logs.configure_logging(plugin.resources.settings.log)
        manager.ready(f"{len(plugin.collectors)} streams")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    signal.signal(signal.SIGHUP, reload)
