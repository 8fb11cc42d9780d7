"""How often requests are sent to JumpCloud, and how long a retry waits."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from in_jumpcloud.backoff import MAX_DELAY, backoff_delay
from in_jumpcloud.errors import Stopped
from in_jumpcloud.insights.rate_limit import RateLimiter


class Clock(threading.Event):
    """A clock that advances when something waits for it as an event, so that waiting takes no time."""

    def __init__(self, now: float = 1000.0) -> None:
        super().__init__()
        self.now = now
        self.waits = 0
        self.stop_at = float("inf")
        self.meanwhile: list[Callable[[], object]] = []  # called at the beginning of the next waits

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        """Advance by `timeout`, but not beyond `stop_at`."""
        assert timeout is not None
        assert timeout >= 0
        end = self.now + timeout
        if timeout > 0 and self.meanwhile:
            self.meanwhile.pop(0)()
        self.waits += timeout > 0
        assert self.waits < 100, "waits for ever"
        self.now = min(max(self.now, end), self.stop_at)
        return self.is_set() or self.now >= self.stop_at


@pytest.fixture
def clock() -> Clock:
    """The clock of the rate limiter."""
    return Clock()


def turns(rate_limiter: RateLimiter, clock: Clock, count: int) -> list[float]:
    """The seconds after which each of `count` requests in a row is sent."""
    times = []
    begin = clock.now
    for _ in range(count):
        rate_limiter.acquire(clock)
        times.append(round(clock.now - begin, 6))
    return times


def test_spacing(clock: Clock) -> None:
    """The first request is sent at once, the others at even intervals. Idle time is not saved for a burst."""
    rate_limiter = RateLimiter(5, clock=clock)
    assert turns(rate_limiter, clock, 6) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    clock.now += 60
    assert turns(rate_limiter, clock, 3) == [0, 0.2, 0.4]


def test_pause(clock: Clock) -> None:
    """During a pause nothing is sent; after it requests are spaced as before."""
    rate_limiter = RateLimiter(2, clock=clock)
    turns(rate_limiter, clock, 1)
    rate_limiter.pause(30)
    assert turns(rate_limiter, clock, 3) == [30, 30.5, 31]


def test_shorter_pause_does_not_end_a_longer_one(clock: Clock) -> None:
    """Of two pauses the one that ends later counts."""
    rate_limiter = RateLimiter(0.5, clock=clock)
    turns(rate_limiter, clock, 1)
    clock.meanwhile = [lambda: list(map(rate_limiter.pause, (30, 1)))]
    assert turns(rate_limiter, clock, 1) == [30]


def test_pause_delays_waiting_requests(clock: Clock) -> None:
    """A pause that begins while a request waits for its turn delays that request too."""
    rate_limiter = RateLimiter(1, clock=clock)
    clock.meanwhile = [lambda: rate_limiter.pause(30)]
    assert turns(rate_limiter, clock, 3) == [0, 30, 31]


def test_no_burst_after_a_pause(clock: Clock) -> None:
    """Two requests that had their turns when a pause began are sent one after the other, not both at once."""
    rate_limiter = RateLimiter(1, clock=clock)
    rate_limiter.acquire(clock)
    others: list[float] = []
    clock.meanwhile = [lambda: others.extend(turns(rate_limiter, clock, 1)), lambda: rate_limiter.pause(30)]
    assert abs(turns(rate_limiter, clock, 1)[0] - others[0]) == 1
    assert min(others) >= 30


def test_stop(clock: Clock) -> None:
    """A request that waits ends when the process stops; after that none is sent, even if its turn is free."""
    rate_limiter = RateLimiter(1, clock=clock)
    rate_limiter.pause(300)
    clock.stop_at = clock.now + 2
    with pytest.raises(Stopped):
        rate_limiter.acquire(clock)
    assert clock.now == clock.stop_at
    clock.set()
    with pytest.raises(Stopped):
        RateLimiter(1, clock=clock).acquire(clock)


def test_stop_wakes_a_waiting_thread() -> None:
    """Setting the event ends a real wait at once."""
    rate_limiter = RateLimiter(1)
    rate_limiter.pause(300)
    stop = threading.Event()
    ended = threading.Event()

    def acquire() -> None:
        with pytest.raises(Stopped):
            rate_limiter.acquire(stop)
        ended.set()

    thread = threading.Thread(target=acquire, daemon=True)
    thread.start()
    assert not ended.is_set()
    stop.set()
    assert ended.wait(10)
    thread.join()


@given(st.integers(1, 10_000))
def test_backoff_is_bounded(failures: int) -> None:
    """A delay is between half of its step and the whole; steps double from a second up to a minute."""
    step = min(MAX_DELAY, 2.0 ** (min(failures, 20) - 1))
    delays = [backoff_delay(failures) for _ in range(20)]
    assert all(step / 2 <= seconds <= step for seconds in delays)
    assert len(set(delays)) > 1, "no jitter"


def test_backoff_grows() -> None:
    """The steps are those of the design: a second at first, a minute at most."""
    for failures, step in enumerate([1, 2, 4, 8, 16, 32, 60, 60], start=1):
        assert max(backoff_delay(failures) for _ in range(200)) == pytest.approx(step, rel=0.05)
