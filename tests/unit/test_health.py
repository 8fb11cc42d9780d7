"""Whether the plugin is alive and ready, from a snapshot alone."""

from __future__ import annotations

from typing import Any

from in_jumpcloud.counters import Counters, LatencyHistogram
from in_jumpcloud.monitoring import health
from in_jumpcloud.monitoring.snapshot import ReceiverStatus, Snapshot, StreamStatus
from in_jumpcloud.troubles import Trouble

LAG = 900.0
SILENCE = 1200.0
BEHIND: dict[str, Any] = {"lag": 10 * 86_400.0, "backfilling": True}
REFUSED: dict[str, Any] = {"error": "JumpCloud answered 403: no", "refused": True}


def stream(name: str = "one", **values: Any) -> StreamStatus:
    """A healthy stream, except for these values."""
    return StreamStatus(
        **{"name": name, "watermark_ms": 0, "window": None, "lag": 1.0, "counters": Counters(), **values}
    )


def snapshot(*streams: StreamStatus, receivers: tuple[bool | None, ...] = (True,), **values: Any) -> Snapshot:
    """A snapshot of these streams, and of receivers that are up or not."""
    return Snapshot(
        now_ms=0,
        uptime=60,
        streams=streams,
        receivers=tuple(ReceiverStatus(f"r{number}", up, LatencyHistogram()) for number, up in enumerate(receivers)),
        max_lag=LAG,
        max_silence=SILENCE,
        **values,
    )


def test_ready() -> None:
    """A stream is a reason if it is refused or lags more than allowed; a backfill only if it makes no progress.

    Receivers are one only if all are known to be down. Several reasons are all given.
    """
    up, down, untried = True, False, None
    for seen, reasons in [
        (snapshot(stream(), stream("two")), []),
        (snapshot(stream(lag=LAG)), []),
        (snapshot(stream(lag=LAG + 1)), ["one: 15m 1s behind now"]),
        (snapshot(stream(lag=7200.0, error="no answer")), ["one: 2h behind now: no answer"]),
        (snapshot(stream(error="no answer")), []),
        (snapshot(stream(**BEHIND, since_progress=LAG)), []),
        (snapshot(stream(**BEHIND, since_progress=LAG + 1)), ["one: 10d behind now"]),
        (snapshot(stream("two"), stream(**REFUSED)), ["one: refused: JumpCloud answered 403: no"]),
        (snapshot(stream(), receivers=(down,)), ["no receiver is up: r0"]),
        (snapshot(stream(), receivers=(down, down)), ["no receiver is up: r0, r1"]),
        (snapshot(stream(), receivers=(down, up)), []),
        (snapshot(stream(), receivers=(untried, down)), []),
        (snapshot(stream(), troubles=(Trouble("x: gone", 0, "bring it"),)), ["x: gone; bring it"]),
        (
            snapshot(stream(**REFUSED, lag=1e6), receivers=(down,)),
            ["one: refused: JumpCloud answered 403: no", "no receiver is up: r0"],
        ),
    ]:
        assert health.not_ready(seen) == reasons
        assert health.not_alive(seen) == []  # a restart helps none of these


def test_alive() -> None:
    """A worker that has ended, or shows no activity for too long; a stream that is due while no worker is busy."""
    waiting = stream(overdue=SILENCE + 1)
    for seen, reasons in [
        (snapshot(stream(silent=SILENCE)), []),
        (snapshot(stream(silent=SILENCE + 1)), ["one: no activity for 20m 1s"]),
        (snapshot(stream(), workers_alive=False), ["a worker thread has ended"]),
        (snapshot(waiting, stream("two", silent=3.0)), []),
        (snapshot(waiting, stream("two")), ["one: due for 20m 1s, but no worker runs it"]),
    ]:
        assert health.not_alive(seen) == reasons


def test_states() -> None:
    """The word that the status page shows for a stream."""
    for one, state in [
        (stream(), "up to date"),
        (stream(lag=LAG + 1), "lagging"),
        (stream(**BEHIND), "catching up"),
        (stream(error="no answer"), "failing"),
        (stream(**REFUSED), "refused"),
    ]:
        assert health.stream_state(one, LAG) == state
