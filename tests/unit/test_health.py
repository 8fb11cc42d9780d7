"""Whether the plugin is alive and ready: from a snapshot alone."""

from __future__ import annotations

from typing import Any

import pytest

from in_jumpcloud.config.schema import Config, ForwardSettings, JumpCloudSettings, ServerSettings
from in_jumpcloud.config.types import Duration
from in_jumpcloud.counters import Counters, LatencyHistogram
from in_jumpcloud.monitoring import health
from in_jumpcloud.monitoring.snapshot import ReceiverStatus, Snapshot, StreamStatus, max_silence

LAG = 900.0
SILENCE = 1200.0


def stream(name: str = "one", **values: Any) -> StreamStatus:
    """A stream that is well, but for these values."""
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
        allowed_lag=LAG,
        allowed_silence=SILENCE,
        **values,
    )


def test_all_is_well() -> None:
    """Without a trouble there is nothing to say."""
    seen = snapshot(stream(), stream("two"))
    assert health.not_ready(seen) == health.not_alive(seen) == []
    assert health.stream_state(stream(), LAG) == "up to date"


def test_a_stream_that_lags() -> None:
    """More than the allowed lag is a reason, and its cause is told; as much as that is none."""
    assert health.not_ready(snapshot(stream(lag=LAG))) == []
    assert health.not_ready(snapshot(stream(lag=LAG + 1))) == ["one: lags 15m 1s behind now"]
    assert health.not_ready(snapshot(stream(lag=7200.0, error="no answer"))) == ["one: lags 2h behind now: no answer"]
    assert health.stream_state(stream(lag=LAG + 1), LAG) == "lagging"


def test_a_backfill_is_behind_by_nature() -> None:
    """A stream that has never come up to now is ready while it gets further, and not once it has stopped to."""
    behind: dict[str, Any] = {"lag": 10 * 86_400.0, "backfilling": True}
    assert health.not_ready(snapshot(stream(**behind, advanced=LAG))) == []
    assert health.stream_state(stream(**behind), LAG) == "catching up"
    assert health.not_ready(snapshot(stream(**behind, advanced=LAG + 1))) == ["one: lags 10d behind now"]


def test_a_refusal_is_a_reason_at_once() -> None:
    """However small the lag; an error that may pass is none."""
    refused = stream(error="JumpCloud answered 403: no", refused=True)
    assert health.not_ready(snapshot(stream("two"), refused)) == ["one: refused: JumpCloud answered 403: no"]
    assert health.not_ready(snapshot(stream(error="no answer"))) == []
    assert health.stream_state(refused, LAG) == "refused"
    assert health.stream_state(stream(error="no answer"), LAG) == "failing"


@pytest.mark.parametrize(
    ("receivers", "reasons"),
    [
        ((False,), ["no receiver is up: r0"]),
        ((False, False), ["no receiver is up: r0, r1"]),
        ((False, True), []),
        ((None,), []),
        ((None, False), []),
    ],
)
def test_receivers(receivers: tuple[bool | None, ...], reasons: list[str]) -> None:
    """One that is up is enough; of one that was never tried nothing bad is known."""
    assert health.not_ready(snapshot(stream(), receivers=receivers)) == reasons


def test_a_worker_that_is_stuck() -> None:
    """A worker without a sign of life for too long, and one that has ended."""
    assert health.not_alive(snapshot(stream(silent=SILENCE))) == []
    assert health.not_alive(snapshot(stream(silent=SILENCE + 1))) == ["one: no sign of life for 20m 1s"]
    assert health.not_alive(snapshot(stream(), workers_alive=False)) == ["a worker has ended"]


def test_a_stream_that_nobody_takes_up() -> None:
    """It may wait as long as others have every worker; where none is at work, something is wrong."""
    waiting = stream(overdue=SILENCE + 1)
    assert health.not_alive(snapshot(waiting, stream("two", silent=3.0))) == []
    assert health.not_alive(snapshot(waiting, stream("two"))) == ["one: due for 20m 1s, and no worker takes it up"]


def test_lagging_and_down_are_not_dead() -> None:
    """A restart would help none of these: they wait on purpose."""
    seen = snapshot(stream(lag=1e6, error="x", refused=True), receivers=(False,))
    assert health.not_alive(seen) == []
    assert len(health.not_ready(seen)) == 2


def test_silence_allows_for_the_longest_wait() -> None:
    """The limit is longer than any single request, pause or delivery that the settings permit."""
    asking = JumpCloudSettings(read_timeout=Duration(600))
    forward = ForwardSettings(ack_timeout=Duration(900), servers=(ServerSettings(host="a"), ServerSettings(host="b")))
    assert max_silence(Config(jumpcloud=asking)) > 5 * 600 + 300
    assert max_silence(Config(forward=forward)) > 2 * 900 + 300
    assert max_silence(Config()) < 3600
