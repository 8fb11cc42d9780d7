"""A backfill by a Fluent Bit that starts in_jumpcloud by its `exec` input: kills of both, and reloads.

By hand, with FLUENT_BIT set or fluent-bit on PATH:

    make exec-trial OPTIONS="--events 150000 --rounds 2"
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from support.command import COMMAND, KEY, ROOT, Command, wait_until
from support.fluent_bit import BINARY, FluentBit

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.timestamps import DAY_MS, now_ms

PAGE_LIMIT = 1000
"""The most records of a chunk: it is of one page."""
ROUND = ("kill", "kill plugin", "kill", "reload", "kill", "kill plugin", "kill")


@dataclass(frozen=True)
class Figures:
    """What came of a trial, in records.

    `sent_twice`: by in_jumpcloud. `written_twice`: by Fluent Bit, of what it received once.
    """

    events: int
    lost: int
    sent_twice: int
    written_twice: int
    kills: int
    plugins_left: int


class Supervisor(FluentBit):
    """A Fluent Bit with a configuration from conf/ whose `exec` input starts in_jumpcloud."""

    @classmethod
    def between(cls, directory: Path, name: str, api: SimulatedApi, key: str = KEY) -> Self:
        """One that collects from `api`. The log of in_jumpcloud goes to the file `plugin.log`."""
        directory.mkdir(parents=True, exist_ok=True)
        path = ROOT / "conf" / name
        text = path.read_text()
        is_yaml = path.suffix == ".yaml"
        settings = directory / "jumpcloud.yaml"
        for old, new in (
            (r"exec in-jumpcloud run --supervised", f"exec {COMMAND} run --supervised -c {settings}"),
            (r"(?i)(interval_sec:? +)5", r"\g<1>1"),
            # What comes in twice has two values; what Fluent Bit sends twice has the same.
            (
                r"  outputs:",
                "  filters:\n    - {name: record_modifier, match: jumpcloud.*, uuid_key: ingested}\n  outputs:",
            )
            if is_yaml
            else (
                r"\[OUTPUT\]",
                "[FILTER]\n    Name record_modifier\n    Match jumpcloud.*\n    uuid_key ingested\n\n[OUTPUT]",
            ),
        ):
            text = re.sub(old, new, text, count=1)
        events, _, log = text.rpartition("stdout")
        colon, indent = (":", "      ") if is_yaml else ("", "    ")
        log = re.sub(r"(?i) *json_date_key.*", f"{indent}path{colon} {directory}\n{indent}file{colon} plugin.log", log)
        supervisor = cls(directory, f"{events}file{log.replace('json_lines', 'plain')}", suffix=path.suffix)
        for parsers in path.parent.glob("*-parsers.conf"):
            shutil.copy(parsers, directory)
        document = {
            "jumpcloud": {
                "api_key": key,
                "url": api.url,
                "start": "4d",
                "page_limit": PAGE_LIMIT,
                "requests_per_second": 10,
            },
            "forward": {"servers": [{"host": "127.0.0.1", "port": supervisor.port}], "shared_key": ""},
            "geoip": {"city": None},
            "state": {"path": str(Command(directory).state)},
            "http": {"listen": None},
        }
        settings.write_text(json.dumps(document))
        settings.chmod(0o600)
        return supervisor

    def run(self) -> int:
        """Start it, wait until it exits by itself, and return its exit code."""
        assert BINARY is not None
        with self.output.open("ab") as output, self.log.open("ab") as log:
            line = [BINARY, "-c", str(self.settings)]
            return subprocess.run(line, stdout=output, stderr=log, check=False, timeout=90).returncode  # noqa: S603

    def plugins(self) -> list[int]:
        """The processes of in_jumpcloud that it, or one before it, started."""
        return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and self._is_ours(path)]

    def kill_plugin(self) -> None:
        """SIGKILL in_jumpcloud, once it is running."""
        wait_until(lambda: bool(self.plugins()))
        for pid in self.plugins():
            os.kill(pid, signal.SIGKILL)

    def _is_ours(self, process: Path) -> bool:
        try:
            line = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return b"--supervised" in line and str(self.directory / "jumpcloud.yaml").encode() in line


def source(events: int) -> tuple[EventSource, int]:
    """Events of three days, and how many they are: at least `events`."""
    now = now_ms()
    source = EventSource(seed=7, start_ms=now - 3 * DAY_MS, end_ms=now - 60_000, per_minute=1.01 * events / (3 * 1440))
    return source, source.count(0, now, now_ms=now)


def backfill(directory: Path, name: str = "fluent-bit-exec.yaml", *, events: int, rounds: int) -> Figures:
    """Deliver at least `events` events with `rounds` times the kills and reloads of ROUND, then SIGTERM Fluent Bit.

    Each start of Fluent Bit must succeed, otherwise this fails.
    """
    steps = ROUND * rounds
    command = Command(directory)
    events_of_api, expected = source(events)
    with SimulatedApi(events_of_api) as api:
        supervisor = Supervisor.between(directory, name, api)
        try:
            supervisor.start()
            for number, step in enumerate(steps, 1):
                target = number * expected // (len(steps) + 1)
                wait_until(lambda target=target: command.acknowledged() >= target)  # type: ignore[misc]  # bound at once
                if step == "kill":
                    supervisor.stop(signal.SIGKILL)
                    supervisor.start()
                elif step == "kill plugin":
                    supervisor.kill_plugin()
                else:
                    supervisor.signal(signal.SIGHUP)
            wait_until(lambda: command.acknowledged() >= expected, 100)
            wait_until(lambda: not any(directory.glob("fluent-bit/*/*.flb")))
        finally:
            supervisor.stop()
    left = len(supervisor.plugins())
    records = [(record["event"]["id"], record["ingested"]) for record in supervisor.records()]
    ids, ingested = len({event_id for event_id, _ in records}), len({number for _, number in records})
    return Figures(expected, expected - ids, ingested - ids, len(records) - ingested, steps.count("kill"), left)


def main() -> None:
    """Run one, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=150_000)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        print(backfill(Path(directory), events=options.events, rounds=options.rounds))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
