"""The contenders: how each is run, with all events and with none, and what it costs."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from bench import fluent_bit
from bench.processes import (
    COMMAND,
    KEY,
    ROOT,
    Cost,
    Failed,
    Helper,
    acknowledged,
    cpu_seconds,
    measured,
    plugin,
    write_events,
)


class Run(NamedTuple):
    """One run of a contender. `other_cpu`: CPU seconds of the Fluent Bit that receives from it."""

    all: Cost
    none: Cost
    other_cpu: float = 0.0


class Field:
    """What all contenders share: the events, and the API and receiver processes, which stop with `stack`."""

    def __init__(self, directory: Path, events: int, stack: ExitStack) -> None:
        self._directory = directory
        self._events = events
        self._stack = stack
        self.path = write_events(directory, events)
        self.api = self._serve(self.path)
        self.receiver = stack.enter_context(Helper("receiver"))
        self._tail_checked = False

    def plugin(self) -> Run:
        """The plugin, with the receiver that only acknowledges."""
        return self._both(self.api)

    def unlike(self) -> Run:
        """The same with events of which no two are alike."""
        return self._both(self._api_unlike)

    def script(self) -> Run:
        """The plain script."""
        return Run(self._script(self.api, self._events), self._script(f"{self.api}/empty", 0))

    def floor(self) -> Run:
        """Only decoding and packing."""
        command = [sys.executable, "-m", "bench.floor", self.path]
        with self._fresh() as directory:
            cost = measured(command, directory)
            packed = int((directory / "log").read_text())
            self._check_count("floor", packed, self._events)
            return Run(cost, measured([*command, "--empty"], directory))

    def fluent_bit(self) -> Run:
        """The plugin, with a real Fluent Bit as the receiver."""
        with self._fresh() as directory, fluent_bit.Receiver(directory) as receiver:
            before = cpu_seconds(receiver.pid)
            cost = self._run_plugin(self.api, receiver.port, self._events)
            other = cpu_seconds(receiver.pid) - before
            return Run(cost, self._run_plugin(f"{self.api}/empty", receiver.port, 0), other)

    def tail(self) -> Run:
        """Fluent Bit alone, from a file."""
        with self._fresh() as directory:
            if not self._tail_checked:
                measured(fluent_bit.tail(directory, self.path, keep=True), directory)
                with (directory / "kept").open("rb") as kept:
                    self._check_count("tail", sum(b'"ecs"' in line for line in kept), self._events)
                self._tail_checked = True
            cost = measured(fluent_bit.tail(directory, self.path), directory)
            nothing = directory / "nothing"
            nothing.write_bytes(b"\n")
            return Run(cost, measured(fluent_bit.tail(directory, nothing), directory))

    @cached_property
    def _api_unlike(self) -> str:
        return self._serve(write_events(self._directory, self._events, unlike=True))

    def _serve(self, events: Path) -> str:
        return f"http://127.0.0.1:{self._stack.enter_context(Helper('api', events)).port}"

    def _both(self, url: str) -> Run:
        return Run(self._plugin(url, self._events), self._plugin(f"{url}/empty", 0))

    def _plugin(self, url: str, expected: int) -> Cost:
        cost = self._run_plugin(url, self.receiver.port, expected)
        self.check("plugin", expected)
        return cost

    def _run_plugin(self, url: str, port: int, expected: int) -> Cost:
        with self._fresh() as directory:
            cost = measured([COMMAND, *plugin(url, port, directory, "--once")], directory)
            self._check_count("plugin", acknowledged(directory / "state.db"), expected)
            return cost

    def _script(self, url: str, expected: int) -> Cost:
        command = [sys.executable, ROOT / "tests" / "bench" / "plain_script.py", "--url", url, "--key", KEY]
        with self._fresh() as directory:
            cost = measured([*command, "--city", fluent_bit.CITY, "--port", self.receiver.port], directory)
        self.check("script", expected)
        return cost

    def check(self, name: str, expected: int) -> None:
        """Check that the receiver got `expected` events.

        Raises:
            Failed: it got another number.
        """
        self._check_count(name, self.receiver.ask(expected), expected)

    @staticmethod
    def _check_count(name: str, arrived: int, expected: int) -> None:
        if arrived != expected:
            raise Failed(f"{name}: {arrived} events arrived, expected {expected}")

    @contextmanager
    def _fresh(self) -> Iterator[Path]:
        directory = Path(tempfile.mkdtemp(dir=self._directory))
        yield directory
        shutil.rmtree(directory)


CONTENDERS: dict[str, Callable[[Field], Run]] = {
    "plugin": Field.plugin,
    "unlike": Field.unlike,
    "script": Field.script,
    "floor": Field.floor,
    "fluent-bit": Field.fluent_bit,
    "tail": Field.tail,
}
NEED_FLUENT_BIT = ("fluent-bit", "tail")


@contextmanager
def field(directory: Path, events: int) -> Iterator[Field]:
    """Make the events, and start the API and the receiver."""
    with ExitStack() as stack:
        yield Field(directory, events, stack)


def interleaved(field: Field, names: list[str], runs: int, report: Callable[[str, Run], Any]) -> dict[str, list[Run]]:
    """Run them in turn, `runs` times, so that other load on the machine affects all of them."""
    results: dict[str, list[Run]] = {name: [] for name in names}
    for _ in range(runs):
        for name in names:
            run = CONTENDERS[name](field)
            results[name].append(run)
            report(name, run)
    return results
