"""`in-jumpcloud check`: ten wrong set-ups, each with one line that names the cause; and right ones."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import COMMAND, KEY, ROOT, Command

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver

NO_PRIVILEGES = """
import ctypes, os, sys
for number in range(64):
    ctypes.CDLL(None).prctl(24, number, 0, 0, 0)  # PR_CAPBSET_DROP: root without them is bound by a file's mode
os.execv(sys.argv[1], sys.argv[1:])
"""
NO_ROOM = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def api() -> Iterator[SimulatedApi]:
    """JumpCloud with a few events."""
    now_ms = time.time_ns() // 1_000_000
    with SimulatedApi(EventSource(start_ms=now_ms - 600_000, end_ms=now_ms - 60_000)) as api:
        yield api


def _lines(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    assert "Traceback" not in done.stderr.decode()
    assert KEY not in (done.stdout + done.stderr).decode()
    return done.stdout.decode().splitlines()


def _failure(done: subprocess.CompletedProcess[bytes]) -> str:
    (line,) = [line for line in _lines(done) if line.startswith("FAILED")]
    return line


def test_a_right_set_up(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Every check has its line, nothing fails, exit code 0, and nothing is sent, written or taken."""
    done = command("check", *command.settings(api, receiver))

    assert done.returncode == 0, done.stdout
    lines = _lines(done)
    whats = [line[9:23].strip() for line in lines]
    assert whats == [
        *("configuration", "secrets", "JumpCloud", "clock", "JumpCloud", "counts", "database", "database"),
        *("state", "dead letters", "receiver"),
    ]
    assert {line.split()[0] for line in lines} == {"ok", "warning"}
    assert receiver.messages == 0
    assert not command.state.parent.exists()
    assert b"\x1b" not in done.stdout


def test_a_probe_is_acknowledged(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """With --probe one message goes out, and no record."""
    done = command("check", "--probe", *command.settings(api, receiver))

    assert done.returncode == 0
    assert "a message without records acknowledged" in done.stdout.decode()
    assert (receiver.messages, receiver.received) == (1, 0)


def test_for_programs(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """--json prints one object with every check, and the same exit code."""
    done = command("check", "--json", *command.settings(api, receiver, jumpcloud__api_key="wrong-key-of-twenty"))

    found: dict[str, Any] = json.loads(done.stdout)
    assert found["exit_code"] == done.returncode == 3
    (failure,) = [each for each in found["checks"] if each["result"] == "failed"]
    assert failure["check"] == "JumpCloud"
    assert "JumpCloud answered 401" in failure["found"]
    assert "wrong-key" not in done.stdout.decode()


@pytest.mark.parametrize("no_color", ["", "1"])
def test_on_a_terminal_it_is_coloured(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, no_color: str
) -> None:
    """Words say it, and on a terminal colours too, unless NO_COLOR is set."""
    mine, its = pty.openpty()
    process = subprocess.Popen(  # noqa: S603 - our own command
        [COMMAND, "check", *command.settings(api, receiver)],
        stdout=its,
        cwd=ROOT,
        env=command._environ({"NO_COLOR": no_color}),
    )
    os.close(its)
    shown = b""
    with contextlib.suppress(OSError):  # a terminal's end is an error
        while part := os.read(mine, 65_536):
            shown += part
    os.close(mine)

    assert process.wait(30) == 0
    assert (b"\x1b[32m" in shown) == (not no_color)
    assert b"ok " in shown


# The ten


def test_1_a_wrong_key(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Exit code 3; with a url of one's own the key goes nowhere else."""
    done = command("check", *command.settings(api, receiver, jumpcloud__api_key="wrong"))

    assert "the key is wrong, expired or revoked, or belongs to another region" in _failure(done)
    assert done.returncode == 3


# The second, a wrong region, is in test_check_regions.py.


def test_3_a_wrong_organization(command: Command, receiver: SimulatedReceiver) -> None:
    """The one that is refused is named, the one that is empty is told from it, the others are well."""
    now_ms = time.time_ns() // 1_000_000
    sources = {
        "5f0000000000000000000001": EventSource(start_ms=now_ms - 600_000, end_ms=now_ms - 60_000),
        "5f0000000000000000000002": EventSource(start_ms=now_ms - 600_000, end_ms=now_ms - 600_000),
    }
    organizations = [*sources, "5f00000000000000000000ff"]
    with SimulatedApi(sources) as api:
        done = command("check", *command.settings(api, receiver, jumpcloud__organizations=organizations))

    failure = _failure(done)
    assert "organization 5f00000000000000000000ff: JumpCloud answered 403" in failure
    assert "an organization id is missing or wrong" in failure
    lines = _lines(done)
    assert any(line.startswith("ok") and "0001: lets us in, and has events" in line for line in lines)
    assert any(line.startswith("warning") and "0002: lets us in, and has no event" in line for line in lines)
    assert done.returncode == 1


def test_4_an_unknown_host(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """A name without an address, of JumpCloud or of a receiver."""
    wrong_url = command("check", *command.settings(api, receiver, jumpcloud__url="https://nowhere.invalid"))
    wrong_host = command("check", *command.settings(api, receiver, forward__servers=[{"host": "nowhere.invalid"}]))

    assert re.search(r"JumpCloud +https://nowhere\.invalid/\S+: .*(name|resol)", _failure(wrong_url))
    assert wrong_url.returncode == 1
    assert "receiver       nowhere.invalid:24224: the name has no address: " in _failure(wrong_host)
    assert "correct the name in forward.servers" in _failure(wrong_host)
    assert wrong_host.returncode == 4


def test_5_a_closed_port(command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """Nobody listens: at the receiver's port, at its socket, or at JumpCloud's."""
    closed = command("check", *command.settings(api, 1))
    no_socket = command("check", *command.settings(api, receiver, forward__servers=[{"unix": str(tmp_path / "no")}]))
    no_api = command("check", *command.settings(api, receiver, jumpcloud__url="http://127.0.0.1:1"))

    assert "127.0.0.1:1: Connection refused; nobody listens there: start the receiver" in _failure(closed)
    assert "there is no such socket: start the receiver" in _failure(no_socket)
    assert closed.returncode == no_socket.returncode == 4
    assert "http://127.0.0.1:1/insights/directory/v1/events: Connection refused" in _failure(no_api)
    assert no_api.returncode == 1


# The sixth, TLS, is in test_check_tls.py.


def test_7_a_missing_database(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """One that is not there, and a file that is none; both are told, exit code 2."""
    done = command("check", *command.settings(api, receiver, geoip__city="nowhere.mmdb", geoip__asn="README.md"))

    missing, no_database = [line for line in _lines(done) if line.startswith("FAILED")]
    assert "geoip.city: nowhere.mmdb: no such file; see geoip/README.md" in missing
    assert "geoip.asn: README.md: not a MaxMind database" in no_database
    assert done.returncode == 2


def _wrapped(command: Command, script: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", script, COMMAND, *arguments],
        capture_output=True,
        cwd=ROOT,
        env=command._environ({}),
        timeout=100,
        check=False,
    )


def test_8_a_folder_that_may_not_be_written_to(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """The state's folder is read-only for this user, be it root without its privileges; exit code 2."""
    command.state.parent.mkdir()
    command.state.parent.chmod(0o555)

    done = _wrapped(command, NO_PRIVILEGES, "check", *command.settings(api, receiver))

    line = _failure(done)
    assert f"state.path: {command.state}: cannot be written: Permission denied" in line
    assert f"write to {command.state.parent}, or name another path" in line
    assert done.returncode == 2


@pytest.mark.parametrize(("seconds", "mark", "code"), [(-7200, "FAILED", 1), (90, "warning", 0), (0, "ok", 0)])
def test_9_a_wrong_clock(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, seconds: int, mark: str, code: int
) -> None:
    """A clock that is hours off fails, once; more than a minute is named."""
    api.date_skew = seconds

    done = command("check", *command.settings(api, receiver))

    (line,) = [line for line in _lines(done) if line[9:14] == "clock"]
    assert line.startswith(mark)
    if seconds:
        assert re.search(r"7\d\d\d s ahead of" if seconds < 0 else r"(8|9)\d s behind", line)
        assert "set it (NTP)" in line
    assert done.returncode == code
    assert sum(line.startswith("FAILED") for line in _lines(done)) == code


def test_10_a_full_disk(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Where no more can be written, that is said of everything that is kept there."""
    done = _wrapped(command, NO_ROOM, "check", *command.settings(api, receiver))

    state, letters = [line for line in _lines(done) if line.startswith("FAILED")]
    assert re.search(r"state\.path: \S+: cannot be written: .*; free room on the disk of /", state)
    assert "dead_letter.path: " in letters
    assert done.returncode == 1


# More that may be wrong


def test_every_mistake_in_the_file_is_a_line(command: Command, tmp_path: Path) -> None:
    """The configuration comes first: without it nothing else can be tried."""
    file = tmp_path / "wrong.yaml"
    file.write_text("jumpcloud: {regoin: us, interval: soon}\nforward: {servers: [{host: h, port: 0}]}\n")

    done = command("check", "-c", file)

    lines = _lines(done)
    assert [line.split(": ")[1] for line in lines] == [
        "jumpcloud.regoin",
        "jumpcloud.interval",
        "forward.servers[0].port",
    ]
    assert all(line.startswith("FAILED   configuration  ") for line in lines)
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("fault", "says", "code"),
    [
        (Fault("status", status=402, path="/events"), "have Directory Insights enabled for it", 1),
        (Fault("status", status=403, path="/events"), "the administrator's role is too low", 1),
        (Fault("status", status=404, path="/events"), "jumpcloud.url is wrong", 1),
        (Fault("redirect", path="/events"), "redirects are not followed, check jumpcloud.url", 1),
        (Fault("status", status=503, path="/events"), "JumpCloud answered 503", 1),
        (Fault("status", status=404, path="/interval"), "late events are found by reading again", 0),
    ],
    ids=str,
)
def test_what_jumpcloud_refuses_is_explained(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, fault: Fault, says: str, code: int
) -> None:
    """Each status comes with its likely cause; without counts it still works."""
    api.faults.always(fault)

    done = command("check", *command.settings(api, receiver))

    assert [line for line in _lines(done) if says in line], done.stdout
    assert done.returncode == code


def test_a_receiver_with_another_key(command: Command, api: SimulatedApi) -> None:
    """A shared key that is missing here, and one that differs."""
    with SimulatedReceiver(shared_key="theirs") as receiver:
        missing = command("check", *command.settings(api, receiver))
        wrong = command("check", *command.settings(api, receiver, forward__shared_key="not-the-same-secret"))
        right = command("check", *command.settings(api, receiver, forward__shared_key="theirs"))

    assert "it asks for a shared key: set forward.shared_key" in _failure(missing)
    assert "forward.shared_key probably does not match" in _failure(wrong)
    assert "not-the-same" not in wrong.stdout.decode()
    assert missing.returncode == wrong.returncode == 4
    assert "connected, handshake held" in right.stdout.decode()
    assert right.returncode == 0


def test_dead_letters_are_counted(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """What waits is a warning, with the command that shows it."""
    letter = {"time": "t", "stream": "s", "id": "1", "reason": "r", "event": "{}"}
    command.dead_letters.write_text(f"{json.dumps(letter)}\n" * 2)

    done = command("check", *command.settings(api, receiver))

    (line,) = [line for line in _lines(done) if "dead letters" in line]
    assert line.startswith("warning  dead letters")
    assert "2 wait" in line
    assert "see `in-jumpcloud dead-letter list`" in line
    assert done.returncode == 0


def test_a_running_plugin_is_not_disturbed(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Who holds the state is told; the plugin goes on, and the check delivers nothing."""
    settings = command.settings(api, receiver, http__listen=None)
    process = command.start("run", *settings)
    assert receiver.wait_for(500, timeout=60), command.log.read_text()
    before = command.acknowledged()

    done = command("check", *settings)

    assert f"in use by process {process.pid} on {socket.gethostname()}: the plugin runs" in done.stdout.decode()
    assert done.returncode == 0
    assert process.poll() is None
    assert command.acknowledged() >= before
    assert max(receiver.ids.values()) == 1


def test_a_damaged_state(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """What is no database of ours says so and stays as it is; exit code 1."""
    command.state.parent.mkdir()
    command.state.write_bytes(b"SQLite format 3\0" + b"x" * 5000)

    done = command("check", *command.settings(api, receiver))

    assert f"state.path: {command.state}: " in _failure(done)
    assert "move it away" in _failure(done)
    assert done.returncode == 1
    assert command.state.stat().st_size == 5016


def test_secrets_that_others_may_read(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path
) -> None:
    """A file with a secret in it, whose mode lets everybody read it, is a warning with the remedy."""
    key = tmp_path / "key"
    key.write_text(KEY)
    key.chmod(0o644)
    options = [*command.settings(api, receiver, jumpcloud__api_key=None), "-o", f"jumpcloud.api_key_file={key}"]

    open_to_all = command("check", *options)
    key.chmod(0o640)
    closed = command("check", *options)

    assert f"holds jumpcloud.api_key, and others may read it (mode 0644); chmod o-rwx {key}" in "\n".join(
        _lines(open_to_all)
    )
    assert f"ok       secrets        {key}: not open to others" in _lines(closed)
    assert open_to_all.returncode == closed.returncode == 0
