"""Organizations that join and leave, by the thousand; with the installed command.

    make discovery-trial
    make discovery-trial OPTIONS='--first 50 --many 500 --leave 30 --every 5 --interval 5'

There are 200 organizations, then 10,000; 300 leave; the list is empty for a while; then it is refused. Who is new must
be polled within two lists and an interval, who leaves must be polled no more after two lists without them, and an empty
list and a refusal must change nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.command import Command
from support.fluent_bit import free_port

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms


class Failed(Exception):
    """A mark was not reached."""


class _Polled(dict[str, Any]):
    """The sources of the API, which note when each organization was last asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.at: dict[str, float] = {}

    def __getitem__(self, name: str) -> Any:
        self.at[name] = time.monotonic()
        return super().__getitem__(name)


class Trial:
    """One run of the plugin."""

    def __init__(self, arguments: argparse.Namespace, directory: Path) -> None:
        self.arguments = arguments
        self.directory = directory
        self.sources = _Polled()
        self.port = free_port()

    def run(self) -> None:
        """Go through all of it.

        Raises:
            Failed: a mark was not reached.
        """
        wanted, within = self.arguments, 2 * self.arguments.every + self.arguments.interval + self.arguments.slack
        self._add(0, wanted.first)
        api = SimulatedApi(self.sources)
        api.sources = self.sources
        command = Command(self.directory)
        with api, SimulatedReceiver(keep=False) as receiver:
            settings = command.settings(
                *(api, receiver),
                jumpcloud__organizations="all",
                jumpcloud__discover={"every": f"{wanted.every}s"},
                jumpcloud__interval=f"{wanted.interval}s",
                jumpcloud__start="10m",
                jumpcloud__requests_per_second=2000,
                http__listen=f"127.0.0.1:{self.port}",
            )
            process = command.start("run", *settings)
            try:
                self._wait("the first are not polled", within, lambda: len(self.sources.at) >= wanted.first)
                self._add(wanted.first, wanted.many)
                took = self._wait("the new ones are not polled", within, lambda: len(self.sources.at) >= wanted.many)
                _print(f"{wanted.many - wanted.first} joined: all polled after {took:.1f} s, at most {within:g}")

                gone = list(self.sources)[: wanted.leave]
                for name in gone:
                    del self.sources[name]
                left = wanted.many - wanted.leave
                took = self._wait("they do not leave", within, lambda: self._streams() == left)
                asked = {name: self.sources.at[name] for name in gone}
                time.sleep(2 * wanted.interval)
                if {name: self.sources.at[name] for name in gone} != asked:
                    raise Failed("an organization that left is polled")
                _print(f"{wanted.leave} left: ended after {took:.1f} s, at most {within:g}")

                held = dict(self.sources)
                self.sources.clear()
                time.sleep(3 * wanted.every)
                self._expect(left, "after empty lists")
                self.sources.update(held)
                api.faults.always(Fault("status", status=403, path="/api/organizations"))
                self._wait("the refusal is not said", within, lambda: len(self._refusals(command)) > 0)
                time.sleep(3 * wanted.every)
                self._expect(left, "after refusals")
                lines = self._refusals(command)
                if len(lines) != 1:
                    raise Failed(f"{len(lines)} lines about the refusal")
                _print(f"empty lists and refusals: {left} streams, as before; {lines[0]}")
            finally:
                process.terminate()
                process.wait()

    @staticmethod
    def _refusals(command: Command) -> list[str]:
        return [
            line for line in command.log.read_text().splitlines() if "organizations: JumpCloud answered 403" in line
        ]

    def _add(self, first: int, end: int) -> None:
        start_ms = now_ms() - 10 * MINUTE_MS
        for number in range(first, end):
            name = f"5f{number:022x}"
            self.sources[name] = EventSource(start_ms=start_ms, per_minute=0, organization=name)

    def _streams(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status.json") as answer:
            return sum(json.loads(answer.read())["states"].values())

    def _expect(self, streams: int, when: str) -> None:
        if self._streams() != streams:
            raise Failed(f"{self._streams()} streams {when}, not {streams}")

    @staticmethod
    def _wait(what: str, seconds: float, condition: Callable[[], bool]) -> float:
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > seconds:
                raise Failed(f"{what} after {seconds:g} s")
            time.sleep(0.2)
        return time.monotonic() - began


def main() -> int:
    """Print what was seen; 1 if a mark was not reached."""
    parser = argparse.ArgumentParser(prog="discovery_trial", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--first", type=int, default=200, help="organizations at the beginning")
    parser.add_argument("--many", type=int, default=10_000, help="organizations later")
    parser.add_argument("--leave", type=int, default=300, help="how many of them leave")
    parser.add_argument("--every", type=float, default=20, help="seconds between two lists")
    parser.add_argument("--interval", type=float, default=30, help="seconds between two polls")
    parser.add_argument("--slack", type=float, default=30, help="seconds more for the requests themselves")
    with tempfile.TemporaryDirectory(prefix="in-jumpcloud-discovery-") as directory:
        try:
            Trial(parser.parse_args(), Path(directory)).run()
        except Failed as error:
            _print(f"failed: {error}")
            return 1
    return 0


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the result


if __name__ == "__main__":
    sys.exit(main())
