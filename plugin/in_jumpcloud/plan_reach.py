"""How far back the plan of one organization reaches, as far as a stream has found out."""

from __future__ import annotations

from collections.abc import Callable

from in_jumpcloud.errors import NotLicensed
from in_jumpcloud.insights.clock import ANSWERS_THAT_AGREE, EarlierClock
from in_jumpcloud.insights.plan import find_plan
from in_jumpcloud.runtime import Runtime
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS

_KNOWN_SECONDS = 6 * 3600.0
"""How long the found reach is believed: a license that has lapsed may be renewed."""
_NO_PLAN_SECONDS = 3600.0
"""How soon it is searched again if no day was available: that takes a request for each plan."""

_MARGIN_MS = MINUTE_MS
"""How far after its beginning a stream starts, which moves on; twice as far each time that is refused."""


class PlanReach:
    """Searches it, and remembers what was found."""

    __slots__ = ("_clock", "_found_at", "_margin_ms", "_ms", "_runtime", "_search_at", "_searched_ahead_ms")

    def __init__(self, clock: EarlierClock, runtime: Runtime) -> None:
        self._clock = clock
        self._runtime = runtime
        self._ms: int | None = None
        self._found_at = 0.0
        self._search_at = 0.0  # none was found: not before this, unless the clocks change
        self._searched_ahead_ms = 0
        self._margin_ms = _MARGIN_MS

    @property
    def ms(self) -> int | None:
        """How far back it reaches, in milliseconds; None if it was not exceeded of late."""
        is_known = self._runtime.monotonic() - self._found_at < _KNOWN_SECONDS
        return self._ms if is_known else None

    def margin_ms(self) -> int:
        """How far after its beginning a stream is to start now, in milliseconds; the next time it is more."""
        margin_ms, self._margin_ms = self._margin_ms, min(DAY_MS, 2 * self._margin_ms)
        return margin_ms

    def reached(self) -> None:
        """A window within it was delivered."""
        self._margin_ms = _MARGIN_MS

    def find(self, wanted_ms: int, refusal: NotLicensed, probe: Callable[[int], None]) -> int:
        """Find out how far back it reaches, in milliseconds; it begins after `wanted_ms`.

        `probe` requests one event from a moment on, in epoch milliseconds.

        Raises:
            NotLicensed: no start helps: Directory Insights is not enabled.
        """
        clock = self._clock
        ahead_ms = clock.newest_ms() - clock.now_ms()
        is_known = self._runtime.monotonic() < self._search_at and abs(ahead_ms - self._searched_ahead_ms) < MINUTE_MS
        if not is_known and (plan := find_plan([clock.now_ms, clock.newest_ms], wanted_ms, probe)):
            self._ms, self._found_at = clock.now_ms() - plan.begin_ms, self._runtime.monotonic()
            return self._ms
        if not is_known:
            self._search_at, self._searched_ahead_ms = self._runtime.monotonic() + _NO_PLAN_SECONDS, ahead_ms
        if abs(clock.newest_ms() - clock.now_ms()) > MINUTE_MS:
            # Only answers correct a clock that is behind, and while it is, all that it asks for is beyond the plan.
            for _ in range(ANSWERS_THAT_AGREE):
                probe(clock.newest_ms() - HOUR_MS)
        raise refusal
