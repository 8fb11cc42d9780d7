"""What this process does as a member of a group: whether it is able, and its part of the limit of requests."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection

import msgspec

from in_jumpcloud.collector import Collector
from in_jumpcloud.config.schema import Config
from in_jumpcloud.counters import Counters
from in_jumpcloud.errors import InJumpCloudError, Retryable, StateCorrupt
from in_jumpcloud.insights.api import Scope
from in_jumpcloud.insights.window import Window
from in_jumpcloud.resources import Resources
from in_jumpcloud.runtime import Runtime

_UNABLE_SECONDS = 30.0
"""For so long all receivers, or all requests, must have failed."""
_CHECK_SECONDS = 5.0


class MemberHost:
    """As Host. It is also a unit: without streams to show it, it finds out whether this process is able."""

    name = "member"
    timed_out = is_behind = False

    def __init__(
        self,
        resources: Resources,
        *,
        collectors: Callable[[], list[Collector]],
        running: Callable[[], Collection[str]],
        changed: Callable[[], None],
        corrupt: Callable[[StateCorrupt], None],
        runtime: Runtime,
    ) -> None:
        """`running`, `changed` and `corrupt` are as in Host."""
        self.counters = Counters()
        self.changed = changed
        self.corrupt = corrupt
        self.running = running
        self._resources = resources
        self._collectors = collectors
        self._runtime = runtime
        self._has_jumpcloud = True

    def is_able(self) -> bool:
        """As Host.is_able."""
        self._has_jumpcloud = self._reaches_jumpcloud()
        return self._has_jumpcloud and self._reaches_receiver()

    def pause(self, seconds: float) -> None:
        """As Host.pause."""
        self._resources.api.pause(seconds)

    def step(self, stop: threading.Event) -> float:
        """Without streams, look whether JumpCloud and a receiver can be reached again."""
        if not self._collectors():
            self._resources.receivers.check_if_down(stop)
            if not self._has_jumpcloud:
                self._has_jumpcloud = self._asks(stop)
        return _CHECK_SECONDS

    def _reaches_receiver(self) -> bool:
        now, receivers = self._runtime.monotonic(), self._resources.receivers.statistics()
        return not receivers or any(
            each.error is None or now - each.error_since < _UNABLE_SECONDS for each in receivers
        )

    def _reaches_jumpcloud(self) -> bool:
        now, collectors = self._runtime.monotonic(), self._collectors()
        if not collectors:
            return self._has_jumpcloud
        return any(
            not isinstance(each.error, Retryable) or now - each.poller.error_since < _UNABLE_SECONDS
            for each in collectors
        )

    def _asks(self, stop: threading.Event) -> bool:
        start_ms = self._resources.clock.probable_ms() - 3_600_000
        services = self._resources.settings.jumpcloud.services
        window = Window(start_ms=start_ms, end_ms=start_ms + 1000, services=services, limit=1)
        try:
            self._resources.api.fetch(window, Scope(), stop)
        except Retryable:
            return False
        except InJumpCloudError:
            pass  # it answers
        return True


def settings_digest(settings: Config) -> str:
    """A digest of what the members of a group should have in common."""
    shared = settings.jumpcloud, settings.reconcile, settings.ecs, settings.forward.tag, settings.dead_letter
    return _digest(repr([msgspec.to_builtins(each, enc_hook=str) for each in shared]))


def key_digest(settings: Config) -> str:
    """A digest of what JumpCloud knows this process by."""
    jumpcloud = settings.jumpcloud
    return _digest(str(jumpcloud.client_id or (jumpcloud.api_key and jumpcloud.api_key.reveal())))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
