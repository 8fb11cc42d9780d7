"""The systemd units: sound, tight, and what the plugin needs of its service manager."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import KEY, ROOT, Command, wait_until

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver

FOLDER = ROOT / "conf" / "systemd"
SERVICES = ["in-jumpcloud.service", "geoipupdate.service"]
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze (package systemd)")


def _settings() -> dict[str, str]:
    """The plugin's unit, a setting each; of repeated ones the last."""
    lines = (FOLDER / "in-jumpcloud.service").read_text().splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name: value for name, value in pairs}  # noqa: C416 - a list of two is no pair to dict()'s types


UNIT = _settings()


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES)
def test_a_unit_exposes_little(unit: str) -> None:
    """Systemd's own security review gives at most 2.0 of 10."""
    review = [str(ANALYZE), "security", "--offline=true", "--threshold=20", "--no-pager", str(FOLDER / unit)]

    done = subprocess.run(review, capture_output=True, text=True, check=False)  # noqa: S603

    assert done.returncode == 0, done.stdout + done.stderr


@needs_systemd
@pytest.mark.parametrize("with_socket", [False, True], ids=["alone", "with the drop-ins"])
def test_systemd_finds_nothing_wrong(tmp_path: Path, with_socket: bool) -> None:
    """Each unit verifies without a word, installed as its head and the drop-ins' say."""
    units = tmp_path / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    targets = Path("/lib/systemd/system").glob("*.target")
    for path in [*targets, *FOLDER.glob("*.service"), *FOLDER.glob("*.timer")]:
        shutil.copy(path, units)
    (units / "fluent-bit.service").write_text("[Service]\nExecStart=/opt/fluent-bit/bin/fluent-bit\n")
    if with_socket:
        for name in ("fluent-bit", "in-jumpcloud"):
            drop_in = units / f"{name}.service.d" / "forward.conf"
            drop_in.parent.mkdir()
            shutil.copy(FOLDER / f"{name}-forward.conf", drop_in)
    for program in (
        UNIT["ExecStart"].split()[0],
        "/bin/kill",
        "/usr/bin/geoipupdate",
        "/opt/fluent-bit/bin/fluent-bit",
    ):
        path = tmp_path / program.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    names = [*SERVICES, "geoipupdate.timer", "fluent-bit.service"]

    done = subprocess.run(  # noqa: S603
        [str(ANALYZE), "verify", "--man=no", f"--root={tmp_path}", *names], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


class Manager:
    """Listens as systemd does, and starts the plugin with what the unit gives it."""

    def __init__(self, command: Command) -> None:
        credentials = command.directory / "credentials"
        credentials.mkdir()
        name = UNIT["LoadCredential"].split(":")[0]
        (credentials / name).write_text(f"{KEY}\n")
        self.state = command.directory / "state"
        self.state.mkdir()
        self._command = command
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(command.directory / "notify"))
        self._socket.settimeout(60)
        self._environ = {
            "CREDENTIALS_DIRECTORY": str(credentials),
            "STATE_DIRECTORY": str(self.state),
            "NOTIFY_SOCKET": str(command.directory / "notify"),
            "WATCHDOG_USEC": "600000",
            "JUMPCLOUD_API_KEY": "",
        }

    def start(self, *overrides: str) -> subprocess.Popen[bytes]:
        """Start what ExecStart names, with the configuration that is shipped for it."""
        _, *arguments = UNIT["ExecStart"].split()
        assert arguments[-1] == "/etc/in-jumpcloud/jumpcloud.yaml"
        options = [part for each in overrides for part in ("-o", each)]
        return self._command.start(*arguments[:-1], FOLDER / "jumpcloud.yaml", *options, **self._environ)

    def wait_for(self, state: str) -> None:
        """Read on until this is told."""
        while state not in self._socket.recv(4096).decode().splitlines():
            pass

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


@pytest.fixture
def manager(command: Command) -> Iterator[Manager]:
    """A service manager that ends with the test."""
    manager = Manager(command)
    yield manager
    manager.close()


def test_the_service_as_systemd_starts_reloads_watches_and_ends_it(
    command: Command, manager: Manager, receiver: SimulatedReceiver
) -> None:
    """The key is a credential, the state is in StateDirectory=, and every notification comes that Type= waits for."""
    with SimulatedApi(EventSource(seed=5, start_ms=0, end_ms=1, per_minute=0)) as api:
        server = json.dumps([{"host": "127.0.0.1", "port": receiver.port}])
        process = manager.start(f"jumpcloud.url={api.url}", f"forward.servers={server}", "http.listen=127.0.0.1:0")
        manager.wait_for("READY=1")
        manager.wait_for("WATCHDOG=1")
        wait_until(lambda: bool(api.requests))
        assert (manager.state / "in-jumpcloud.db").exists()

        _, how, what = UNIT["ExecReload"].split()
        assert what == "$MAINPID"
        os.kill(process.pid, signal.Signals[f"SIG{how.lstrip('-')}"])
        manager.wait_for("RELOADING=1")
        manager.wait_for("READY=1")

        process.terminate()
        manager.wait_for("STOPPING=1")
        assert process.wait(float(UNIT["TimeoutStopSec"].rstrip("s"))) == 0, command.log.read_text()


def test_a_wrong_configuration_is_not_tried_again(manager: Manager) -> None:
    """It ends with the exit code that RestartPreventExitStatus= names; a person has to mend it."""
    process = manager.start("jumpcloud.region=moon")

    assert process.wait(60) == int(UNIT["RestartPreventExitStatus"])
