"""How far a backfill has come, how fast it is, and when it ends: arithmetic over what was observed."""

from __future__ import annotations

from typing import NamedTuple

from in_jumpcloud.text import format_duration

_WINDOW_SECONDS = 60.0
_SAMPLE_SECONDS = 1.0


class Progress(NamedTuple):
    """`share` is from 0 to 1, `seconds_left` None while it is not known. `expected`: None if that is not known."""

    share: float
    events: int
    expected: int | None
    per_second: float
    seconds_left: float | None

    def __str__(self) -> str:
        """One line."""
        events = f"{self.events:,}" if self.expected is None else f"{self.events:,} of {self.expected:,}"
        left = "" if self.seconds_left is None else f", {format_duration(self.seconds_left)} left"
        return f"{self.share:.0%}, {events} events, {self.per_second:,.0f} events/s{left}"


def share_done(events: int, expected: int | None, reached_ms: int, span: tuple[int, int]) -> float:
    """The share of the events, or, without a count, of the time that is behind; `span` is `[since, until)`."""
    since_ms, until_ms = span
    if expected:
        return min(1.0, events / expected)
    return min(1.0, max(0.0, (reached_ms - since_ms) / max(1, until_ms - since_ms)))


class Pace:
    """The speed over the last minute, or over the time that was observed if that is shorter."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, int, float]] = []

    def note(self, now: float, events: int, share: float) -> None:
        """At `now`, in seconds of any clock, this many events were read, which is this share of all."""
        samples = self._samples
        if len(samples) > 1 and now - samples[-2][0] < _SAMPLE_SECONDS:
            samples.pop()
        samples.append((now, events, share))
        while len(samples) > 2 and now - samples[1][0] >= _WINDOW_SECONDS:  # noqa: PLR2004 - a span has two ends
            samples.pop(0)

    def progress(self, now: float, expected: int | None) -> Progress:
        """The progress at `now`."""
        if not self._samples:
            return Progress(0.0, 0, expected, 0.0, None)
        (began, events, share), (_, events_now, share_now) = self._samples[0], self._samples[-1]
        seconds = now - began
        gained = share_now - share
        left = (1 - share_now) / gained * seconds if gained > 0 and seconds > 0 else None
        return Progress(share_now, events_now, expected, (events_now - events) / seconds if seconds > 0 else 0.0, left)
