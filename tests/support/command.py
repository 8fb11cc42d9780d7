"""What the tests share: the installed command, as a process between the simulators."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import rfc3339

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("in-jumpcloud")
KEY = "simulated-key"


DAY = 86_400_000
EVENTS = 50_000
TIE = 3000


def fifty_thousand(days: int = 3) -> EventSource:
    """Exactly EVENTS events of so many days, TIE of them on one and the same millisecond."""
    now_ms = time.time_ns() // 1_000_000
    start_ms = now_ms - days * DAY
    source = EventSource(
        seed=7,
        start_ms=start_ms,
        end_ms=now_ms - 60_000,
        per_minute=(EVENTS - TIE - 100) / (days * 1440),
        bursts={start_ms + DAY + 12_345: TIE},
    )
    # The rate is exact but for the minutes at both ends.
    for number in range(EVENTS - source.count(0, now_ms, now_ms=now_ms)):
        event = {"id": f"added-{number}", "timestamp": rfc3339(start_ms + number)}
        source.add(event, timestamp_ms=start_ms + number)
    return source


def wait_until(condition: Callable[[], bool], timeout: float = 60) -> None:
    """Look again and again until something that tells nobody has come about."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


class Command:
    """`in-jumpcloud` as its users have it: the installed command, in a process of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(
        self, *arguments: object, stdin: bytes = b"", timeout: float = 100, **environ: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end."""
        return subprocess.run(  # noqa: S603 - our own command
            [COMMAND, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            cwd=ROOT,
            env=self._environ(environ),
            timeout=timeout,
            check=False,
        )

    def start(self, *arguments: object, **environ: str) -> subprocess.Popen[bytes]:
        """Start it; what it prints goes to `output`, what it logs to `log`."""
        with self.log.open("ab") as log, self.output.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own command
                [COMMAND, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                cwd=ROOT,
                env=self._environ(environ),
            )
        self.processes.append(process)
        return process

    @property
    def output(self) -> Path:
        """What the started processes wrote to standard output."""
        return self.directory / "output"

    @property
    def log(self) -> Path:
        """What the started processes wrote to standard error."""
        return self.directory / "log"

    def settings(self, api: SimulatedApi, receiver: SimulatedReceiver | int, **overrides: object) -> list[str]:
        """The options of `run` between these two (a port says where too); an override is `section__key=value`."""
        server: dict[str, object] = {"host": "127.0.0.1", "port": receiver}
        if isinstance(receiver, SimulatedReceiver):
            server = {"unix": receiver.unix_path} if receiver.unix_path else server | {"port": receiver.port}
        values: dict[str, object] = {
            "jumpcloud.url": api.url,
            "jumpcloud.requests_per_second": 1000,
            "forward.servers": [server],
            "state.path": str(self.state),
            "dead_letter.path": str(self.dead_letters),
            "geoip.asn": "geoip/demo-asn.mmdb",
            "log.format": "text",
            "http.listen": None,
        }
        values |= {name.replace("__", "."): value for name, value in overrides.items()}
        options = ["-c", str(ROOT / "conf" / "jumpcloud.yaml")]
        for name, value in values.items():
            options += ["-o", f"{name}={msgspec.json.encode(value).decode()}"]
        return options

    @property
    def state(self) -> Path:
        """Where `settings` puts the state."""
        return self.directory / "state" / "state.db"

    @property
    def dead_letters(self) -> Path:
        """Where `settings` puts what the receiver refuses."""
        return self.directory / "dead-letter.ndjson"

    def acknowledged(self) -> int:
        """How many events the state file counts as acknowledged, of all streams."""
        try:
            with contextlib.closing(sqlite3.connect(f"file:{self.state}?mode=ro", uri=True)) as database:
                found = database.execute("SELECT coalesce(sum(acknowledged), 0) FROM stream").fetchone()
        except sqlite3.OperationalError:  # it is being made
            return 0
        return int(found[0])

    def positions(self) -> dict[str, dict[str, Any]]:
        """Each stream's position, as the state file has it."""
        database = sqlite3.connect(f"file:{self.state}?mode=ro", uri=True)
        try:
            rows = database.execute("SELECT name, position FROM stream").fetchall()
        finally:
            database.close()
        return {name: msgspec.json.decode(position) for name, position in rows}

    @staticmethod
    def _environ(more: dict[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        return {**kept, "JUMPCLOUD_API_KEY": KEY, **more}
