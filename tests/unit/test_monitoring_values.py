"""The small parts: histograms, history, pulses, addresses."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from in_jumpcloud.config import addresses
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.counters import BOUNDS, Counters, LatencyHistogram, Liveness, RequestCounters
from in_jumpcloud.errors import ConfigError
from in_jumpcloud.monitoring.history import KEPT, History, Point
from in_jumpcloud.monitoring.snapshot import Snapshot, StreamStatus

MINUTE = 60_000


@given(st.lists(st.floats(min_value=0, max_value=1000)))
def test_a_histogram_counts_each_once(seconds: list[float]) -> None:
    """Each lands in the first bucket whose bound is no less, or in the last."""
    latencies = LatencyHistogram()
    for each in seconds:
        latencies.observe(each)
    counts, total = latencies.read()
    bounds = [0.0, *BOUNDS, float("inf")]
    between = [
        sum(low < each <= high or each == low == 0 for each in seconds) for low, high in itertools.pairwise(bounds)
    ]
    assert counts == between
    assert total == pytest.approx(sum(seconds))


def test_threads_count_together() -> None:
    """Nothing is lost where several write at once."""
    requests = RequestCounters()

    def count() -> None:
        for _ in range(2000):
            requests.count(200, 0.1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    requests.count(None, 1)
    assert requests.codes() == {"200": 8000, "none": 1}
    assert sum(requests.latencies.read()[0]) == 8001


def test_a_pulse() -> None:
    """At work it is not due; at rest it is, after a while; only a commit is an advance."""
    liveness = Liveness()
    began = liveness.progress_at
    liveness.begin()
    at_work = liveness.due_at
    liveness.touch()
    assert at_work is None
    assert liveness.progress_at == began <= liveness.touched_at
    liveness.mark_progress()
    assert liveness.progress_at == liveness.touched_at
    liveness.idle(30)
    assert 0 < (liveness.due_at or 0) - time.monotonic() <= 30


def seen(minute: float, lag: float = 1.0, **acknowledged: int) -> Snapshot:
    """A snapshot at this minute, of streams with these counts."""
    streams = tuple(
        StreamStatus(name=name, watermark_ms=0, window=None, lag=lag, counters=Counters(acknowledged=count))
        for name, count in acknowledged.items()
    )
    return Snapshot(
        now_ms=round(minute * MINUTE), uptime=minute * 60, streams=streams, receivers=(), allowed_lag=1,
        allowed_silence=1,
    )  # fmt: skip


def test_history_keeps_a_point_a_minute() -> None:
    """Each holds what was acknowledged in its minute, of all streams, and the largest lag."""
    history = History(seen(0, a=0, b=0))
    assert not history.is_due(MINUTE - 1)
    assert history.is_due(MINUTE)
    history.add(seen(1, a=10, b=5, lag=7.04))
    assert not history.is_due(2 * MINUTE - 1)
    history.add(seen(2.5, a=30, b=5))
    assert history.points() == [Point(MINUTE, 15, 7.0), Point(2 * MINUTE, 20, 1.0)]


def test_history_is_bounded() -> None:
    """The oldest points make room."""
    history = History(seen(0, a=0))
    for minute in range(1, KEPT + 11):
        history.add(seen(minute, a=minute))
    assert len(history.points()) == KEPT
    assert history.points()[0].end_ms == 11 * MINUTE


def test_history_with_a_clock_that_is_set_back() -> None:
    """The points go on at once, and not only when the clock has come where it was."""
    history = History(seen(100, a=0))
    assert history.is_due(50 * MINUTE)
    history.add(seen(50, a=3))
    assert not history.is_due(50 * MINUTE + 1)
    assert history.is_due(51 * MINUTE)


def test_rates() -> None:
    """Events a minute over the last one to two minutes; a stream that begins anew counts from nothing."""
    history = History(seen(0, a=0))
    assert history.rates(seen(0.5, a=50)) == {"a": 100}
    history.add(seen(1, a=100))
    history.add(seen(2, a=160))
    assert history.rates(seen(3, a=200, b=8)) == {"a": 50, "b": 4}
    assert history.rates(seen(3, a=30)) == {"a": 15}


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:2021", "127.0.0.1", 2021), ("[::1]:80", "::1", 80), ("localhost:0", "localhost", 0)],
)
def test_an_address(text: str, host: str, port: int) -> None:
    """What is read can be spelt again."""
    assert addresses.parse_address(text) == (host, port)
    assert addresses.format_address(host, port) == text


@pytest.mark.parametrize(
    "text", ["", "2021", ":2021", "::1:2021", "[x]:1", "host:65536", "host:", "a b:1", "http://h:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """At start, with the key and an example."""
    with pytest.raises(ConfigError, match=r"http\.listen: "):
        load_config(None, [f"http.listen='{text}'", "jumpcloud.api_key=key"])


def test_http_can_be_turned_off() -> None:
    """By null, in the file or over it."""
    assert load_config(None, ["http.listen=null", "jumpcloud.api_key=key"]).http.listen is None


def test_any_address_is_asked_at_the_loopback() -> None:
    """Who listens everywhere is asked on this machine."""
    assert addresses.local_address("0.0.0.0:1") == ("127.0.0.1", 1)
    assert addresses.local_address("[::]:1") == ("::1", 1)
    assert addresses.local_address("127.0.0.5:1") == ("127.0.0.5", 1)
