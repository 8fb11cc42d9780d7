"""How far back the plan of an organization reaches."""

from __future__ import annotations

from collections.abc import Callable

from in_jumpcloud.errors import NotLicensed
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS

PLAN_DAYS = (90, 30, 15, 7, 1)
"""How far back the plans of JumpCloud reach, in days."""


def find_plan_days(now_ms: Callable[[], int], after_ms: int, probe: Callable[[int], None]) -> int | None:
    """How many days the plan reaches back from now; it begins after `after_ms`. None if no day is available.

    `probe` requests an event from a moment on; it raises NotLicensed if the plan does not reach it. All in epoch
    milliseconds. `now_ms` is asked before each, because a request may have to wait for long.
    """
    for days in PLAN_DAYS:
        start_ms = now_ms() - days * DAY_MS + HOUR_MS
        if start_ms <= after_ms:
            continue
        try:
            probe(start_ms)
        except NotLicensed:
            continue
        return days
    return None
