"""`in-jumpcloud state`: a state that moves in the midst of a window loses nothing and duplicates nothing."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import COMMAND, ROOT, Command, invoke, wait_until

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms


@pytest.fixture
def api() -> Iterator[SimulatedApi]:
    """JumpCloud with 6,000 events of the last hours."""
    now = now_ms()
    source = EventSource(start_ms=now - 100 * MINUTE_MS, end_ms=now - MINUTE_MS, per_minute=60)
    with SimulatedApi(source) as api:
        yield api


def _total(api: SimulatedApi) -> int:
    return sum(source.count(0, now_ms(), now_ms=now_ms()) for source in api.sources.values())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_state_moves_in_the_midst_of_a_window(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path, how: signal.Signals
) -> None:
    """Stopped or killed, moved, and continued at the same position: nothing is lost. Who is stopped duplicates nothing.

    While a process holds the state, and after it was moved, each step that would do harm is refused with one line.
    """
    old = command.settings(api, receiver, jumpcloud__page_limit=100)
    new = [*old, "-o", f"state.path={tmp_path / 'new.db'}"]
    process = command.start("run", "--once", *old)
    assert receiver.wait_for(500, timeout=30), command.log.read_text()
    api.faults.always(Fault("delay", seconds=2))
    for name in ("export", "import", "migrate"):
        held = command("state", name, *old)
        assert (held.returncode, held.stdout) == (1, b"")
        (line,) = held.stderr.decode().splitlines()
        assert f"in use by process {process.pid} on " in line
    process.send_signal(how)
    process.wait(30)
    api.faults.clear()
    arrived = len(receiver.ids)
    assert 500 <= arrived < _total(api)

    exported = command("state", "export", *old)
    imported = command("state", "import", *new, stdin=exported.stdout)

    assert (exported.returncode, exported.stderr) == (0, b"")
    assert (imported.returncode, imported.stderr) == (0, b"")
    assert imported.stdout.decode().startswith(f"{tmp_path / 'new.db'}: imported 1 stream, ")
    assert command("state", "export", *new).stdout == exported.stdout  # positions and all else are equal
    (stream,) = [line for line in map(json.loads, exported.stdout.splitlines()) if line["kind"] == "stream"]
    assert stream["position"]["window"]["cursor"]
    again = command("state", "import", *new, stdin=exported.stdout)
    assert again.returncode == 1
    assert again.stderr.decode().splitlines() == [
        f"in-jumpcloud: {tmp_path / 'new.db'}: has data of its own; import into a new state"
    ]

    done = command("run", "--once", *new)

    assert done.returncode == 0, done.stderr
    assert len(receiver.ids) == _total(api)
    resent = sum(receiver.ids.values()) - len(receiver.ids)
    assert resent == 0 if how == signal.SIGTERM else resent <= 100
    shown = json.loads(command("state", "show", "--json", *new).stdout)
    assert (shown["streams"], shown["ids"], shown["held_by"]) == (1, _total(api), None)


def test_nothing_changes_a_state_that_is_exported(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """What would change it is refused, or waits until the export ends; the export is the state as it was."""
    settings = command.settings(api, receiver)
    assert command("run", "--once", *settings).returncode == 0
    delivered = len(receiver.ids)
    process = subprocess.Popen(  # noqa: S603 - our own command
        [COMMAND, "state", "export", *settings], stdout=subprocess.PIPE, bufsize=0, cwd=ROOT
    )
    with process:
        assert process.stdout
        first = process.stdout.readline()  # a pipe holds less than the rest
        span = ("--since", "60m", "--until", "30m", "--again")
        backfill = command.start("backfill", *settings, *span)
        holder = f"process {process.pid} on {socket.gethostname()}"
        wait_until(lambda: f"waiting: {holder} exports" in command.log.read_text())
        for name in (("dead-letters", "drop", "--all"), ("backfill", "--cancel")):
            refused = command(*name, *settings)
            assert (refused.returncode, refused.stdout) == (1, b""), name
            assert "try again when it has ended" in refused.stderr.decode()
        report = command("check", *settings).stdout.decode()
        assert f"in use by {holder}: a command is moving it" in report
        assert backfill.poll() is None
        rest = process.stdout.read()
    assert backfill.wait(60) == 0, command.log.read_text()
    assert sum(receiver.ids.values()) > delivered
    kinds = [json.loads(line)["kind"] for line in (first + rest).splitlines()]
    assert (process.returncode, kinds[-1]) == (0, "end")
    assert "backfill" not in kinds


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (b"", "standard input is cut: it ends after line 0"),
        (b"\n", "standard input is not what `state export` prints"),
        (b"\xff\x00{", "standard input is not what `state export` prints"),
        (b'{"kind":"in-jumpcloud state","format":9,"new":1}\n', "has format 9, newer than format 1 of this program"),
        (b'{"kind":"in-jumpcloud state","format":1,"agent_id":"a"}\n', "standard input is cut: it ends after line 1"),
        (b'{"kind":"in-jumpcloud state","format":1}\n{"kind":"' + b"x" * 5000, "line 2 is not what"),
    ],
)
def test_what_is_no_export_leaves_nothing(tmp_path: Path, given: bytes, says: str) -> None:
    """One line, exit code 1, and no file of the new state is left."""
    path = tmp_path / "state" / "new.db"

    done = invoke("state", "import", "-o", f"state.path={path}", stdin=given)

    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert says in line
    assert line.endswith("nothing was imported")
    assert list(path.parent.iterdir()) == []


def test_an_interrupted_import(tmp_path: Path, command: Command) -> None:
    """Ctrl-C while it waits for more: one line, exit code 1, and no file of the new state is left."""
    path = tmp_path / "state" / "new.db"
    with subprocess.Popen(  # noqa: S603 - our own command
        [COMMAND, "state", "import", "-o", f"state.path={path}"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=command.directory,
    ) as process:
        wait_until(path.exists)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 1
        assert process.stderr
        assert process.stderr.read() == b"in-jumpcloud: interrupted; nothing was imported\n"
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["show", "export", "migrate"])
def test_no_state(tmp_path: Path, name: str) -> None:
    """One line, and none is created."""
    done = invoke("state", name, "-o", f"state.path={tmp_path / 'state.db'}")
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert "no such file" in line
    assert list(tmp_path.iterdir()) == []
