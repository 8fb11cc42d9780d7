"""The `in-jumpcloud` command in tests: as a process between the simulators, or within the test's own process."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from click.testing import CliRunner

from in_jumpcloud.cli import cli
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import DAY_MS, MINUTE_MS, now_ms, rfc3339

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("in-jumpcloud")
KEY = "simulated-key"

EVENTS = 50_000
TIE = 3000


def fifty_thousand(days: int = 3) -> EventSource:
    """Exactly EVENTS events of the last `days` days, TIE of them in the same millisecond."""
    now = now_ms()
    start_ms = now - days * DAY_MS
    per_minute = (EVENTS - TIE - 100) / (days * 1440)
    source = EventSource(seed=7, start_ms=start_ms, end_ms=now - MINUTE_MS, per_minute=per_minute)
    # The rate is exact, except for the first and last minute.
    others = EVENTS - TIE - source.count(0, now, now_ms=now)
    moments = [start_ms + DAY_MS + 12_345] * TIE + [start_ms + number for number in range(others)]
    for number, moment in enumerate(moments):
        source.add({"id": f"added-{number}", "timestamp": rfc3339(moment)}, timestamp_ms=moment)
    return source


def wait_until(condition: Callable[[], bool], timeout: float = 60) -> None:
    """Wait, at most `timeout` seconds, until `condition` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition does not hold"
        time.sleep(0.02)


def has_started(address: str) -> bool:
    """Whether the pages of the process that listens there show it: they answer 503 while it opens everything else."""
    try:
        with urllib.request.urlopen(f"http://{address}/status.json", timeout=30):
            return True
    except urllib.error.HTTPError as error:
        if error.code != 503:
            raise
        return False


def invoke(*arguments: object, stdin: bytes = b"", **environ: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command within this process, which is faster. Not for one that handles signals."""
    with contextlib.chdir(ROOT):
        result = CliRunner().invoke(
            cli,
            list(map(str, arguments)),
            input=stdin,
            env={**{name: None for name in os.environ if _is_left_out(name)}, "JUMPCLOUD_API_KEY": KEY, **environ},
            catch_exceptions=False,
            prog_name="in-jumpcloud",
        )
    return subprocess.CompletedProcess(
        list(map(str, arguments)), result.exit_code, result.stdout_bytes, result.stderr_bytes
    )


class Command:
    """The installed `in-jumpcloud` command, as a process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.working_directory = ROOT
        self.environ: dict[str, str] = {}
        """Variables for every process, which those of a call replace."""
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(
        self, *arguments: object, stdin: bytes = b"", timeout: float = 100, **environ: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it until it exits."""
        return subprocess.run(  # noqa: S603 - our own command
            [COMMAND, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            cwd=self.working_directory,
            env=self._environ(environ),
            timeout=timeout,
            check=False,
        )

    def start(
        self, *arguments: object, prelude: str = "", program: Sequence[object] = (COMMAND,), **environ: str
    ) -> subprocess.Popen[bytes]:
        """Start it, with standard output in `output` and standard error in `log`.

        `prelude` is Python that runs first, in the same process, such as one that lowers a limit. `program` is another
        command that does the same.
        """
        before = [sys.executable, "-c", f"{prelude}\nimport os, sys\nos.execv(sys.argv[1], sys.argv[1:])"]
        with self.log.open("ab") as log, self.output.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own command
                [*(before if prelude else []), *map(str, program), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                cwd=self.working_directory,
                env=self._environ(environ),
            )
        self.processes.append(process)
        return process

    @property
    def output(self) -> Path:
        """The standard output of the started processes."""
        return self.directory / "output"

    @property
    def log(self) -> Path:
        """The standard error of the started processes."""
        return self.directory / "log"

    def settings(self, api: SimulatedApi, receiver: SimulatedReceiver | int, **overrides: object) -> list[str]:
        """The options of `run` between `api` and `receiver` (or its port), with overrides as `section__key=value`."""
        server: dict[str, object] = {"host": "127.0.0.1", "port": receiver}
        if isinstance(receiver, SimulatedReceiver):
            server = {"unix": receiver.unix_path} if receiver.unix_path else server | {"port": receiver.port}
        values: dict[str, object] = {
            "jumpcloud.url": api.url,
            "jumpcloud.requests_per_second": 1000,
            "forward.servers": [server],
            "state.path": str(self.state),
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
        """The path of the state in `settings`."""
        return self.directory / "state" / "state.db"

    def dead_letters(self) -> list[str]:
        """The ids of the dead letters in the state, oldest first."""
        with contextlib.closing(sqlite3.connect(f"file:{self.state}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT id FROM dead_letter WHERE state = 'dead' ORDER BY number").fetchall()
        return [event_id for (event_id,) in rows]

    def acknowledged(self) -> int:
        """The number of acknowledged events of all streams, from the state; 0 while there is none."""
        try:
            with contextlib.closing(sqlite3.connect(f"file:{self.state}?mode=ro", uri=True)) as database:
                (total,) = database.execute("SELECT coalesce(sum(acknowledged), 0) FROM stream").fetchone()
        except sqlite3.OperationalError:
            return 0
        return int(total)

    def positions(self) -> dict[str, dict[str, Any]]:
        """The position of each stream, from the state."""
        with contextlib.closing(sqlite3.connect(f"file:{self.state}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT name, position FROM stream").fetchall()
        return {name: msgspec.json.decode(position) for name, position in rows}

    def _environ(self, more: dict[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not _is_left_out(name)}
        return {**kept, "JUMPCLOUD_API_KEY": KEY, **self.environ, **more}


def _is_left_out(name: str) -> bool:
    """What the person who runs the tests has set for other purposes."""
    return name.lower().endswith("_proxy") or name.startswith("IN_JUMPCLOUD_")
