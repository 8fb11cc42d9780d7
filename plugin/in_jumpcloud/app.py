"""Every stream on a small pool of workers, from the configuration to the end of the process."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from in_jumpcloud import config
from in_jumpcloud.collector import Collector, Stream
from in_jumpcloud.deadletter import DeadLetterFile
from in_jumpcloud.delivery import Rooms
from in_jumpcloud.ecs import geo
from in_jumpcloud.ecs.mapper import Mapper, new_id
from in_jumpcloud.errors import ConfigError, Failed, InJumpCloudError, Stopped, TryAgain
from in_jumpcloud.forward.servers import Servers
from in_jumpcloud.insights.api import DirectoryInsights, Scope
from in_jumpcloud.insights.auth import of as auth_of
from in_jumpcloud.insights.budget import RequestBudget
from in_jumpcloud.state import State

log = logging.getLogger(__name__)

WORKERS = 4
"""Streams that are worked on at the same time."""
_GRACE = 5.0
"""Seconds that the workers have to end, once the process was asked to."""
_TRIES_ONCE = 6
"""Failures in a row after which `--once` gives a stream up: about a minute."""


def now_ms() -> int:
    """The time of day."""
    return time.time_ns() // 1_000_000


class App:
    """The running plugin: the rooms, wired together, and one collector for each stream."""

    def __init__(
        self,
        api: DirectoryInsights,
        rooms: Rooms,
        settings: config.Config,
        *,
        once: bool = False,
        now_ms: Callable[[], int] = now_ms,
    ) -> None:
        self.stop = threading.Event()
        self._once = once
        self._rooms = rooms
        patience = float(settings.forward.ack_timeout) if once else None
        ahead = threading.Semaphore(WORKERS)
        self.collectors = [
            Collector(stream, api, rooms, settings, ahead=ahead, patience=patience, now_ms=now_ms)
            for stream in streams(settings)
        ]
        # A heap of (when it is due, number), and one of those that are due: (is it behind, since when, number).
        self._later: list[tuple[float, int]] = [(0.0, number) for number in range(len(self.collectors))]
        self._due: list[tuple[bool, float, int]] = []
        self._under_way = 0
        self._fatal: ConfigError | None = None
        self._changed = threading.Condition()

    def run(self) -> InJumpCloudError | None:
        """Work until `stop` is set, or, with `once`, until every stream has come up to now.

        Returns:
            The error that ended it before its time, if any; with `once` that which kept a stream from coming up to now.
        """
        if self._once:
            self._rooms.servers.connect(self.stop)
        workers = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True)
            for number in range(min(WORKERS, len(self.collectors)))
        ]
        for worker in workers:
            worker.start()
        self.stop.wait()
        deadline = time.monotonic() + _GRACE
        with self._changed:
            self._changed.notify_all()
        for worker in workers:
            worker.join(timeout=max(0.0, deadline - time.monotonic()))
        if self._fatal or not self._once:
            return self._fatal
        return next((each.error for each in self.collectors if each.error), None)

    def _work(self) -> None:
        while (number := self._next()) is not None:
            collector = self.collectors[number]
            try:
                delay = collector.step(self.stop)
            except Stopped:
                delay = 0.0
            except ConfigError as error:
                self._fatal = error
                self.stop.set()
                return
            except Exception:
                # A fault of ours in one stream must not end the others.
                log.exception("%s: an error of the plugin itself; next try in a minute", collector.stream.name)
                collector.error = Failed(f"{collector.stream.name}: an error of the plugin itself; the log has it")
                delay = 60.0
            with self._changed:
                self._under_way -= 1
                if not (self._once and self._is_done(collector)):
                    heapq.heappush(self._later, (time.monotonic() + delay, number))
                self._changed.notify_all()

    def _next(self) -> int | None:
        """The next stream that is due, those near now first: a backfill must not hold them up. None at the end."""
        with self._changed:
            while not self.stop.is_set():
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    since, number = heapq.heappop(self._later)
                    heapq.heappush(self._due, (not self.collectors[number].caught_up, since, number))
                if self._due:
                    self._under_way += 1
                    return heapq.heappop(self._due)[2]
                if not self._later and not self._under_way:  # with `once`: every stream is done
                    self.stop.set()
                    return None
                self._changed.wait(self._later[0][0] - now if self._later else None)
        return None

    @staticmethod
    def _is_done(collector: Collector) -> bool:
        if collector.error is None:
            return collector.caught_up
        return not isinstance(collector.error, TryAgain) or collector.failures >= _TRIES_ONCE


def streams(settings: config.Config) -> list[Stream]:
    """One stream for each organization and for the provider; where there is neither, one for the key's own."""
    found = [Stream(f"organization {each}", Scope(organization=each)) for each in settings.jumpcloud.organizations]
    if settings.jumpcloud.provider_id:
        found.append(
            Stream(f"provider {settings.jumpcloud.provider_id}", Scope(provider=settings.jumpcloud.provider_id))
        )
    return found or [Stream("own organization", Scope())]


@contextmanager
def opened(settings: config.Config, *, once: bool = False, now_ms: Callable[[], int] = now_ms) -> Iterator[App]:
    """Open every room as `settings` say, and close them behind the App. `now_ms` is the clock, in epoch milliseconds.

    Raises:
        ConfigError, Failed: a room could not be opened.
    """
    with ExitStack() as stack:
        geoip = geo.opened(settings)
        stack.callback(geoip.close)
        state = stack.enter_context(State(settings.state.path, new_agent_id=new_id()))
        if state.is_new:
            log.info("%s: a new state; every stream begins at jumpcloud.start", state.path)
        budget = RequestBudget(settings.jumpcloud.requests_per_second)
        auth = auth_of(settings.jumpcloud, budget)
        api = DirectoryInsights(settings.jumpcloud, auth, budget, now_ns=lambda: now_ms() * 1_000_000)
        stack.callback(api.close)
        servers = Servers(settings.forward)
        stack.callback(servers.close)
        mapper = Mapper(settings.ecs, geoip, agent_id=state.agent_id, ephemeral_id=new_id())
        dead_letters = DeadLetterFile(settings.dead_letter.path, max_bytes=settings.dead_letter.max_bytes)
        yield App(api, Rooms(mapper, servers, state, dead_letters), settings, once=once, now_ms=now_ms)
