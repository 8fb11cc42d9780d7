"""Runs seeds, and shrinks one that fails."""

from __future__ import annotations

import logging
import re
import tempfile
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from simulation.scheduler import Stuck
from simulation.world import Violation, World, quiet

from in_jumpcloud import app, backfill, resources

_SHM = Path("/dev/shm")  # noqa: S108 - it is not written by name
MEMORY = _SHM if _SHM.is_dir() else None
"""A folder in memory; None: there is none."""


@dataclass
class Result:
    """What became of one seed."""

    seed: int
    hash: str
    failure: str | None
    landmarks: Counter[str]
    faults: tuple[str, ...]
    lines: list[str] = field(default_factory=list)
    events: int = 0
    requests: int = 0

    @property
    def kind(self) -> str:
        """The failure without times, names and numbers."""
        return re.sub(r"[\d.:\[\]']+|org\S*", "", self.failure or "")


class _Lines(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record) if record.exc_info else record.getMessage()
        self._world.lines.append(f"{self._world.scheduler.now:.3f} LOG {record.levelname} {text}")


def run_seed(seed: int, without: Collection[str] = (), *, keep_trace: bool = False) -> Result:
    """Run one seed, without some of its faults."""
    with tempfile.TemporaryDirectory(prefix="simulation-", dir=MEMORY) as name:
        world = World(seed, without, Path(name), keep_trace=keep_trace)
        failure = None
        seconds = world.settings.jumpcloud.interval / 2  # what only looks is seldom needed, and costs much of a run
        with (
            quiet(_Lines(world) if keep_trace else None),
            patch.object(app, "_TICK_SECONDS", seconds),
            patch.object(backfill, "LOOK_SECONDS", seconds),
            patch.object(resources, "_WATCH_STATE_SECONDS", seconds),
        ):
            try:
                world.run()
            except (Violation, Stuck) as error:
                failure = str(error)
            finally:
                world.close()
    events = sum(len(each.events) for each in world.organizations)
    return Result(
        seed, world.hash, failure, world.landmarks, tuple(world.faults.on), world.lines, events, world.api.requests
    )


def shrink(seed: int) -> tuple[Result, list[str]]:
    """Take away faults one at a time, as long as the seed still fails."""
    without: list[str] = []
    whole = run_seed(seed)
    for name in whole.faults:
        if run_seed(seed, [*without, name]).kind == whole.kind:
            without.append(name)
    return run_seed(seed, without, keep_trace=True), without
