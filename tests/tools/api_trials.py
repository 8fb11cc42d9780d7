"""Trials of delivery with late events, short pages, a wrong clock, and many organizations; with real processes.

By hand:

    make api-trials OPTIONS=short-pages
    make api-trials OPTIONS=outage
    make api-trials OPTIONS=clock
    make api-trials OPTIONS="late --organizations 160 --minutes 14"

`clock` and `outage` need libfaketime (Debian: `apt install libfaketime`).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.command import Command, wait_until

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, now_ms, rfc3339

_FAR_MS = 2**43
_LIBRARIES = (
    Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1"),
)
OFTEN = {"jumpcloud__interval": "200ms", "reconcile__every": "5s", "jumpcloud__requests_per_second": 200}
"""Polls and comparisons in seconds instead of minutes."""


@dataclass(frozen=True)
class Figures:
    """The result of a trial."""

    name: str
    events: int
    lost: int
    duplicates: int
    seconds: float
    requests: int
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        notes = "".join(f"\n  {note}" for note in self.notes)
        return (
            f"{self.name}: {self.events} events, lost {self.lost}, duplicates {self.duplicates}; "
            f"{self.requests} requests in {self.seconds:.0f} s{notes}"
        )


class Trial:
    """The installed command between the simulators."""

    def __init__(self, directory: Path, sources: dict[str, EventSource], clock: Callable[[], int] = now_ms) -> None:
        self.sources = sources
        self.command = Command(directory)
        self.api = SimulatedApi(sources, clock=clock)
        self.receiver = SimulatedReceiver(keep=False)
        self._began = time.monotonic()
        self._directory = directory

    @contextmanager
    def servers(self) -> Iterator[None]:
        """The API and the receiver; processes that are left are killed at the end."""
        with self.api, self.receiver, ExitStack() as stack:
            stack.callback(self._kill)
            yield

    def _kill(self) -> None:
        for process in self.command.processes:
            if process.poll() is None:
                process.kill()

    def expected(self) -> set[str]:
        """The ids of all events, those that appear late included."""
        return {
            item.event_id for source in self.sources.values() for item in source.between(0, _FAR_MS, now_ms=_FAR_MS)
        }

    def set_clock(self, shift: str) -> dict[str, str]:
        """Shift the clock of the command, now if it runs; the environment that it needs from its start on."""
        file = self._directory / "clock"
        new = file.with_suffix(".new")
        new.write_text(shift)
        new.replace(file)
        library = next((each for each in _LIBRARIES if each.exists()), None)
        if library is None:
            raise SystemExit("this trial needs libfaketime")
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def run(self, environ: dict[str, str] | None = None, /, **settings: Any) -> Any:
        """Start the command."""
        return self.command.start("run", *self.command.settings(self.api, self.receiver, **settings), **(environ or {}))

    def stop(self, process: Any) -> None:
        """End it by SIGTERM."""
        process.send_signal(signal.SIGTERM)
        process.wait(60)

    def wait_for_all(self, seconds: float) -> None:
        """Wait until every event has arrived, or give up after `seconds`."""
        wanted = len(self.expected())
        deadline = time.monotonic() + seconds
        while len(self.receiver.ids) < wanted and time.monotonic() < deadline:
            time.sleep(0.1)

    def figures(self, name: str, *notes: str, expected: set[str] | None = None) -> Figures:
        """Count what is missing and what arrived more than once."""
        expected, ids = expected or self.expected(), self.receiver.ids
        return Figures(
            name=name,
            events=len(expected),
            lost=len(expected - ids.keys()),
            duplicates=sum(ids.values()) - len(ids),
            seconds=time.monotonic() - self._began,
            requests=len(self.api.requests),
            notes=list(notes),
        )


def short_pages(directory: Path) -> Figures:
    """A backfill in which one page in ten ends early, without an error."""
    now = now_ms()
    source = EventSource(start_ms=now - 3 * DAY_MS, end_ms=now - HOUR_MS, per_minute=3500 / (71 * 60))
    trial = Trial(directory, {source.organization: source})
    trial.api.faults.random(Fault("short_page"), 0.1, seed=3)
    with trial.servers():
        process = trial.run(jumpcloud__start="4d", jumpcloud__page_limit=100, **OFTEN)
        trial.wait_for_all(300)
        trial.stop(process)
        return trial.figures("one short page in ten", f"{trial.api.faults.given['short_page']} short pages")


def outage(directory: Path, *, days: float = 2.6) -> Figures:
    """The plugin is stopped for days; events dated before the stop appear during the outage."""
    began, shift_ms = now_ms(), [0]

    def clock() -> int:
        return now_ms() + shift_ms[0]

    source = EventSource(start_ms=began - 2 * HOUR_MS, end_ms=began + round((days + 0.01) * DAY_MS), per_minute=1)
    outage_ms = round(days * DAY_MS)
    for number in range(200):
        at_ms = began - number * 30_000
        visible_ms = began + MINUTE_MS + number * outage_ms // 200
        event = {"id": f"late-{number}", "timestamp": rfc3339(at_ms), "event_type": "sso_auth", "service": "sso"}
        source.add(event, timestamp_ms=at_ms, visible_ms=visible_ms)
    trial = Trial(directory, {source.organization: source}, clock)
    with trial.servers():
        environ = trial.set_clock("+0")
        process = trial.run(environ, jumpcloud__start="3h", **OFTEN)
        wait_until(lambda: len(trial.receiver.ids) >= source.count(0, began, now_ms=began) - 1, 60)
        time.sleep(3)
        trial.stop(process)
        shift_ms[0] = outage_ms
        environ = trial.set_clock(f"+{outage_ms / 1000:.0f}")
        process = trial.run(environ, jumpcloud__start="3h", **OFTEN)
        seen = {item.event_id for item in source.between(0, clock() - 30_000, now_ms=clock())}
        deadline = time.monotonic() + 120
        while not seen <= trial.receiver.ids.keys() and time.monotonic() < deadline:
            time.sleep(0.1)
        trial.stop(process)
        return trial.figures(f"an outage of {days} days", expected=seen)


def clock(directory: Path) -> list[Figures]:
    """The machine's clock is set wrong while the plugin runs, and before its first start."""
    results = []
    for name, shifts in (
        ("4 d ahead for 6 s", (("+0", 10), ("+345600", 6), ("+0", 20))),
        ("2 d ahead for 60 s", (("+0", 10), ("+172800", 60), ("+0", 20))),
        ("1 h back for 30 s", (("+0", 10), ("-3600", 30), ("+0", 20))),
        ("4 d ahead at the first start", (("+345600", 20), ("+0", 20))),
    ):
        began = now_ms()
        seconds = sum(each for _, each in shifts)
        source = EventSource(
            start_ms=began - HOUR_MS,
            end_ms=began + (seconds - 10) * 1000,
            per_minute=300,
            late=0.02,
            late_by_ms=(2000, 10_000),
        )
        trial = Trial(directory / name.replace(" ", "-"), {source.organization: source})
        trial.command.directory.mkdir()
        with trial.servers():
            environ = trial.set_clock(shifts[0][0])
            process = trial.run(environ, jumpcloud__start="2h", **OFTEN)
            for shift, lasts in shifts:
                trial.set_clock(shift)
                time.sleep(lasts)
            trial.wait_for_all(240)
            trial.stop(process)
            results.append(trial.figures(name))
    return results


def late(directory: Path, *, organizations: int, minutes: float, latency: float = 0.2) -> Figures:
    """Many organizations at the default settings; each has one event that appears late."""
    began = now_ms()
    sources = {}
    for number in range(organizations):
        name = f"organization-{number:03}"
        source = EventSource(seed=number, start_ms=began - HOUR_MS, end_ms=began, per_minute=0.2, organization=name)
        at_ms = began - 40 * MINUTE_MS
        event = {"id": f"{name}-late", "timestamp": rfc3339(at_ms), "event_type": "sso_auth", "service": "sso"}
        source.add(event, timestamp_ms=at_ms, visible_ms=began + 4 * MINUTE_MS)
        sources[name] = source
    trial = Trial(directory, sources)
    trial.api.faults.always(Fault("delay", seconds=latency))
    with trial.servers():
        process = trial.run(
            jumpcloud__organizations=list(sources),
            jumpcloud__start="2h",
            jumpcloud__requests_per_second=5,
            jumpcloud__interval="30s",
            reconcile__every="10m",
        )
        trial.wait_for_all(minutes * 60)
        found = sum(each.endswith("-late") for each in trial.receiver.ids)
        trial.stop(process)
        return trial.figures(f"{organizations} organizations", f"{found} of {organizations} late events arrived")


def main() -> None:
    """Run the trial that the command line names, and print its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", choices=["short-pages", "outage", "clock", "late"])
    parser.add_argument("--organizations", type=int, default=160)
    parser.add_argument("--minutes", type=float, default=14)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        directory = Path(name)
        results: list[Figures] = []
        if options.trial == "short-pages":
            results.append(short_pages(directory))
        elif options.trial == "outage":
            results.append(outage(directory))
        elif options.trial == "clock":
            results += clock(directory)
        else:
            results.append(late(directory, organizations=options.organizations, minutes=options.minutes))
    for result in results:
        sys.stdout.write(f"{result}\n")
    if any(result.lost or result.duplicates for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
