"""`in-jumpcloud check`: for each wrong setup one line that names the cause; and correct setups."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.checks import Report, check, jumpcloud, recent_events
from support.command import COMMAND, KEY, ROOT, Command, invoke

from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.insights.window import Position
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.state.dead_letters import Refused
from in_jumpcloud.state.sqlite.store import SqliteStore
from in_jumpcloud.timestamps import DAY_MS, MINUTE_MS, now_ms, rfc3339

NO_PRIVILEGES = """
import ctypes, os, sys
for number in range(64):
    ctypes.CDLL(None).prctl(24, number, 0, 0, 0)  # PR_CAPBSET_DROP: without capabilities file modes bind root too
os.execv(sys.argv[1], sys.argv[1:])
"""
DISK_FULL = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def api() -> Iterator[SimulatedApi]:
    """JumpCloud with a few events."""
    with jumpcloud() as api:
        yield api


def _check_after(script: str, settings: list[str]) -> Report:
    command = [sys.executable, "-c", script, str(COMMAND), "check", *settings]
    env = {**os.environ, "JUMPCLOUD_API_KEY": KEY}
    return Report(subprocess.run(command, capture_output=True, cwd=ROOT, env=env, timeout=100, check=False))  # noqa: S603


def test_a_correct_setup(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Every check has its line, nothing fails, and nothing is sent or written."""
    report = Report(command("check", *command.settings(api, receiver)))
    assert report.code == 0, report.text
    assert [line[9:23].strip() for line in report.lines] == [
        *("configuration", "secrets", "JumpCloud", "clock", "JumpCloud", "load", "counts", "database", "database"),
        *("state", "dead letters", "receiver"),
    ]
    assert {line.split()[0] for line in report.lines} == {"ok", "warning"}
    assert receiver.messages == 0
    assert not command.state.parent.exists()
    assert "\x1b" not in report.text


def test_probe(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """With --probe one message without records is sent."""
    report = check("--probe", *command.settings(api, receiver))
    assert report.code == 0
    assert "a message without records acknowledged" in report.text
    assert (receiver.messages, receiver.received) == (1, 0)


def test_json(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """--json prints one object with every check and the exit code."""
    done = invoke("check", "--json", *command.settings(api, receiver, jumpcloud__api_key="wrong-key-of-twenty"))
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["exit_code"] == done.returncode == 3
    (failure,) = [each for each in report["checks"] if each["result"] == "failed"]
    assert failure["check"] == "JumpCloud"
    assert "JumpCloud answered 401" in failure["message"]
    assert "wrong-key" not in done.stdout.decode()


def test_colours(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """A terminal gets colours, unless NO_COLOR is set."""
    for no_color in ("", "1"):
        ours, theirs = pty.openpty()
        env = {**os.environ, "JUMPCLOUD_API_KEY": KEY, "NO_COLOR": no_color}
        arguments = [str(COMMAND), "check", *command.settings(api, receiver)]
        process = subprocess.Popen(arguments, stdout=theirs, cwd=ROOT, env=env)  # noqa: S603 - our own command
        os.close(theirs)
        output = b""
        with contextlib.suppress(OSError):  # the end of a terminal is an error
            while part := os.read(ours, 65_536):
                output += part
        os.close(ours)
        assert process.wait(30) == 0
        assert (b"\x1b[32m" in output) == (not no_color)
        assert b"ok " in output


def test_wrong_settings(command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """Each wrong setting is one failed line with the cause or the remedy, and has its exit code."""
    cases: list[tuple[dict[str, Any], str, str, int]] = [
        ({"jumpcloud__api_key": "wrong"}, "JumpCloud", "the key is wrong, expired or revoked", 3),
        (
            {"jumpcloud__url": "https://nowhere.invalid"},
            "JumpCloud",
            "check the DNS of this machine, and jumpcloud.url",
            1,
        ),
        (
            {"jumpcloud__url": "http://127.0.0.1:1"},
            "JumpCloud",
            "Connection refused; is there a firewall or a proxy in between? check jumpcloud.url",
            1,
        ),
        ({"forward__servers": [{"host": "nowhere.invalid"}]}, "receiver", "correct the name in forward.servers", 4),
        ({"forward__servers": [{"host": "127.0.0.1", "port": 1}]}, "receiver", "nothing listens there", 4),
        ({"forward__servers": [{"unix": str(tmp_path / "no")}]}, "receiver", "there is no such socket", 4),
        ({"geoip__city": "nowhere.mmdb"}, "database", f"geoip.city: {ROOT}/nowhere.mmdb: ", 2),
        ({"geoip__asn": "README.md"}, "database", f"geoip.asn: {ROOT}/README.md: ", 2),
    ]
    for settings, check_name, text, code in cases:
        report = check(*command.settings(api, receiver, **settings))
        assert report.failure.startswith(f"FAILED   {check_name} ")
        assert text in report.failure
        assert report.code == code, settings


def test_a_wrong_organization(command: Command, receiver: SimulatedReceiver) -> None:
    """The refused organization fails, an empty one is a warning, the others pass."""
    end_ms = now_ms()
    sources = {"good": recent_events(), "empty": EventSource(start_ms=end_ms, end_ms=end_ms)}
    with SimulatedApi(sources) as api:
        report = check(*command.settings(api, receiver, jumpcloud__organizations=[*sources, "wrong"]))
    assert "organization wrong: JumpCloud answered 403" in report.failure
    assert "an organization id is missing or wrong" in report.failure
    assert re.search(r"^ok .* good: access granted, the oldest event since", report.text, re.MULTILINE)
    assert re.search(r"^warning .* empty: access granted, but no event", report.text, re.MULTILINE)
    assert report.code == 1


def test_organizations_that_are_listed(command: Command, receiver: SimulatedReceiver) -> None:
    """The list is tried as `run` does, and each of it is checked. A refusal is one line."""
    with SimulatedApi({"one": recent_events(), "two": recent_events()}) as api:
        settings = command.settings(api, receiver, jumpcloud__organizations="all")
        report = check(*settings)
        api.faults.always(Fault("status", status=403, path="/api/organizations"))
        refused = check(*settings)
    assert report.code == 0, report.text
    assert re.search(r"^ok +organizations +2 organizations to poll", report.text, re.MULTILINE)
    assert report.text.count("access granted") == 2
    assert "the list of organizations: JumpCloud answered 403" in refused.failure
    assert "or list IDs in jumpcloud.organizations" in refused.failure


def test_requests_and_the_oldest_event(command: Command, receiver: SimulatedReceiver) -> None:
    """The arithmetic of the rate limit, as a warning if it does not suffice; the oldest event is JumpCloud's own."""
    with SimulatedApi(recent_events()) as api:
        settings = command.settings(api, receiver, jumpcloud__start="10d", jumpcloud__requests_per_second=5)
        enough = check(*settings)
        too_many = check(*settings, "-o", "jumpcloud.interval=100ms")
    assert re.search(
        r"^ok +load +1 stream needs 0\.0\d\d requests/s \(\d,\d{3} a day\) .*; [\d.]+ are possible",
        enough.text,
        re.MULTILINE,
    )
    line = r"^warning +load +1 stream needs 10\.0 requests/s for polls every 0\.1 s; [\d.]+ are possible: .*; raise "
    assert re.search(line, too_many.text, re.MULTILINE)
    assert too_many.code == 0
    oldest = re.search(r"the oldest event since (\S+) is of (\S+)", enough.text)
    assert oldest
    assert oldest[1] < rfc3339(now_ms() - 9 * DAY_MS)
    assert oldest[2] > rfc3339(now_ms() - 12 * MINUTE_MS)


def test_a_directory_without_write_permission(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """A state directory that is read-only for this user, even for root without privileges; exit code 2."""
    command.state.parent.mkdir()
    command.state.parent.chmod(0o555)
    report = _check_after(NO_PRIVILEGES, command.settings(api, receiver))
    assert f"state.path: {command.state}: cannot be written: Permission denied" in report.failure
    assert f"write to {command.state.parent}, or set another path" in report.failure
    assert report.code == 2


def test_a_full_disk(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """The state fails, with the advice to free space."""
    report = _check_after(DISK_FULL, command.settings(api, receiver, geoip__city=None, geoip__asn=None))
    assert re.search(r"state\.path: \S+: cannot be written: .*; free space on the disk of /", report.failure)
    assert report.code == 1


def test_a_wrong_clock(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """A clock that is hours off is one failure; one that is more than a minute off is a warning."""
    for fault, status, text, code in [
        (Fault("date_behind", seconds=7200), "FAILED", r"7\d\d\d s ahead of .*NTP", 1),
        (Fault("date_ahead", seconds=90), "warning", r"[89]\d s behind .*NTP", 0),
        (Fault("date_ahead", seconds=0), "ok", "agrees", 0),
    ]:
        api.faults.clear()
        api.faults.always(fault)
        report = check(*command.settings(api, receiver))
        (line,) = [line for line in report.lines if line[9:14] == "clock"]
        assert line.startswith(status)
        assert re.search(text, line)
        assert report.code == len(report.failures) == code


def test_every_mistake_in_the_file_is_a_line(tmp_path: Path) -> None:
    """The problems of the configuration are all reported, and nothing else is checked."""
    file = tmp_path / "wrong.yaml"
    file.write_text("jumpcloud: {regoin: us, interval: soon}\nforward: {servers: [{host: h, port: 0}]}\n")
    report = check("-c", file)
    assert report.lines == report.failures
    assert all(line.startswith("FAILED   configuration  ") for line in report.lines)
    for line, key in zip(
        report.lines, ("jumpcloud.regoin", "jumpcloud.interval", "forward.servers[0].port"), strict=True
    ):
        assert key in line
    assert report.code == 2


def test_refused_requests(command: Command, receiver: SimulatedReceiver) -> None:
    """Each status is explained by its likely cause. Without counts, the plugin still works."""
    for fault, text, code in [
        (Fault("status", status=402, path="/events"), "enable Directory Insights", 1),
        (Fault("status", status=403, path="/events"), "the administrator's role is too low", 1),
        (Fault("status", status=404, path="/events"), "jumpcloud.url is wrong", 1),
        (Fault("redirect", path="/events"), "redirects are not followed, check jumpcloud.url", 1),
        (Fault("status", status=503, path="/events"), "JumpCloud answered 503", 1),
        (Fault("status", status=404, path="/interval"), "late events are found by reading again", 0),
    ]:
        with jumpcloud() as api:
            api.faults.always(fault)
            report = check(*command.settings(api, receiver))
        assert [line for line in report.lines if text in line], report.text
        assert report.code == code


def test_shared_keys(command: Command, api: SimulatedApi) -> None:
    """A shared key that is missing here, one that differs, and the right one."""
    with SimulatedReceiver(shared_key="theirs") as receiver:
        missing = check(*command.settings(api, receiver))
        wrong = check(*command.settings(api, receiver, forward__shared_key="not-the-same-secret"))
        right = check(*command.settings(api, receiver, forward__shared_key="theirs"))
    assert "set forward.shared_key" in missing.failure
    assert "forward.shared_key" in wrong.failure
    assert "not-the-same" not in wrong.text
    assert "connected, handshake completed" in right.text
    assert [missing.code, wrong.code, right.code] == [4, 4, 0]


def test_dead_letters(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Dead letters are a warning with their number and the command that shows them."""
    with SqliteStore(command.state, new_agent_id="x") as state:
        letters = [Refused(EventKey(1, bytes([number] * 16)), "1", "r", 0, "", b"{}") for number in range(2)]
        state.commit("default", [each.key for each in letters], Position.starting_at(5), dead_letters=letters)
    report = check(*command.settings(api, receiver))
    (line,) = [line for line in report.lines if line.startswith("warning  dead letters")]
    assert "2 dead letters" in line
    assert "see `in-jumpcloud dead-letters list`" in line
    assert report.code == 0


def test_a_running_plugin_is_not_disturbed(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """The process that holds the state is named; it keeps running, and nothing is delivered twice."""
    settings = command.settings(api, receiver, http__listen=None)
    process = command.start("run", *settings)
    assert receiver.wait_for(500, timeout=60), command.log.read_text()
    before = command.acknowledged()
    report = check(*settings)
    assert f"in use by process {process.pid} on {socket.gethostname()}: the plugin is running" in report.text
    assert report.code == 0
    assert process.poll() is None
    assert command.acknowledged() >= before
    assert max(receiver.ids.values()) == 1


def test_a_damaged_state(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """A damaged file fails, and is not changed."""
    command.state.parent.mkdir()
    command.state.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    report = check(*command.settings(api, receiver))
    assert f"state.path: {command.state}: " in report.failure
    assert "move it away" in report.failure
    assert report.code != 0
    assert command.state.stat().st_size == 5016


def test_secrets_that_others_can_read(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path
) -> None:
    """A secret in a file that other users can read is a warning with the remedy."""
    key = tmp_path / "key"
    key.write_text(KEY)
    key.chmod(0o644)
    options = [*command.settings(api, receiver, jumpcloud__api_key=None), "-o", f"jumpcloud.api_key_file={key}"]
    readable = check(*options)
    key.chmod(0o640)
    private = check(*options)
    assert re.search(rf"holds jumpcloud.api_key, .*\(mode 0644\); chmod o-rwx {key}", readable.text)
    assert f"ok       secrets        {key}: not accessible to other users" in private.lines
    assert readable.code == private.code == 0
