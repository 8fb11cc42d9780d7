"""Every stream on a small pool of workers, from the configuration to the end of the process."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from in_jumpcloud.collector import Collector, Stream
from in_jumpcloud.config.schema import Config
from in_jumpcloud.errors import ConfigError, Fatal, InJumpCloudError, Retryable, Stopped
from in_jumpcloud.insights.api import Scope
from in_jumpcloud.resources import Resources, only_streams_differ
from in_jumpcloud.timestamps import now_ms

log = logging.getLogger(__name__)

WORKERS = 4
"""Streams that are worked on at the same time."""
_GRACE = 5.0
"""Seconds that the workers have to end, once the process was asked to."""
_TRIES_ONCE = 6
"""Failures in a row after which `--once` gives a stream up: about a minute."""
_TICK = 0.5
"""Seconds after which the main thread looks whether there is something for it to do."""


class _Slot:
    """A stream's place among the workers. `stop` ends its own work, with all the others' or alone."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self.stop = threading.Event()
        self.busy = False


class App:
    """The running plugin: one collector for each stream, and the workers that drive them."""

    def __init__(self, resources: Resources, *, once: bool = False, now_ms: Callable[[], int] = now_ms) -> None:
        self.stop = threading.Event()
        """Set it to end the process; `end` does."""
        self.resources = resources
        self._once = once
        self._now_ms = now_ms
        self._ahead = threading.Semaphore(WORKERS)
        self._number = itertools.count()
        self._slots: dict[str, _Slot] = {}
        # A heap of (when it is due, number, slot), and one of those that are due: (is it behind, since when, …).
        self._later: list[tuple[float, int, _Slot]] = []
        self._due: list[tuple[bool, float, int, _Slot]] = []
        self._workers: list[threading.Thread] = []
        self._fatal: ConfigError | None = None
        self._changed = threading.Condition()
        self._reload: Callable[[], None] | None = None
        self._on_tick: Callable[[], None] = lambda: None
        self._add_streams()

    @property
    def collectors(self) -> list[Collector]:
        """One for each stream."""
        return [slot.collector for slot in list(self._slots.values())]

    @property
    def alive(self) -> bool:
        """Whether every worker is at work, or waits on purpose."""
        return all(worker.is_alive() for worker in self._workers)

    def run(self, on_tick: Callable[[], None] = lambda: None) -> InJumpCloudError | None:
        """Work until `stop` is set, or, with `once`, until every stream has come up to now.

        `on_tick` is called about twice a second, by the thread that called this.

        Returns:
            The error that ended it before its time, if any; with `once` that which kept a stream from coming up to now.
        """
        self._on_tick = on_tick
        if self._once:
            self.resources.servers.connect(self.stop)
        self._start_workers()
        while not self.stop.wait(_TICK):
            self._on_tick()
            if self._reload:
                reload, self._reload = self._reload, None
                reload()
        deadline = time.monotonic() + _GRACE
        with self._changed:
            for slot in self._slots.values():
                slot.stop.set()
            self._changed.notify_all()
        for worker in self._workers:
            worker.join(timeout=max(0.0, deadline - time.monotonic()))
        if self._fatal or not self._once:
            return self._fatal
        return next((each.error for each in self.collectors if each.error), None)

    def reload(self, load: Callable[[], Config], done: Callable[[], None] = lambda: None) -> None:
        """Take up what `load` gives, soon, and call `done`; fit to be called by a signal's handler."""

        def reload() -> None:
            self._apply_reload(load)
            done()

        self._reload = reload

    def _apply_reload(self, load: Callable[[], Config]) -> None:
        """Go on with new settings, or, where anything is wrong with them, with the old. Unchanged streams go on."""
        old = self.resources.settings
        try:
            settings = load()
            replaced = self.resources.renew(settings)
        except InJumpCloudError as error:
            for line in str(error).splitlines():
                log.error("not reloaded: %s", line)  # noqa: TRY400 - no traceback
            return
        wanted = {stream.name for stream in streams(settings)}
        stay = wanted if only_streams_differ(old, settings) else set()
        with self._changed:
            leaving = [slot for name, slot in self._slots.items() if name not in stay]
            for slot in leaving:
                slot.stop.set()
            self._slots = {name: slot for name, slot in self._slots.items() if name in stay}
            kept = len(self._slots)
            # A stream has one collector at a time: the next begins where this one has come to.
            while any(slot.busy for slot in leaving) and not self.stop.is_set():
                self._changed.wait(_TICK)
                self._on_tick()
        if self.stop.is_set():
            return
        replaced.close()
        self._add_streams()
        self._start_workers()
        log.info("reloaded: %d streams, %d of them as before", len(self._slots), kept)

    def _add_streams(self) -> None:
        """Make a collector for each stream that has none."""
        settings = self.resources.settings
        give_up_after = float(settings.forward.ack_timeout) if self._once else None
        with self._changed:
            for stream in streams(settings):
                if stream.name in self._slots:
                    continue
                collector = Collector(
                    stream,
                    self.resources.api,
                    self.resources.for_pipeline,
                    settings,
                    ahead=self._ahead,
                    give_up_after=give_up_after,
                    now_ms=self._now_ms,
                )
                slot = self._slots[stream.name] = _Slot(collector)
                heapq.heappush(self._later, (0.0, next(self._number), slot))
            self._changed.notify_all()

    def _start_workers(self) -> None:
        for number in range(len(self._workers), min(WORKERS, len(self._slots))):
            worker = threading.Thread(target=self._work, name=f"worker-{number}", daemon=True)
            self._workers.append(worker)
            worker.start()

    def _work(self) -> None:
        while (slot := self._next()) is not None:
            collector = slot.collector
            try:
                delay = collector.step(slot.stop)
            except Stopped:
                delay = 0.0
            except ConfigError as error:
                self._fatal = error
                self.stop.set()
                return
            except Exception:
                # A fault of ours in one stream must not end the others.
                log.exception("%s: an error of the plugin itself; next try in a minute", collector.stream.name)
                collector.error = Fatal(f"{collector.stream.name}: an error of the plugin itself; the log has it")
                delay = 60.0
            with self._changed:
                slot.busy = False
                if not (slot.stop.is_set() or (self._once and self._is_done(collector))):
                    heapq.heappush(self._later, (time.monotonic() + delay, next(self._number), slot))
                self._changed.notify_all()

    def _next(self) -> _Slot | None:
        """The next stream that is due, those near now first: a backfill must not hold them up. None at the end."""
        with self._changed:
            while not self.stop.is_set():
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    since, number, slot = heapq.heappop(self._later)
                    if not slot.stop.is_set():
                        heapq.heappush(self._due, (not slot.collector.caught_up, since, number, slot))
                while self._due:
                    slot = heapq.heappop(self._due)[-1]
                    if not slot.stop.is_set():
                        slot.busy = True
                        return slot
                if self._once and not self._later and not any(slot.busy for slot in self._slots.values()):
                    self.stop.set()  # every stream is done
                    return None
                self._changed.wait(self._later[0][0] - now if self._later else None)
        return None

    @staticmethod
    def _is_done(collector: Collector) -> bool:
        if collector.error is None:
            return collector.caught_up
        return not isinstance(collector.error, Retryable) or collector.failures >= _TRIES_ONCE


def streams(settings: Config) -> list[Stream]:
    """One stream for each organization and for the provider; where there is neither, one for the key's own."""
    found = [Stream(f"organization {each}", Scope(organization=each)) for each in settings.jumpcloud.organizations]
    if settings.jumpcloud.provider_id:
        found.append(
            Stream(f"provider {settings.jumpcloud.provider_id}", Scope(provider=settings.jumpcloud.provider_id))
        )
    return found or [Stream("own organization", Scope())]


@contextmanager
def open_app(settings: Config, *, once: bool = False, now_ms: Callable[[], int] = now_ms) -> Iterator[App]:
    """Open every room as `settings` say, and close them behind the App. `now_ms` is the clock, in epoch milliseconds.

    Raises:
        ConfigError, Failed: a room could not be opened.
    """
    resources = Resources(settings, now_ms=now_ms)
    try:
        yield App(resources, once=once, now_ms=now_ms)
    finally:
        resources.close()
