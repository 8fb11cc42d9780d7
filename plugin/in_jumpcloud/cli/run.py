"""`in-jumpcloud run`: the plugin."""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import click

from in_jumpcloud import __version__, app
from in_jumpcloud.checks import local
from in_jumpcloud.cli import config_option, examples, overrides_option
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config
from in_jumpcloud.monitoring import logs, server, snapshot
from in_jumpcloud.monitoring.health import not_alive
from in_jumpcloud.monitoring.systemd import ServiceManager
from in_jumpcloud.timestamps import now_ms

log = logging.getLogger("in_jumpcloud")

_COLLECT_AFTER = 20_000
"""Objects that come to be, net, before Python looks for garbage in cycles: more than a page has under way at a time."""


def run(path: Path, overrides: Sequence[str], *, once: bool) -> None:
    """Run until SIGTERM or SIGINT; with `once`, until every stream has come up to now.

    The configuration is read now, and again at each SIGHUP.

    Raises:
        InJumpCloudError: it could not begin, or, with `once`, a stream did not come up to now.
    """

    def load() -> Config:
        return load_config(path, overrides)

    settings = load()
    manager = ServiceManager()
    began = time.monotonic()
    listen = None if once else settings.http.listen
    logs.configure_logging(settings.log)
    with app.open_app(settings, once=once) as plugin, server.serve(listen, plugin):
        _install_signal_handlers(plugin, load, manager)
        for finding in local.check_secrets(path, overrides, settings):
            if finding.mark == "warning":
                log.warning("%s; %s", finding.found, finding.advice)
        log.info(
            "in_jumpcloud %s: %s, from %s to %s",
            __version__,
            ", ".join(each.stream.name for each in plugin.collectors[:5]) + (", …" if plugin.collectors[5:] else ""),
            settings.jumpcloud.base_url,
            ", ".join(map(str, settings.forward.servers)),
        )
        # Mapping makes no cycles, so to look for them among its many short-lived objects, and in what stays for good,
        # is in vain.
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER)
        manager.ready(f"{len(plugin.collectors)} streams")
        error = plugin.run(lambda: manager.alive(lambda: _works(plugin, began)))
        manager.stopping()
        counted = [each.counters for each in plugin.collectors]
        log.info(
            "ended after %.1f s: %d events received, %d known from before, %d records acknowledged, %d of them late, "
            "%d dead letters",
            time.monotonic() - began,
            sum(each.received for each in counted),
            sum(each.duplicates for each in counted),
            sum(each.acknowledged for each in counted),
            sum(each.late for each in counted),
            sum(each.dead_lettered for each in counted),
        )
    if error:
        raise error


def _works(plugin: app.App, began: float) -> bool:
    return not not_alive(snapshot.take_snapshot(plugin, now_ms=now_ms(), began=began))


def _install_signal_handlers(plugin: app.App, load: Callable[[], Config], manager: ServiceManager) -> None:
    def end(number: int, _: FrameType | None) -> None:
        if plugin.stop.is_set():  # asked twice: somebody is in a hurry, and nothing is lost
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


@click.command(
    "run",
    epilog=examples(
        "in-jumpcloud run -c jumpcloud.yaml",
        "in-jumpcloud run -c jumpcloud.yaml --once -o jumpcloud.start=1d",
    ),
)
@config_option()
@overrides_option
@click.option("--once", is_flag=True, help="Bring every stream up to now, and end.")
def command(path: Path, overrides: tuple[str, ...], once: bool) -> None:
    """Run the plugin: poll JumpCloud, deliver to Fluent Bit, until it is asked to end (SIGTERM, Ctrl-C)."""
    run(path, overrides, once=once)
