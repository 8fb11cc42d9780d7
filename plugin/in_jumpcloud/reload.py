"""Reloads of the configuration: when one is due, and what is said of one that fails."""

from __future__ import annotations

import logging
from collections.abc import Callable

from in_jumpcloud.backoff import backoff_delay
from in_jumpcloud.config.schema import Config
from in_jumpcloud.errors import InJumpCloudError, may_pass
from in_jumpcloud.runtime import SYSTEM, Runtime
from in_jumpcloud.troubles import Troubles

log = logging.getLogger(__name__)

_NEVER_SECONDS = 3600.0


class Reload:
    """The reload that was asked for last. If it cannot be done now, but may be later, it is tried again."""

    def __init__(self, troubles: Troubles, runtime: Runtime = SYSTEM) -> None:
        self._troubles = troubles
        self._runtime = runtime
        self._pending: tuple[Callable[[], Config], Callable[[], None]] | None = None
        self._due_at = 0.0
        self._failures = 0

    def request(self, load: Callable[[], Config], done: Callable[[], None]) -> None:
        """Apply what `load` returns as soon as possible, then call `done`. Safe in any thread."""
        self._due_at, self._failures = 0.0, 0
        self._pending = (load, done)

    def apply_if_due(self, apply: Callable[[Config], None]) -> float:
        """Reload if that is due; `apply` changes all or nothing. Returns the seconds until a reload is due.

        `done` is called once: when the new settings are in use, or when it is known that the old ones stay for now.
        """
        if self._pending and self._runtime.monotonic() >= self._due_at:
            self._reload(apply, *self._pending)
        return self._due_at - self._runtime.monotonic() if self._pending else _NEVER_SECONDS

    def _reload(self, apply: Callable[[Config], None], load: Callable[[], Config], done: Callable[[], None]) -> None:
        self._pending = None
        is_repeated = self._failures > 0
        try:
            apply(load())
        except Exception as error:  # noqa: BLE001 - a reload never ends the process
            self._failed(error, load, done)
            if is_repeated:
                return
        else:
            self._troubles.end("reload")
        done()

    def _failed(self, error: Exception, load: Callable[[], Config], done: Callable[[], None]) -> None:
        if may_pass(error):
            advice = "the old one stays in use until it can be reloaded"
            self._troubles.begin(
                "reload", f"configuration not reloaded: {' and '.join(str(error).splitlines())}", advice
            )
            if not self._pending:
                self._failures += 1
                self._due_at = self._runtime.monotonic() + backoff_delay(self._failures, self._runtime.random)
                self._pending = (load, done)
            return
        is_known = isinstance(error, InJumpCloudError)
        lines = str(error).splitlines() if is_known else ["unexpected error"]
        for line in lines:  # each time: somebody has asked for it
            log.error("configuration not reloaded: %s", line, exc_info=None if is_known else error)
        advice = "the old one stays in use; correct it and reload, or restart"
        self._troubles.begin("reload", f"configuration not reloaded: {' and '.join(lines)}", advice, is_logged=True)
