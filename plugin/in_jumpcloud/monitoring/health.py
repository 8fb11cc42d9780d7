"""Whether the plugin is alive, and whether it does its work; from a snapshot alone.

Each gives the reasons why not, a line each, and nothing where all is well.
"""

from __future__ import annotations

from in_jumpcloud.monitoring.snapshot import Snapshot, StreamStatus

_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def not_alive(snapshot: Snapshot) -> list[str]:
    """Why a restart may help: a worker is gone, or neither makes progress nor waits on purpose.

    A receiver that is down, a refusal, a full disk: all that is waiting on purpose.
    """
    most = snapshot.allowed_silence
    reasons = [] if snapshot.workers_alive else ["a worker has ended"]
    reasons += [
        f"{each.name}: no sign of life for {format_duration(each.silent)}"
        for each in snapshot.streams
        if each.silent is not None and each.silent > most
    ]
    # A stream may wait long for a worker while others have them all; where none is at work, something is wrong.
    if all(each.silent is None for each in snapshot.streams):
        reasons += [
            f"{each.name}: due for {format_duration(each.overdue)}, and no worker takes it up"
            for each in snapshot.streams
            if each.overdue is not None and each.overdue > most
        ]
    return reasons


def not_ready(snapshot: Snapshot) -> list[str]:
    """Why events do not arrive as they should: a stream is refused or lags, or no receiver is up."""
    reasons = []
    for each in snapshot.streams:
        if each.refused:
            reasons.append(f"{each.name}: refused: {each.error}")
        elif lags(each, snapshot.allowed_lag):
            why = f": {each.error}" if each.error else ""
            reasons.append(f"{each.name}: lags {format_duration(each.lag)} behind now{why}")
    if snapshot.receivers and all(each.up is False for each in snapshot.receivers):
        reasons.append(f"no receiver is up: {', '.join(each.name for each in snapshot.receivers)}")
    return reasons


def lags(stream: StreamStatus, allowed: float) -> bool:
    """Whether it is further behind than allowed, in seconds.

    One that has not come up to now since the process began is behind by nature: it lags only once it has not got
    any further for as long.
    """
    return stream.lag > allowed and (not stream.backfilling or stream.advanced > allowed)


def stream_state(stream: StreamStatus, allowed: float) -> str:
    """How it stands, in a word or two; `allowed` is the lag that is allowed, in seconds."""
    if stream.error:
        return "refused" if stream.refused else "failing"
    if lags(stream, allowed):
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
