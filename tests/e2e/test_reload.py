"""SIGHUP: new settings are taken up whole or not at all, and what they do not change is not disturbed."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.command import ROOT, Command, wait_until

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver


class Running:
    """The plugin with a configuration file that changes."""

    def __init__(self, command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
        self._command = command
        self._file = command.directory / "settings.json"
        self.settings: dict[str, Any] = {
            "jumpcloud": {
                "api_key": "${JUMPCLOUD_API_KEY}",
                "url": api.url,
                "organizations": ["first", "second"],
                "interval": "100ms",
                "requests_per_second": 1000,
                "start": "2d",
            },
            "forward": {"servers": [{"host": "127.0.0.1", "port": receiver.port}]},
            "geoip": {"city": str(ROOT / "geoip" / "demo-city.mmdb")},
            "state": {"path": str(command.state)},
            "dead_letter": {"path": str(command.dead_letters)},
            "http": {"listen": None},
            "log": {"format": "text"},
        }
        self._write()
        self._process = command.start("run", "-c", self._file)

    def _write(self) -> None:
        self._file.write_bytes(msgspec.json.encode(self.settings))

    def reload(self, expected: str) -> None:
        """Write the settings, send SIGHUP, and wait for a line in the log."""
        before = self.log.count(expected)
        self._write()
        self._process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log.count(expected) > before)

    @property
    def log(self) -> str:
        """What it said so far."""
        return self._command.log.read_text()

    def end(self) -> int:
        """Ask it to end."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(20)


@pytest.fixture
def api() -> SimulatedApi:
    """Three organizations of a day."""
    now_ms = time.time_ns() // 1_000_000
    return SimulatedApi(
        {
            name: EventSource(
                seed=seed, start_ms=now_ms - 86_400_000, end_ms=now_ms - 60_000, per_minute=1, organization=name
            )
            for seed, name in enumerate(("first", "second", "third"))
        }
    )


def asked_for(api: SimulatedApi, organization: str) -> int:
    """How often an organization's events were asked for."""
    return sum(request.headers.get("x-org-id") == organization for request in list(api.requests))


def test_streams_come_and_go(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """A stream that is taken away is asked for no more, one that is added begins, the one that stays goes on."""
    with api:
        running = Running(command, api, receiver)
        wait_until(lambda: asked_for(api, "first") > 3 and asked_for(api, "second") > 3)
        running.settings["jumpcloud"]["organizations"] = ["second", "third"]
        running.reload("configuration reloaded: 1 stream restarted, 1 unchanged")
        gone = asked_for(api, "first")
        wait_until(lambda: asked_for(api, "third") > 5)
        assert asked_for(api, "first") == gone
        assert running.log.count("organization second: new stream") == 1
        assert running.end() == 0
    assert set(command.positions()) == {"organization first", "organization second", "organization third"}
    assert len(receiver.ids) == sum(receiver.ids.values())


def test_what_is_wrong_is_refused_whole(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Every error is told, and everything goes on as it was; so with a change that only a restart can take up."""
    with api:
        running = Running(command, api, receiver)
        wait_until(lambda: asked_for(api, "first") > 3)
        good = msgspec.json.decode(msgspec.json.encode(running.settings))
        running.settings["jumpcloud"]["organizations"] = ["third"]
        running.settings["jumpcloud"]["intervall"] = "1s"
        running.reload("configuration not reloaded: ")
        assert "jumpcloud.intervall: unknown key; did you mean interval?" in running.log

        running.settings = msgspec.json.decode(msgspec.json.encode(good))
        running.settings["geoip"]["city"] = "/nowhere.mmdb"
        running.reload("configuration not reloaded: ")
        running.settings = msgspec.json.decode(msgspec.json.encode(good))
        running.settings["state"]["path"] = "elsewhere.db"
        running.reload("configuration not reloaded: state.path: can only be changed by a restart")

        before = asked_for(api, "first")
        wait_until(lambda: asked_for(api, "first") > before + 3)
        assert not asked_for(api, "third")
        assert running.end() == 0


def test_a_receiver_that_never_came_is_exchanged(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """A plugin that waits for a receiver takes up the right one; each event arrives once."""
    with api, SimulatedReceiver() as wrong:
        wrong.stop()
        running = Running(command, api, wrong)
        wait_until(lambda: "resending the chunk" in running.log)
        running.settings["forward"]["servers"] = [{"host": "127.0.0.1", "port": receiver.port}]
        running.settings["log"]["format"] = "json"
        running.reload("configuration reloaded: 2 streams restarted, 0 unchanged")
        total = sum(
            source.count(0, time.time_ns() // 1_000_000, now_ms=time.time_ns() // 1_000_000)
            for name, source in api.sources.items()
            if name != "third"
        )
        assert receiver.wait_for(total, 60)
        assert running.end() == 0
        assert '"message": "stopped after' in running.log
    assert len(receiver.ids) == sum(receiver.ids.values()) == total


def test_the_key_is_exchanged(command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """A key that was refused is exchanged without a restart."""
    with api:
        running = Running(command, api, receiver)
        wait_until(lambda: asked_for(api, "first") > 3)
        key = tmp_path / "key"
        key.write_text("wrong")
        del running.settings["jumpcloud"]["api_key"]
        running.settings["jumpcloud"]["api_key_file"] = str(key)
        running.reload("configuration reloaded: ")
        wait_until(lambda: "401" in running.log or "refuse" in running.log)
        key.write_text("simulated-key")
        running.reload("configuration reloaded: ")
        before = asked_for(api, "first")
        wait_until(lambda: asked_for(api, "first") > before + 3)
        assert running.end() == 0
