"""What an idle process costs: wake-ups, processor time, and what it writes.

    make idle                                  one stream for an hour, then 1,000 streams for an hour
    make idle OPTIONS='--seconds 600 --streams 1'

At the default settings, with the status page, after every stream has caught up; no events arrive. Linux only. A wake-up
is a voluntary context switch of any thread. The figures of a day are those of the measured time, times as many.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.growth import idle
from bench.processes import Failed, cpu_seconds, write_events

_DAY_SECONDS = 86_400
_SETTLE_SECONDS = 20.0
"""Comparisons of counts follow the first polls."""
_ONE = 1
TARGETS = {_ONE: (0.5, 0.02, 2.0), 1000: (None, None, 100.0)}
"""By streams: at most so many wake-ups/s, % of a core, MB written a day."""


class Usage(NamedTuple):
    """What a process has used since its start: seconds of processor time, bytes written to files and to the disk.

    `switches` are the voluntary context switches of each of its threads.
    """

    at: float
    cpu: float
    switches: dict[str, int]
    written: int
    to_disk: int


class Cost(NamedTuple):
    """The cost of an idle process with `streams` streams, over `seconds`; MB are 10^6 bytes."""

    streams: int
    seconds: float
    wakeups_per_second: float
    cpu_percent: float
    mb_written_per_day: float
    mb_to_disk_per_day: float

    @property
    def missed(self) -> list[str]:
        """The targets that it misses."""
        found = (self.wakeups_per_second, self.cpu_percent, max(self.mb_written_per_day, self.mb_to_disk_per_day))
        names = ("wake-ups/s", "% of a core", "MB a day")
        targets = TARGETS.get(self.streams, (None, None, None))
        return [
            f"{each:.3g} {name}, at most {target:g}"
            for each, name, target in zip(found, names, targets, strict=True)
            if target is not None and each > target
        ]

    def __str__(self) -> str:
        return (
            f"| {self.streams:,} | {self.seconds:.0f} | {self.wakeups_per_second:.2f} | {self.cpu_percent:.4f} "
            f"| {self.mb_written_per_day:.2f} | {self.mb_to_disk_per_day:.2f} |"
        )


def usage(pid: int) -> Usage:
    """What a running process has used until now."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return Usage(
        time.monotonic(), cpu_seconds(pid), dict(_switches(pid)), int(fields["wchar"]), int(fields["write_bytes"])
    )


def _switches(pid: int) -> Iterator[tuple[str, int]]:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for line in (thread / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                yield thread.name, int(line.split()[1])


def between(before: Usage, after: Usage, streams: int) -> Cost:
    """The cost of the time between two looks.

    Raises:
        Failed: threads ended in between, and with them their counts.
    """
    if missing := before.switches.keys() - after.switches.keys():
        raise Failed(f"{len(missing)} threads ended while the process was measured")
    seconds = after.at - before.at
    per_day = _DAY_SECONDS / seconds / 1e6
    switches = sum(after.switches.values()) - sum(before.switches.values())
    return Cost(
        streams,
        seconds,
        switches / seconds,
        (after.cpu - before.cpu) / seconds * 100,
        (after.written - before.written) * per_day,
        (after.to_disk - before.to_disk) * per_day,
    )


def measure(streams: int, seconds: float, directory: Path) -> Cost:
    """Run the plugin with so many idle streams, and measure it for `seconds`."""
    events = write_events(directory, 0)
    with idle(streams, events, directory) as process:
        time.sleep(_SETTLE_SECONDS)
        before = usage(process.pid)
        time.sleep(seconds)
        return between(before, usage(process.pid), streams)


def main() -> int:
    """Print a table; 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="bench.idle", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", nargs="+", type=int, default=list(TARGETS))
    parser.add_argument("--seconds", type=float, default=3600)
    arguments = parser.parse_args()
    _print("| idle streams | seconds | wake-ups/s | CPU, % of a core | MB written a day | MB to the disk a day |")
    _print("|---:|---:|---:|---:|---:|---:|")
    missed = []
    for streams in arguments.streams:
        with tempfile.TemporaryDirectory(prefix="in-jumpcloud-idle-") as directory:
            try:
                cost = measure(streams, arguments.seconds, Path(directory))
            except Failed as error:
                sys.exit(f"bench: {error}")
        _print(str(cost))
        missed += cost.missed
    for each in missed:
        _print(f"missed: {each}")
    return bool(missed)


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the result


if __name__ == "__main__":
    sys.exit(main())
