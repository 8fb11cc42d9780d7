"""What is known about late events of one stream: which spans were compared, and which minutes still differ.

Pure arithmetic: counts, times and clocks are passed in. Events become visible minutes, hours or days after their
timestamp. So the counts of JumpCloud are compared with the ledger, minute by minute: the last day often, the days
before less often. A minute that differs is open. It is read again, with growing pauses, until it is settled.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

import msgspec

from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, whole_minute

Counts = Mapping[int, int]
"""The number of events by minute since the epoch, without zeros."""

PAUSES = (0.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 3 * 3600.0, 6 * 3600.0)
"""Seconds before each try to settle an open minute. One more try follows before the minute leaves the reach."""
MERGE_WITHIN_MINUTES = 5
"""Minutes that differ are read in one span if fewer minutes than this are between them: a request costs more."""
_LAST_TRY_MS = 6 * HOUR_MS
"""How long before it leaves the reach an open minute is tried for the last time."""
_CHANGED_TRIES = 4
"""Where the pauses continue when the count of an open minute changes: an event may just have appeared."""
_REGULAR_SHARE = 3
"""A comparison that is due for less than this many times its distance is a regular one, not one after a stop."""
_MIN_LOWER = 2
"""Fewer minutes that are lower than the ledger say nothing about all counts."""


class Span(NamedTuple):
    """`[start_ms, end_ms)` in epoch milliseconds, whole minutes. `tier`: which tier it belongs to."""

    start_ms: int
    end_ms: int
    tier: int = 0


class Tier(NamedTuple):
    """Events of an age of `newest_ms` to `oldest_ms` are compared every `every_ms`."""

    every_ms: int
    newest_ms: int
    oldest_ms: int

    @property
    def width_ms(self) -> int:
        """The length of its span of ages."""
        return self.oldest_ms - self.newest_ms


@lru_cache
def tiers(every_ms: int, reach_ms: int) -> tuple[Tier, ...]:
    """The last day every `every_ms`, the two days before every hour, and the rest of the reach every day."""
    wanted = (Tier(every_ms, 0, DAY_MS), Tier(HOUR_MS, DAY_MS, 3 * DAY_MS), Tier(DAY_MS, 3 * DAY_MS, reach_ms))
    return tuple(
        Tier(max(every_ms, each.every_ms), each.newest_ms, min(each.oldest_ms, reach_ms))
        for each in wanted
        if each.newest_ms < reach_ms
    )


def comparisons_per_day(every_ms: int, reach_ms: int) -> float:
    """Requests for counts that one stream sends in a day, at rest. A request covers at most a day."""
    return sum(DAY_MS / tier.every_ms * -(-tier.width_ms // DAY_MS) for tier in tiers(every_ms, reach_ms))


class OpenMinute(msgspec.Struct, array_like=True):
    """A minute that differs. `count` is JumpCloud's; `tries`: how often it was read again."""

    count: int
    tries: int = 0


class Comparisons(msgspec.Struct, kw_only=True):
    """What the state keeps of the comparisons of one stream. Times are epoch milliseconds.

    `compared_ms`: how far each tier has compared, in the time of events. `reread_ms`: the same for spans that were read
    again without counts. `open` has the minutes that differ. `accepted` has those that differ for good, with
    JumpCloud's count and ours: a re-read returned exactly what JumpCloud counts, or the minute was given up. Before
    `comparable_ms` the ledger has the events of other services.
    """

    compared_ms: list[int]
    reread_ms: int
    comparable_ms: int = 0
    open: dict[int, OpenMinute] = {}
    accepted: dict[int, tuple[int, int]] = {}

    @classmethod
    def starting_at(cls, origin_ms: int, now_ms: int, tiers: tuple[Tier, ...]) -> Comparisons:
        """A new stream: the first tier compares all that the stream delivers, the others begin at their age."""
        compared_ms = [origin_ms, *(max(origin_ms, now_ms - tier.newest_ms) for tier in tiers[1:])]
        return cls(compared_ms=compared_ms, reread_ms=origin_ms)

    def fit(self, now_ms: int, tiers: tuple[Tier, ...]) -> None:
        """Adapt to a changed number of tiers."""
        self.compared_ms += [now_ms - tier.newest_ms for tier in tiers[len(self.compared_ms) :]]
        del self.compared_ms[len(tiers) :]

    def start_over(self, now_ms: int, tiers: tuple[Tier, ...]) -> None:
        """Compare the whole reach again: a wrong clock has moved the position."""
        self.compared_ms = [
            min(compared_ms, now_ms - tier.newest_ms) for compared_ms, tier in zip(self.compared_ms, tiers, strict=True)
        ]
        self.compared_ms[0] = self.reread_ms = min(self.compared_ms[0], now_ms - tiers[-1].oldest_ms)
        self.comparable_ms = min(self.comparable_ms, whole_minute(now_ms))

    def due_span(
        self, until_ms: int, now_ms: int, tiers: tuple[Tier, ...], without: Container[int] = ()
    ) -> Span | None:
        """The span to compare now; None while no tier is due, but those in `without`.

        `until_ms` is the end of what the stream has delivered and does not poll again. A span is as wide as its tier.
        After a stop it begins so far before the end of the last one: what became visible since then is found. A
        backfill is older than the first tier, which compares it once: the other tiers compare it again.
        """
        due = []
        for number, tier in enumerate(tiers):
            # A clock that was ahead may have moved it further than events of this age.
            self.compared_ms[number] = min(self.compared_ms[number], now_ms - tier.newest_ms)
            end_ms = whole_minute(min(until_ms, now_ms - tier.newest_ms))
            is_backfill = number == 0 and end_ms < now_ms - DAY_MS
            share = (end_ms - self.compared_ms[number]) / (DAY_MS if is_backfill else tier.every_ms)
            if share >= 1 and number not in without:
                start_ms = whole_minute(self.compared_ms[number])
                if not is_backfill:
                    # The next tier covers what is older. After a stop nothing did.
                    last_ms = end_ms if share < _REGULAR_SHARE else start_ms
                    start_ms = last_ms - tier.width_ms
                due.append((share, Span(start_ms, end_ms, number)))
        # The most overdue is next: under overload the first tier is always due.
        return max(due, default=(0, None), key=lambda each: each[0])[1]

    def until_due_ms(self, until_ms: int, now_ms: int, tiers: tuple[Tier, ...]) -> list[int]:
        """Milliseconds until each tier is due, if the stream follows the clock; negative if it is overdue."""
        behind_ms = now_ms - until_ms
        return [
            self.compared_ms[number] + tier.every_ms + max(tier.newest_ms, behind_ms) - now_ms + MINUTE_MS
            for number, tier in enumerate(tiers)
        ]

    def differ(self, theirs: Counts, ours: Counts) -> list[int]:
        """Note the minutes of one comparison; returns those that are open and were not, or whose count has changed.

        Both counts are of the same span. A minute stays open until it agrees, or until `settle` decides.
        """
        found = []
        for minute in {minute for minute, _ in theirs.items() ^ ours.items()}:
            count, known = theirs.get(minute, 0), ours.get(minute, 0)
            entry = self.open.get(minute)
            if entry:
                if entry.count != count:
                    entry.count, entry.tries = count, min(entry.tries, _CHANGED_TRIES)
                    found.append(minute)
            elif self.accepted.get(minute) != (count, known):
                self.open[minute] = OpenMinute(count)
                found.append(minute)
        for minute in [*self.open, *self.accepted]:
            if minute in theirs and theirs[minute] == ours.get(minute):
                self.open.pop(minute, None)
                self.accepted.pop(minute, None)
        return found

    def settle(self, span: Span, rows: Counts, theirs: Counts, ours: Counts) -> list[int]:
        """Decide about the open minutes of `span`, which was just read again; returns those that are given up.

        `rows` counts the distinct events that the re-read returned, `theirs` and `ours` are the counts after it.
        """
        given_up = []
        for minute in range(span.start_ms // MINUTE_MS, span.end_ms // MINUTE_MS):
            entry = self.open.get(minute)
            if entry is None:
                continue
            count, known = theirs.get(minute, 0), ours.get(minute, 0)
            # What it returned is in the ledger now: if that has less, a row came twice, and another did not come.
            read_whole = rows.get(minute, 0) == count == entry.count and count <= known
            entry.tries, entry.count = entry.tries + 1, count
            exhausted = entry.tries > len(PAUSES)
            if count == known or read_whole or exhausted:
                del self.open[minute]
                self.accepted.pop(minute, None)
                if count != known:
                    self.accepted[minute] = (count, known)
                    given_up += [] if read_whole else [minute]
        return given_up

    def pause(self, minute: int, now_ms: int, reach_ms: int) -> float:
        """Seconds until the next try to settle an open minute."""
        tries = self.open[minute].tries
        if tries < len(PAUSES):
            return PAUSES[tries]
        return max(0.0, (minute * MINUTE_MS + reach_ms - _LAST_TRY_MS - now_ms) / 1000)

    def forget(self, before_ms: int) -> list[int]:
        """Drop what is known about minutes before `before_ms`; returns those that were open, in order."""
        before = before_ms // MINUTE_MS
        dropped = sorted(minute for minute in self.open if minute < before)
        for minute in dropped:
            del self.open[minute]
        self.accepted = {minute: counts for minute, counts in self.accepted.items() if minute >= before}
        return dropped

    def oldest_ms(self, tiers: tuple[Tier, ...]) -> int:
        """The oldest moment that may still be compared or read again: the ledger must have all ids from there on."""
        starts = (whole_minute(ms) - tier.width_ms for ms, tier in zip(self.compared_ms, tiers, strict=True))
        return min([*starts, *(minute * MINUTE_MS for minute in self.open)])


def is_credible(theirs: Counts, ours: Counts) -> bool:
    """Whether JumpCloud's counts of a span can be true.

    The ledger has what JumpCloud returned, so counts that are lower in most minutes are wrong or shifted. One minute
    that is lower proves nothing.
    """
    lower = sum(theirs.get(minute, 0) < known for minute, known in ours.items())
    return lower < _MIN_LOWER or lower * 2 <= len(ours)


def spans(minutes: Iterable[int]) -> list[Span]:
    """Group minutes since the epoch into spans of at most a day."""
    grouped: list[Span] = []
    for minute in sorted(minutes):
        start_ms = minute * MINUTE_MS
        last = grouped[-1] if grouped else None
        if last and start_ms - last.end_ms < MERGE_WITHIN_MINUTES * MINUTE_MS and start_ms - last.start_ms < DAY_MS:
            grouped[-1] = last._replace(end_ms=start_ms + MINUTE_MS)
        else:
            grouped.append(Span(start_ms, start_ms + MINUTE_MS))
    return grouped
