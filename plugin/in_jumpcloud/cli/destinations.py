"""Where the records of `run` go: to the receivers or to standard output. `dry_run.py` has the third way: nowhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from in_jumpcloud.app import App
from in_jumpcloud.cli.lines import LineOutput
from in_jumpcloud.config.schema import Config
from in_jumpcloud.config.types import Size
from in_jumpcloud.errors import InJumpCloudError, Stopped
from in_jumpcloud.forward.local_receiver import LocalReceiver
from in_jumpcloud.forward.wire import Chunk, read_chunk
from in_jumpcloud.resources import Outside
from in_jumpcloud.state.opening import open_trial
from in_jumpcloud.text import printable_json

log = logging.getLogger("in_jumpcloud")

_ANY_SIZE = Size(2**31)
_encode = msgspec.json.Encoder().encode


def json_line(record: dict[str, Any]) -> bytes:
    """A record as `map` prints it, without the line end."""
    return printable_json(_encode(record))


class Destination:
    """The receivers of the configuration. Subclasses take the records instead, and use a state that is thrown away."""

    outside = Outside()
    is_trial = False
    """Whether it commits nothing."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def adapt(self, settings: Config) -> Config:
        """The settings to use."""
        return settings

    def began(self, plugin: App) -> None:
        """The plugin is open, and runs next."""

    def ended(self, plugin: App, error: InJumpCloudError | None) -> InJumpCloudError | None:
        """Sum up. Its resources are still open, and `error` is what ended it; returns what the command ends with."""
        counters = [each.counters for each in plugin.collectors]
        log.info(
            "stopped after %.1f s: %d events received, %d duplicates, %d records acknowledged (%d late), "
            "%d dead letters",
            time.monotonic() - self._began,
            sum(each.received for each in counters),
            sum(each.duplicates for each in counters),
            sum(each.acknowledged for each in counters),
            sum(each.late for each in counters),
            sum(each.dead_lettered for each in counters),
        )
        return error


class StandardOutput(Destination):
    """Writes each record on a line of standard output."""

    is_trial = True

    def __init__(self, end: Callable[[], None]) -> None:
        """`end` is called when nothing can be written any more."""
        super().__init__()
        self._end = end
        self._output = LineOutput()
        self._error: OSError | None = None
        self.outside = Outside(
            receivers=LocalReceiver("standard output", self._take), open_state=partial(open_trial, copies=False)
        )

    def adapt(self, settings: Config) -> Config:
        """No record is too large for a line."""
        forward = msgspec.structs.replace(settings.forward, compress="none", message_max_bytes=_ANY_SIZE)
        return msgspec.structs.replace(settings, forward=forward)

    def began(self, plugin: App) -> None:  # noqa: ARG002 - the base has it
        """Say what is not guaranteed."""
        log.warning(
            "records go to standard output: no receiver acknowledges them, and nothing is kept of what was written, so "
            "events may be lost or come again"
        )

    def ended(self, plugin: App, error: InJumpCloudError | None) -> InJumpCloudError | None:
        """Say how much was written. Raises OSError if standard output cannot be written."""
        if self._error:
            raise self._error
        log.info("stopped: %d records written", sum(each.counters.acknowledged for each in plugin.collectors))
        return error

    def _take(self, chunk: Chunk) -> None:
        try:
            self._output.write([json_line(record) for record in read_chunk(chunk)])
        except OSError as error:
            self._error = error
            self._end()
            raise Stopped from None
