"""The contenders: how each is run, with all events and with none, and what it costs."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench import fluent_bit
from bench.processes import (
    HERE,
    KEY,
    ROOT,
    Cost,
    Failed,
    Helper,
    Version,
    acknowledged,
    cpu_seconds,
    install,
    measured,
    plugin,
    write_events,
)
from support.certificates import Certificates

_NOTHING = Cost(0.0, 0.0, 0)


class Run(NamedTuple):
    """One run of a contender. `other_cpu`: CPU seconds of the Fluent Bit that receives from it."""

    all: Cost
    none: Cost
    other_cpu: float = 0.0


class Served(NamedTuple):
    """An API over TLS: its address, the file of its authority, and its process."""

    url: str
    ca_file: Path
    process: Helper


def serve(directory: Path, events: Path, stack: ExitStack, *options: object) -> Served:
    """Start an API that serves `events` over TLS and stops with `stack`; `options` are those of bench.api."""
    certificates = Certificates(directory / "certificates")
    pair = certificates.issue("localhost")
    both = directory / "certificates" / "both.pem"
    both.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    process = stack.enter_context(Helper("api", events, "--certificate", both, *options))
    return Served(f"https://localhost:{process.port}", certificates.ca_file, process)


class Field:
    """What all contenders share: the events, and the API and receiver processes, which stop with `stack`."""

    def __init__(self, directory: Path, events: int, against: str | None, stack: ExitStack) -> None:
        self._directory = directory
        self._events = events
        self.before = install(against, directory) if against else None
        self.path = write_events(directory, events)
        self.api = serve(directory, self.path, stack)
        self.receiver = stack.enter_context(Helper("receiver"))
        self._tail_checked = False

    def plugin(self, version: Version = HERE) -> Run:
        """The plugin, with the receiver that only acknowledges."""
        return Run(self._plugin(version, "", self._events), self._plugin(version, "/empty", 0))

    def mapping(self, version: Version = HERE) -> Run:
        """Only splitting pages, and identifying, mapping and packing events."""
        return self._alone("mapping", version)

    def plugin_before(self) -> Run:
        """The plugin of the commit to compare with."""
        return self.plugin(self._required())

    def mapping_before(self) -> Run:
        """The mapping of that commit."""
        return self.mapping(self._required())

    def same_record(self) -> Run:
        """The script with the plugin's mapper."""
        return Run(self._same_record("", self._events), self._same_record("/empty", 0))

    def script(self) -> Run:
        """The plain script."""
        return Run(self._script("", self._events), self._script("/empty", 0))

    def floor(self) -> Run:
        """Only decoding events and packing their records."""
        return self._alone("floor", HERE)

    def fluent_bit(self) -> Run:
        """The plugin, with a real Fluent Bit as the receiver."""
        with self._fresh() as directory, fluent_bit.Receiver(directory) as receiver:
            before = cpu_seconds(receiver.pid)
            cost = self._run_plugin(HERE, "", receiver.port, self._events)
            other = cpu_seconds(receiver.pid) - before
            return Run(cost, self._run_plugin(HERE, "/empty", receiver.port, 0), other)

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

    def _required(self) -> Version:
        if self.before is None:
            raise Failed("a comparison with another commit needs --against COMMIT")
        return self.before

    def _alone(self, module: str, version: Version) -> Run:
        """A module that measures itself."""
        with self._fresh() as directory:
            cost = measured([version.python, "-m", f"bench.{module}", self.path], directory)
            result = json.loads((directory / "log").read_text())
            self._check_count(module, result["records"], self._events)
            return Run(cost._replace(cpu=result["cpu"], wall=result["cpu"]), _NOTHING)

    def _plugin(self, version: Version, below: str, expected: int) -> Cost:
        cost = self._run_plugin(version, below, self.receiver.port, expected)
        self.check("plugin", expected)
        return cost

    def _run_plugin(self, version: Version, below: str, port: int, expected: int) -> Cost:
        with self._fresh() as directory:
            options = plugin(
                *(self.api.url + below, port, directory, "--once"),
                version=version,
                jumpcloud__ca_file=str(self.api.ca_file),
            )
            cost = measured([version.command, *options], directory)
            self._check_count("plugin", acknowledged(directory / "state.db"), expected)
            return cost

    def stages(self, result: Path) -> None:
        """Run the plugin with its stages timed; `result` gets the seconds, see bench.stages."""
        with self._fresh() as directory:
            options = plugin(
                *(self.api.url, self.receiver.port, directory, "--once"), jumpcloud__ca_file=str(self.api.ca_file)
            )
            measured([sys.executable, "-m", "bench.stages", result, *options], directory)
        self.check("stages", self._events)

    def _same_record(self, below: str, expected: int) -> Cost:
        return self._run_script("mapped_script", below, expected)

    def _script(self, below: str, expected: int) -> Cost:
        return self._run_script("plain_script", below, expected, "--city", fluent_bit.CITY)

    def _run_script(self, name: str, below: str, expected: int, *options: object) -> Cost:
        script = ROOT / "tests" / "bench" / f"{name}.py"
        command = [sys.executable, script, "--url", self.api.url + below, "--key", KEY, "--ca", self.api.ca_file]
        with self._fresh() as directory:
            cost = measured([*command, "--port", self.receiver.port, *options], directory)
        self.check(name, expected)
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
    "before": Field.plugin_before,
    "same-record": Field.same_record,
    "mapping": Field.mapping,
    "mapping-before": Field.mapping_before,
    "script": Field.script,
    "floor": Field.floor,
    "fluent-bit": Field.fluent_bit,
    "tail": Field.tail,
}
NEED_FLUENT_BIT = ("fluent-bit", "tail")
NEED_COMMIT = ("before", "mapping-before")


@contextmanager
def field(directory: Path, events: int, against: str | None) -> Iterator[Field]:
    """Make the events, start the API and the receiver, and install the commit to compare with, if any."""
    with ExitStack() as stack:
        yield Field(directory, events, against, stack)


def interleaved(field: Field, names: list[str], runs: int, report: Callable[[str, Run], Any]) -> dict[str, list[Run]]:
    """Run them in turn, `runs` times, so that other load on the machine affects all of them."""
    results: dict[str, list[Run]] = {name: [] for name in names}
    for _ in range(runs):
        for name in names:
            run = CONTENDERS[name](field)
            results[name].append(run)
            report(name, run)
    return results
