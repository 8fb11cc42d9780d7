"""How the cost grows with idle streams, the ledger, the length of a backfill and the size of events.

    PYTHONPATH=tests .venv/bin/python -m bench.growth
    PYTHONPATH=tests .venv/bin/python -m bench.growth --only streams --seconds 120

It takes up to 15 minutes, mostly for a backfill of a million events and for making them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench.processes import (
    HERE,
    Failed,
    Helper,
    cpu_seconds,
    ended,
    environment,
    measured,
    peak_bytes,
    plugin,
    started,
    write_events,
)

_CATCH_UP_SECONDS = 120.0
"""Within this time every stream must have caught up."""
_STARTS = 10
_MIB = 2**20


def streams(counts: list[int], seconds: float, directory: Path) -> list[dict[str, float]]:
    """CPU in % of a core and peak memory in MiB of idle streams, over `seconds`, for each number in `counts`.

    They poll every 30 s, the default. All processes run at the same time, because processor time is measured.
    """
    events = write_events(directory, 0)
    with contextlib.ExitStack() as stack:
        running = [(count, stack.enter_context(idle(count, events, directory))) for count in counts]
        began = time.monotonic()
        before = {count: cpu_seconds(process.pid) for count, process in running}
        time.sleep(seconds)
        took = time.monotonic() - began
        return [
            {
                "streams": count,
                "seconds": took,
                "cpu_percent": (cpu_seconds(process.pid) - before[count]) / took * 100,
                "peak_mib": peak_bytes(process.pid) / _MIB,
            }
            for count, process in running
        ]


@contextlib.contextmanager
def idle(count: int, events: Path, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The plugin with `count` streams, after each has polled and compared counts."""
    place = directory / f"streams-{count}"
    place.mkdir()
    organizations = [f"organization-{number:04d}" for number in range(count)]
    with Helper("api", events) as api, Helper("receiver") as receiver, (place / "log").open("wb") as log:
        url = f"http://127.0.0.1:{api.port}"
        options = plugin(url, receiver.port, place, jumpcloud__organizations=organizations, jumpcloud__start="1h")
        process = started([HERE.command, *options], log)
        try:
            deadline = time.monotonic() + _CATCH_UP_SECONDS
            while _requests(url) < 2 * count:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Failed(f"{count} streams did not catch up: {(place / 'log').read_text()[-2000:]}")
                time.sleep(0.2)
            yield process
        finally:
            process.kill()
            process.wait()


def _requests(url: str) -> int:
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own server
        return int(answer.read())


def backfill(count: int, directory: Path, *, bytes_each: int = 0) -> dict[str, Any]:
    """One backfill: CPU µs per event, peak memory in MiB; for each tenth, events/s and CPU µs per event."""
    place = directory / f"backfill-{count}-{bytes_each}"
    place.mkdir()
    path = write_events(place, count, bytes_each=bytes_each)
    with Helper("api", path) as api, Helper("receiver") as receiver, (place / "log").open("wb") as log:
        url = f"http://127.0.0.1:{api.port}"
        began = time.monotonic()
        process = started([HERE.command, *plugin(url, receiver.port, place, "--once")], log)
        tenths = _tenths(process.pid, receiver, count)
        code, cost = ended(process, began)
    arrived = sum(tenth["events"] for tenth in tenths)
    if code or arrived != count:
        text = (place / "log").read_text()[-2000:]
        raise Failed(f"{arrived} of {count} events arrived, exit code {code}: {text}")
    result = {
        "events": count,
        "bytes": path.stat().st_size,
        "seconds": cost.wall,
        "cpu_us": cost.cpu / count * 1e6,
        "peak_mib": cost.peak / _MIB,
        "ledger_mib": (place / "state.db").stat().st_size / _MIB,
        "tenths": tenths,
    }
    path.unlink()
    return result


def _tenths(pid: int, receiver: Helper, count: int) -> list[dict[str, float]]:
    """The cost of each tenth of `count` events until its ack; the first tenth begins with the first event."""
    arrived = receiver.ask(1)
    tenths: list[dict[str, float]] = [{"events": arrived}]
    at, cpu = time.monotonic(), cpu_seconds(pid)
    for tenth in range(1, 11):
        events = receiver.ask(count * tenth // 10 - arrived)
        now, cpu_now = time.monotonic(), cpu_seconds(pid)
        rate, cpu_us = events / (now - at), (cpu_now - cpu) / max(events, 1) * 1e6
        tenths.append({"events": events, "rate": rate, "cpu_us": cpu_us})
        arrived, at, cpu = arrived + events, now, cpu_now
    return tenths


def ledger(count: int, directory: Path) -> dict[str, float]:
    """Size and cost of a ledger of `count` ids of three days, measured in a separate process because it is large."""
    path = directory / "ledger.db"
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-m", "bench.ledger", path, str(count)], env=environment(), stdout=subprocess.PIPE, check=True
    )
    figures: dict[str, float] = json.loads(done.stdout)
    figures["to_first_request_s"] = to_first_request(directory, state=path)
    path.unlink()
    return figures


def to_first_request(directory: Path, *, state: Path | None = None) -> float:
    """Median seconds from the start of `run` to its first request."""
    delays = []
    with socket.create_server(("127.0.0.1", 0)) as api, Helper("receiver") as receiver:
        for number in range(_STARTS):
            place = directory / f"start-{number}"
            place.mkdir(exist_ok=True)
            url = f"http://127.0.0.1:{api.getsockname()[1]}"
            overrides: dict[str, Any] = {"state__path": str(state)} if state else {}
            options = plugin(url, receiver.port, place, **overrides)
            with (place / "log").open("wb") as log:
                began = time.monotonic()
                process = started([HERE.command, *options], log)
                api.settimeout(60)
                connection, _ = api.accept()
                with connection:
                    connection.recv(1)
                    delays.append(time.monotonic() - began)
                    process.kill()
                process.wait()
    return median(delays)


def start(directory: Path) -> dict[str, float]:
    """Seconds of `in-jumpcloud --version` and `python -c pass`, interleaved, and of `run` to its first request."""
    costs: dict[str, list[float]] = {"version_cpu": [], "version_wall": [], "python_cpu": [], "python_wall": []}
    for _ in range(_STARTS):
        for name, command in (("version", [HERE.command, "--version"]), ("python", [sys.executable, "-c", "pass"])):
            cost = measured(command, directory)
            costs[f"{name}_cpu"].append(cost.cpu)
            costs[f"{name}_wall"].append(cost.wall)
    return {**{name: median(each) for name, each in costs.items()}, "to_first_request": to_first_request(directory)}


def _main_parts(arguments: argparse.Namespace, directory: Path) -> dict[str, Callable[[], Any]]:
    return {
        "start": lambda: start(directory),
        "streams": lambda: streams(arguments.streams, arguments.seconds, directory),
        "backfill": lambda: [backfill(count, directory) for count in arguments.events],
        "large": lambda: backfill(arguments.large, directory, bytes_each=100_000),
        "ledger": lambda: ledger(arguments.ids, directory),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.growth", description=(__doc__ or "").splitlines()[0])
    parts = ("start", "streams", "backfill", "large", "ledger")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="only these parts")
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 10, 100, 1000])
    parser.add_argument("--seconds", type=float, default=120, help="how long to measure the idle streams")
    parser.add_argument("--events", nargs="+", type=int, default=[100_000, 1_000_000], help="events of each backfill")
    parser.add_argument("--large", type=int, default=5000, help="number of events of 100 kB")
    parser.add_argument("--ids", type=int, default=10_000_000, help="number of ids in the ledger")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"cores": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="in-jumpcloud-bench-") as directory:
        for name, part in _main_parts(arguments, Path(directory)).items():
            if name not in arguments.only:
                continue
            try:
                figures[name] = part()
            except Failed as error:
                sys.exit(f"bench.growth: {name}: {error}")
            print(f"{name}: {json.dumps(figures[name], indent=1)}", flush=True)  # noqa: T201 - the result
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
