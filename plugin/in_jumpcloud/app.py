"""The life of the plugin: start, reload, stop; which streams and backfills there are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress

from in_jumpcloud.backfill import Backfill, BackfillWatch
from in_jumpcloud.collector import Collector, Stream, first_position
from in_jumpcloud.config.schema import Config
from in_jumpcloud.counters import plural
from in_jumpcloud.delivery_lock import DeliveryLock
from in_jumpcloud.discovery import Discovery, discovery_settings, list_of
from in_jumpcloud.errors import Fatal, Fenced, InJumpCloudError, Retryable, StateCorrupt, StateUnavailable, Stopped
from in_jumpcloud.insights.comparison import comparisons_per_day
from in_jumpcloud.insights.pages_ahead import AheadLimit
from in_jumpcloud.insights.window import Position
from in_jumpcloud.load import Load
from in_jumpcloud.member import MemberHost, key_digest, settings_digest
from in_jumpcloud.reload import Reload
from in_jumpcloud.resources import Outside, Resources, same_stream_settings
from in_jumpcloud.runtime import SYSTEM, Runtime
from in_jumpcloud.scheduler import Scheduler, Unit
from in_jumpcloud.state.group import Group
from in_jumpcloud.state.jobs import JobRow
from in_jumpcloud.streams import known_organizations, organizations_of, override_of, settings_of_stream, streams
from in_jumpcloud.troubles import Troubles

log = logging.getLogger(__name__)

_STOP_GRACE_SECONDS = 2.0
"""How long the workers have to end, in addition to forward.stop_timeout for an ack under way."""
ONCE_SECONDS = 120.0
"""How long `--once` tries again what may pass by itself, waits that JumpCloud asked for included."""
_TICK_SECONDS = 0.5
"""How often the main thread checks what it waits for during a reload or a stop."""
_RETRY_SECONDS = 1.0
"""How soon the start of a worker is tried again."""
_MAX_WAIT_SECONDS = 3600.0
_LOAD_SAMPLE = 500
"""Of about so many streams the time between polls is looked at."""


class App:
    """The running plugin: one collector for each stream, and the open backfills."""

    def __init__(
        self, resources: Resources, *, once: bool = False, only_backfills: bool = False, runtime: Runtime = SYSTEM
    ) -> None:
        """With `only_backfills` no stream is polled."""
        self.stop = runtime.event()
        """Set when the process is to stop; `end` sets it."""
        self._woken = runtime.event()  # the main thread has something to do
        self.resources = resources
        self.resumed: set[str] = set()
        """The streams that the last start or reload added and that had a position."""
        self._once = once
        self._only_backfills = only_backfills
        self.runtime = runtime
        self._ahead_limit = AheadLimit()
        self._fatal: StateCorrupt | None = None
        self._lost: Fatal | None = None  # a stream that another process has taken over
        self._changing = runtime.lock()  # held while streams and backfills are added and removed; never for a wait
        self._collectors: dict[str, Collector] = {}
        self._backfills: dict[int, Backfill] = {}  # by unit
        self._delivery_locks: dict[str, DeliveryLock] = {}  # by stream
        self._over: list[Backfill] = []  # with `once`
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
        self.watch = BackfillWatch(resources.state, self._update_backfills)
        self.scheduler.add([self.watch], is_background=True)
        self.discovery: Discovery | None = None
        """What lists the organizations; None where they are in the configuration."""
        self._organizations: list[str] | None = None  # those that it found
        self._group = resources.state.group
        self._begun: set[str] = set()  # the streams that have a position
        self._wanted: set[str] = set()  # those that the group knows
        self._begin_error: InJumpCloudError | None = None  # why not all streams have a position
        self._tokens: dict[str, int | None] = {}  # by stream, with which its collector was made; of a group
        if self._group:
            self._host = MemberHost(
                resources,
                collectors=lambda: self.collectors,
                running=self._streams_running,
                changed=self.wake,
                runtime=runtime,
            )
            self._introduce(self._group)
            self.scheduler.add([self._host], is_background=True)
        self._discover()
        self._add_streams()

    def _introduce(self, group: Group) -> None:
        """Tell the group of the settings that are in use."""
        settings = self.resources.settings
        group.follow(self._host, settings=settings_digest(settings), key=key_digest(settings))

    @property
    def collectors(self) -> list[Collector]:
        """The collector of each stream."""
        return list(self._collectors.values())

    @property
    def backfills(self) -> list[Backfill]:
        """The streams of open backfills."""
        return [each for each in list(self._backfills.values()) if not each.ended]

    @property
    def alive(self) -> bool:
        """Whether no worker has died."""
        return self.scheduler.alive

    def load(self) -> Load:
        """What all streams need of JumpCloud's API, and what is possible."""
        collectors = self.collectors
        sample = collectors[:: 1 + len(collectors) // _LOAD_SAMPLE]
        gaps = [each.counters.poll_gap for each in sample if each.counters.poll_gap and not each.is_behind]
        return required_load(self.resources.settings, len(collectors))._replace(
            seconds=self.resources.api.statistics().latencies.mean(),
            gap=sum(gaps) / len(gaps) if gaps else 0.0,
            share=self._group.share if self._group else 1.0,
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
            seconds = min(
                self._follow_group(), self._on_tick(), self._start_workers(), self._reload.apply_if_due(self._apply)
            )
            if not self.stop.is_set():
                self._woken.wait(max(0.0, seconds))
        self.scheduler.stop()
        self._join_workers()
        self._write_owed()
        return self._fatal if self._fatal or not self._once else self._error_of_all()

    def _error_of_all(self) -> InJumpCloudError | None:
        failed = [each.error or each.reconciler.error for each in self.collectors]
        failed += [each.error for each in self._over]
        failed += [self.discovery.error] if self.discovery else []
        units: list[Unit] = [*self.collectors, *self._over]
        undelivered = sum(each.counters.dead_lettered + each.counters.parked for each in units)
        failed += [self._lost, self._begin_error if self._group else None]
        error = next(filter(None, failed), None)
        if error is None and undelivered:
            return Fatal(f"{plural(undelivered, 'event')} could not be delivered", advice="see the dead letters")
        return error

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

    def _write_owed(self) -> None:
        """Write what could not be written until now, if it can be."""
        stop = self.runtime.event()
        stop.set()  # a delivery that did not end in time has the lock
        for stream, lock in self._delivery_locks.items():
            if lock.owes:
                try:
                    lock.write_owed(stop)
                except Fenced as error:
                    log.info("%s", error)
                except InJumpCloudError as error:
                    text = "%s: %s; what was acknowledged last is sent again at the next start"
                    log.error(text, stream, error)  # noqa: TRY400 - no traceback

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
        with self._changing:
            old = self.resources.settings
            replaced = self.resources.apply(settings)
            if discovery_settings(old) != discovery_settings(settings):
                self._discover()
            is_same, before, after = same_stream_settings(old, settings), old.jumpcloud, settings.jumpcloud
            leaving = self._keep(
                {name for name in self._names() if is_same and override_of(before, name) == override_of(after, name)}
            )
            kept = len(self._collectors)
            if self._group:
                self._introduce(self._group)
            self._add_streams()
        self._start_workers()
        self._close(replaced, leaving)
        restarted = plural(len(self._collectors) - kept, "stream")
        log.info("configuration reloaded: %s restarted, %d unchanged", restarted, kept)

    def _follow_group(self) -> float:
        """Run the streams that this member has now, and no others. Returns the seconds until it is due again."""
        group = self._group
        if group is None:
            return _MAX_WAIT_SECONDS
        self.resources.api.share_limit(group.share)
        if self._only_backfills:
            return _MAX_WAIT_SECONDS
        with self._changing:
            owned = group.owned
            names = self._names()
            here = {name for name in names if self._tokens.get(name) == owned.get(name)}
            if here != self._collectors.keys() or here != names or self._begin_error:
                self._keep(here)
                self._add_streams()
        return _RETRY_SECONDS if self._begin_error else _MAX_WAIT_SECONDS

    def _streams_running(self) -> set[str]:
        """The streams of which something runs, or of which a commit is still to be written."""
        at_once = self.runtime.event()
        at_once.set()
        running = {unit.stream.name for unit in self.scheduler.running() if isinstance(unit, Collector | Backfill)}
        running |= {each.stream.name for each in self.collectors} | {each.stream.name for each in self.backfills}
        owing = [(name, lock) for name, lock in list(self._delivery_locks.items()) if lock.owes and name not in running]
        for name, lock in owing:
            with suppress(InJumpCloudError):
                lock.write_owed(at_once)
            if lock.owes:
                running.add(name)
        return running

    def _close(self, replaced: ExitStack, leaving: list[Unit]) -> None:
        """Close what was replaced, once the streams that use it have ended their last step."""
        identities = set(map(id, leaving))
        while any(id(unit) in identities for unit in self.scheduler.running()):
            self._woken.wait(_TICK_SECONDS)
            self._woken.clear()
            self._follow_group()
            self._on_tick()
            if self.stop.is_set():
                return
        try:
            replaced.close()
        except Exception:
            log.exception("unexpected error after a reload; continuing")

    def _names(self) -> set[str]:
        """The streams that are to run here."""
        return {stream.name for stream in self._mine()}

    def _mine(self) -> list[Stream]:
        """The streams that are to run here: all, or those that this member has."""
        if self._group is None:
            return streams(self.resources.settings, self._organizations)
        owned = self._group.owned  # also of those that only the lists of other members have
        found = streams(self.resources.settings, organizations_of(owned))
        return [stream for stream in found if stream.name in owned]

    def _keep(self, names: Collection[str]) -> list[Unit]:
        """Remove the streams but these, and their backfills: those of streams that come back are found again."""
        leaving: list[Unit] = [each for name, each in self._collectors.items() if name not in names]
        backfills = [unit for unit, each in self._backfills.items() if each.stream.name not in names]
        leaving += [self._backfills.pop(unit) for unit in backfills]
        self.scheduler.remove(leaving)
        self._collectors = {name: each for name, each in self._collectors.items() if name in names}
        return leaving

    def _discover(self) -> None:
        """Begin to list the organizations, if they are not in the configuration. What is polled stays until then."""
        settings, state = self.resources.settings.jumpcloud, self.resources.state
        if self.discovery:
            self.scheduler.remove([self.discovery])
        self.discovery = self._organizations = None
        if not settings.is_discovered or self._only_backfills:
            return
        self._organizations = organizations_of(self._wanted or self._collectors)
        self.discovery = Discovery(
            settings,
            list_of(settings, self._list_organizations),
            known=lambda: known_organizations(state),
            apply=self._update_organizations,
            polled=self._organizations,
            troubles=self.resources.troubles,
            runtime=self.runtime,
        )
        self.scheduler.add([self.discovery])

    def _list_organizations(self, provider: str | None, stop: threading.Event) -> dict[str, str]:
        return self.resources.api.organizations(provider, stop)  # a reload may replace the client

    def _update_organizations(self, organizations: list[str], stop: threading.Event) -> None:
        """Have these organizations polled, and no others. A worker calls it.

        Raises:
            Stopped: `stop` was set.
        """
        with self._changing:
            if stop.is_set():  # by a reload
                raise Stopped
            self._organizations = organizations
            self._wanted = set()  # said again with each list: another member may have said otherwise, and be gone
            self._keep(self._names())
            self._add_streams()
        self.watch.step(stop)  # they may have open backfills
        self.wake()  # more workers may be needed

    def _delivery_lock(self, stream: str) -> DeliveryLock:
        return self._delivery_locks.setdefault(stream, DeliveryLock(self.runtime))

    def _update_backfills(self, rows: list[JobRow]) -> None:
        """Start the open backfills that do not run, and stop those that are no longer open."""
        with self._changing:
            resources, organizations = self.resources, self._organizations
            if self._only_backfills and resources.settings.jumpcloud.is_discovered:
                organizations = organizations_of(row.stream for row in rows)
            owned = self._group.owned if self._group else None
            if owned is not None:
                organizations = organizations_of(owned)
            known = {stream.name: stream for stream in streams(resources.settings, organizations)} if rows else {}
            over = [self._backfills.pop(unit) for unit in self._backfills.keys() - {row.unit for row in rows}]
            self.scheduler.remove(over)
            for backfill in over:
                self._left_to_stream(backfill)
            new: list[Backfill] = []
            for row in rows:
                if row.unit in self._backfills:
                    continue
                if owned is not None and row.stream not in owned:
                    continue  # another member delivers it
                if row.stream not in known:
                    is_listed = self.discovery is None or self.discovery.count is not None
                    where = "list of organizations" if self.discovery else "configuration"
                    text = f"stream {row.stream} is not in the {where}"
                    if is_listed and row.error != text:
                        resources.state.jobs.record_error(row.unit, text, self.runtime.now_ms())
                    continue
                backfill = self._backfills[row.unit] = Backfill(
                    *(row, known[row.stream], resources.api, resources.for_pipeline),
                    settings_of_stream(resources.settings, known[row.stream]),
                    clock=resources.clock,
                    ahead_limit=self._ahead_limit,
                    delivery_lock=self._delivery_lock(row.stream),
                    give_up_after=ONCE_SECONDS if self._once else None,
                    runtime=self.runtime,
                )
                new.append(backfill)
            self.scheduler.add(new)
        if over or new:
            self.wake()  # more workers may be needed

    def _left_to_stream(self, backfill: Backfill) -> None:
        """What a backfill that has ended leaves parked is sent again by its stream."""
        if stream := self._collectors.get(backfill.stream.name):
            stream.look_for_parked()

    def _add_streams(self) -> None:
        """Create a collector for each stream that has none."""
        if self._only_backfills:
            return
        self._begin_streams()
        new = dict[str, Collector]()
        owned = self._group.owned if self._group else {}
        for stream in self._mine():
            if stream.name not in self._collectors:
                self._tokens[stream.name] = owned.get(stream.name)
                new[stream.name] = Collector(
                    stream,
                    self.resources.api,
                    self.resources.for_pipeline,
                    settings_of_stream(self.resources.settings, stream),
                    clock=self.resources.clock,
                    ahead_limit=self._ahead_limit,
                    delivery_lock=self._delivery_lock(stream.name),
                    give_up_after=ONCE_SECONDS if self._once else None,
                    runtime=self.runtime,
                )
        self._collectors |= new
        self.scheduler.add(new.values())

    def _begin_streams(self) -> None:
        """Store the first position of each stream that has none, in one transaction, also of those of other members."""
        positions: dict[tuple[str, ...], dict[str, Position]] = {}  # by the services that are fetched from there on
        found, now_ms = streams(self.resources.settings, self._organizations), self.resources.clock.now_ms()
        self.resumed = {stream.name for stream in found if stream.name in self._begun}
        for stream in found:
            if stream.name not in self._begun:
                settings = settings_of_stream(self.resources.settings, stream)
                positions.setdefault(settings.jumpcloud.services, {})[stream.name] = first_position(settings, now_ms)
        names = {stream.name for stream in found}
        try:
            for services, those in positions.items():
                self.resumed |= self.resources.state.begin(those, services)
                self._begun |= those.keys()
            is_known = self.discovery is None or self.discovery.count is not None  # else they were not listed yet
            if self._group and is_known and names != self._wanted:
                self._group.want(names)
                self._wanted = names
            self._begin_error = None
        except InJumpCloudError as error:
            self._begin_error = error  # each stream finds that out too, but not those that a group does not know
        except Exception:
            log.exception("unexpected error at the start of streams; each begins by itself")

    def _start_workers(self) -> float:
        """Start the workers that are missing; returns the seconds until those that cannot start now are due."""
        troubles = self.resources.troubles
        count = min(self.resources.settings.jumpcloud.worker_count, len(self._collectors) + len(self._backfills))
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
            self._delivery_lock(unit.stream.name).drop()
            with self._changing:  # it may come back, with another token
                self._tokens.pop(unit.stream.name, None)
        self.wake()

    def _end_with(self, error: StateCorrupt) -> None:
        self._fatal = error
        self.end()

    def _has_left(self, unit: Unit) -> None:
        """A unit that was removed has ended its last step."""
        if isinstance(unit, Backfill):
            self._left_to_stream(unit)
        self.wake()  # a reload may wait for it

    def _has_more(self, unit: Unit, delay: float) -> bool:
        """Whether a unit, whose next step is due in `delay` seconds, has more steps."""
        if isinstance(unit, Backfill):
            is_over = bool(unit.ended) or (self._once and self._gives_up(unit.error, unit, delay))
            if self._once and is_over:
                self._over.append(unit)
            return not is_over
        if isinstance(unit, Discovery):
            seconds = self.runtime.monotonic() + delay - unit.error_since
            is_over = unit.error is None or unit.is_final or seconds > ONCE_SECONDS
            return not (self._once and is_over)
        return not (self._once and isinstance(unit, Collector) and self._is_done(unit, delay))

    def _is_done(self, collector: Collector, delay: float) -> bool:
        """Whether `--once` is done with a stream, whose next step is due in `delay` seconds."""
        if collector.error is not None:
            return self._gives_up(collector.error, collector, delay)
        late = collector.reconciler
        if isinstance(late.error, Retryable | StateUnavailable):
            return self.runtime.monotonic() + delay - late.error_since > ONCE_SECONDS
        return collector.caught_up

    def _gives_up(self, error: InJumpCloudError | None, unit: Collector | Backfill, delay: float) -> bool:
        """Whether `--once` no longer tries what fails with `error`."""
        if error is None:
            return False
        if not isinstance(error, Retryable | StateUnavailable) and not unit.counters.unexpected_in_a_row:
            return True
        return self.runtime.monotonic() + delay - unit.poller.error_since > ONCE_SECONDS


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
