"""Decides from a snapshot whether the plugin is alive and whether it is ready.

Both functions return the reasons why it is not; an empty list means it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from in_jumpcloud.insights.clock import MAX_SKEW_SECONDS
from in_jumpcloud.monitoring.snapshot import Snapshot, StreamStatus

_MAX_UNEXPECTED = 3
_MAX_COMPARED_LAG = 3 * 3600.0
"""Seconds that comparisons may be behind the polls, besides http.max_lag."""
_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def not_alive(snapshot: Snapshot) -> list[str]:
    """Reasons to restart the process: a worker has ended or hangs, or no worker runs a stream that is due.

    A receiver that is down, a rejected request and a full disk are not among them: a restart does not help.
    """
    limit = snapshot.max_silence
    reasons = [] if snapshot.workers_alive else ["a worker thread has ended"]
    reasons += [
        f"{stream.name}: no activity for {format_duration(stream.silent)}"
        for stream in snapshot.streams
        if stream.silent is not None and stream.silent > limit
    ]
    # While the workers are busy with other streams, a stream may wait for long. If none is busy, they are stuck.
    if all(stream.silent is None for stream in snapshot.streams):
        reasons += [
            f"{stream.name}: due for {format_duration(stream.overdue)}, but no worker runs it"
            for stream in snapshot.streams
            if stream.overdue is not None and stream.overdue > limit
        ]
    return reasons


class Reason(NamedTuple):
    """Why the plugin is not ready. `code` is one of REASONS and never changes its meaning; `text` is for a person."""

    code: str
    text: str

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"


def not_ready(snapshot: Snapshot) -> list[Reason]:
    """Reasons why events do not arrive in time, may be missing, or arrive incomplete."""
    return [Reason(code, text) for code, find in REASONS.items() for text in find(snapshot)]


def _refused(snapshot: Snapshot) -> Iterator[str]:
    for stream in snapshot.streams:
        if stream.refused:
            yield f"{stream.name}: {stream.error}"


def _lagging(snapshot: Snapshot) -> Iterator[str]:
    for stream in snapshot.streams:
        if not stream.refused and not stream.backfilling and is_lagging(stream, snapshot.max_lag):
            yield f"{stream.name}: {format_duration(stream.lag)} behind now{_cause(stream)}"


def _stalled(snapshot: Snapshot) -> Iterator[str]:
    for stream in snapshot.streams:
        if not stream.refused and stream.backfilling and is_lagging(stream, snapshot.max_lag):
            for_ = format_duration(stream.since_progress)
            yield f"{stream.name}: no new event and no completed window for {for_}{_cause(stream)}"


def _overloaded(snapshot: Snapshot) -> Iterator[str]:
    if snapshot.load and snapshot.load.is_too_high and not list(_no_receiver(snapshot)):
        yield f"{snapshot.load}; raise jumpcloud.interval or jumpcloud.requests_per_second, or run several processes"


def _clock_off(snapshot: Snapshot) -> Iterator[str]:
    skew = snapshot.clock_skew
    if skew is not None and abs(skew) > MAX_SKEW_SECONDS:
        direction = "ahead of" if skew > 0 else "behind"
        yield f"this machine's clock is {format_duration(abs(skew))} {direction} JumpCloud's; set it (NTP)"


def _not_compared(snapshot: Snapshot) -> Iterator[str]:
    for stream in snapshot.streams:
        if stream.late_error and stream.late_error_for > snapshot.max_lag:
            for_ = format_duration(stream.late_error_for)
            yield f"{stream.name}: late events cannot be looked for, for {for_}: {stream.late_error}"
        elif not stream.backfilling and stream.compared_lag > _MAX_COMPARED_LAG + snapshot.max_lag:
            yield f"{stream.name}: late events were last looked for {format_duration(stream.compared_lag)} ago"


def _failing(snapshot: Snapshot) -> Iterator[str]:
    for stream in snapshot.streams:
        if stream.counters.unexpected_in_a_row >= _MAX_UNEXPECTED:
            yield f"{stream.name}: {stream.counters.unexpected_in_a_row} unexpected errors in a row; see the log"


def _no_receiver(snapshot: Snapshot) -> Iterator[str]:
    if snapshot.receivers and all(receiver.up is False for receiver in snapshot.receivers):
        yield f"no receiver is up: {', '.join(receiver.name for receiver in snapshot.receivers)}"


def _in_trouble(snapshot: Snapshot) -> Iterator[str]:
    yield from map(str, snapshot.troubles)


REASONS: dict[str, Callable[[Snapshot], Iterator[str]]] = {
    "refused": _refused,
    "lagging": _lagging,
    "stalled": _stalled,
    "overload": _overloaded,
    "clock": _clock_off,
    "comparisons": _not_compared,
    "defect": _failing,
    "receivers": _no_receiver,
    "trouble": _in_trouble,
}
"""Every reason, by its code, and how to find it."""


def _cause(stream: StreamStatus) -> str:
    return f": {stream.error}" if stream.error else ""


def is_lagging(stream: StreamStatus, max_lag: float) -> bool:
    """Whether the stream is more than `max_lag` seconds behind now.

    During a backfill the lag is expected: then the stream lags only if it made no progress for `max_lag` seconds.
    """
    return stream.lag > max_lag and (not stream.backfilling or stream.since_progress > max_lag)


def stream_state(stream: StreamStatus, max_lag: float) -> str:
    """The state of a stream as the status page shows it; `max_lag` is in seconds."""
    if stream.error:
        return "refused" if stream.refused else "failing"
    if is_lagging(stream, max_lag):
        return "lagging"
    return "catching up" if stream.backfilling else "up to date"


def format_duration(seconds: float) -> str:
    """A duration in its two largest units, such as `3d 4h` or `42s`."""
    left, parts = int(seconds), []
    for unit, length in _UNITS:
        count, left = divmod(left, length)
        parts.append((count, unit))
    largest = next((index for index, (count, _) in enumerate(parts) if count), -1)
    return " ".join(f"{count}{unit}" for count, unit in parts[largest:][:2] if count) or "0s"
