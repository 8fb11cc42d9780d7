"""Whether the polls of all streams can keep their interval: the arithmetic, and what was measured."""

from __future__ import annotations

from typing import NamedTuple

from in_jumpcloud.counters import plural

_OF_THE_LIMIT = (
    "raise jumpcloud.interval, jumpcloud.interval_max or jumpcloud.requests_per_second; more processes share that limit"
)
_OF_THE_WORKERS = "raise jumpcloud.workers, jumpcloud.interval or jumpcloud.interval_max"
_OF_THE_PROCESS = (
    "see how busy the processor and the receivers are; where the processor is the limit, let several processes share "
    "the streams with state.url"
)
_TOLERANCE = 1.25
"""How much longer than jumpcloud.interval the polls may take."""


class Load(NamedTuple):
    """What all streams need, in requests per second, and what is possible.

    `per_second` is jumpcloud.requests_per_second, `seconds` the mean time of a request, 0 if it is not known, `workers`
    how many requests are sent at the same time. `gap` is the mean time between two polls of a stream, 0 if it was not
    measured; `interval` is what it should be, `interval_max` what it may be without events, 0 as `interval`. All times
    are in seconds. `share` of the limit, of 1, is that of these streams: the members of a group share it. It is 0 for
    streams that others have.
    """

    streams: int
    interval: float
    comparisons_per_day: float
    per_second: float
    seconds: float = 0.0
    workers: int = 1
    gap: float = 0.0
    interval_max: float = 0.0
    share: float = 1.0

    @property
    def needed(self) -> float:
        """Requests per second for the polls and comparisons of all streams, at rest."""
        return self.streams * (1 / (self.interval_max or self.interval) + self.comparisons_per_day / 86_400)

    @property
    def possible(self) -> float:
        """Requests per second that the rate limit and the workers allow."""
        limit = self.per_second * self.share
        return min(limit, self.workers / self.seconds) if self.seconds else limit

    @property
    def is_too_high(self) -> bool:
        """Whether polls come later than they should, or would."""
        return self.share > 0 and (self.needed > self.possible or self._is_late)

    @property
    def kept(self) -> float:
        """The interval in seconds that polls really keep: as measured, or else as far as requests are possible."""
        if not self.is_too_high:
            return self.interval
        if self._is_late:
            return max(self.interval, self.gap)
        comparisons = self.streams * self.comparisons_per_day / 86_400
        # Late events have every second turn at most.
        return max(self.interval, self.streams / max(self.possible / 2, self.possible - comparisons))

    @property
    def _is_late(self) -> bool:
        return self.gap > _TOLERANCE * self.interval + 1

    @property
    def interval_text(self) -> str:
        """How often each stream is polled, for people."""
        if not self.is_too_high:
            up_to = f", without events up to every {self.interval_max:g} s" if self.interval_max > self.interval else ""
            return f"every {self.interval:g} s{up_to}"
        return f"every {self.kept:.0f} s instead of every {self.interval:g} s"

    @property
    def advice(self) -> str:
        """What to do if it is too high, by what is the limit."""
        if self.needed <= self.possible:
            return _OF_THE_PROCESS
        return _OF_THE_LIMIT if self.possible == self.per_second * self.share else _OF_THE_WORKERS

    def __str__(self) -> str:
        """The arithmetic, in one line."""
        of = f", and {_rate(self.per_second * self.share)} of that are for these streams" if self.share < 1 else ""
        limits = [f"jumpcloud.requests_per_second is {self.per_second:g}{of}"]
        if self.seconds:
            sent = f"{_rate(self.workers / self.seconds)} at {self.seconds:.2f} s each"
            limits.append(f"{_do(self.workers, 'worker', 'send')} {sent}")
        interval = self.interval_max or self.interval
        text = (
            f"{_do(self.streams, 'stream', 'need')} {_needed(self.needed)} for polls every {interval:g} s; "
            f"{_rate(self.possible)} are possible: {', '.join(limits)}"
        )
        return f"{text}. Each stream is polled {self.interval_text}" if self.is_too_high else text


def _rate(per_second: float) -> str:
    """One digit after the point, or of a small number the first two that are not 0."""
    return f"{per_second:.1f}" if per_second >= 1 else f"{per_second:.2g}"


def _needed(per_second: float) -> str:
    """Few requests a second are easier to judge by the day."""
    a_day = "" if per_second >= 1 else f" ({86_400 * per_second:,.0f} a day)"
    return f"{_rate(per_second)} requests/s{a_day}"


def _do(count: int, noun: str, verb: str) -> str:
    """`1 worker sends`, `2 workers send`."""
    return f"{plural(count, noun)} {verb}{'s' if count == 1 else ''}"
