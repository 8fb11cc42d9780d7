"""`in-jumpcloud health` and `status`, and the pages of a plugin that runs."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from support.command import KEY, Command, wait_until
from support.monitoring import PAGES

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver


@pytest.fixture
def api() -> SimulatedApi:
    """JumpCloud with about 500 events; not started."""
    now_ms = time.time_ns() // 1_000_000
    return SimulatedApi(EventSource(start_ms=now_ms - 600_000, end_ms=now_ms - 60_000, per_minute=50))


def _started(command: Command, settings: list[str]) -> tuple[subprocess.Popen[bytes], list[str]]:
    """Start the plugin at a port that is free; the process, and the settings by which it is found."""
    process = command.start("run", *settings, "-o", "http.listen=127.0.0.1:0", "-o", "jumpcloud.interval=100ms")
    found: list[str] = []

    def listens() -> bool:
        assert process.poll() is None, command.log.read_text()
        found[:] = re.findall(r"status page at http://(\S+)/", command.log.read_text())
        return bool(found)

    wait_until(listens)
    return process, [*settings, "-o", f"http.listen={found[0]}"]


def _page(settings: list[str], path: str) -> str:
    with urllib.request.urlopen(f"http://{settings[-1].partition('=')[2]}{path}", timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def test_health_of_a_plugin_that_runs(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Ready: exit code 0. Refused: the reason and exit code 1, though alive. Without a process: one clear line."""
    with api:
        process, settings = _started(command, command.settings(api, receiver))
        assert receiver.wait_for(400, timeout=60), command.log.read_text()
        ready = command("health", *settings, JUMPCLOUD_API_KEY="")
        live = command("health", *settings, "--live", JUMPCLOUD_API_KEY="")
        assert (ready.returncode, ready.stdout) == (0, b"ready\n"), ready.stderr
        assert (live.returncode, live.stdout) == (0, b"alive\n"), live.stderr

        api.faults.always(Fault("status", status=401))
        wait_until(lambda: json.loads(_page(settings, "/status.json"))["streams"][0]["state"] == "refused")
        ready, live = command("health", *settings), command("health", *settings, "--live")
        assert ready.returncode == 1
        assert ready.stdout.startswith(b"own organization: refused: JumpCloud answered 401: ")
        assert live.returncode == 0

        process.terminate()
        assert process.wait(20) == 0
    gone = command("health", *settings)
    assert gone.returncode == 1
    (line,) = gone.stderr.decode().splitlines()
    assert re.match(r"in-jumpcloud: nothing answers at 127\.0\.0\.1:\d+: .*; is `in-jumpcloud run` running\?\Z", line)


def test_health_without_an_address(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Where http.listen is null there is nobody to ask: exit code 2."""
    with api:
        done = command("health", *command.settings(api, receiver, http__listen=None))
    assert done.returncode == 2
    assert b"http.listen: is null" in done.stderr


def test_health_of_somebody_else(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Where another server listens, that is said."""
    with api:
        where = api.url.removeprefix("http://")
        done = command("health", *command.settings(api, receiver, http__listen=where))
    assert done.returncode == 1
    assert b"is it in-jumpcloud that listens there?" in done.stderr


def test_status_asks_the_process(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Beside a plugin that runs `status` tells the rates and the receivers as well; but none of another plugin's."""
    with api:
        _, settings = _started(command, command.settings(api, receiver))
        assert receiver.wait_for(400, timeout=60), command.log.read_text()
        wait_until(lambda: json.loads(_page(settings, "/status.json"))["streams"][0]["state"] == "up to date")
        text = command("status", *settings).stdout.decode()
        found = json.loads(command("status", "--json", *settings).stdout)
        other = json.loads(
            command("status", "--json", *settings, "-o", f"state.path={command.directory / 'other.db'}").stdout
        )
    assert f"receiver      127.0.0.1:{receiver.port}, up\n" in text
    assert re.search(r"  rate          [1-9]\S* events a minute\n", text)
    assert found["running"]["receivers"][0]["up"] is True
    assert found["streams"][0]["events_per_minute"] > 0
    assert other["running"] is None


def test_a_port_in_use(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """One clear line, and exit code 2; nothing was asked of JumpCloud."""
    with socket.create_server(("127.0.0.1", 0)) as taken, api:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = command("run", *command.settings(api, receiver, http__listen=listen))
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[-1] == (
        f"in-jumpcloud: http.listen: {listen}: Address already in use; name another address, or null to go without"
    )
    assert not api.requests


def test_once_listens_nowhere(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """`run --once` ends by itself, and its exit code tells: it takes no port."""
    with socket.create_server(("127.0.0.1", 0)) as taken, api:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = command("run", "--once", *command.settings(api, receiver, http__listen=listen))
    assert done.returncode == 0, done.stderr


def test_an_open_page_does_not_hold_up_the_end(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """SIGTERM ends the process while clients dawdle at its port."""
    with api:
        process, settings = _started(command, command.settings(api, receiver))
        host, _, port = settings[-1].partition("=")[2].rpartition(":")
        with socket.create_connection((host, int(port))) as dawdling:
            dawdling.sendall(b"GET / HT")
            assert receiver.wait_for(400, timeout=60)
            process.terminate()
            assert process.wait(9) == 0, command.log.read_text()


def test_no_secret_in_a_process(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """The key, a proxy's password, the shared key and the password are on no page of a plugin that has them all."""
    secrets = {
        "forward.shared_key": "shared-key-9aK27xQ",
        "forward.username": "us",
        "forward.password": "password-7Lm31pW",
        "jumpcloud.proxy": "http://us:proxy-word-4Hd88sN@127.0.0.1:1",
    }
    with api:
        settings = command.settings(api, receiver)
        for name, value in secrets.items():
            settings += ["-o", f"{name}={value}"]
        _, settings = _started(command, settings)
        wait_until(lambda: json.loads(_page(settings, "/status.json"))["streams"][0]["error"] is not None)
        texts = {path: _page(settings, path) for path in PAGES}
    assert "proxy" in texts["/status.json"]
    for secret in (KEY, "shared-key-9aK27xQ", "password-7Lm31pW", "proxy-word-4Hd88sN"):
        assert not [path for path, text in texts.items() if secret in text]
        assert secret not in command.log.read_text()


@pytest.mark.parametrize("module", ["in_jumpcloud.cli", "in_jumpcloud.cli.map", "in_jumpcloud.cli.run"])
def test_metrics_are_imported_late(module: str) -> None:
    """Neither a command that shows no metrics nor a plugin that nobody scrapes loads their library."""
    program = f"import sys, {module}; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0  # noqa: S603
