"""SIGHUP: new settings are applied completely or not at all, and do not interrupt what they do not change."""

from __future__ import annotations

import copy
import json
import re
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.certificates import Certificates
from support.command import ROOT, Command, wait_until

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import rfc3339

NOW = time.time_ns() // 1_000_000
DAY = 86_400_000


class Running:
    """The plugin with a configuration file that changes."""

    def __init__(
        self, command: Command, api: SimulatedApi, receiver: SimulatedReceiver, *, reload: str = "signal"
    ) -> None:
        self._command = command
        self._api = api
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
            "http": {"listen": "127.0.0.1:0"},
            "log": {"format": "text"},
            "reload": reload,
        }
        self._write()
        self._process = command.start("run", "-c", self._file)

    def _write(self) -> None:
        self._file.write_bytes(msgspec.json.encode(self.settings))

    def use_tls(self, directory: Path) -> None:
        """Use the certificates in a directory, from the next reload on."""
        names = {"ca_file": "ca.pem", "cert_file": "client.example.pem", "key_file": "client.example.key"}
        self.settings["forward"] |= {
            "tls": {"enabled": True, "server_name": "localhost"}
            | {key: str(directory / name) for key, name in names.items()}
        }

    def use_key_of(self, file: Path) -> None:
        """Take the key from a file, from the next reload on."""
        del self.settings["jumpcloud"]["api_key"]
        self.settings["jumpcloud"]["api_key_file"] = str(file)

    def reload(self, expected: str) -> None:
        """Write the settings, send SIGHUP, and wait for a line in the log."""
        before = self.log.count(expected)
        self._write()
        self._process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log.count(expected) > before)

    @property
    def log(self) -> str:
        """The log so far."""
        return self._command.log.read_text()

    def shows_refusal(self) -> bool:
        """Whether the metrics and `/status.json` show that the last reload was refused."""
        url = self.log.partition("status page at ")[2].split()[0]
        with urllib.request.urlopen(f"{url}metrics", timeout=30) as page:  # noqa: S310 - loopback
            value = re.search(r"^in_jumpcloud_config_last_reload_successful (\S+)", page.read().decode(), re.MULTILINE)
        with urllib.request.urlopen(f"{url}status.json", timeout=30) as page:  # noqa: S310 - loopback
            codes = [each["code"] for each in json.load(page)["warnings"]]
        assert value
        assert float(value[1]) == ("reload" not in codes)
        return "reload" in codes

    def requests(self, organization: str) -> int:
        """How often the events of an organization were requested."""
        return sum(request.headers.get("x-org-id") == organization for request in list(self._api.requests))

    def wait_for_requests(self, organization: str) -> None:
        """Wait until an organization is polled a few more times."""
        before = self.requests(organization)
        wait_until(lambda: self.requests(organization) > before + 3)

    def end(self) -> int:
        """Stop the plugin."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(20)


@pytest.fixture
def api() -> SimulatedApi:
    """Three organizations, each with events of a day."""
    return SimulatedApi(
        {
            name: EventSource(seed=seed, start_ms=NOW - DAY, end_ms=NOW - 60_000, per_minute=1, organization=name)
            for seed, name in enumerate(("first", "second", "third"))
        }
    )


def test_streams_come_and_go(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """A removed stream is polled no more, an added one starts, an unchanged one continues."""
    with api:
        running = Running(command, api, receiver)
        running.wait_for_requests("first")
        running.wait_for_requests("second")
        running.settings["jumpcloud"]["organizations"] = ["second", "third"]
        running.reload("configuration reloaded: 1 stream restarted, 1 unchanged")
        requests = running.requests("first")
        running.wait_for_requests("third")
        assert running.requests("first") == requests
        assert running.log.count("organization second: new stream") == 1
        assert running.end() == 0
    assert set(command.positions()) == {"organization first", "organization second", "organization third"}
    assert len(receiver.ids) == sum(receiver.ids.values())


def test_invalid_settings_change_nothing(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Every error is logged and the old settings stay; the same for a change that needs a restart."""
    with api:
        running = Running(command, api, receiver)
        running.wait_for_requests("first")
        valid = copy.deepcopy(running.settings)
        for section, key, value, expected in (
            ("jumpcloud", "intervall", "1s", "jumpcloud.intervall: unknown key; did you mean interval?"),
            ("geoip", "city", "/nowhere.mmdb", "/nowhere.mmdb"),
            ("state", "path", "elsewhere.db", "state.path: can only be changed by a restart"),
        ):
            running.settings = copy.deepcopy(valid)
            running.settings["jumpcloud"]["organizations"] = ["third"]
            running.settings[section][key] = value
            # A reload that lacks a file is repeated, so another line may come first.
            running.reload(expected)
            assert "configuration not reloaded: " in running.log
            wait_until(running.shows_refusal)
        running.settings = valid
        running.reload("configuration reloaded: ")
        wait_until(lambda: not running.shows_refusal())
        running.wait_for_requests("first")
        assert not running.requests("third")
        assert running.end() == 0


def test_a_receiver_that_is_down_is_replaced(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """A plugin that waits for a wrong receiver uses the right one after a reload; each event arrives once."""
    with api, SimulatedReceiver() as wrong:
        wrong.stop()
        running = Running(command, api, wrong)
        wait_until(lambda: "resending the chunk in" in running.log)
        running.settings["forward"]["servers"] = [{"host": "127.0.0.1", "port": receiver.port}]
        running.settings["log"]["format"] = "json"
        running.reload("configuration reloaded: 2 streams restarted, 0 unchanged")
        total = sum(api.sources[name].count(0, NOW, now_ms=NOW) for name in ("first", "second"))
        assert receiver.wait_for(total, 60)
        assert running.end() == 0
        assert '"message": "' in running.log
    assert len(receiver.ids) == sum(receiver.ids.values()) == total


def test_a_refused_key_is_replaced(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path
) -> None:
    """A key that JumpCloud refuses is replaced without a restart."""
    with api:
        running = Running(command, api, receiver)
        running.wait_for_requests("first")
        key = tmp_path / "key"
        key.write_text("wrong")
        running.use_key_of(key)
        running.reload("configuration reloaded: ")
        wait_until(lambda: "401" in running.log)
        key.write_text("simulated-key")
        running.reload("configuration reloaded: ")
        running.wait_for_requests("first")
        assert running.end() == 0


def test_a_file_that_comes_later(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path
) -> None:
    """A reload that needs a file that is missing, as during a rotation, is applied once the file is there."""
    with api:
        running = Running(command, api, receiver)
        running.wait_for_requests("first")
        key = tmp_path / "key"
        running.use_key_of(key)
        running.settings["jumpcloud"]["organizations"] = ["third"]
        running.reload(
            f"configuration not reloaded: {tmp_path}/settings.json: jumpcloud.api_key_file: {key}: cannot be "
        )
        running.wait_for_requests("first")
        assert running.shows_refusal()
        key.write_text("simulated-key")
        wait_until(lambda: "configuration reloaded: 1 stream restarted, 0 unchanged" in running.log)
        assert not running.shows_refusal()
        running.wait_for_requests("third")
        assert running.end() == 0


def test_renewed_files(command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """Certificates and a key with new content under the same paths are used after a reload, all or none."""
    old, new = Certificates(tmp_path / "old"), Certificates(tmp_path / "new")
    used = tmp_path / "used"
    used.mkdir()

    def renew(certificates: Certificates, *names: str) -> None:
        for name in names:
            (used / name).write_bytes((certificates.ca_file.parent / name).read_bytes())

    for each in (old, new):
        each.issue("client.example")
    renew(old, "ca.pem", "client.example.pem", "client.example.key")
    with api:
        running = Running(command, api, receiver)
        running.wait_for_requests("first")
        with SimulatedReceiver(tls=old.server_context(client_ca=old.ca_file)) as first:
            running.settings["forward"]["servers"] = [{"host": "127.0.0.1", "port": first.port}]
            running.use_tls(used)
            running.reload("configuration reloaded: 2 streams restarted, 0 unchanged")
            running.reload("configuration reloaded: 0 streams restarted, 2 unchanged")
            _add_event(api)
            assert first.wait_for(1, 60)
        with SimulatedReceiver(port=first.port, tls=new.server_context(client_ca=new.ca_file)) as second:
            _add_event(api)
            wait_until(lambda: "resending the chunk in" in running.log)
            renew(new, "ca.pem", "client.example.pem")
            running.reload("client.example.key do not contain a certificate and its key")
            renew(new, "client.example.key")  # the reload is repeated until they fit
            wait_until(lambda: running.log.count("configuration reloaded: 2 streams restarted, 0 unchanged") == 2)
            assert second.wait_for(1, 60)
        assert running.end() == 0


def _add_event(api: SimulatedApi) -> None:
    """Another event of now."""
    now, source = time.time_ns() // 1_000_000, api.sources["first"]
    source.add({"id": f"added-{now}", "timestamp": rfc3339(now)}, timestamp_ms=now)


def test_a_changed_file(command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """With `reload: auto` no signal is needed, also where a ConfigMap is mounted; an invalid file changes nothing."""
    with api:
        running = Running(command, api, receiver, reload="auto")
        running.wait_for_requests("first")
        link = tmp_path / "settings.json"

        def replace(settings: dict[str, Any], name: str) -> None:
            """As Kubernetes does it: a new directory, and a link that leads to it from one moment to the next."""
            (tmp_path / name).mkdir()
            (tmp_path / name / link.name).write_bytes(msgspec.json.encode(settings))
            (tmp_path / "..data_tmp").symlink_to(name)
            (tmp_path / "..data_tmp").rename(tmp_path / "..data")
            if not link.is_symlink():
                (tmp_path / "link").symlink_to(f"..data/{link.name}")
                (tmp_path / "link").rename(link)

        replace(running.settings | {"log": {"formatt": "text"}}, "..1")
        wait_until(lambda: "configuration not reloaded: " in running.log)
        assert f"{link}: log.formatt: unknown key; did you mean format?" in running.log
        running.settings["jumpcloud"]["organizations"] = ["second", "third"]
        replace(running.settings, "..2")
        wait_until(lambda: "configuration reloaded: 1 stream restarted, 1 unchanged" in running.log)
        assert f"{link}: changed; reloading the configuration" in running.log
        running.wait_for_requests("third")
        assert running.log.count("recovered from: configuration not reloaded: ") == 1
        assert running.log.count("configuration not reloaded: ") == 2
        assert running.end() == 0
