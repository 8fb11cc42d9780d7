"""One run: the process and its lives, the world around it, and what must hold."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from simulation import plan
from simulation.faults import Faults
from simulation.judge import Judge
from simulation.jumpcloud import JumpCloud
from simulation.machine import MachineClock, Process
from simulation.plan import HOUR, ORIGIN_MS
from simulation.receiver import Receiver
from simulation.scheduler import Group, Killed, Scheduler, SimTask
from simulation.seams import SimConnection

from in_jumpcloud.errors import ConfigError, InJumpCloudError, StateUnavailable, Stopped
from in_jumpcloud.state.jobs import Jobs, JobSpec
from in_jumpcloud.state.sqlite.database import SqliteDatabase
from in_jumpcloud.state.sqlite.ledger import SqliteLedger
from in_jumpcloud.state.sqlite.schema import Identity
from in_jumpcloud.state.sqlite.store import SqliteStore

MAX_LIVES = 12


class Violation(Exception):
    """An invariant does not hold."""


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
        servers = self.settings.forward.servers
        self.receivers = [Receiver(str(each.host), self.faults, self.later) for each in servers]
        for receiver in self.receivers:
            receiver.poison = self.plan.poison
            receiver.on_take = lambda delivery: self.trace("taken", *delivery.uids)
        self.lives = 0
        self.process: Process | None = None
        self.violations: list[str] = []
        self.landmarks = self.faults.landmarks
        self._keep_trace = keep_trace
        self.lines: list[str] = []
        self._hash = hashlib.blake2b(digest_size=8)
        self._snapshot: Path | None = None
        """The disk after a power loss, if that differs from what was committed."""
        self._calm = False
        self.judge = Judge(self)

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
        for name in ("machine is suspended", "long stop", "state file is missing"):
            for begin, end in self.faults.episodes(name):
                self._plan_stop(name, begin, min(end, self.plan.seconds))
        for begin, _ in self.faults.episodes("backfill"):
            self.scheduler.at(max(1.0, begin), self._begin_backfill)
        self.scheduler.run(self.plan.seconds)
        self._check()
        self.faults.stop()
        self._calm = True
        self.trace("all faults end")
        if self.process:
            self._thaw(self.process.group, 0)
            if self.settings != self.plan.settings:
                self.process.terminate()
        self.settings = self.plan.settings
        self.scheduler.run(self.plan.seconds + self.plan.calm)
        self._check()
        self.judge.check_end()
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
        self._bring_state_back()
        self.lives += 1
        self.trace("start", self.lives)
        if "settings change" in self.faults.on and not self._calm:
            self.landmarks["settings change"] += 1
            self.settings = plan.vary(self.plan.settings, self.faults.random("settings change"))
        self.process = Process(self)

    def _plan_stop(self, name: str, begin: float, end: float) -> None:
        if begin < 0 or end <= begin:
            return
        if name == "long stop":
            self.scheduler.at(begin, lambda: self._stop_for_long(end - begin))
        elif name == "machine is suspended":
            self.scheduler.at(begin, lambda: self._freeze(end - begin))
        else:
            self.scheduler.at(begin, lambda: self._take_state_away(end - begin))

    def _begin_backfill(self) -> None:
        """As the command does, in another process: again later, while there is no state, or it is in use."""
        path, random = self.settings.state.path, self.faults.random("backfill")
        self.faults.now = self.scheduler.now
        try:
            with self._jobs() as jobs:
                since = self.now_ms - int(24 * HOUR * random.random())
                until = min(self.now_ms, since + random.choice((1, 4, 24)) * HOUR)
                streams = [f"organization {each}" for each in self.settings.jumpcloud.organizations]
                number = jobs.create(streams, JobSpec(since, until, ("all",), again=False), self.now_ms)
        except InJumpCloudError:
            if not self._calm:
                self.later(60, self._begin_backfill)
            return
        self.trace("backfill", number, path.name)
        self.landmarks["backfill"] += 1
        if random.random() < 0.2:
            self.later(600 * random.random(), partial(self._cancel_backfill, number))

    def _cancel_backfill(self, number: int) -> None:
        self.trace("backfill is cancelled", number)
        with contextlib.suppress(InJumpCloudError), self._jobs() as jobs:
            jobs.cancel(number, self.now_ms)

    @contextlib.contextmanager
    def _jobs(self) -> Iterator[Jobs]:
        """The backfills in the state, over a connection of another process.

        Raises:
            StateUnavailable, StateCorrupt: there is no state yet, or it is in use.
        """
        path = self.settings.state.path
        if not path.exists():
            raise StateUnavailable("there is no state")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
            database = SqliteDatabase(path, connection, Identity("", None), is_new=False)
            yield Jobs(database, SqliteLedger(database))

    def _stop_for_long(self, seconds: float) -> None:
        if self.process:
            self._end_life(self.process, "long stop", seconds)

    def _take_state_away(self, seconds: float) -> None:
        path, away = self.settings.state.path, self.folder.with_name("away.db")
        is_used = self.process is not None and self.process.app is not None  # a start would make another one
        if not is_used or not path.exists() or away.exists():
            return
        self.landmarks["state file is missing"] += 1
        self.trace("state file is missing")
        path.rename(away)

        self.later(seconds, self._bring_state_back)

    def _bring_state_back(self) -> None:
        """Before a start at the latest: a state that was moved away is begun again."""
        away = self.folder.with_name("away.db")
        if away.exists():
            self.trace("state file is back")
            away.rename(self.settings.state.path)

    def _freeze(self, seconds: float) -> None:
        if self.process and not self.process.group.frozen:
            self.landmarks["machine is suspended"] += 1
            self.trace("suspended", seconds)
            self.process.group.frozen = True
            self.later(seconds, partial(self._thaw, self.process.group, seconds))

    def _thaw(self, group: Group, seconds: float) -> None:
        if group.frozen and not group.dead:
            self.clock.suspended += seconds * self.faults.random("machine is suspended").choice((0, 1))
            self.judge.note_progress()
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
        if self.process and self.process.app:
            self.judge.note_counters(self.process.app)  # a reload starts the streams again
            self.judge.note_progress()
        self.settings = plan.vary(self.plan.settings, self.faults.random("SIGHUP"))
        return self.settings

    def _end_life(self, process: Process, how: str, pause: float) -> None:
        """End the process at once."""
        if process.ended:
            return
        self.trace(how)
        self.landmarks[how] += 1
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
        self.later(60 if error else 5, self._start)

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
        self.judge.forget_memory()
        if process.app:
            self.judge.note_counters(process.app)
            process.app.resources.geo.close()
            state = process.app.resources.state
            assert isinstance(state, SqliteStore)
            state._files.close()
        for connection in process.connections:
            sqlite3.Connection.close(connection)
        for receiver in self.receivers:
            for each in receiver.connections:
                each.open = False
        process.app = None
        if self.process is process:
            self.process = None

    def committed(self, connection: SimConnection) -> None:
        """A transaction is on disk."""
        self.trace("commit")
        if "power loss" in self.faults.on and not connection.is_synced:
            connection.is_synced = connection.rows("PRAGMA synchronous") == [(2,)]
            if not connection.is_synced and self._snapshot is None:
                self._snapshot = self._copy("snapshot")  # what comes later may be lost
        self.judge.committed(connection)

    def _copy(self, name: str) -> Path:
        """A copy of the state as it is on the disk now."""
        target = self.folder.with_name(name)
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(self.folder, target)
        return target


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
