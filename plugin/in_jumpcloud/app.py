"""The life of the plugin: start, reload, stop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from in_jumpcloud.backfill import Backfill
from in_jumpcloud.collector import Collector
from in_jumpcloud.config.schema import Config
from in_jumpcloud.counters import plural
from in_jumpcloud.discovery import Discovery
from in_jumpcloud.errors import Fatal, Fenced, InJumpCloudError, StateCorrupt
from in_jumpcloud.insights.comparison import comparisons_per_day
from in_jumpcloud.load import Load
from in_jumpcloud.once import ONCE_SECONDS, Once
from in_jumpcloud.reload import Reload
from in_jumpcloud.resources import Outside, Resources
from in_jumpcloud.runtime import SYSTEM, Runtime
from in_jumpcloud.scheduler import Scheduler, Unit
from in_jumpcloud.stream_set import StreamSet
from in_jumpcloud.troubles import Troubles

log = logging.getLogger(__name__)

_STOP_GRACE_SECONDS = 2.0
"""How long the workers have to end, in addition to forward.stop_timeout for an ack under way."""
_TICK_SECONDS = 0.5
"""How often the main thread checks what it waits for during a reload or a stop."""
_RETRY_SECONDS = 1.0
"""How soon the start of a worker is tried again."""
_MAX_WAIT_SECONDS = 3600.0
_LOAD_SAMPLE = 500
"""Of about so many streams the time between polls is looked at."""


class App:
    """The running plugin: its streams, and the workers that run them."""

    def __init__(
        self, resources: Resources, *, once: bool = False, only_backfills: bool = False, runtime: Runtime = SYSTEM
    ) -> None:
        """With `only_backfills` no stream is polled."""
        self.stop = runtime.event()
        """Set when the process is to stop; `end` sets it."""
        self._woken = runtime.event()  # the main thread has something to do
        self.resources = resources
        self.runtime = runtime
        self._once = Once(runtime) if once else None
        self._fatal: StateCorrupt | None = None
        self._lost: Fatal | None = None  # a stream that another process has taken over
        self._reload = Reload(resources.troubles, runtime)
        self._on_tick: Callable[[], float] = lambda: _MAX_WAIT_SECONDS
        self.scheduler = Scheduler(
            after_step=self._has_more,
            after_last_step=self._has_left,
            idle=self.end if once else lambda: None,
            fenced=self._taken_over,
            corrupt=self._end_with,
            runtime=runtime,
        )
        self.streams = StreamSet(
            *(resources, self.scheduler),
            wake=self.wake,
            corrupt=self._end_with,
            only_backfills=only_backfills,
            give_up_after=ONCE_SECONDS if once else None,
            runtime=runtime,
        )

    @property
    def collectors(self) -> list[Collector]:
        """The collector of each stream."""
        return self.streams.collectors

    @property
    def backfills(self) -> list[Backfill]:
        """The streams of open backfills."""
        return self.streams.backfills

    @property
    def discovery(self) -> Discovery | None:
        """What lists the organizations; None where they are in the configuration."""
        return self.streams.discovery

    @property
    def alive(self) -> bool:
        """Whether no worker has died."""
        return self.scheduler.alive

    def load(self) -> Load:
        """What all streams need of JumpCloud's API, and what is possible."""
        collectors, group = self.collectors, self.resources.state.group
        sample = collectors[:: 1 + len(collectors) // _LOAD_SAMPLE]
        gaps = [each.counters.poll_gap for each in sample if each.counters.poll_gap and not each.is_behind]
        return required_load(self.resources.settings, len(collectors))._replace(
            seconds=self.resources.api.statistics().latencies.mean(),
            gap=sum(gaps) / len(gaps) if gaps else 0.0,
            share=group.share if group else 1.0,
        )

    def end(self) -> None:
        """Stop the process. Safe in any thread."""
        self.stop.set()
        self.wake()

    def wake(self) -> None:
        """Have the main thread call `on_tick` now. Safe in any thread."""
        self._woken.set()

    def run(self, on_tick: Callable[[], float] = lambda: _MAX_WAIT_SECONDS) -> InJumpCloudError | None:
        """Run until `end` is called; with `once`, until every stream has caught up.

        `on_tick` is called on the calling thread. It returns the seconds after which it is due again; it may be called
        earlier. In between the thread sleeps.

        Returns:
            The error that ended the run, if any; with `once`, the error of a stream that could not catch up.

        Raises:
            ReceiverDown, Stopped: with `once`, no receiver accepts a connection at the start.
        """
        self._on_tick = on_tick
        if self._once:
            self.resources.receivers.connect(self.stop)
        self._start_workers()
        while not self.stop.is_set():
            self._woken.clear()
            until_group, until_tick = self.streams.follow_group(), self._on_tick()
            seconds = min(until_group, until_tick, self._start_workers(), self._reload.apply_if_due(self._apply))
            if not self.stop.is_set():
                self._woken.wait(max(0.0, seconds))
        self.streams.take_no_more()
        self.scheduler.stop()
        self._join_workers()
        self.streams.write_owed()
        if self._fatal or not self._once:
            return self._fatal
        others = [self.discovery.error if self.discovery else None, self._lost, self.streams.begin_error]
        return self._once.error(self.collectors, others)

    def _join_workers(self) -> None:
        """Wait for the workers: for an ack under way up to forward.stop_timeout, for anything else a short time."""
        began = self.runtime.monotonic()
        for worker in self.scheduler.workers:
            while worker.is_alive():
                delivers = any(unit.counters.in_flight for unit in self.scheduler.running())
                seconds = _STOP_GRACE_SECONDS + (self.resources.settings.forward.stop_timeout if delivers else 0)
                if self.runtime.monotonic() >= began + seconds:
                    return
                self._on_tick()
                worker.join(timeout=_TICK_SECONDS)

    def reload(self, load: Callable[[], Config], done: Callable[[], None] = lambda: None) -> None:
        """Have the main thread apply what `load` returns and then call `done`. Safe in any thread.

        If the new settings cannot be used now, but may be later, the old ones stay until then.
        """
        self._reload.request(load, done)
        self.wake()

    def _apply(self, settings: Config) -> None:
        """Apply new settings. Streams that they do not change are not interrupted.

        Raises:
            ConfigError: they cannot be applied. The old ones stay.
        """
        replaced = self.streams.apply(settings)
        self._start_workers()
        self._close(replaced.resources, replaced.leaving)
        text = "configuration reloaded: %s restarted, %d unchanged"
        log.info(text, plural(replaced.restarted, "stream"), replaced.kept)

    def _close(self, replaced: ExitStack, leaving: list[Unit]) -> None:
        """Close what was replaced, once the streams that use it have ended their last step."""
        identities = set(map(id, leaving))
        while any(id(unit) in identities for unit in self.scheduler.running()):
            self._woken.wait(_TICK_SECONDS)
            self._woken.clear()
            self.streams.follow_group()
            self._on_tick()
            if self.stop.is_set():
                return
        try:
            replaced.close()
        except Exception:
            log.exception("unexpected error after a reload; continuing")

    def _start_workers(self) -> float:
        """Start the workers that are missing; returns the seconds until those that cannot start now are due."""
        troubles = self.resources.troubles
        count = min(self.resources.settings.jumpcloud.worker_count, len(self.collectors) + len(self.backfills))
        try:
            self.scheduler.start_workers(max(1, count))
        except RuntimeError as error:
            advice = "raise the limit of threads (TasksMax, pids.max, ulimit -u) or of memory"
            troubles.begin("threads", f"worker threads: {error}", advice)
            return _RETRY_SECONDS
        troubles.end("threads")
        return _MAX_WAIT_SECONDS

    def _taken_over(self, unit: Unit, error: Fenced) -> None:
        log.info("%s: %s", unit.name, error)
        self._lost = Fatal(error.message)
        if isinstance(unit, Collector | Backfill):
            self.streams.fenced(unit.stream.name)
        self.wake()

    def _end_with(self, error: StateCorrupt) -> None:
        self._fatal = error
        self.end()

    def _has_left(self, unit: Unit) -> None:
        """A unit that was removed has ended its last step."""
        if isinstance(unit, Backfill):
            self.streams.has_left(unit)
        self.wake()  # a reload may wait for it

    def _has_more(self, unit: Unit, delay: float) -> bool:
        """Whether a unit, whose next step is due in `delay` seconds, has more steps."""
        if self._once:
            return self._once.has_more(unit, delay)
        return not (isinstance(unit, Backfill) and unit.ended)


def required_load(settings: Config, count: int) -> Load:
    """What so many streams need, before anything is measured."""
    return Load(
        streams=count,
        interval=float(settings.jumpcloud.interval),
        interval_max=settings.jumpcloud.longest_interval,
        comparisons_per_day=comparisons_per_day(settings.reconcile.every.ms, settings.reconcile.reach.ms),
        per_second=settings.jumpcloud.requests_per_second,
        workers=min(settings.jumpcloud.worker_count, count),
    )


@contextmanager
def open_app(
    settings: Config,
    *,
    once: bool = False,
    only_backfills: bool = False,
    runtime: Runtime = SYSTEM,
    troubles: Troubles | None = None,
    outside: Outside = Outside(),  # noqa: B008 - immutable
) -> Iterator[App]:
    """Open the resources and the App, and close the resources at the end.

    Raises:
        ConfigError, Fatal, StateCorrupt, StateUnavailable: as in Resources.
    """
    resources = Resources(settings, runtime=runtime, troubles=troubles, outside=outside, is_member=not once)
    try:
        yield App(resources, once=once, only_backfills=only_backfills, runtime=runtime)
    finally:
        resources.close()
