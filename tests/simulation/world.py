"""One run: the process and its lives, the world around it, and what must hold."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from simulation import plan
from simulation.faults import Faults
from simulation.jumpcloud import DAY, MINUTE, Event, JumpCloud, Organization
from simulation.plan import HOUR, ORIGIN_MS
from simulation.receiver import Delivery, Receiver
from simulation.runtime import SimRuntime
from simulation.scheduler import Group, Killed, Scheduler, SimTask
from simulation.seams import SimConnection, SimExchange, SimNetwork, connect_factory

from in_jumpcloud.app import App, open_app
from in_jumpcloud.errors import ConfigError, InJumpCloudError, Stopped
from in_jumpcloud.monitoring.health import not_alive, not_ready
from in_jumpcloud.monitoring.snapshot import take_snapshot
from in_jumpcloud.resources import Outside
from in_jumpcloud.retry import Retry
from in_jumpcloud.troubles import Troubles

MAX_LIVES = 12
MAX_REQUESTS = 4000
"""More than any run needs: polls and comparisons at their intervals, and a request for each event."""


class Violation(Exception):
    """An invariant does not hold."""


class MachineClock:
    """The clocks of the machine, with the faults of a clock."""

    def __init__(self, scheduler: Scheduler, faults: Faults) -> None:
        self._scheduler = scheduler
        self._faults = faults
        self.suspended = 0.0
        self._steps: list[tuple[str, float]] = []
        for name, sign in (("clock steps forward", 1), ("clock steps back", -1), ("clock is ahead at first start", 1)):
            if name in faults.on:
                self._steps.append((name, sign * 2 * (4 * 86_400 / 2) ** faults.random(name).random()))

    def wall_ns(self) -> int:
        """What the wall clock shows."""
        now, faults = self._scheduler.now, self._faults
        offset = sum(step for name, step in self._steps if faults.acts(name, now))
        if faults.acts("clock drifts", now):
            begin = min(begin for begin, end in faults.episodes("clock drifts") if begin <= now < end)
            offset += (now - begin) * 0.01
        return ORIGIN_MS * 1_000_000 + int((now + offset) * 1e9)

    def monotonic(self) -> float:
        """Seconds of the monotonic clock, which may stop while the machine is suspended."""
        return 1000 + self._scheduler.now - self.suspended


class Process:
    """One life of the program, from its start to its end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.group = Group()
        self.runtime = SimRuntime(
            world.scheduler, self.group, world.clock, Random(f"{world.seed} life {world.lives}"), self.point
        )
        self.connections: list[SimConnection] = []
        self.unsettled: dict[SimTask, list[Delivery]] = {}
        self.app: App | None = None
        self.stopping = False
        self.ended = False
        self.began = self.runtime.monotonic()
        self.main = world.scheduler.start(self._main, "main", self.group)

    def sleep(self, seconds: float) -> None:
        """Wait, as a part of a call to the world."""
        self.world.scheduler.wait(seconds)

    def point(self, kind: str) -> None:
        """A call of a seam: the process may end here, or be asked to."""
        if self.group.dead:
            raise Killed
        self.world.point(self, kind)

    def committed(self, connection: SimConnection, *, has_keys: bool) -> None:
        """A transaction is on disk, with keys of acknowledged events or without."""
        if has_keys:
            for delivery in self.unsettled.pop(self.world.scheduler.current, ()):
                delivery.settled = True
                self.world.trace("settled", *delivery.uids)
        self.world.committed(connection)

    def terminate(self) -> None:
        """SIGTERM."""
        self.stopping = True
        if self.app:
            self.app.stop.set()

    def _main(self) -> None:
        world, runtime = self.world, self.runtime
        troubles, stop = Troubles(runtime.now_ms), runtime.event()
        outside = Outside(
            exchange=SimExchange(self, world.api),
            connect=connect_factory(self),
            network=SimNetwork(self),
        )
        retry = Retry(troubles, stop, on_tick=lambda _: None, give_up_after=None, runtime=runtime)
        with ExitStack() as stack:
            self.app = plugin = retry(
                "start",
                lambda: stack.enter_context(
                    open_app(world.settings, runtime=runtime, troubles=troubles, outside=outside)
                ),
            )
            if self.stopping:
                plugin.stop.set()
            error = plugin.run(lambda: self._tick(plugin))
            if error:
                raise error
        self.ended = True
        world.life_ended(self, None)

    def _tick(self, plugin: App) -> None:
        plugin.resources.retry()
        self.world.check_health(self, plugin)


class World:
    """Everything of one run."""

    def __init__(self, seed: int, without: Collection[str], folder: Path, *, keep_trace: bool) -> None:
        self.seed = seed
        self.folder = folder / "state"
        self.folder.mkdir()
        self.random = Random(f"{seed} world")
        plan_random = Random(f"{seed} plan")
        self.plan = plan.draw(plan_random, self.folder)
        self.settings = self.plan.settings
        self.scheduler = Scheduler(Random(f"{seed} scheduler"))
        self.scheduler.failed = self._task_failed
        self.faults = Faults(str(seed), self.plan.seconds, without)
        self.clock = MachineClock(self.scheduler, self.faults)
        self.organizations = self.plan.organizations
        self.api = JumpCloud(
            self.organizations, self.faults, origin_ms=ORIGIN_MS, plan_ms=self.plan.plan_ms, counts=self.plan.counts
        )
        self.receivers = [Receiver("receiver", self.faults, self.later)]
        self.receivers[0].poison = self.plan.poison
        self.receivers[0].on_take = lambda delivery: self.trace("taken", *delivery.uids)
        self._short_plans = self.faults.episodes("moving retention")
        self.lives = 0
        self.process: Process | None = None
        self.violations: list[str] = []
        self.letters: set[str] = set()
        """The uids of dead letters, and of suspects."""
        self.parked: set[str] = set()
        self.landmarks = self.faults.landmarks
        self._keep_trace = keep_trace
        self.lines: list[str] = []
        self._hash = hashlib.blake2b(digest_size=8)
        self._snapshot: Path | None = None
        """The disk after a power loss, if that differs from what was committed."""
        self._watermarks: dict[str, int] = {}
        self._first_ms: dict[str, int] = {}
        self._begun_ms: dict[str, int] = {}
        self._calm = False
        self._moved_at = 0.0
        self.said: Counter[str] = Counter()

    @property
    def now(self) -> float:
        """Seconds of the run."""
        self.faults.now = self.scheduler.now
        return self.scheduler.now

    @property
    def now_ms(self) -> int:
        """True time, in epoch milliseconds."""
        return ORIGIN_MS + int(self.scheduler.now * 1000)

    def trace(self, *values: object) -> None:
        """Note something that happened."""
        line = f"{self.scheduler.now:.3f} {' '.join(map(str, values))}"
        self._hash.update(line.encode(errors="replace"))
        if self._keep_trace:
            self.lines.append(line)

    @property
    def hash(self) -> str:
        """A hash of the trace."""
        return self._hash.hexdigest()

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something later, as an action of the world."""

        def run() -> None:
            self.faults.now = self.scheduler.now
            call()

        self.scheduler.at(self.scheduler.now + seconds, run)

    def run(self) -> None:
        """Run both phases.

        Raises:
            Violation: an invariant does not hold.
        """
        self._start()
        for name in ("machine is suspended", "long stop"):
            for begin, end in self.faults.episodes(name):
                self._plan_stop(name, begin, min(end, self.plan.seconds))
        self.scheduler.run(self.plan.seconds)
        self._check()
        self.faults.stop()
        self._calm = True
        self.trace("all faults end")
        if self.process:
            self._thaw(self.process.group, 0)
        self.scheduler.run(self.plan.seconds + self.plan.calm)
        self._check()
        self._check_end()
        self._check()

    def close(self) -> None:
        """Throw the process away."""
        if self.process:
            self._throw_away(self.process)

    def _check(self) -> None:
        if self.violations:
            raise Violation(self.violations[0])

    def fail(self, text: str) -> None:
        """An invariant does not hold."""
        self.trace("VIOLATION", text)
        self.scheduler.halted = True
        self.violations.append(f"{self.scheduler.now:.0f} s: {text}")

    # The lives of the process

    def _start(self) -> None:
        if self.process is not None:
            return
        self.lives += 1
        self.trace("start", self.lives)
        self.process = Process(self)

    def _plan_stop(self, name: str, begin: float, end: float) -> None:
        if begin < 0 or end <= begin:
            return
        if name == "long stop":
            self.scheduler.at(begin, lambda: self._stop_for_long(end - begin))
        else:
            self.scheduler.at(begin, lambda: self._freeze(end - begin))

    def _stop_for_long(self, seconds: float) -> None:
        if self.process:
            self._end_life(self.process, "stopped", seconds)

    def _freeze(self, seconds: float) -> None:
        if self.process and not self.process.group.frozen:
            self.landmarks["machine is suspended"] += 1
            self.trace("suspended", seconds)
            self.process.group.frozen = True
            self.later(seconds, partial(self._thaw, self.process.group, seconds))

    def _thaw(self, group: Group, seconds: float) -> None:
        if group.frozen and not group.dead:
            self.clock.suspended += seconds * self.faults.random("machine is suspended").choice((0, 1))
            self.scheduler.thaw(group)

    def point(self, process: Process, kind: str) -> None:
        """The process calls a seam: something may happen to it."""
        now, faults = self.now, self.faults
        if self._calm:
            return
        if self.lives < MAX_LIVES:
            for name in ("kill", "power loss"):
                if random := faults.hits(name, now):
                    self._end_life(process, name, random.choice((1, 5, 60, 3600)) * random.random())
                    raise Killed
            if not process.stopping and faults.hits("SIGTERM", now):
                self.trace("SIGTERM")
                process.terminate()
        if process.app and faults.hits("SIGHUP", now):
            self.trace("SIGHUP")
            process.app.reload(self._changed_settings)
        if kind == "start" and process.app and faults.hits("no more threads", now):
            raise RuntimeError("can't start new thread")
        if kind != "wait" and process.app and faults.hits("undeclared exception", now):
            self.trace("undeclared exception at", kind)
            raise ZeroDivisionError("of the simulation")

    def _changed_settings(self) -> Any:
        random = self.faults.random("SIGHUP")
        jumpcloud = msgspec.structs.replace(self.settings.jumpcloud, page_limit=random.choice((2, 5, 100)))
        forward = msgspec.structs.replace(self.settings.forward, chunk_bytes=random.choice((2000, 100_000)))
        self.settings = msgspec.structs.replace(self.settings, jumpcloud=jumpcloud, forward=forward)
        return self.settings

    def _end_life(self, process: Process, how: str, pause: float) -> None:
        """End the process at once."""
        if process.ended:
            return
        self.trace(how)
        self.landmarks[f"ended: {how}"] += 1
        process.group.dead = True
        process.ended = True
        if any(process.unsettled.values()):
            self.landmarks["killed between ack and commit"] += 1

        def clean_up() -> None:
            left = self._snapshot
            if how != "power loss" or not left:
                left = self._copy("left")
            self._throw_away(process)  # closing a database changes its files, which the end of a process does not
            shutil.rmtree(self.folder)
            shutil.copytree(left, self.folder)

        self.later(0, clean_up)
        self.later(max(0.001, pause), self._start)

    def life_ended(self, process: Process, error: BaseException | None) -> None:
        """The main thread of the process has returned."""
        self.trace("end", type(error).__name__ if error else "")
        if isinstance(error, ConfigError):
            self.fail(f"the process ended for good: {error}")
        self.later(0, lambda: self._throw_away(process))
        self.later(5, self._start)

    def _task_failed(self, task: SimTask) -> None:
        process = self.process
        if process and task is process.main:
            process.ended = True
            if not isinstance(
                task.error, Stopped | ZeroDivisionError | RuntimeError | InJumpCloudError | sqlite3.Error
            ):
                self.fail(f"the process ended: {task.error!r}")
            self.life_ended(process, task.error)
        elif "undeclared exception" not in self.faults.on:
            self.fail(f"thread {task.name} ended: {task.error!r}")

    def _throw_away(self, process: Process) -> None:
        self.scheduler.end(process.group)
        if process.app:
            self._note_counters(process.app)
            process.app.resources.geo.close()
            process.app.resources.state._files.close()
        for connection in process.connections:
            sqlite3.Connection.close(connection)
        for receiver in self.receivers:
            for each in receiver.connections:
                each.open = False
        process.app = None
        if self.process is process:
            self.process = None

    def _note_counters(self, plugin: App) -> None:
        for collector in plugin.collectors:
            self.said["unavailable"] += bool(collector.counters.unavailable_seconds)
            self.said["given up"] += collector.counters.given_up_minutes

    # Safety

    def committed(self, connection: SimConnection) -> None:
        """A transaction is on disk: the positions must not have passed what was there and is not delivered."""
        self.trace("commit")
        if "power loss" in self.faults.on and not connection.is_synced:
            connection.is_synced = connection.rows("PRAGMA synchronous") == [(2,)]
            if not connection.is_synced and self._snapshot is None:
                self._snapshot = self._copy("snapshot")  # what comes later may be lost
        for name, text in connection.rows("SELECT name, position FROM stream"):
            position = json.loads(text)
            watermark = position["watermark_ms"]
            self._note_beginning(name.removeprefix("organization "), position)
            before = self._watermarks.get(name, position["origin_ms"])
            self._watermarks[name] = watermark
            if watermark > self.now_ms + 10_000 and not any(each.startswith("Date") for each in self.faults.on):
                self.fail(f"{name}: the position is {(watermark - self.now_ms) / 1000:.0f} s in the future")
            if watermark > before:
                self._moved_at = self.now
                self._check_passed(connection, name, position["origin_ms"], before, watermark)

    def _note_beginning(self, name: str, position: dict[str, Any]) -> None:
        """From when on a stream has promised its events: from the first commit, if the clock was right then.

        If it was wrong, and JumpCloud's dates too, nothing tells the true time.
        """
        self._first_ms.setdefault(name, self.now_ms - ORIGIN_MS + self.plan.start_ms)
        is_right = abs(self.clock.wall_ns() // 1_000_000 - self.now_ms) < MINUTE
        if name in self._begun_ms or (position.get("provisional") and not is_right):
            return
        begun_ms = self.now_ms - ORIGIN_MS + self.plan.start_ms
        if not is_right and any(each.startswith("Date") for each in self.faults.on):
            begun_ms = max(begun_ms, position["origin_ms"])
        self._begun_ms[name] = begun_ms

    def _copy(self, name: str) -> Path:
        """A copy of the state as it is on the disk now."""
        target = self.folder.with_name(name)
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(self.folder, target)
        return target

    def _check_passed(self, connection: SimConnection, name: str, origin: int, before: int, watermark: int) -> None:
        organization = self.api.organizations[name.removeprefix("organization ")]
        asked = organization.first_pages.get(watermark)
        if asked is None:
            if not self.faults.on.keys() & {"moving retention"} and self.plan.plan_ms > 6 * DAY:
                self.fail(f"{name}: the position is at {watermark}, the end of no window")
            return
        for event in organization.between(max(before, origin), watermark):
            if event.visible <= asked and event.hidden_until < asked and not self._has(event):
                self._note_letters(connection)
                if event.uid not in self.letters:
                    self.fail(f"{name}: the position passed {event.uid}, which was visible and is not acknowledged")
                    return

    def _has(self, event: Event) -> bool:
        return any(receiver.kept[event.uid] for receiver in self.receivers)

    def _note_letters(self, connection: SimConnection) -> None:
        letters = connection.rows("SELECT state, event FROM dead_letter")
        self.letters = {json.loads(raw)["uid"] for _, raw in letters}
        self.parked = {json.loads(raw)["uid"] for state, raw in letters if state == "suspect"}

    def check_health(self, process: Process, plugin: App) -> None:
        """Never ready while something is owed and nothing moves."""
        now_ms = self.now_ms
        settings = self.settings
        limit = settings.http.max_lag + settings.jumpcloud.lag + 2 * settings.jumpcloud.interval + 120
        since = max(self._moved_at, process.began - 1000)
        if self.now - since < limit or any(row.where == "clock" for row in self.faults.on.values()):
            return  # with a wrong clock the lag is wrong too
        for organization in self.organizations:
            for event in organization.between(self._start_ms(organization), now_ms - int(limit * 1000)):
                if event.visible < event.at + MINUTE and not self._has(event) and event.uid not in self.letters:
                    if event.visible + limit * 1000 > now_ms:
                        continue
                    self.landmarks["owed for long"] += 1
                    snapshot = take_snapshot(plugin, now_ms=process.runtime.now_ms(), began=process.began)
                    if not not_ready(snapshot) and not not_alive(snapshot):
                        self.fail(f"ready, but {event.uid} is owed since {now_ms - event.visible} ms")
                    return

    # The end

    def _check_end(self) -> None:
        process = self.process
        if process is None or process.app is None:
            self.fail("the process does not run")
            return
        self._note_letters(process.connections[-1])
        self._check_delivered()
        self._check_duplicates()
        if self.api.requests > MAX_REQUESTS:
            self.fail(f"{self.api.requests} requests")
        plugin = process.app
        self._note_counters(plugin)
        settings = self.settings.jumpcloud
        for collector in plugin.collectors:
            behind = (self.now_ms - collector.position.watermark_ms) / 1000 - settings.lag - settings.interval
            if behind < -120 - settings.interval:
                self.fail(f"{collector.stream.name}: the position is in the future")
            if behind > 120 + settings.interval * (5 if self.plan.is_overloaded else 1):
                self.fail(f"{collector.stream.name} is {behind:.0f} s behind: {collector.error}")
        snapshot = take_snapshot(plugin, now_ms=process.runtime.now_ms(), began=process.began)
        reasons = not_alive(snapshot) + not_ready(snapshot)
        if reasons and not self.plan.is_overloaded and self.plan.counts == "right":
            self.fail(f"not ready: {reasons[0]}")
        if "undeclared exception" not in self.faults.on and any(each.counters.unexpected for each in plugin.collectors):
            self.fail("an unexpected exception")

    def _promised(self, organization: Organization, event: Event) -> bool:
        start_ms = self._start_ms(organization)
        if event.at < start_ms:
            return False
        episodes = [(self.plan.seconds + self.plan.calm, self.plan.plan_ms)]
        episodes += [(end, min(DAY, self.plan.plan_ms)) for _, end in self._short_plans]
        # What the plan no longer reached at some time need not be there, but was said.
        out_of_plan = any(event.at < ORIGIN_MS + end * 1000 - plan_ms + 2 * HOUR for end, plan_ms in episodes)
        is_late = event.hidden_until or event.visible > event.at + MINUTE
        if out_of_plan and (self.said["unavailable"] or is_late):
            return False
        # Counts that are wrong but possible hide what is late, until they are right again.
        out_of_reach = event.at < ORIGIN_MS + self.plan.seconds * 1000 - self.settings.reconcile.reach.ms + 2 * HOUR
        if is_late and self.plan.counts != "right":  # all is read again every six hours, if that is known to be wrong
            if len(organization.events) < 30:
                return False
            return max(event.visible, event.hidden_until) < event.at + 12 * HOUR and not out_of_reach
        return not (is_late and out_of_reach and self.faults.excused("counts"))

    def _start_ms(self, organization: Organization) -> int:
        """From when on events are promised: as long before the first commit as the settings say."""
        return self._begun_ms.get(organization.name, self._first_ms.get(organization.name, self.now_ms))

    def _check_delivered(self) -> None:
        for organization in self.organizations:
            for event in organization.events:
                if self._promised(organization, event) and not self._has(event) and event.uid not in self.letters:
                    late = (event.visible - event.at) / 1000
                    counted = (event.counted - event.visible) / 1000
                    self.fail(f"{event.uid} at {event.at} is lost: {late:.0f} s late, counted {counted:.0f} s after")
                    return
        if self.parked:
            self.fail(f"parked: {sorted(self.parked)}")
        wrong = self.letters - (self.plan.poison if "refuses one record" in self.faults.on else set())
        if wrong and "closes after reading" not in self.faults.on:
            self.fail(f"dead letters: {sorted(wrong)[:5]}")

    def _check_duplicates(self) -> None:
        settled: Counter[str] = Counter()
        for receiver in self.receivers:
            for delivery in receiver.deliveries:
                if delivery.settled:
                    settled.update(delivery.uids)
                elif not self.faults.excused("resend"):
                    self.fail(f"{delivery.uids[0]} was sent again without a reason")
                    return
        for uid, count in settled.items():
            if count > 1:
                self.fail(f"{uid} was acknowledged and committed {count} times")
                return


@contextlib.contextmanager
def quiet(handler: logging.Handler | None = None) -> Iterator[None]:
    """The log of the program goes to `handler` only."""
    log = logging.getLogger("in_jumpcloud")
    before = log.level, log.propagate, log.handlers[:]
    log.handlers[:] = [handler or logging.NullHandler()]
    log.propagate = False
    log.setLevel(logging.INFO if handler else logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before[0])
        log.propagate = before[1]
        log.handlers[:] = before[2]
