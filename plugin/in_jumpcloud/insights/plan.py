"""How far back the plan of an organization reaches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from in_jumpcloud.errors import NotLicensed
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS

PLAN_DAYS = (90, 30, 15, 7, 1)
"""How far back the plans of JumpCloud reach, in days."""


class Plan(NamedTuple):
    """It reaches back so many days, to `begin_ms` in epoch milliseconds."""

    days: int
    begin_ms: int


def find_plan(clocks: Sequence[Callable[[], int]], after_ms: int, probe: Callable[[int], None]) -> Plan | None:
    """The plan, which begins after `after_ms` and before the moment of the first clock. None if no day is available.

    Any of the clocks may be right. They are read before each request, because that may have to wait for long. `probe`
    requests an event from a moment on; it raises NotLicensed if the plan does not reach it. All in epoch milliseconds.
    """
    ours, *_ = clocks
    for days in PLAN_DAYS:
        for clock in clocks:
            now_ms, begin_ms = ours(), clock() - days * DAY_MS
            agrees = clock is not ours and abs(clock() - now_ms) < MINUTE_MS  # it would ask the same once more
            if agrees or not after_ms < begin_ms + HOUR_MS < now_ms:
                continue
            try:
                probe(begin_ms + HOUR_MS)
            except NotLicensed:
                continue
            return Plan(days, begin_ms)
    return None
