"""The systemd units are valid and safe, and the plugin works with what they give it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg
import pytest
from support.checks import recent_events
from support.command import KEY, ROOT, Command, wait_until

from in_jumpcloud.config.schema import StateSettings
from in_jumpcloud.config.types import Duration
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import now_ms, rfc3339

FOLDER = ROOT / "conf" / "systemd"
SYSUSERS = FOLDER / "in-jumpcloud.sysusers"
ANALYZE = shutil.which("systemd-analyze")
UNIT = dict[str, str](
    line.split("=", 1)
    for line in (FOLDER / "in-jumpcloud.service").read_text().splitlines()
    if "=" in line and not line.startswith("#")
)
"""The settings of the plugin's unit; of repeated ones the last."""


@pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze (package systemd)")
def test_the_units_are_valid_and_safe(tmp_path: Path) -> None:
    """systemd-analyze verifies them without and with the drop-ins, and rates their exposure at 2.0 of 10 or less."""
    services = ["in-jumpcloud.service", "in-jumpcloud-geoip.service"]
    for name in services:
        review = [str(ANALYZE), "security", "--offline=true", "--threshold=20", "--no-pager", str(FOLDER / name)]
        done = subprocess.run(review, capture_output=True, text=True, check=False)  # noqa: S603
        assert done.returncode == 0, done.stdout + done.stderr

    units = tmp_path / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    targets = Path("/lib/systemd/system").glob("*.target")
    for path in [*targets, *FOLDER.glob("*.service"), *FOLDER.glob("*.timer")]:
        shutil.copy(path, units)
    fluent_bit = "/opt/fluent-bit/bin/fluent-bit"
    (units / "fluent-bit.service").write_text(f"[Service]\nExecStart={fluent_bit}\n")
    for program in (UNIT["ExecStart"].split()[0], "/bin/kill", fluent_bit):
        path = tmp_path / program.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    verify = [str(ANALYZE), "verify", "--man=no", f"--root={tmp_path}"]
    verify += [*services, "in-jumpcloud-geoip.timer", "fluent-bit.service"]
    for drop_ins in ((), ("fluent-bit-forward", "in-jumpcloud-forward", "in-jumpcloud-tls", "in-jumpcloud-ha")):
        for name in drop_ins:
            drop_in = units / f"{name.rpartition('-')[0]}.service.d" / f"{name.rpartition('-')[2]}.conf"
            drop_in.parent.mkdir(exist_ok=True)
            shutil.copy(FOLDER / f"{name}.conf", drop_in)
        done = subprocess.run(verify, capture_output=True, text=True, check=False)  # noqa: S603
        lines = (done.stdout + done.stderr).splitlines()
        # systemd 252 of Debian 12 does not know them; it only warns.
        unknown = [line for line in lines if re.search(r"Unknown key.*'(RestartSteps|RestartMaxDelaySec)'", line)]
        assert (done.returncode, [line for line in lines if line not in unknown]) == (0, []), drop_ins


def test_the_user_of_the_service() -> None:
    """The sysusers file makes the user that the unit names, with the state as its home."""
    (line,) = (each for each in SYSUSERS.read_text().splitlines() if not each.startswith("#"))
    kind, user, *_, home = line.split()
    assert (kind, user, home) == ("u", UNIT["User"], f"/var/lib/{UNIT['StateDirectory']}")


def start(
    command: Command, notify: Path, *overrides: str, file: str = "jumpcloud.yaml", **secrets: str
) -> subprocess.Popen[bytes]:
    """Start ExecStart= with a shipped configuration, and the environment that systemd sets for the unit."""
    credentials, state = command.directory / "credentials", command.directory / "state"
    credentials.mkdir(exist_ok=True)
    state.mkdir(exist_ok=True)
    (credentials / UNIT["LoadCredential"].split(":")[0]).write_text(f"{KEY}\n")
    for name, text in secrets.items():
        (credentials / name).write_text(text)
    _, *arguments = UNIT["ExecStart"].split()
    assert arguments[-1] == "/etc/in-jumpcloud/jumpcloud.yaml"
    options = [part for each in overrides for part in ("-o", each)]
    return command.start(
        *arguments[:-1],
        FOLDER / file,
        *options,
        CREDENTIALS_DIRECTORY=str(credentials),
        STATE_DIRECTORY=str(state),
        NOTIFY_SOCKET=str(notify),
        WATCHDOG_USEC="600000",
        JUMPCLOUD_API_KEY="",
    )


def test_the_service_starts_reloads_and_stops(command: Command, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """The key is a credential, the state is in StateDirectory=, and every notification that Type= needs is sent."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications,
        SimulatedApi(EventSource(start_ms=0, end_ms=1, per_minute=0)) as api,
    ):
        notifications.bind(str(tmp_path / "notify"))
        notifications.settimeout(60)

        def wait_for(state: str) -> None:
            while state not in notifications.recv(4096).decode().splitlines():
                pass

        server = json.dumps([{"host": "127.0.0.1", "port": receiver.port}])
        settings = (f"jumpcloud.url={api.url}", f"forward.servers={server}", "http.listen=127.0.0.1:0")
        process = start(command, tmp_path / "notify", *settings)
        wait_for("READY=1")
        wait_for("WATCHDOG=1")
        wait_until(lambda: bool(api.requests))
        assert (command.directory / "state" / "in-jumpcloud.db").exists()

        _, option, target = UNIT["ExecReload"].split()
        assert target == "$MAINPID"
        os.kill(process.pid, signal.Signals[f"SIG{option.lstrip('-')}"])
        wait_for("RELOADING=1")
        wait_for("READY=1")

        process.terminate()
        wait_for("STOPPING=1")
        assert process.wait(float(UNIT["TimeoutStopSec"].rstrip("s"))) == 0, command.log.read_text()


def test_only_a_configuration_error_is_final(command: Command, tmp_path: Path) -> None:
    """Its exit code is that of RestartPreventExitStatus=; after anything else systemd starts it again, ever later."""
    process = start(command, tmp_path / "notify", "jumpcloud.region=moon")
    assert process.wait(60) == int(UNIT["RestartPreventExitStatus"]) == 2
    assert (UNIT["Restart"], UNIT["StartLimitIntervalSec"]) == ("always", "0")
    assert Duration.parse(UNIT["RestartSec"]) < Duration.parse(UNIT["RestartMaxDelaySec"].removesuffix("in"))
    assert int(UNIT["RestartSteps"]) > 1


def test_a_pair(command: Command, state_url: StateSettings, tmp_path: Path) -> None:
    """With the same file, each delivers to its own receiver. When one stops, the other has all; nothing came twice."""
    assert state_url.url
    drop_in = (FOLDER / "in-jumpcloud-ha.conf").read_text()
    (secret,) = re.findall(r"^LoadCredential=([^:]+):/etc/in-jumpcloud/\1$", drop_in, re.MULTILINE)
    url = urlsplit(state_url.url.reveal())
    names = [f"o{number}" for number in range(6)]
    sources = {each: recent_events(organization=each) for each in names}
    settings = (
        f"state.url=postgresql://{url.username}@{url.hostname}:{url.port}{url.path}",
        f"state.schema={state_url.schema}",
        f"jumpcloud.organizations={json.dumps(names)}",
        "jumpcloud.interval=1s",
        "jumpcloud.requests_per_second=100",
        "http.listen=null",
    )
    with (
        SimulatedApi(sources) as api,
        SimulatedReceiver(keep=False, shared_key="") as one,
        SimulatedReceiver(keep=False, shared_key="") as other,
    ):

        def member(receiver: SimulatedReceiver) -> subprocess.Popen[bytes]:
            server = f"forward.servers={json.dumps([{'host': '127.0.0.1', 'port': receiver.port}])}"
            given = (f"jumpcloud.url={api.url}", server, *settings)
            secrets = {secret: unquote(url.password or "")}
            return start(command, tmp_path / "notify", *given, file="jumpcloud-ha.yaml", **secrets)

        def add(number: int) -> set[str]:
            moment = now_ms() - 20_000
            added = {f"{each}-{number}" for each in names}
            for each in names:
                event = {"id": f"{each}-{number}", "timestamp": rfc3339(moment), "service": "sso"}
                sources[each].add(event, timestamp_ms=moment)
            return added

        def holds(*counts: int) -> bool:
            with psycopg.connect(state_url.url.reveal() if state_url.url else "") as connection:
                query = f'SELECT held FROM "{state_url.schema}".member ORDER BY held'  # noqa: S608 - our own
                with contextlib.suppress(psycopg.errors.UndefinedTable):
                    return connection.execute(query).fetchall() == [(each,) for each in counts]
                return False

        processes = [member(one), member(other)]
        wait_until(lambda: holds(3, 3))
        first = add(1)
        wait_until(lambda: first <= one.ids.keys() | other.ids.keys())
        assert first & one.ids.keys()
        assert first & other.ids.keys()
        processes[0].terminate()
        assert processes[0].wait(30) == 0
        wait_until(lambda: holds(6))
        second = add(2)
        wait_until(lambda: second <= other.ids.keys())
        processes[1].terminate()
        assert processes[1].wait(30) == 0
        assert max((one.ids + other.ids).values()) == 1
    assert "Traceback" not in command.log.read_text()
