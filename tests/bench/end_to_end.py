"""A backlog from an API that takes its time: the plugin against a puller that sends one request after the other.

    PYTHONPATH=tests .venv/bin/python -m bench.end_to_end
    PYTHONPATH=tests .venv/bin/python -m bench.end_to_end --requests-per-second 1000 --set pages_ahead=8

The puller is the same-record script, which maps and sends each page before it asks for the next. The API answers after
300 ms and 0.1 ms for each event, compressed, over TLS. All settings of the plugin are the defaults, unless an option
says otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from bench.contenders import Served, serve
from bench.processes import HERE, KEY, ROOT, Cost, Failed, Helper, acknowledged, measured, plugin, write_events

from in_jumpcloud.config.schema import JumpCloudSettings

LATENCY, LATENCY_OF_EVENT = 0.3, 0.0001
"""Seconds of an answer, and of each event on it."""


class Row(NamedTuple):
    """What one backlog took. `requests` of the API, and the share of those that the rate limit allows in the time."""

    name: str
    events_per_second: float
    cpu_us: float
    requests: int
    share: float
    peak_mib: float


class Course:
    """The events, the API and the receiver."""

    def __init__(self, directory: Path, events: int, stack: ExitStack) -> None:
        self._directory = directory
        self._events = events
        options = ("--latency", LATENCY, "--latency-of-event", LATENCY_OF_EVENT)
        self._api: Served = serve(directory, write_events(directory, events), stack, *options)
        self._receiver = stack.enter_context(Helper("receiver"))

    def puller(self, limit: int, allowed: float) -> Row:
        """The script, with pages of this many events."""
        script = ROOT / "tests" / "bench" / "mapped_script.py"
        command = [sys.executable, script, "--url", self._api.url, "--key", KEY, "--ca", self._api.ca_file]
        command += ["--port", self._receiver.port, "--limit", limit]
        return self._row(f"sequential puller, pages of {limit}", allowed, lambda place: measured(command, place))

    def plugin(self, name: str, allowed: float, settings: dict[str, object]) -> Row:
        """The plugin, with these settings below `jumpcloud`."""
        overrides: dict[str, Any] = {f"jumpcloud__{setting}": value for setting, value in settings.items()}
        overrides |= {"jumpcloud__requests_per_second": allowed, "jumpcloud__ca_file": str(self._api.ca_file)}

        def run(place: Path) -> Cost:
            options = plugin(self._api.url, self._receiver.port, place, "--once", **overrides)
            cost = measured([HERE.command, *options], place)
            if (arrived := acknowledged(place / "state.db")) != self._events:
                raise Failed(f"{name}: {arrived} events were acknowledged, expected {self._events}")
            return cost

        return self._row(name, allowed, run)

    def _row(self, name: str, allowed: float, run: Callable[[Path], Cost]) -> Row:
        before = self._api.process.ask(0)
        cost = run(Path(tempfile.mkdtemp(dir=self._directory)))
        requests = self._api.process.ask(0) - before
        if (arrived := self._receiver.ask(self._events)) != self._events:
            raise Failed(f"{name}: {arrived} events arrived, expected {self._events}")
        return Row(
            name,
            events_per_second=self._events / cost.wall,
            cpu_us=cost.cpu / self._events * 1e6,
            requests=requests,
            share=requests / (allowed * cost.wall),
            peak_mib=cost.peak / 2**20,
        )


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table; the first is what the others are compared with."""
    lines = [
        "| | events/s | of the first | CPU µs/event | requests | of those allowed | peak MiB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        of_first = row.events_per_second / rows[0].events_per_second
        lines.append(
            f"| {row.name} | {row.events_per_second:,.0f} | {of_first:.2f} | {row.cpu_us:.1f} | {row.requests} "
            f"| {row.share:.0%} | {row.peak_mib:.0f} |"
        )
    return "\n".join(lines)


def _setting(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    if name not in JumpCloudSettings.__struct_fields__:
        raise argparse.ArgumentTypeError(f"jumpcloud.{name} is no setting of this version")
    return name, json.loads(value)


def main() -> None:
    """The command line."""
    defaults: Any = JumpCloudSettings()
    parser = argparse.ArgumentParser(prog="bench.end_to_end", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--requests-per-second", type=float, default=defaults.requests_per_second)
    parser.add_argument("--set", type=_setting, action="append", default=[], metavar="NAME=VALUE", dest="settings")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    arguments = parser.parse_args()
    settings = dict(arguments.settings)
    allowed = arguments.requests_per_second
    limits = sorted({1000, settings.get("page_limit", defaults.page_limit)})
    name = " ".join(["in_jumpcloud", *(f"{setting}={value}" for setting, value in settings.items())])
    with tempfile.TemporaryDirectory(prefix="in-jumpcloud-bench-") as directory, ExitStack() as stack:
        try:
            course = Course(Path(directory), arguments.events, stack)
            rows = [course.puller(limit, allowed) for limit in limits]
            rows.append(course.plugin(name, allowed, settings))
        except Failed as error:
            sys.exit(f"bench: {error}")
    print(table(rows))  # noqa: T201 - the result
    if arguments.json:
        arguments.json.write_text(json.dumps([row._asdict() for row in rows], indent=1))


if __name__ == "__main__":
    main()
