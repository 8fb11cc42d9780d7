"""Runs all streams on a small pool of workers: start, reload, stop."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Generic, Protocol, TypeVar

from in_jumpcloud.backfill import Backfill, BackfillWatch
from in_jumpcloud.backoff import MAX_DELAY, backoff_delay
from in_jumpcloud.collector import Collector, Stream
from in_jumpcloud.config.schema import Config
from in_jumpcloud.counters import Counters, plural
from in_jumpcloud.delivery_lock import DeliveryLock
from in_jumpcloud.errors import Fatal, InJumpCloudError, Retryable, StateCorrupt, StateUnavailable, Stopped, may_pass
from in_jumpcloud.insights.api import Scope
from in_jumpcloud.insights.comparison import comparisons_per_day
from in_jumpcloud.insights.pages_ahead import AheadLimit
from in_jumpcloud.load import Load
from in_jumpcloud.resources import Outside, Resources, same_stream_settings
from in_jumpcloud.runtime import SYSTEM, Runtime, Task
from in_jumpcloud.state.jobs import JobRow
from in_jumpcloud.troubles import Troubles

log = logging.getLogger(__name__)

_STOP_GRACE_SECONDS = 2.0
"""How long the workers have to end, in addition to forward.stop_timeout for an ack under way."""
ONCE_SECONDS = 120.0
"""How long `--once` tries again what may pass by itself, waits that JumpCloud asked for included."""
_BEHIND_SECONDS = 10.0
"""How much longer than the others a stream that is far from now waits for a worker, so that a backfill never delays
the newest events, and is never starved by them."""
_TICK_SECONDS = 0.5
"""How often the main thread checks what it waits for during a reload or a stop."""
_RETRY_SECONDS = 1.0
"""How soon the start of a worker is tried again."""
_MAX_WAIT_SECONDS = 3600.0
_LOAD_SAMPLE = 500
"""Of about so many streams the time between polls is looked at."""


class _Unit(Protocol):
    """What the workers run: a stream, a stream of a backfill, or the look for new backfills."""

    @property
    def name(self) -> str: ...
    @property
    def counters(self) -> Counters: ...
    @property
    def timed_out(self) -> bool: ...
    @property
    def is_behind(self) -> bool: ...
    def step(self, stop: threading.Event) -> float: ...


_Unit_co = TypeVar("_Unit_co", bound=_Unit, covariant=True)


class _Slot(Generic[_Unit_co]):
    """A place of the workers. `busy`: a worker is running a step of its unit; `ended`: it runs no more steps."""

    __slots__ = ("_stop", "busy", "ended", "unit")

    def __init__(self, unit: _Unit_co) -> None:
        self.unit = unit
        self.busy = self.ended = False
        self._stop: threading.Event | None = None

    def begin(self, stop: threading.Event) -> None:
        """A worker takes it. `stop` stops its step: a new one for each, since thousands of them take much memory."""
        self.busy, self._stop = True, stop

    def step(self) -> float:
        """Run a step; as Collector.step."""
        return self.unit.step(self._stop or threading.Event())

    def done(self) -> None:
        """The step has ended."""
        self.busy, self._stop = False, None

    def end(self) -> None:
        """Stop its step, and run no more."""
        self.ended = True
        if self._stop:
            self._stop.set()


class App:
    """The running plugin: one collector for each stream, the open backfills, and the workers that run them."""

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
        self._sequence = itertools.count()
        self._slots: dict[str, _Slot[Collector]] = {}
        self._delivery_locks: dict[str, DeliveryLock] = {}  # by stream
        self._backfills: dict[int, _Slot[Backfill]] = {}  # by unit
        self._over: list[Backfill] = []  # with `once`
        self._watch = _Slot(BackfillWatch(resources.state, self._update_backfills))
        self._leaving: list[_Slot[_Unit]] = []  # those that the last reload stops
        # Heaps of (moment, sequence, slot): those that wait, those that are due, and those that are due and whose last
        # request timed out. The sequence number keeps slots from being compared.
        self._later: list[tuple[float, int, _Slot[_Unit]]] = []
        self._due: list[tuple[float, int, _Slot[_Unit]]] = []
        self._hanging: list[tuple[float, int, _Slot[_Unit]]] = []
        self._hanging_busy = False
        self._workers: list[Task] = []
        self._fatal: StateCorrupt | None = None
        self._changed = runtime.condition()
        self._waiting = 0  # workers that wait
        self._leads_until: float | None = None  # until when one of them does so for the next moment; None: none does
        self._reloading = False  # the main thread waits for streams to end
        self._pending_reload: tuple[Callable[[], Config], Callable[[], None]] | None = None
        self._reload_at = 0.0
        self._failed_reloads = 0
        self._on_tick: Callable[[], float] = lambda: _MAX_WAIT_SECONDS
        heapq.heappush(self._later, (runtime.monotonic(), next(self._sequence), self._watch))
        if not only_backfills:
            self._add_streams()

    @property
    def collectors(self) -> list[Collector]:
        """The collector of each stream."""
        return [slot.unit for slot in list(self._slots.values())]

    @property
    def backfills(self) -> list[Backfill]:
        """The streams of open backfills."""
        return [slot.unit for slot in list(self._backfills.values()) if not slot.unit.ended]

    @property
    def alive(self) -> bool:
        """Whether no worker has died."""
        return all(worker.is_alive() for worker in self._workers)

    def load(self) -> Load:
        """What all streams need of JumpCloud's API, and what is possible."""
        collectors = self.collectors
        sample = collectors[:: 1 + len(collectors) // _LOAD_SAMPLE]
        gaps = [each.counters.poll_gap for each in sample if each.counters.poll_gap and not each.is_behind]
        return required_load(self.resources.settings, len(collectors))._replace(
            seconds=self.resources.api.statistics().latencies.mean(),
            gap=sum(gaps) / len(gaps) if gaps else 0.0,
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
            seconds = min(self._on_tick(), self._start_workers(), self._reload_if_due(), _MAX_WAIT_SECONDS)
            if not self.stop.is_set():
                self._woken.wait(max(0.0, seconds))
        with self._changed:
            for slot in self._all_slots():
                slot.end()
            self._changed.notify_all()
        self._join_workers()
        self._write_owed()
        if self._fatal or not self._once:
            return self._fatal
        failed = [each.error or each.reconciler.error for each in self.collectors]
        failed += [each.error for each in self._over]
        units: list[_Unit] = [*self.collectors, *self._over]
        undelivered = sum(each.counters.dead_lettered + each.counters.parked for each in units)
        error = next(filter(None, failed), None)
        if error is None and undelivered:
            return Fatal(f"{plural(undelivered, 'event')} could not be delivered", advice="see the dead letters")
        return error

    def _join_workers(self) -> None:
        """Wait for the workers: for an ack under way up to forward.stop_timeout, for anything else a short time."""
        began = self.runtime.monotonic()
        for worker in self._workers:
            while worker.is_alive():
                slots: list[_Slot[_Unit]] = [*self._all_slots(), *self._leaving]
                delivers = any(slot.busy and slot.unit.counters.in_flight for slot in slots)
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
                except InJumpCloudError as error:
                    text = "%s: %s; what was acknowledged last is sent again at the next start"
                    log.error(text, stream, error)  # noqa: TRY400 - no traceback

    def reload(self, load: Callable[[], Config], done: Callable[[], None] = lambda: None) -> None:
        """Have the main thread apply what `load` returns and then call `done`. Safe in any thread.

        If the new settings cannot be used now, but may be later, the old ones stay until then.
        """
        self._reload_at, self._failed_reloads = 0.0, 0
        self._pending_reload = (load, done)
        self.wake()

    def _reload_if_due(self) -> float:
        """Reload if that is due; returns the seconds until it is due again."""
        if self._pending_reload and self.runtime.monotonic() >= self._reload_at:
            self._reload(*self._pending_reload)
        return self._reload_at - self.runtime.monotonic() if self._pending_reload else _MAX_WAIT_SECONDS

    def _reload(self, load: Callable[[], Config], done: Callable[[], None]) -> None:
        """Apply new settings; keep the old ones if the new ones are invalid. Unchanged streams are not interrupted."""
        self._pending_reload = None
        old = self.resources.settings
        is_repeated = self._failed_reloads > 0
        try:
            settings = load()
            replaced = self.resources.apply(settings)
        except Exception as error:  # noqa: BLE001 - a reload never ends the process
            self._not_reloaded(error, load, done)
            if is_repeated:
                return
        else:
            self.resources.troubles.end("reload")
            self._restart_streams(old, settings, replaced)
        done()

    def _not_reloaded(self, error: Exception, load: Callable[[], Config], done: Callable[[], None]) -> None:
        troubles = self.resources.troubles
        if may_pass(error):
            advice = "the old one stays in use until it can be reloaded"
            troubles.begin("reload", f"configuration not reloaded: {' and '.join(str(error).splitlines())}", advice)
            if not self._pending_reload:
                self._failed_reloads += 1
                self._reload_at = self.runtime.monotonic() + backoff_delay(self._failed_reloads, self.runtime.random)
                self._pending_reload = (load, done)
            return
        troubles.end("reload")
        if isinstance(error, InJumpCloudError):
            for line in str(error).splitlines():
                log.error("configuration not reloaded: %s", line)
        else:
            log.error("configuration not reloaded: unexpected error", exc_info=error)

    def _restart_streams(self, old: Config, settings: Config, replaced: ExitStack) -> None:
        """Stop the streams that the new settings change or do not have, and start those that are missing."""
        wanted = {stream.name for stream in streams(settings)}
        stay = wanted if same_stream_settings(old, settings) else set()
        with self._changed:
            leaving: list[_Slot[_Unit]] = [slot for name, slot in self._slots.items() if name not in stay]
            backfills = {unit: slot for unit, slot in self._backfills.items() if slot.unit.stream.name not in stay}
            leaving += backfills.values()
            self._leaving = leaving
            for slot in leaving:
                slot.end()
            self._slots = {name: slot for name, slot in self._slots.items() if name in stay}
            for unit in backfills:  # those whose stream comes back are found again
                del self._backfills[unit]
            kept = len(self._slots)
            # A stream has one collector at a time: the new one resumes where the old one stopped.
            self._reloading = True
            while any(slot.busy for slot in leaving) and not self.stop.is_set():
                self._changed.wait(_TICK_SECONDS)
                self._on_tick()
            self._reloading = False
        if self.stop.is_set():
            return
        if not self._only_backfills:
            self._add_streams()
        try:
            replaced.close()
        except Exception:
            log.exception("unexpected error after a reload; continuing")
        self._start_workers()
        restarted = plural(len(self._slots) - kept, "stream")
        log.info("configuration reloaded: %s restarted, %d unchanged", restarted, kept)

    def _all_slots(self) -> list[_Slot[_Unit]]:
        return [*self._slots.values(), *self._backfills.values(), self._watch]

    def _delivery_lock(self, stream: str) -> DeliveryLock:
        return self._delivery_locks.setdefault(stream, DeliveryLock(self.runtime))

    def _update_backfills(self, rows: list[JobRow]) -> None:
        """Start the open backfills that do not run, and stop those that are no longer open."""
        resources, known = self.resources, {stream.name: stream for stream in streams(self.resources.settings)}
        is_open = {row.unit for row in rows}
        with self._changed:
            ended = self._backfills.keys() - is_open
            for unit in ended:
                slot = self._backfills.pop(unit)
                slot.end()
                self._left_to_stream(slot.unit)
            new = [row for row in rows if row.unit not in self._backfills and not self._watch.ended]
            if not ended and not new:
                return
            for row in new:
                if row.stream not in known:
                    if not row.error:
                        text = f"stream {row.stream} is not in the configuration"
                        resources.state.jobs.record_error(row.unit, text, self.runtime.now_ms())
                    continue
                backfill = Backfill(
                    *(row, known[row.stream], resources.api, resources.for_pipeline, resources.settings),
                    clock=resources.clock,
                    ahead_limit=self._ahead_limit,
                    delivery_lock=self._delivery_lock(row.stream),
                    give_up_after=ONCE_SECONDS if self._once else None,
                    runtime=self.runtime,
                )
                slot = self._backfills[row.unit] = _Slot(backfill)
                heapq.heappush(self._later, (self.runtime.monotonic(), next(self._sequence), slot))
            self._changed.notify_all()
        self.wake()  # more workers may be needed

    def _left_to_stream(self, backfill: Backfill) -> None:
        """What a backfill that has ended leaves parked is sent again by its stream."""
        if stream := self._slots.get(backfill.stream.name):
            stream.unit.look_for_parked()

    def _add_streams(self) -> None:
        """Create a collector for each stream that has none."""
        settings = self.resources.settings
        give_up_after = ONCE_SECONDS if self._once else None
        new: list[_Slot[Collector]] = []
        for stream in streams(settings):
            if stream.name not in self._slots:
                collector = Collector(
                    stream,
                    self.resources.api,
                    self.resources.for_pipeline,
                    settings,
                    clock=self.resources.clock,
                    ahead_limit=self._ahead_limit,
                    delivery_lock=self._delivery_lock(stream.name),
                    give_up_after=give_up_after,
                    runtime=self.runtime,
                )
                new.append(_Slot(collector))
        with suppress(StateUnavailable):  # then each stream waits for the state
            positions = {slot.unit.name: slot.unit.position for slot in new}
            self.resumed = self.resources.state.begin(positions, settings.jumpcloud.services)
        with self._changed:
            for slot in new:
                self._slots[slot.unit.name] = slot
                heapq.heappush(self._later, (self.runtime.monotonic(), next(self._sequence), slot))
            self._changed.notify_all()

    def _start_workers(self) -> float:
        """Start the workers that are missing; returns the seconds until those that cannot start now are due."""
        troubles = self.resources.troubles
        try:
            count = min(self.resources.settings.jumpcloud.worker_count, len(self._slots) + len(self._backfills))
            for number in range(len(self._workers), max(1, count)):
                self._workers.append(self.runtime.start(self._work, name=f"worker-{number}"))
        except RuntimeError as error:
            advice = "raise the limit of threads (TasksMax, pids.max, ulimit -u) or of memory"
            troubles.begin("threads", f"worker threads: {error}", advice)
            return _RETRY_SECONDS
        troubles.end("threads")
        return _MAX_WAIT_SECONDS

    def _work(self) -> None:
        while (slot := self._next()) is not None:
            unit = slot.unit
            was_hanging = unit.timed_out
            try:
                delay = slot.step()
            except Stopped:
                delay = 0.0
            except StateCorrupt as error:
                self._fatal = error
                self.end()
                return
            except Exception:
                log.exception("%s: unexpected error; retrying in %.0f s", unit.name, MAX_DELAY)
                delay = MAX_DELAY
            with self._changed:
                slot.done()
                self._hanging_busy = self._hanging_busy and not was_hanging
                if slot.ended and isinstance(unit, Backfill):
                    self._left_to_stream(unit)
                if not (slot.ended or self._is_over(unit, delay)):
                    heapq.heappush(self._later, (self.runtime.monotonic() + delay, next(self._sequence), slot))
                if self._reloading:
                    self._changed.notify_all()

    def _next(self) -> _Slot[_Unit] | None:
        """Wait for the next due stream; None at the end.

        The stream that is due for the longest time is next. Streams that hang share one worker.
        """
        with self._changed:
            while not self.stop.is_set():
                now = self.runtime.monotonic()
                self._note_due(now)
                if slot := self._take():
                    self._wake_another()
                    return slot
                if self._once and not self._is_waiting():
                    self.end()  # all is done
                    return None
                self._wait(now)
        return None

    def _take(self) -> _Slot[_Unit] | None:
        while heap := self._next_heap():
            slot = heapq.heappop(heap)[-1]
            if not slot.ended:
                self._hanging_busy |= slot.unit.timed_out
                slot.begin(self.runtime.event())
                return slot
        return None

    def _wait(self, now: float) -> None:
        """Wait for the next moment, or, while another worker does that, until this one is woken."""
        until = self._later[0][0] if self._later else float("inf")
        leads = until < float("inf") and (self._leads_until is None or until < self._leads_until)
        if leads:
            self._leads_until = until
        self._waiting += 1
        try:
            self._changed.wait(until - now if leads else None)
        finally:
            self._waiting -= 1
            if leads and self._leads_until == until:
                self._leads_until = None

    def _wake_another(self) -> None:
        """This worker is going to be busy: another one takes what else is due, or waits for the next moment."""
        if self._waiting and (self._next_heap() or (self._later and self._leads_until is None)):
            # The main thread, which may wait too, must not take the only notification.
            self._changed.notify_all() if self._reloading else self._changed.notify()

    def _note_due(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            since, number, slot = heapq.heappop(self._later)
            since += _BEHIND_SECONDS if _is_behind(slot.unit) else 0
            heapq.heappush(self._hanging if slot.unit.timed_out else self._due, (since, number, slot))

    def _next_heap(self) -> list[tuple[float, int, _Slot[_Unit]]] | None:
        """The heap whose first stream is next; None if no stream can run now."""
        heaps = [self._due] if self._hanging_busy else [self._due, self._hanging]
        return min(filter(None, heaps), key=lambda heap: heap[0], default=None)

    def _is_waiting(self) -> bool:
        """Whether anything is under way, or waits for its next step."""
        return any(slot.busy for slot in self._all_slots()) or any(slot is not self._watch for *_, slot in self._later)

    def _is_over(self, unit: _Unit, delay: float) -> bool:
        """Whether a unit, whose next step is due in `delay` seconds, has no more steps."""
        if isinstance(unit, Backfill):
            is_over = bool(unit.ended) or (self._once and self._gives_up(unit.error, unit, delay))
            if self._once and is_over:
                self._over.append(unit)
            return is_over
        return self._once and isinstance(unit, Collector) and self._is_done(unit, delay)

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


def _is_behind(unit: _Unit) -> bool:
    """Whether it gives way to others. A defect must not lose it, nor end the worker that asks."""
    try:
        return unit.is_behind
    except Exception:
        log.exception("%s: unexpected error; continuing", unit.name)
        return False


def streams(settings: Config) -> list[Stream]:
    """One stream for each organization and for the provider; without either, one for the organization of the key."""
    configured = [Stream(f"organization {each}", Scope(organization=each)) for each in settings.jumpcloud.organizations]
    if provider := settings.jumpcloud.provider_id:
        configured.append(Stream(f"provider {provider}", Scope(provider=provider)))
    return configured or [Stream("default", Scope())]


def required_load(settings: Config, count: int) -> Load:
    """What so many streams need, before anything is measured."""
    return Load(
        streams=count,
        interval=float(settings.jumpcloud.interval),
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
    resources = Resources(settings, runtime=runtime, troubles=troubles, outside=outside)
    try:
        yield App(resources, once=once, only_backfills=only_backfills, runtime=runtime)
    finally:
        resources.close()
