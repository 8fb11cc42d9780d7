"""Each call to something outside of the delivery raises once, each in turn: nothing is lost, and all recovers."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from greenlet import getcurrent
from simulation.faults import NAMES, TABLE
from simulation.run import MEMORY
from simulation.world import Violation, World, quiet

from in_jumpcloud import app
from in_jumpcloud.ecs.encoder import RecordEncoder
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.errors import InJumpCloudError, ReceiverDown, Retryable, StateUnavailable
from in_jumpcloud.forward.failover import Failover
from in_jumpcloud.insights.api import DirectoryInsights
from in_jumpcloud.insights.clock import EarlierClock
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.state.dead_letters import DeadLetters
from in_jumpcloud.state.reader import StateReader
from in_jumpcloud.state.sqlite.store import SqliteStore
from in_jumpcloud.state.store import StateStore

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # a run that fails closes nothing
    pytest.mark.timeout(900),  # a hundred runs for one class
]

SEED = 25
"""A short run with two organizations, several pages a window, and late events."""
DECLARED: dict[type[Any], Callable[[], InJumpCloudError]] = {
    StateStore: lambda: StateUnavailable("of the test"),
    SqliteStore: lambda: StateUnavailable("of the test"),
    StateReader: lambda: StateUnavailable("of the test"),
    DirectoryInsights: lambda: Retryable("of the test"),
    Failover: lambda: ReceiverDown("of the test"),
}
OUTSIDE = (
    *(StateStore, SqliteStore, StateReader, DeadLetters),
    *(DirectoryInsights, Failover, RecordEncoder, GeoIPLookup, EarlierClock),
)
NOT_CALLS = {"close"}
"""A process that ends: the kills of the simulation are about that."""


def methods(of: type[Any]) -> list[str]:
    """The public methods that a class defines."""
    return [
        name
        for name, value in vars(of).items()
        if callable(value) and not name.startswith("_") and name not in NOT_CALLS and not isinstance(value, type)
    ]


@contextmanager
def trap(of: type[Any], name: str, at: int, error: Callable[[], Exception]) -> Iterator[list[int]]:
    """Call number `at` of a method raises; yields a list with the number of calls."""
    original, calls = getattr(of, name), [0]

    def trapped(*arguments: Any, **options: Any) -> Any:
        calls[0] += getcurrent().parent is not None  # a call of the process, and not of its judge
        if calls[0] == at and getcurrent().parent is not None:
            raise error()
        return original(*arguments, **options)

    with patch.object(of, name, trapped):
        yield calls


def run(*, is_trapped: bool) -> str | None:
    """A run without faults of the world; why it fails, if it does."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, ExitStack() as stack:
        world = World(SEED, NAMES, Path(folder), keep_trace=False)
        if is_trapped:
            world.faults.on["undeclared exception"] = next(row for row in TABLE if row.name == "undeclared exception")
        stack.enter_context(quiet())
        stack.enter_context(patch.object(app, "_TICK_SECONDS", world.settings.jumpcloud.interval / 2))
        stack.callback(world.close)
        try:
            world.run()
        except Violation as error:
            return str(error)
    return None


@pytest.mark.parametrize("of", [*OUTSIDE, RateLimiter], ids=lambda of: of.__name__)
def test_a_call_that_raises(of: type[Any]) -> None:
    """The first call of each method, one in the middle and one near the end raise once: a declared error or another."""
    failures = []
    errors: list[Callable[[], Exception]] = [ZeroDivisionError, *filter(None, [DECLARED.get(of)])]
    with ExitStack() as stack:
        counts = {name: stack.enter_context(trap(of, name, 0, AssertionError)) for name in methods(of)}
        assert run(is_trapped=False) is None
    called = Counter({name: calls[0] for name, calls in counts.items() if calls[0]})
    for name, total in called.items():
        for at in sorted({1, total // 2 + 1, total - total // 10}):
            for error in errors:
                with trap(of, name, at, error):
                    failure = run(is_trapped=True)
                if failure:
                    failures.append(
                        f"{of.__name__}.{name}, call {at} of {total}, {error().__class__.__name__}: {failure}"
                    )
    assert not failures, "\n".join(failures)
