"""Late events: which minutes have to be read again, because JumpCloud counts otherwise than the ledger does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from in_jumpcloud.timestamps import MINUTE_MS


class CountMismatches:
    """Compares counts by minute, and remembers what a second reading did not settle.

    Some minutes never agree: an event that JumpCloud files under another minute than its timestamp says, or twice.
    They are read again once, and after that only when a count has changed.
    """

    def __init__(self) -> None:
        self._settled: dict[int, tuple[int, int]] = {}
        self._asked: dict[int, int] = {}

    def minutes(self, theirs: Mapping[int, int], ours: Mapping[int, int]) -> list[int]:
        """The minutes to read again, in order; both sides count by minutes since the epoch."""
        different = {
            minute: theirs.get(minute, 0)
            for minute in theirs.keys() | ours.keys()
            if theirs.get(minute, 0) != ours.get(minute, 0)
        }
        # What was asked for last time and still differs has been read: no reading will settle it.
        self._settled = {
            minute: (count, ours.get(minute, 0))
            for minute, count in different.items()
            if self._asked.get(minute) == count or self._settled.get(minute) == (count, ours.get(minute, 0))
        }
        self._asked = {minute: count for minute, count in different.items() if minute not in self._settled}
        return sorted(self._asked)

    def forget(self) -> None:
        """The minutes last asked for were not read to their end."""
        self._asked = {}


MERGE_WITHIN = 5
"""Minutes that agree are read again where fewer than so many lie between two that do not: a request costs more."""


def spans(minutes: Iterable[int]) -> list[tuple[int, int]]:
    """Minutes, and what lies between near ones, as `[start, end)` in epoch milliseconds."""
    found: list[tuple[int, int]] = []
    for minute in sorted(minutes):
        start = minute * MINUTE_MS
        if found and start - found[-1][1] < MERGE_WITHIN * MINUTE_MS:
            found[-1] = (found[-1][0], start + MINUTE_MS)
        else:
            found.append((start, start + MINUTE_MS))
    return found
