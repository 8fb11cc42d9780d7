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

from in_jumpcloud import __version__, app, config
from in_jumpcloud.checks import machine
from in_jumpcloud.watch import logs, server, snapshot
from in_jumpcloud.watch.health import not_alive
from in_jumpcloud.watch.notify import ServiceManager

log = logging.getLogger("in_jumpcloud")

_COLLECT_AFTER = 20_000
"""Objects that come to be, net, before Python looks for garbage in cycles: more than a page has under way at a time."""


def run(path: Path, overrides: Sequence[str], *, once: bool) -> None:
    """Run until SIGTERM or SIGINT; with `once`, until every stream has come up to now.

    The configuration is read now, and again at each SIGHUP.

    Raises:
        InJumpCloudError: it could not begin, or, with `once`, a stream did not come up to now.
    """

    def load() -> config.Config:
        return config.load(path, overrides)

    settings = load()
    manager = ServiceManager()
    began = time.monotonic()
    listen = None if once else settings.http.listen
    with logs.Log(settings) as output, app.opened(settings, once=once) as plugin, server.serving(listen, plugin):
        _heed_signals(plugin, load, output, manager)
        for finding in machine.secrets(path, overrides, settings):
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
    return not not_alive(snapshot.take(plugin, now_ms=app.now_ms(), began=began))


def _heed_signals(
    plugin: app.App, load: Callable[[], config.Config], output: logs.Log, manager: ServiceManager
) -> None:
    def end(number: int, _: FrameType | None) -> None:
        if plugin.stop.is_set():  # asked twice: somebody is in a hurry, and nothing is lost
            os._exit(128 + number)
        plugin.stop.set()

    def reload(_: int, __: FrameType | None) -> None:
        manager.reloading()
        plugin.reload(load, done=reloaded)

    def reloaded() -> None:
        output.apply(plugin.house.settings)
        manager.ready(f"{len(plugin.collectors)} streams")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    signal.signal(signal.SIGHUP, reload)
