"""Every stream on a small pool of workers, from the configuration to the end of the process."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from in_jumpcloud import config
from in_jumpcloud.collector import Collector, Rooms, Stream
from in_jumpcloud.ecs.geo import GeoIP
from in_jumpcloud.ecs.mapper import Mapper, new_id
from in_jumpcloud.errors import ConfigError, Failed, InJumpCloudError, Stopped, TryAgain
from in_jumpcloud.forward.sender import AckSender
from in_jumpcloud.insights.api import DirectoryInsights
from in_jumpcloud.insights.auth import ApiKey
from in_jumpcloud.insights.budget import RequestBudget
from in_jumpcloud.state import State

log = logging.getLogger(__name__)

WORKERS = 4
"""Streams that are worked on at the same time."""
_GRACE = 5.0
"""Seconds that the workers have to end, once the process was asked to."""
_TRIES_ONCE = 6
"""Failures in a row after which `--once` gives a stream up: about a minute."""


class App:
    """The running plugin: the rooms, wired together, and one collector for each stream."""

    def __init__(self, rooms: Rooms, settings: config.Config, *, once: bool = False) -> None:
        self.stop = threading.Event()
        self._once = once
        self._rooms = rooms
        patience = float(settings.forward.ack_timeout) if once else None
        self.collectors = [Collector(stream, rooms, settings, patience=patience) for stream in streams(settings)]
        self._due: list[tuple[float, int]] = [(0.0, number) for number in range(len(self.collectors))]
        self._under_way = 0
        self._changed = threading.Condition()

    def run(self) -> InJumpCloudError | None:
        """Work until `stop` is set, or, with `once`, until every stream has come up to now.

        Returns:
            With `once` the error that kept a stream from coming up to now, if any.
        """
        if self._once:
            self._rooms.sender.connect()
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
        return next((each.error for each in self.collectors if each.error), None) if self._once else None

    def _work(self) -> None:
        while (number := self._next()) is not None:
            collector = self.collectors[number]
            try:
                delay = collector.step(self.stop)
            except Stopped:
                delay = 0.0
            except Exception:
                # A fault of ours in one stream must not end the others.
                log.exception("%s: an error of the plugin itself; next try in a minute", collector.stream.name)
                collector.error = Failed(f"{collector.stream.name}: an error of the plugin itself; the log has it")
                delay = 60.0
            with self._changed:
                self._under_way -= 1
                if not (self._once and self._is_done(collector)):
                    heapq.heappush(self._due, (time.monotonic() + delay, number))
                self._changed.notify_all()

    def _next(self) -> int | None:
        """The next stream that is due; None at the end."""
        with self._changed:
            while not self.stop.is_set():
                if not self._due:
                    if not self._under_way:  # with `once`: every stream is done
                        self.stop.set()
                        return None
                    self._changed.wait()
                    continue
                wait = self._due[0][0] - time.monotonic()
                if wait <= 0:
                    self._under_way += 1
                    return heapq.heappop(self._due)[1]
                self._changed.wait(wait)
        return None

    @staticmethod
    def _is_done(collector: Collector) -> bool:
        if collector.error is None:
            return collector.caught_up
        return not isinstance(collector.error, TryAgain) or collector.failures >= _TRIES_ONCE


def streams(settings: config.Config) -> list[Stream]:
    """One stream for each organization, or one for the key's own."""
    organizations = settings.jumpcloud.organizations
    return [Stream(f"organization {name}", name) for name in organizations] or [Stream("own organization", None)]


@contextmanager
def opened(settings: config.Config, *, once: bool = False) -> Iterator[App]:
    """Open every room as `settings` say, and close them behind the App.

    Raises:
        ConfigError, Failed: a room could not be opened.
    """
    if settings.jumpcloud.api_key is None:
        raise ConfigError("jumpcloud.api_key: missing")
    with ExitStack() as stack:
        geo = GeoIP(settings.geoip.city, settings.geoip.asn, cache=settings.geoip.cache)
        stack.callback(geo.close)
        state = stack.enter_context(State(settings.state.path, new_agent_id=new_id()))
        auth, budget = ApiKey(settings.jumpcloud.api_key), RequestBudget(settings.jumpcloud.requests_per_second)
        api = DirectoryInsights(settings.jumpcloud, auth, budget)
        stack.callback(api.close)
        sender = AckSender(
            settings.forward.servers[0],
            connect_timeout=settings.forward.connect_timeout,
            ack_timeout=settings.forward.ack_timeout,
        )
        stack.callback(sender.close)
        mapper = Mapper(settings.ecs, geo, agent_id=state.agent_id, ephemeral_id=new_id())
        app = App(Rooms(api, mapper, sender, state), settings, once=once)
        yield app
