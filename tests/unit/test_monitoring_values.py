"""Histograms, liveness, history and addresses."""

from __future__ import annotations

import itertools
import threading
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from in_jumpcloud.config import addresses
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.counters import BOUNDS, Counters, LatencyHistogram, Liveness, RequestCounters
from in_jumpcloud.errors import ConfigError
from in_jumpcloud.monitoring.history import MAX_POINTS, History, Point
from in_jumpcloud.monitoring.snapshot import Snapshot, StreamStatus
from in_jumpcloud.monitoring.survey import NOTHING
from in_jumpcloud.timestamps import MINUTE_MS


@given(st.lists(st.floats(min_value=0, max_value=1000)))
def test_a_histogram_counts_each_value_once(seconds: list[float]) -> None:
    """A value counts in the first bucket whose bound is not less, else in the last."""
    latencies = LatencyHistogram()
    for each in seconds:
        latencies.observe(each)
    counts, total = latencies.read()
    bounds = [0.0, *BOUNDS, float("inf")]
    expected = [
        sum(low < each <= high or each == low == 0 for each in seconds) for low, high in itertools.pairwise(bounds)
    ]
    assert counts == expected
    assert total == pytest.approx(sum(seconds))


def test_threads_count_together() -> None:
    """Nothing is lost when several threads count at once."""
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


def test_liveness() -> None:
    """A stream is not due while a worker runs it; only a commit is progress."""
    liveness = Liveness()
    began = liveness.progress_at
    liveness.begin()
    due_while_running = liveness.due_at
    liveness.touch()
    assert due_while_running is None
    assert liveness.progress_at == began <= liveness.touched_at
    liveness.mark_progress()
    assert liveness.progress_at == liveness.touched_at
    liveness.idle(30)
    assert 0 < (liveness.due_at or 0) - time.monotonic() <= 30


def at(minute: float, lag: float = 1.0, **acknowledged: int) -> Snapshot:
    """A snapshot at this minute, of streams with these counts."""
    streams = tuple(
        StreamStatus(
            name=name, watermark_ms=0, reached_ms=0, window=None, lag=lag, counters=Counters(acknowledged=count)
        )
        for name, count in acknowledged.items()
    )
    now_ms, uptime = round(minute * MINUTE_MS), minute * 60
    survey = msgspec.structs.replace(NOTHING, acknowledged=acknowledged, max_lag=lag)
    return Snapshot(
        now_ms=now_ms, uptime=uptime, streams=streams, survey=survey, receivers=(), max_lag=1, max_silence=1
    )


def test_history_adds_a_point_per_minute() -> None:
    """A point has what all streams acknowledged in its minute, and the largest lag."""
    history = History(at(0, a=0, b=0))
    assert not history.is_due(MINUTE_MS - 1)
    assert history.is_due(MINUTE_MS)
    history.add(at(1, a=10, b=5, lag=7.04))
    assert not history.is_due(2 * MINUTE_MS - 1)
    history.add(at(2.5, a=30, b=5))
    assert history.points() == [Point(MINUTE_MS, 15, 7.0), Point(2 * MINUTE_MS, 20, 1.0)]


def test_history_is_bounded() -> None:
    """New points replace the oldest."""
    history = History(at(0, a=0))
    for minute in range(1, MAX_POINTS + 11):
        history.add(at(minute, a=minute))
    assert len(history.points()) == MAX_POINTS
    assert history.points()[0].end_ms == 11 * MINUTE_MS


def test_history_after_the_clock_is_set_back() -> None:
    """The next point is due at once, not only when the clock reaches its former time."""
    history = History(at(100, a=0))
    assert history.is_due(50 * MINUTE_MS)
    history.add(at(50, a=3))
    assert not history.is_due(50 * MINUTE_MS + 1)
    assert history.is_due(51 * MINUTE_MS)


def test_rates() -> None:
    """Events per minute over the last one to two minutes; a counter that was reset counts from 0."""
    history = History(at(0, a=0))
    assert history.rates(at(0.01, a=3000)) == {"a": 3000}
    assert history.rates(at(0.5, a=50)) == {"a": 50}
    history.add(at(1, a=100))
    history.add(at(2, a=160))
    assert history.rates(at(3, a=200, b=8)) == {"a": 50, "b": 4}
    assert history.rates(at(3, a=30)) == {"a": 15}


def test_addresses() -> None:
    """An address is read and written the same way; a wildcard address is reached at the loopback."""
    for text, host, port in [("127.0.0.1:2021", "127.0.0.1", 2021), ("[::1]:80", "::1", 80), ("a:0", "a", 0)]:
        assert addresses.parse_address(text) == (host, port)
        assert addresses.format_address(host, port) == text
    assert addresses.local_address("0.0.0.0:1") == ("127.0.0.1", 1)
    assert addresses.local_address("[::]:1") == ("::1", 1)
    assert addresses.local_address("127.0.0.5:1") == ("127.0.0.5", 1)


def test_http_listen() -> None:
    """An invalid address is an error that names the key; null disables the server."""
    for text in ["", "2021", ":2021", "::1:2021", "[x]:1", "host:65536", "host:", "a b:1", "http://h:1"]:
        with pytest.raises(ConfigError, match=r"http\.listen: "):
            load_config(None, [f"http.listen='{text}'", "jumpcloud.api_key=key"])
    assert load_config(None, ["http.listen=null", "jumpcloud.api_key=key"]).http.listen is None
