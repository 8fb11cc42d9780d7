"""Decides from a snapshot whether the plugin is alive and whether it is ready.

Both functions return the reasons why it is not, one line each; an empty list means it is.
"""

from __future__ import annotations

from in_jumpcloud.monitoring.snapshot import Snapshot, StreamStatus

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


def not_ready(snapshot: Snapshot) -> list[str]:
    """Reasons why events do not arrive in time, or arrive incomplete.

    A stream is refused or lags, every receiver is down, or the plugin does without something for now.
    """
    reasons = []
    for stream in snapshot.streams:
        if stream.refused:
            reasons.append(f"{stream.name}: refused: {stream.error}")
        elif is_lagging(stream, snapshot.max_lag):
            cause = f": {stream.error}" if stream.error else ""
            reasons.append(f"{stream.name}: {format_duration(stream.lag)} behind now{cause}")
    if snapshot.receivers and all(receiver.up is False for receiver in snapshot.receivers):
        reasons.append(f"no receiver is up: {', '.join(receiver.name for receiver in snapshot.receivers)}")
    reasons += map(str, snapshot.troubles)
    return reasons


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
