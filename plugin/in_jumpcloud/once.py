"""When `run --once` is done, and what it could not do."""

from __future__ import annotations

from collections.abc import Iterable

from in_jumpcloud.backfill import Backfill
from in_jumpcloud.collector import Collector
from in_jumpcloud.counters import plural
from in_jumpcloud.discovery import Discovery
from in_jumpcloud.errors import Fatal, InJumpCloudError, Retryable, StateUnavailable
from in_jumpcloud.runtime import Runtime
from in_jumpcloud.scheduler import Unit

ONCE_SECONDS = 120.0
"""How long it tries again what may pass by itself, waits that JumpCloud asked for included."""


class Once:
    """Judges after each step whether a unit has more of them."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._over: list[Backfill] = []

    def has_more(self, unit: Unit, delay: float) -> bool:
        """Whether a unit, whose next step is due in `delay` seconds, has more steps."""
        if isinstance(unit, Backfill):
            if not unit.ended and not self._gives_up(unit.error, unit, delay):
                return True
            self._over.append(unit)
            return False
        if isinstance(unit, Discovery):
            return not (unit.error is None or unit.is_final or self._is_too_long(unit.error_since, delay))
        return not (isinstance(unit, Collector) and self._is_done(unit, delay))

    def error(
        self, collectors: Iterable[Collector], others: Iterable[InJumpCloudError | None]
    ) -> InJumpCloudError | None:
        """Why not everything was delivered: the first error of the streams, of backfills, and of these."""
        units: list[Collector | Backfill] = [*collectors, *self._over]
        failed = [each.error or (each.reconciler.error if isinstance(each, Collector) else None) for each in units]
        error = next(filter(None, [*failed, *others]), None)
        undelivered = sum(each.counters.dead_lettered + each.counters.parked for each in units)
        if error is None and undelivered:
            return Fatal(f"{plural(undelivered, 'event')} could not be delivered", advice="see the dead letters")
        return error

    def _is_done(self, collector: Collector, delay: float) -> bool:
        if collector.error is not None:
            return self._gives_up(collector.error, collector, delay)
        late = collector.reconciler
        if isinstance(late.error, Retryable | StateUnavailable):
            return self._is_too_long(late.error_since, delay)
        return collector.caught_up

    def _gives_up(self, error: InJumpCloudError | None, unit: Collector | Backfill, delay: float) -> bool:
        """Whether what fails with `error` is tried no more."""
        if error is None:
            return False
        if not isinstance(error, Retryable | StateUnavailable) and not unit.counters.unexpected_in_a_row:
            return True
        return self._is_too_long(unit.poller.error_since, delay)

    def _is_too_long(self, since: float, delay: float) -> bool:
        return self._runtime.monotonic() + delay - since > ONCE_SECONDS
