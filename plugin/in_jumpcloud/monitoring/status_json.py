"""The JSON of /status.json, which the status page and `in-jumpcloud status` read."""

from __future__ import annotations

from typing import Any

import msgspec

from in_jumpcloud.load import Load
from in_jumpcloud.monitoring import health
from in_jumpcloud.monitoring.group_status import group_json
from in_jumpcloud.monitoring.history import History
from in_jumpcloud.monitoring.snapshot import ReceiverStatus, Snapshot, StreamStatus
from in_jumpcloud.monitoring.survey import STATES
from in_jumpcloud.progress import Progress
from in_jumpcloud.timestamps import rfc3339


def encode_status(snapshot: Snapshot, history: History) -> bytes:
    """The JSON document.

    `streams` has those that are shown, `states` counts all. Times are RFC 3339, durations are in seconds.
    A point of `history` is `[end in epoch ms, events, lag in seconds]`. `group` is there if the state is shared.
    """
    rates = history.rates(snapshot)
    return msgspec.json.encode(
        {
            "version": snapshot.version,
            "python": snapshot.python,
            "pid": snapshot.pid,
            "time": rfc3339(snapshot.now_ms),
            "uptime_seconds": round(snapshot.uptime, 1),
            "not_alive": health.not_alive(snapshot),
            "not_ready": [each._asdict() for each in health.not_ready(snapshot)],
            "warnings": [each._asdict() for each in health.warnings(snapshot)],
            **({"group": group_json(snapshot.group)} if snapshot.group else {}),
            "states": {state: snapshot.survey.states[state] for state in STATES if state in snapshot.survey.states},
            "polls": _polls(snapshot.load),
            "streams": [_stream(each, rates[each.name], snapshot) for each in snapshot.streams],
            "backfills": [
                {
                    "number": each.number,
                    "stream": each.stream,
                    **_progress(each.progress),
                    "error": each.error,
                    "error_since": _since(snapshot.now_ms, each.error_for) if each.error else None,
                }
                for each in snapshot.backfills
            ],
            "receivers": [_receiver(each, snapshot.now_ms) for each in snapshot.receivers],
            "databases": [
                {"setting": each.setting, "type": each.type, "built": rfc3339(each.built * 1000)}
                for each in snapshot.databases
            ],
            "requests": snapshot.requests,
            "unknown_types": snapshot.unknown_types,
            "state": {
                "path": snapshot.state_path,
                "bytes": snapshot.state_bytes,
                "free_bytes": snapshot.state_free_bytes,
            },
            "dead_letters": {"count": snapshot.dead_letters, "bytes": snapshot.dead_letter_bytes},
            "history": history.points(),
        }
    )


def _polls(load: Load | None) -> dict[str, Any] | None:
    """How often each stream is polled; `text` is for people."""
    return load and {
        "interval_seconds": load.interval,
        "kept_seconds": round(load.kept, 1),
        "needed_requests_per_second": round(load.needed, 2),
        "possible_requests_per_second": round(load.possible, 2),
        "text": load.interval_text,
    }


def _stream(stream: StreamStatus, rate: float, snapshot: Snapshot) -> dict[str, Any]:
    window, counters = stream.window, stream.counters
    return {
        "name": stream.name,
        "state": health.stream_state(stream, snapshot.max_lag),
        "position": rfc3339(stream.watermark_ms),
        "reached": rfc3339(stream.reached_ms),
        "lag_seconds": round(stream.lag, 1),
        "window": window and {"start": rfc3339(window.start_ms), "end": rfc3339(window.end_ms)},
        "events_per_minute": round(rate, 1),
        "backfill": stream.progress and _progress(stream.progress),
        "received": counters.received,
        "duplicates": counters.duplicates,
        "acknowledged": counters.acknowledged,
        "late": counters.late,
        "dead_lettered": counters.dead_lettered,
        "pipeline_errors": counters.with_problems,
        "waiting_seconds": stream.unacknowledged_wait and round(stream.unacknowledged_wait, 1),
        "error": stream.error,
        "error_since": _since(snapshot.now_ms, stream.error_for) if stream.error else None,
        "late_error": stream.late_error,
        "late_error_since": _since(snapshot.now_ms, stream.late_error_for) if stream.late_error else None,
        "open_minutes": counters.open_minutes,
        "given_up_minutes": counters.given_up_minutes,
        "parked": counters.parked,
    }


def _progress(progress: Progress) -> dict[str, Any]:
    return {
        "percent": round(100 * progress.share, 1),
        "events": progress.events,
        "expected": progress.expected,
        "events_per_second": round(progress.per_second, 1),
        "left_seconds": None if progress.seconds_left is None else round(progress.seconds_left),
    }


def _since(now_ms: int, seconds: float) -> str:
    return rfc3339(now_ms - round(seconds * 1000))


def _receiver(receiver: ReceiverStatus, now_ms: int) -> dict[str, Any]:
    counts, seconds = receiver.latencies.read()
    acks = sum(counts)
    return {
        "name": receiver.name,
        "up": receiver.up,
        "acks": acks,
        "error": receiver.error,
        "error_since": _since(now_ms, receiver.error_for) if receiver.error else None,
        "mean_ack_seconds": round(seconds / acks, 4) if acks else None,
    }
