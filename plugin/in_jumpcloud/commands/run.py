"""`in-jumpcloud run`: the plugin."""

from __future__ import annotations

import logging
import os
import signal
import time
from types import FrameType

from in_jumpcloud import __version__, app, config
from in_jumpcloud.watch import logs

log = logging.getLogger("in_jumpcloud")


def run(settings: config.Config, *, once: bool) -> None:
    """Run until SIGTERM or SIGINT; with `once`, until every stream has come up to now.

    Raises:
        InJumpCloudError: it could not begin, or, with `once`, a stream did not come up to now.
    """
    logs.set_up(settings.log)
    began = time.monotonic()
    with app.opened(settings, once=once) as plugin:

        def end(number: int, _: FrameType | None) -> None:
            if plugin.stop.is_set():  # asked twice: somebody is in a hurry, and nothing is lost
                os._exit(128 + number)
            plugin.stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        log.info(
            "in_jumpcloud %s: %s, from %s to %s",
            __version__,
            ", ".join(each.stream.name for each in plugin.collectors[:5]) + (", …" if plugin.collectors[5:] else ""),
            settings.jumpcloud.base_url,
            ", ".join(map(str, settings.forward.servers)),
        )
        error = plugin.run()
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
