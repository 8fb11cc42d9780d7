"""The simulated machine: its clocks, and one life of the process on it."""

from __future__ import annotations

from contextlib import ExitStack
from random import Random
from typing import TYPE_CHECKING, Any

from simulation.faults import Faults
from simulation.plan import ORIGIN_MS
from simulation.receiver import Delivery
from simulation.runtime import SimRuntime
from simulation.scheduler import Group, Killed, Scheduler, SimTask
from simulation.seams import SimConnection, SimExchange, SimNetwork, connect_factory

from in_jumpcloud.app import App, open_app
from in_jumpcloud.insights.window import Position
from in_jumpcloud.resources import Outside
from in_jumpcloud.retry import Retry
from in_jumpcloud.state.store import StateStore
from in_jumpcloud.troubles import Troubles

if TYPE_CHECKING:
    from simulation.world import World


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
        offset = 0.0
        for name, step in self._steps:
            if faults.acts(name, now):
                offset += step
                faults.landmarks[name] += 1
        if faults.acts("clock drifts", now):
            begin = min(begin for begin, end in faults.episodes("clock drifts") if begin <= now < end)
            offset += (now - begin) * 0.01
            faults.landmarks["clock drifts"] += 1
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
        self._check_at = 0.0
        self.main = world.scheduler.start(self._main, "main", self.group)

    def sleep(self, seconds: float) -> None:
        """Wait, as a part of a call to the world."""
        self.world.scheduler.wait(seconds)

    def point(self, kind: str) -> None:
        """A call of a seam: the process may end here, or be asked to."""
        if self.group.dead:
            raise Killed
        self.world.scheduler.note_call()
        self.world.point(self, kind)

    def committed(self, connection: SimConnection, *, has_keys: bool) -> None:
        """A transaction is on disk, with keys of acknowledged events or without."""
        if has_keys:
            self.world.judge.note_progress()
            for delivery in self.unsettled.pop(self.world.scheduler.current, ()):
                delivery.settled = True
                self.world.trace("settled", *delivery.uids)
        self.world.committed(connection)

    def terminate(self) -> None:
        """SIGTERM."""
        self.stopping = True
        if self.app:
            self.app.end()

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
            self._watch_positions(plugin.resources.state)
            world.judge.note_progress()
            if self.stopping:
                plugin.end()
            error = plugin.run(lambda: self._tick(plugin))
            if error:
                raise error
        self.ended = True
        world.life_ended(self, None)

    def _watch_positions(self, state: StateStore) -> None:
        """Show the judge the positions that need not be on disk at once."""
        advance = state.advance

        def advanced(stream: str, position: Position, **options: Any) -> None:
            try:
                advance(stream, position, **options)
            finally:  # it is noted also where the disk cannot be written
                self.world.judge.advanced(self, stream, position)

        vars(state)["advance"] = advanced

    def _tick(self, plugin: App) -> float:
        if self.world.now >= self._check_at:
            self._check_at = self.world.now + self.world.settings.jumpcloud.interval / 2
            self.world.judge.check_health(self, plugin)
        return min(plugin.resources.retry(), self._check_at - self.world.now)
