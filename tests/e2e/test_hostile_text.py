"""Text from outside, wherever a process shows it: one printable line each, without secrets."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from support.command import KEY, Command, wait_until
from support.monitoring import PAGES

from in_jumpcloud.insights.event import parse_event
from in_jumpcloud.insights.window import Position
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.state.dead_letters import Refused
from in_jumpcloud.state.sqlite.store import SqliteStore
from in_jumpcloud.timestamps import now_ms

HOSTILE = f"\x1b[2J\x9b\u202e\u2066\u200b\x07\r\n2026-11-27T00:00:00.000Z info    forged {KEY}\udc80\U000e0041"
ESCAPED = r"\x1b[2J\x9b\u202e\u2066\u200b\x07"


@pytest.fixture
def api() -> Iterator[SimulatedApi]:
    """JumpCloud, which refuses requests in this way."""
    with SimulatedApi(EventSource(start_ms=now_ms() - 60_000)) as api:
        api.faults.always(Fault("status", status=403, message=HOSTILE.replace("\udc80", "")))
        yield api


def is_harmless(text: str) -> bool:
    """Whether each line is printable, none is forged, and there is no secret."""
    return all(each.isprintable() and not each.startswith("2026-11-27T00:00") for each in text.split("\n")) and (
        KEY not in text
    )


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_running_process(command: Command, api: SimulatedApi, log_format: str) -> None:
    """Errors of JumpCloud and names of the environment in the log, the pages and the commands."""
    socket_path = f"/run/\udc80\x1b[31m\u202e{'x' * 20}"
    options = [*command.settings(api, 1, log__format=log_format), "-o", "forward.servers=[{unix: '${SOCKET}'}]"]
    stored = HOSTILE.replace("\udc80", "").replace(KEY, "")
    letter = Refused(parse_event(b"\xff").key, stored, stored, 0, "tag", b'{"a": "\xe2\x80\xae"}')
    with SqliteStore(command.state, new_agent_id="x") as state:
        state.commit("default", [letter.key], Position.starting_at(now_ms()), dead_letters=[letter])
    command.start("run", *options, "-o", "http.listen=127.0.0.1:0", SOCKET=socket_path)

    def address() -> str:
        for line in command.log.read_text().splitlines():
            if "status page at http://" in line:
                return line.partition("http://")[2].partition("/")[0]
        return ""

    wait_until(lambda: bool(address()) and "JumpCloud answered 403" in command.log.read_text())
    options += ["-o", f"http.listen={address()}"]
    for path in PAGES:
        try:
            with urllib.request.urlopen(f"http://{address()}{path}", timeout=30) as response:
                text = response.read().decode()
        except urllib.error.HTTPError as error:
            assert (path, error.code) == ("/readyz", 503)  # noqa: PT017
            text = error.read().decode()
        assert is_harmless(text), (path, text)
        if path == "/status.json":
            values = json.loads(text)
            assert is_harmless(json.dumps(values, ensure_ascii=False))
            assert ESCAPED in values["streams"][0]["error"]
            assert values["receivers"][0]["name"].startswith(r"unix:/run/\udc80\x1b[31m\u202ex")
    for arguments in [
        *(("status", *options), ("status", *options, "--json"), ("health", *options), ("check", *options)),
        *(("check", *options, "--json"), ("audit", *options)),
        *(("dead-letters", name, *options) for name in ("list", "show", "export")),
    ]:
        done = command(*arguments, SOCKET=socket_path)
        assert b"Traceback" not in done.stderr
        assert is_harmless((done.stdout + done.stderr).decode()), (arguments[:2], done.stdout, done.stderr)
    assert is_harmless(command.log.read_text())


def test_offline_records(command: Command) -> None:
    """`map` prints what is in the events, as JSON that is harmless and has the same value."""
    event = {"id": "a", "service": "sso", "message": "\u202e\x9b\U000e0041ö", "timestamp": "2026-01-01T00:00:00Z"}
    done = command("map", stdin=json.dumps(event, ensure_ascii=False).encode())
    assert is_harmless(done.stdout.decode()), done.stderr
    assert "ö" in done.stdout.decode()
    assert "\u202e\x9b\U000e0041ö" in json.dumps(json.loads(done.stdout), ensure_ascii=False)


@pytest.mark.parametrize("name", ["check", "dead-letters list"])
def test_usage(command: Command, name: str) -> None:
    """What is typed in the wrong place is not repeated where it may be a secret, and never controls the terminal."""
    surplus = command(*name.split(), "-c", "conf/jumpcloud.yaml", "-o", "jumpcloud.api_key", KEY)
    unknown = command(*name.split(), "-c", "conf/jumpcloud.yaml", "--\x1b[31m")
    assert surplus.returncode == unknown.returncode == 2
    for done in (surplus, unknown):
        assert is_harmless((done.stdout + done.stderr).decode()), done.stderr
    assert b"there are more arguments than expected" in surplus.stderr


@pytest.mark.parametrize("thread", [False, True])
def test_an_unexpected_error(thread: bool) -> None:
    """The traceback of an error that is not caught, and of those that led to it."""
    script = f"""
import threading
from in_jumpcloud import cli
from in_jumpcloud.config.types import Secret
secret = Secret({KEY!r})
hostile = {HOSTILE!r}
def fail(**_):
    try:
        raise KeyError(hostile)
    except KeyError as error:
        raise RuntimeError(f"first: {{hostile}}") from error
def main(**_):
    worker = threading.Thread(target=fail)
    worker.start()
    worker.join()
cli.cli.main = {"main" if thread else "fail"}
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)  # noqa: S603
    text = done.stderr.decode()
    assert done.returncode == (0 if thread else 1)
    assert text.count("Traceback") == 2
    assert all(line.isprintable() for line in text.split("\n")), text
    assert ESCAPED in text
    assert KEY not in text
