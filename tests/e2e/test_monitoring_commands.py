"""`in-jumpcloud health` and `status`, and the endpoints of a running plugin."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest
from support.command import KEY, Command, has_started, wait_until
from support.monitoring import PAGES

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms

SECRETS = {
    "forward.shared_key": "shared-key-9aK27xQ",
    "forward.password": "password-7Lm31pW",
    "jumpcloud.proxy": "http://us:proxy-word-4Hd88sN@127.0.0.1:1",
}


@pytest.fixture
def api() -> SimulatedApi:
    """JumpCloud with about 500 events; not started."""
    end_ms = now_ms() - MINUTE_MS
    return SimulatedApi(EventSource(start_ms=end_ms - 9 * MINUTE_MS, end_ms=end_ms, per_minute=50))


class Running:
    """A running plugin; `settings` name the address at which it serves its endpoints."""

    def __init__(self, command: Command, settings: list[str]) -> None:
        self.process = command.start("run", *settings, "-o", "http.listen=127.0.0.1:0", "-o", "jumpcloud.interval=1s")
        self.address = ""

        def listens() -> bool:
            assert self.process.poll() is None, command.log.read_text()
            found = re.findall(r"status page at http://(\S+)/", command.log.read_text())
            self.address = found[-1] if found else ""
            return bool(found) and has_started(self.address)

        wait_until(listens)
        self.settings = [*settings, "-o", f"http.listen={self.address}"]

    def get(self, path: str) -> str:
        """The body of a page."""
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=30) as response:
            text: str = response.read().decode()
            return text

    def wait_for_stream(self, state: str) -> None:
        """Wait until the stream has this state."""
        wait_until(lambda: self.stream().get("state") == state)

    def stream(self) -> dict[str, Any]:
        """The first stream; empty until the start is complete."""
        with contextlib.suppress(urllib.error.HTTPError):
            stream: dict[str, Any] = json.loads(self.get("/status.json"))["streams"][0]
            return stream
        return {}


def test_health(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Ready: exit code 0. Refused: the reason and exit code 1, but alive. Without a process: one clear line."""
    with api:
        running = Running(command, command.settings(api, receiver))
        assert receiver.wait_for(400, timeout=60), command.log.read_text()
        ready = command("health", *running.settings, JUMPCLOUD_API_KEY="")
        live = command("health", *running.settings, "--live", JUMPCLOUD_API_KEY="")
        assert (ready.returncode, ready.stdout) == (0, b"ready\n"), ready.stderr
        assert (live.returncode, live.stdout) == (0, b"alive\n"), live.stderr

        api.faults.always(Fault("status", status=401))
        running.wait_for_stream("refused")
        ready, live = command("health", *running.settings), command("health", *running.settings, "--live")
        assert ready.returncode == 1
        assert b"refused: default: JumpCloud answered 401: " in ready.stdout
        assert live.returncode == 0

        running.process.terminate()
        assert running.process.wait(20) == 0
    gone = command("health", *running.settings)
    assert gone.returncode == 1
    (line,) = gone.stderr.decode().splitlines()
    assert f" {running.address}: " in line
    assert "is `in-jumpcloud run` running?" in line


def test_health_without_the_plugin(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Without http.listen the exit code is 2; if another server listens there, the command says so and exits with 1."""
    with api:
        null = command("health", *command.settings(api, receiver, http__listen=None))
        address = api.url.removeprefix("http://")
        other = command("health", *command.settings(api, receiver, http__listen=address))
    assert (null.returncode, other.returncode) == (2, 1)
    assert b"http.listen: is null" in null.stderr
    assert f"{address} answer".encode() in other.stderr


def test_status_of_a_running_plugin(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """`status` shows the rates and receivers of the process that holds the state, and of no other."""
    with api:
        running = Running(command, command.settings(api, receiver))
        assert receiver.wait_for(400, timeout=60), command.log.read_text()
        running.wait_for_stream("up to date")
        text = command("status", *running.settings).stdout.decode()
        status = json.loads(command("status", "--json", *running.settings).stdout)
        other_state = ["-o", f"state.path={command.directory / 'other.db'}"]
        other = json.loads(command("status", "--json", *running.settings, *other_state).stdout)
    assert f"127.0.0.1:{receiver.port}, up\n" in text
    assert re.search(r"  rate +[1-9]\S* events", text)
    assert status["running"]["receivers"][0]["up"] is True
    assert status["streams"][0]["events_per_minute"] > 0
    assert other["running"] is None


def test_status_says_why_nothing_arrives(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """The last error of the receiver, since when, and each reason with what to do; in the log too."""
    receiver.stop()
    name = f"127.0.0.1:{receiver.port}"
    with api:
        running = Running(command, command.settings(api, receiver))
        wait_until(lambda: bool(json.loads(running.get("/status.json"))["not_ready"]))
        text = command("status", *running.settings).stdout.decode()
    since = r"since \d{4}-\d\d-\d\dT[\d:.]+Z"
    assert re.search(
        rf"^receiver      {name}, down {since}: Connection refused; nothing listens there: ", text, re.MULTILINE
    )
    assert re.search(
        rf"^not ready     receivers: no receiver is up: {name}, for \d+s: Connection refused; ", text, re.MULTILINE
    )
    assert "Connection refused; nothing listens there" in command.log.read_text()


def test_overload_is_logged_once(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """With the arithmetic, and what to do."""
    many = {"jumpcloud__organizations": [f"o{number}" for number in range(200)], "jumpcloud__requests_per_second": 5}
    with api:
        running = Running(command, command.settings(api, receiver, **many, jumpcloud__interval="30s"))
        wait_until(lambda: "overload: " in command.log.read_text())
        running.get("/status.json")
        running.process.terminate()
        assert running.process.wait(20) == 0
    (line,) = [line for line in command.log.read_text().splitlines() if "overload: " in line]
    assert re.search(r"200 streams need \S+ requests/s .*; 5\.0 are possible: .*; raise jumpcloud\.interval", line)


def test_slow_requests_are_overload(command: Command, receiver: SimulatedReceiver) -> None:
    """The workers cannot send as many requests as the streams need, although the rate limit allows them."""
    end_ms = now_ms() - MINUTE_MS
    source = EventSource(start_ms=end_ms - MINUTE_MS, end_ms=end_ms)
    names = [f"o{number}" for number in range(12)]
    with SimulatedApi(dict.fromkeys(names, source)) as api:
        api.faults.always(Fault("delay", seconds=0.5))
        limits = {"jumpcloud__organizations": names, "jumpcloud__workers": 4}
        running = Running(command, command.settings(api, receiver, **limits))
        wait_until(lambda: "overload: " in command.log.read_text())
        text = command("status", *running.settings).stdout.decode()
    assert re.search(
        r"^not ready     overload: 12 streams need 12\.\d requests/s .*4 workers send [5-8]\.\d", text, re.MULTILINE
    )


def test_once_needs_no_port(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """`run --once` does not listen."""
    with socket.create_server(("127.0.0.1", 0)) as taken, api:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        once = command("run", "--once", *command.settings(api, receiver, http__listen=listen))
    assert once.returncode == 0
    assert b"http.listen" not in once.stderr


def test_an_open_connection_does_not_delay_the_end(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """SIGTERM ends the process while a client has sent half a request."""
    with api:
        running = Running(command, command.settings(api, receiver))
        host, _, port = running.address.rpartition(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(b"GET / HT")
            assert receiver.wait_for(400, timeout=60)
            running.process.terminate()
            assert running.process.wait(9) == 0, command.log.read_text()


def test_no_secret_in_a_process(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """The key, the proxy's password, the shared key and the password are at no endpoint and not in the log."""
    with api:
        settings = [*command.settings(api, receiver), "-o", "forward.username=us"]
        for name, value in SECRETS.items():
            settings += ["-o", f"{name}={value}"]
        running = Running(command, settings)
        wait_until(lambda: running.stream().get("error") is not None)
        texts = [*map(running.get, PAGES), command.log.read_text()]
    assert "proxy" in texts[PAGES.index("/status.json")]
    for secret in (KEY, "shared-key-9aK27xQ", "password-7Lm31pW", "proxy-word-4Hd88sN"):
        assert not [text for text in texts if secret in text]


@pytest.mark.parametrize("module", ["in_jumpcloud.cli", "in_jumpcloud.cli.map", "in_jumpcloud.cli.run"])
def test_metrics_are_imported_late(module: str) -> None:
    """Commands without metrics, and a plugin that is not scraped, do not load the library."""
    program = f"import sys, {module}; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0  # noqa: S603
