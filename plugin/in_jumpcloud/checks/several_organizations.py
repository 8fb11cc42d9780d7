"""Whether one request can ask for several organizations: its count must be the sum of theirs.

Nothing uses that yet. So the result is information, whatever it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from in_jumpcloud.checks.result import CheckResult, ok
from in_jumpcloud.errors import CountsUnavailable, InJumpCloudError, RequestRejected, Stopped
from in_jumpcloud.insights.api import DirectoryInsights, Scope
from in_jumpcloud.insights.repeated_headers import Repeated
from in_jumpcloud.timestamps import DAY_MS, MINUTE_MS

_SETTLED_MS = 15 * MINUTE_MS
"""Newer events may still appear."""
_PAIR = 2
_MOST = 6
"""So many organizations are counted to find two that have events."""


class SeveralOrganizations:
    """Counts the last day of two organizations, each alone and both in one request."""

    def __init__(
        self,
        api: DirectoryInsights,
        services: Sequence[str],
        now_ms: int,
        stop: threading.Event,
        has_time: Callable[[], bool],
    ) -> None:
        """`has_time` says whether there is time for another request."""
        self._api = api
        self._services = services
        self._end_ms = now_ms - _SETTLED_MS
        self._stop = stop
        self._has_time = has_time

    def check(self, organizations: Sequence[str]) -> CheckResult:
        """Find out. The key has access to these `organizations`."""
        try:
            result = self._compare(organizations)
        except Stopped:
            result = "not tested: there was no time"
        except InJumpCloudError as error:
            result = f"not tested: {error.message}"
        return ok("organizations", f"several organizations in one request: {result}")

    def _compare(self, organizations: Sequence[str]) -> str:
        pair: dict[str, int] = {}
        for each in organizations[:_MOST]:
            if count := self._count(each):
                pair[each] = count
            if len(pair) == _PAIR:
                break
        else:
            asked = len(organizations[:_MOST])
            return f"not tested: {len(pair)} of {asked} had events in the 24 h until 15 minutes ago, two are needed"
        alone = " and ".join(map(str, pair.values()))
        try:
            together = self._count(Repeated(list(pair)))
        except (RequestRejected, CountsUnavailable) as error:
            return f"not possible: {error.message}"
        least = most = sum(pair.values())
        if together != least:  # events may have appeared meanwhile
            most = max(least, sum(self._count(each) for each in pair))
        is_sum = least <= together <= most
        return f"{'possible' if is_sum else 'not possible'}: {alone} events alone, {together} together, in 24 h"

    def _count(self, organization: str) -> int:
        """How many events it has, or they have.

        Raises:
            Stopped: there is no time.
            InJumpCloudError: JumpCloud has not said.
        """
        if not self._has_time():
            raise Stopped
        start_ms = self._end_ms - DAY_MS
        return self._api.count(start_ms, self._end_ms, self._services, Scope(organization), self._stop)
