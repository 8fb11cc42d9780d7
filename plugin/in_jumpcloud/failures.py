"""Kinds of work of which each fails for itself, with its own growing pause."""

from __future__ import annotations

from typing import NamedTuple

from in_jumpcloud.backoff import backoff_delay
from in_jumpcloud.errors import InJumpCloudError, Retryable
from in_jumpcloud.runtime import Runtime

_MAX_DELAY = 600.0
ALL = -2
"""The kind of a failure that holds up every kind."""


class Failure(NamedTuple):
    """Why a kind of work fails, since when, and how often. Its next try is `delay` seconds after the `last` one.

    Times are on the monotonic clock, in seconds.
    """

    error: InJumpCloudError
    since: float
    times: int
    last: float
    delay: float


class Failures:
    """The kinds that fail now, by number."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._of: dict[int, Failure] = {}

    @property
    def oldest(self) -> Failure | None:
        """The failure that lasts for the longest time; None while nothing fails."""
        if not self._of:  # nearly always
            return None
        return min(self._of.values(), key=lambda failure: failure.since)

    def add(self, kind: int, error: InJumpCloudError, *, is_retried_at_once: bool = False) -> Failure:
        """Note a failure. The pause is what the error asks for, or else up to ten minutes, longer each time."""
        now, before = self._runtime.monotonic(), self._of.get(kind)
        since, times = (before.since, before.times + 1) if before else (now, 1)
        asked = error.after if isinstance(error, Retryable) else None
        delay = asked if asked is not None else min(_MAX_DELAY, 10 * backoff_delay(times, self._runtime.random))
        if is_retried_at_once:
            times, delay = times - 1, 0.0
        failure = self._of[kind] = Failure(error.kept(), since, times, now, delay)
        return failure

    def pause(self, kind: int) -> float:
        """Seconds until the next try of a kind; 0 if it may be tried now."""
        now = self._runtime.monotonic()
        found = filter(None, map(self._of.get, (kind, ALL)))
        return max([0.0, *(failure.last + failure.delay - now for failure in found)])

    def end(self, *kinds: int) -> bool:
        """These kinds work. Returns whether one of them failed before, and nothing fails now."""
        ended = [self._of.pop(kind, None) for kind in (*kinds, ALL)]
        return any(ended) and not self._of
