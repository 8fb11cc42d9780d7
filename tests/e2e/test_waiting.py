"""What passes, or what somebody else can repair, never ends the process: it waits, or does without, visibly."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import ROOT, Command, wait_until

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms

CITY = ROOT / "geoip" / "demo-city.mmdb"


@pytest.fixture
def api() -> Iterator[SimulatedApi]:
    """JumpCloud with a hundred events a second, from a minute ago on and without end."""
    with SimulatedApi(EventSource(start_ms=now_ms() - MINUTE_MS, per_minute=6000)) as api:
        yield api


@pytest.fixture
def receiver() -> Iterator[SimulatedReceiver]:
    """A receiver that keeps the records."""
    with SimulatedReceiver() as receiver:
        yield receiver


class Running:
    """A plugin that polls ten times a second."""

    def __init__(self, command: Command, api: SimulatedApi, receiver: SimulatedReceiver, **settings: object) -> None:
        self._command = command
        self._receiver = receiver
        values = {"jumpcloud__interval": "100ms", "jumpcloud__lag": "0s", "jumpcloud__overlap": "1m", **settings}
        self.settings = command.settings(api, receiver, **values)
        self.process: subprocess.Popen[bytes]

    def start(self, **environ: str) -> None:
        """Start it."""
        self.process = self._command.start("run", *self.settings, **environ)

    def wait_for(self, *texts: str) -> None:
        """Wait until all of the texts are in the log, while the process runs."""
        wait_until(lambda: self._ended() or all(text in self.log for text in texts))

    def next_records(self, count: int = 100) -> list[dict[str, Any]]:
        """The next records that arrive."""
        before = len(self._receiver.records)
        wait_until(lambda: self._ended() or len(self._receiver.records) >= before + count)
        return [each.record for each in self._receiver.records[before:]]

    def readiness(self) -> tuple[int, str]:
        """The answer of /readyz, whose address is in the log."""
        address = self.log.partition("status page at http://")[2].partition("/")[0]
        connection = http.client.HTTPConnection(address, timeout=30)
        try:
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    @property
    def log(self) -> str:
        """The log so far."""
        return self._command.log.read_text()

    def end(self) -> None:
        """Stop it: it ends soon, and as intended."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 0, self.log

    def _ended(self) -> bool:
        assert self.process.poll() is None, self.log
        return False


def _swap(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def test_a_database_that_is_cut_in_place(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path
) -> None:
    """A database that is emptied while it is in use stays in use; at a restart events are delivered without it.

    Then /readyz names it, until the file is whole again.
    """
    database = tmp_path / "city.mmdb"
    database.write_bytes(CITY.read_bytes())
    running = Running(
        command, api, receiver, geoip__city=str(database), geoip__asn=None, geoip__cache=1, http__listen="127.0.0.1:0"
    )
    running.start()
    assert any("client" in record and "geo" in record["client"] for record in running.next_records())

    os.truncate(database, 0)

    running.wait_for(f"geoip.city: {database} has changed: not a MaxMind database, or truncated")
    assert any("geo" in record.get("client", {}) for record in running.next_records())
    running.end()
    command.log.write_text("")
    running.start()
    running.wait_for(f"geoip.city: {database}: not a MaxMind database, or truncated; events are delivered without")
    assert not any("geo" in record.get("client", {}) for record in running.next_records())
    status, reasons = running.readiness()
    assert status == 503
    assert reasons.startswith(f"geoip.city: {database}: not a MaxMind database, or truncated; ")

    _swap(database, CITY.read_bytes())

    running.wait_for(f"geoip.city: {database} is in use")
    assert any("geo" in record.get("client", {}) for record in running.next_records())
    assert running.readiness() == (200, "ready\n")
    assert running.log.count("not a MaxMind database") == 2  # when it begins, and when it ends
    running.end()
