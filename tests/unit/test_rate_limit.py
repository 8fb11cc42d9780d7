"""How often requests are sent to JumpCloud, and how long a retry waits."""

from __future__ import annotations

import threading
from contextlib import suppress
from random import Random

import pytest
from simulation.runtime import SimRuntime
from simulation.scheduler import Group, Scheduler
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


class Queue:
    """Requests that wait for their turns, in virtual time."""

    def __init__(self, per_second: float) -> None:
        self.scheduler = Scheduler(Random(1))
        runtime = SimRuntime(self.scheduler, Group(), RightClock(self.scheduler), Random(1), lambda _: None)
        self.rate_limiter = RateLimiter(per_second, runtime=runtime)
        self.sent: dict[str, float] = {}
        self._runtime = runtime

    def add(self, name: str, after: float = 0.0, *, backfill: bool = False) -> threading.Event:
        """A request that begins to wait `after` seconds; returns its stop."""
        stop = self._runtime.event()

        def wait() -> None:
            self.scheduler.wait(after)
            with suppress(Stopped):
                self.rate_limiter.acquire(stop, backfill=backfill)
                self.sent[name] = round(self.scheduler.now, 2)

        self._runtime.start(wait, name=name)
        return stop

    def run(self) -> dict[str, float]:
        """When each request is sent."""
        self.scheduler.run(1000)
        return self.sent


class RightClock:
    """Clocks that show the virtual time."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def wall_ns(self) -> int:
        """Not used."""
        raise NotImplementedError

    def monotonic(self) -> float:
        """The virtual time."""
        return self._scheduler.now


def test_first_come_first_served() -> None:
    """Requests are sent in the order in which they came, also after a pause: then one after the other."""
    queue = Queue(1)
    for number in range(4):
        queue.add(str(number), 0.1 + number / 100)
    queue.scheduler.at(1.5, lambda: queue.rate_limiter.pause(30))
    assert queue.run() == {"0": 0.1, "1": 1.1, "2": 31.5, "3": 32.5}


def test_a_backfill_gives_way() -> None:
    """However many requests of a backfill wait, another one is delayed by at most one of them."""
    queue = Queue(1)
    for number in range(10):
        queue.add(f"backfill {number}", number / 100, backfill=True)
    for after in (3.5, 3.6, 7.2):
        queue.add(f"poll at {after}", after)
    sent = queue.run()
    assert [sent[f"poll at {after}"] for after in (3.5, 3.6, 7.2)] == [4, 5, 8]
    assert sorted(sent.values()) == list(range(13))
    assert sorted(sent, key=lambda name: sent[name])[:4] == [f"backfill {number}" for number in range(4)]


def test_a_backfill_is_not_starved() -> None:
    """Where the other requests would use every turn, a backfill has every third."""
    queue = Queue(1)
    for number in range(3):
        queue.add(f"backfill {number}", backfill=True)
    for number in range(30):
        queue.add(f"poll {number}", 0.5)
    sent = queue.run()
    assert [sent[f"backfill {number}"] for number in range(3)] == [0, 3, 6]


def test_a_request_that_stops_leaves_its_place() -> None:
    """The others go on without it, and lose at most one turn."""
    queue = Queue(1)
    stops = [queue.add(str(number), number / 100) for number in range(5)]
    queue.scheduler.at(1.5, stops[2].set)
    sent = queue.run()
    assert list(sent) == ["0", "1", "3", "4"]
    assert sent["4"] <= 4


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
