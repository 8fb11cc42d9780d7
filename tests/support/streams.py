"""One stream driven step by step between the simulators, at a time that the test sets: nothing depends on the date."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import msgspec
from support.command import KEY, ROOT

from in_jumpcloud import app
from in_jumpcloud.collector import Collector
from in_jumpcloud.config.schema import (
    Config,
    ForwardSettings,
    GeoIPSettings,
    JumpCloudSettings,
    ServerSettings,
    StateSettings,
)
from in_jumpcloud.config.types import Secret, Start
from in_jumpcloud.runtime import Runtime
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS

NOW = 1_767_225_600_000
"""2026-01-01T00:00:00Z, when the clock starts."""


class Clock(Runtime):
    """Clocks that the test moves together: waits of hours pass at once."""

    def __init__(self, ms: int = NOW) -> None:
        super().__init__()
        self.ms = self._began_ms = ms

    def now_ns(self) -> int:
        """The wall clock stays where the test has set it."""
        return self.ms * 1_000_000

    def monotonic(self) -> float:
        """Time that passes, and that the test lets pass."""
        return super().monotonic() + (self.ms - self._began_ms) / 1000

    def __call__(self) -> int:
        """Epoch milliseconds."""
        return self.ms

    def run(self, collector: Collector, until_ms: int) -> None:
        """Step the stream until `until_ms`, without the waits in between."""
        while self.ms < until_ms:
            self.ms += max(1, round(collector.step(threading.Event()) * 1000))


class RunningClock(Runtime):
    """The real clocks, at another date: it was NOW when the clock was made."""

    def __init__(self) -> None:
        super().__init__()
        self._began = self.monotonic()

    def __call__(self) -> int:
        """Epoch milliseconds: the clock of the simulators."""
        return self.now_ms()

    def now_ns(self) -> int:
        """The date starts at NOW and runs."""
        return NOW * 1_000_000 + round((self.monotonic() - self._began) * 1e9)


def stream_settings(api: SimulatedApi, receiver: SimulatedReceiver, directory: Path, **changes: object) -> Config:
    """The defaults, between the simulators, with a database, and without waits for the rate limiter."""
    settings = Config(
        jumpcloud=JumpCloudSettings(api_key=Secret(KEY), url=api.url, start=Start("3h"), requests_per_second=10_000),
        geoip=GeoIPSettings(city=ROOT / "geoip" / "demo-city.mmdb"),
        forward=ForwardSettings(servers=(ServerSettings(host="127.0.0.1", port=receiver.port),)),
        state=StateSettings(path=directory / "state.db"),
    )
    return changed(settings, **changes)


def changed(settings: Config, **changes: object) -> Config:
    """`settings` with each `section__key=value` changed."""
    for name, value in changes.items():
        section, key = name.split("__")
        replaced = msgspec.structs.replace(getattr(settings, section), **{key: value})
        settings = msgspec.structs.replace(settings, **{section: replaced})
    return settings


@contextlib.contextmanager
def open_app(settings: Config, clock: Runtime, *, once: bool = False) -> Iterator[app.App]:
    """The plugin at the time of `clock`, which JumpCloud has confirmed: the first request is that of the stream."""
    date = format_datetime(datetime.fromtimestamp(clock.now_ns() / 1e9, UTC), usegmt=True)
    with app.open_app(settings, once=once, runtime=clock) as plugin:
        for _ in range(2):
            plugin.resources.clock.observe(date, authenticated=True)
        yield plugin


@contextlib.contextmanager
def running_in(plugin: app.App) -> Iterator[None]:
    """Run a plugin that is open, on a thread."""
    thread = threading.Thread(target=plugin.run)
    thread.start()
    try:
        yield
    finally:
        plugin.end()
        thread.join()


def step_now(collector: Collector) -> float:
    """A step without the wait before it."""
    collector.poller._retry_at = collector.poller._poll_at = collector._runtime.monotonic()
    return collector.step(threading.Event())


def until_caught_up(
    collector: Collector, stop: threading.Event | None = None, *, steps: int = 1000
) -> list[type[Exception] | None]:
    """Step until the stream has caught up, and let the waits in between pass; the class of each step's error."""
    errors: list[type[Exception] | None] = []
    clock = collector._runtime
    for _ in range(steps):
        before = collector.error
        delay = collector.step(stop or threading.Event())
        errors.append(type(collector.error) if collector.error not in (None, before) else None)
        if collector.caught_up:
            return errors
        if isinstance(clock, Clock):
            clock.ms += math.ceil(delay * 1000)
    raise AssertionError(f"the stream did not catch up: {collector.error}, {errors[-5:]}")


def event_count(source: EventSource, now_ms: int = NOW + 10 * DAY_MS) -> int:
    """How many events there are by `now_ms`."""
    return source.count(0, now_ms, now_ms=now_ms)


def arrived_once(receiver: SimulatedReceiver, count: int) -> bool:
    """Whether `count` different events arrived, each once."""
    return sum(receiver.ids.values()) == len(receiver.ids) == count > 0


def two_hours(*, now_ms: int = NOW, per_minute: float = 10, organization: str | None = None) -> EventSource:
    """Events of the two hours before `now_ms`, up to a minute ago."""
    named = {} if organization is None else {"organization": organization}
    return EventSource(start_ms=now_ms - 2 * HOUR_MS, end_ms=now_ms - 60_000, per_minute=per_minute, **named)  # type: ignore[arg-type]


def event_queries(api: SimulatedApi) -> list[dict[str, Any]]:
    """The bodies of the requests for events, in order."""
    return [request.body for request in api.requests if request.body and request.path.endswith("/events")]
