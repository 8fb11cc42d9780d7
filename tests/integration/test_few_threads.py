"""A system that has no more threads for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.monitoring import settings_of

from in_jumpcloud import app
from in_jumpcloud.runtime import Runtime, Task
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms


class NoThreads(Runtime):
    """Starts no thread while `full`."""

    full = True

    def start(self, target: Callable[[], None], *, name: str) -> Task:
        """Fail as the system does."""
        if self.full:
            raise RuntimeError("can't start new thread")
        return super().start(target, name=name)


@pytest.fixture
def api() -> Iterator[SimulatedApi]:
    """JumpCloud with about sixty events."""
    end_ms = now_ms() - 10 * MINUTE_MS
    with SimulatedApi(EventSource(start_ms=end_ms - MINUTE_MS, end_ms=end_ms, per_minute=60)) as api:
        yield api


def test_workers_start_later(api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """It is a trouble, and the workers start once they can."""
    runtime = NoThreads()
    with app.open_app(settings_of(api.url, tmp_path, receiver.port), runtime=runtime) as plugin:
        seen: list[str] = []
        (source,) = api.sources.values()
        total = source.count(0, now_ms(), now_ms=now_ms())

        def on_tick() -> float:
            troubles = plugin.resources.troubles.current()
            if runtime.full:
                seen.extend(map(str, troubles))
                runtime.full = False
            elif len(receiver.ids) == total:
                assert not troubles
                plugin.end()
            return 0.05

        assert plugin.run(on_tick) is None
    (trouble,) = seen
    assert trouble.startswith("worker threads: can't start new thread; raise the limit of threads")
