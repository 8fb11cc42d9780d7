"""Whether the plugin is alive and ready, from a snapshot alone."""

from __future__ import annotations

from typing import Any

from in_jumpcloud.counters import Counters, LatencyHistogram
from in_jumpcloud.load import Load
from in_jumpcloud.monitoring import health
from in_jumpcloud.monitoring.snapshot import ReceiverStatus, Snapshot, StreamStatus
from in_jumpcloud.troubles import Trouble

LAG = 900.0
SILENCE = 1200.0
BEHIND: dict[str, Any] = {"lag": 10 * 86_400.0, "backfilling": True}
REFUSED: dict[str, Any] = {"error": "JumpCloud answered 403: no", "refused": True}


OVERLOAD = (
    "overload: 160 streams need 5.7 requests/s for polls every 30 s; 5.0 are possible: jumpcloud.requests_per_second "
    "is 5; raise jumpcloud.interval or jumpcloud.requests_per_second, or run several processes"
)


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
        (snapshot(stream(lag=LAG + 1)), ["lagging: one: 15m 1s behind now"]),
        (snapshot(stream(lag=7200.0, error="no answer")), ["lagging: one: 2h behind now: no answer"]),
        (snapshot(stream(error="no answer")), []),
        (snapshot(stream(**BEHIND, since_progress=LAG)), []),
        (
            snapshot(stream(**BEHIND, since_progress=LAG + 1)),
            ["stalled: one: no new event and no completed window for 15m 1s"],
        ),
        (snapshot(stream("two"), stream(**REFUSED)), ["refused: one: JumpCloud answered 403: no"]),
        (snapshot(stream(), receivers=(down,)), ["receivers: no receiver is up: r0"]),
        (snapshot(stream(), receivers=(down, down)), ["receivers: no receiver is up: r0, r1"]),
        (snapshot(stream(), receivers=(down, up)), []),
        (snapshot(stream(), receivers=(untried, down)), []),
        (snapshot(stream(), troubles=(Trouble("x: gone", 0, "bring it"),)), ["trouble: x: gone; bring it"]),
        (snapshot(stream(), clock_skew=-299.0), []),
        (
            snapshot(stream(), clock_skew=-3600.0),
            ["clock: this machine's clock is 1h behind JumpCloud's; set it (NTP)"],
        ),
        (snapshot(stream(counters=Counters(unexpected_in_a_row=2))), []),
        (
            snapshot(stream(counters=Counters(unexpected_in_a_row=3))),
            ["defect: one: 3 unexpected errors in a row; see the log"],
        ),
        (snapshot(stream(late_error="no counts", late_error_for=LAG)), []),
        (
            snapshot(stream(late_error="no counts", late_error_for=LAG + 1)),
            ["comparisons: one: late events cannot be looked for, for 15m 1s: no counts"],
        ),
        (
            snapshot(stream(compared_lag=4 * 3600.0)),
            ["comparisons: one: late events were last looked for 4h ago"],
        ),
        (snapshot(stream(), load=Load(140, 30, 204, 5)), []),
        (
            snapshot(stream(), load=Load(160, 30, 204, 5)),
            [OVERLOAD],
        ),
        (
            snapshot(stream(**REFUSED, lag=1e6), receivers=(down,)),
            ["refused: one: JumpCloud answered 403: no", "receivers: no receiver is up: r0"],
        ),
    ]:
        assert list(map(str, health.not_ready(seen))) == reasons
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


def test_load() -> None:
    """Slow requests count, and so does the time that polls wait for a worker."""
    assert not Load(20, 30, 204, 5, seconds=1.0, workers=4, gap=30.5).is_too_high
    assert Load(140, 30, 204, 5, seconds=1.0, workers=4).is_too_high
    assert Load(1, 30, 204, 5, gap=45).is_too_high
