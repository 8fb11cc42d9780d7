"""How often requests are sent to JumpCloud, and how long a retry waits."""

from __future__ import annotations

import threading
from random import Random

import pytest
from support.turns import Clock, ClockRuntime

from in_jumpcloud.backoff import MAX_DELAY, backoff_delay
from in_jumpcloud.errors import Stopped
from in_jumpcloud.insights.rate_limit import RateLimiter


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
    """The first request is sent at once, the others at even intervals, also after a pause, during which none is sent.

    Idle time is not saved for a burst.
    """
    rate_limiter = RateLimiter(5, runtime=ClockRuntime(clock))
    assert turns(rate_limiter, clock, 6) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    clock.now += 60
    assert turns(rate_limiter, clock, 3) == [0, 0.2, 0.4]
    rate_limiter.pause(30)
    assert turns(rate_limiter, clock, 3) == [30, 30.2, 30.4]


def test_pause_during_a_wait(clock: Clock) -> None:
    """A pause that begins while a request waits for its turn delays that request too; a shorter one does not end it."""
    rate_limiter = RateLimiter(1, runtime=ClockRuntime(clock))
    clock.meanwhile = [lambda: list(map(rate_limiter.pause, (30, 1)))]
    assert turns(rate_limiter, clock, 3) == [0, 30, 31]


def test_no_burst_after_a_pause(clock: Clock) -> None:
    """Two requests that had their turns when a pause began are sent one after the other, not both at once."""
    rate_limiter = RateLimiter(1, runtime=ClockRuntime(clock))
    rate_limiter.acquire(clock)
    others: list[float] = []
    clock.meanwhile = [lambda: others.extend(turns(rate_limiter, clock, 1)), lambda: rate_limiter.pause(30)]
    assert abs(turns(rate_limiter, clock, 1)[0] - others[0]) == 1
    assert min(others) >= 30


def test_stop(clock: Clock) -> None:
    """A request that waits ends when the process stops; after that none is sent, even if its turn is free."""
    rate_limiter = RateLimiter(1, runtime=ClockRuntime(clock))
    rate_limiter.pause(300)
    clock.stop_at = clock.now + 2
    with pytest.raises(Stopped):
        rate_limiter.acquire(clock)
    assert clock.now == clock.stop_at
    clock.set()
    with pytest.raises(Stopped):
        RateLimiter(1, runtime=ClockRuntime(clock)).acquire(clock)


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


def test_backoff() -> None:
    """A delay is between half of its step and the whole; steps double from a second up to a minute."""
    steps = {1: 1, 2: 2, 3: 4, 4: 8, 5: 16, 6: 32, 7: MAX_DELAY, 8: MAX_DELAY, 20: MAX_DELAY, 10_000: MAX_DELAY}
    for failures, step in steps.items():
        delays = [backoff_delay(failures, Random()) for _ in range(200)]
        assert step / 2 <= min(delays) < max(delays) <= step
        assert max(delays) == pytest.approx(step, rel=0.05)
