"""The state while the plugin runs: a full disk, a locked file, a damaged one."""

from __future__ import annotations

import contextlib
import http.client
import resource
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import ROOT, Command, wait_until
from support.fluent_bit import free_port

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import rfc3339

NOW = time.time_ns() // 1_000_000


@pytest.fixture
def source() -> EventSource:
    """6,000 events of the last hours."""
    return EventSource(start_ms=NOW - 100 * 60_000, end_ms=NOW - 60_000, per_minute=60)


@pytest.fixture
def api(source: EventSource) -> Iterator[SimulatedApi]:
    """JumpCloud with those events."""
    with SimulatedApi(source) as api:
        yield api


def _total(api: SimulatedApi) -> int:
    return sum(source.count(0, NOW, now_ms=NOW) for source in api.sources.values())


@pytest.mark.parametrize("kind", ["once", "backfill", "reload"])
def test_a_full_disk(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path, kind: str
) -> None:
    """While nothing can be written the log says so and nothing is delivered; with space again, each event once."""
    file = tmp_path / "jumpcloud.yaml"
    file.write_text((ROOT / "conf" / "jumpcloud.yaml").read_text())
    settings = command.settings(api, receiver, jumpcloud__page_limit=100, jumpcloud__interval="1s")
    settings[:2] = ["-c", str(file)]
    span = ("--since", rfc3339(NOW - 100 * 60_000), "--until", rfc3339(NOW - 60_000))
    arguments = {"once": ("run", "--once"), "backfill": ("backfill", *span), "reload": ("run",)}[kind]
    process = command.start(*arguments, *settings)
    assert receiver.wait_for(200, timeout=30), command.log.read_text()
    _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    # Enough for the log, but not for the state.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (16_384, most))
    wait_until(lambda: "cannot be written" in command.log.read_text())
    arrived = receiver.received
    assert arrived < _total(api)
    if kind == "reload":
        file.write_text(file.read_text().replace("tag: jumpcloud.events", "tag: changed"))
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "configuration reloaded: 1 stream restarted" in command.log.read_text())
    wait_until(lambda: command.log.read_text().count("cannot be written") >= 4)
    assert receiver.received == arrived

    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))

    if kind == "reload":
        assert receiver.wait_for(_total(api), timeout=60)
        process.terminate()
    assert process.wait(timeout=60) == 0, command.log.read_text()
    assert sum(receiver.ids.values()) == len(receiver.ids) == _total(api)


def test_a_locked_file(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """While another program locks the file the commit waits; nothing is lost or duplicated."""
    process = command.start("run", "--once", *command.settings(api, receiver, jumpcloud__page_limit=100))
    assert receiver.wait_for(200, timeout=30), command.log.read_text()
    with contextlib.closing(sqlite3.connect(command.state, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        wait_until(lambda: "locked" in command.log.read_text())
        database.execute("ROLLBACK")

    assert process.wait(timeout=60) == 0, command.log.read_text()
    assert sum(receiver.ids.values()) == len(receiver.ids) == _total(api)


@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_damaged_file_ends_the_process(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, damage: str
) -> None:
    """Exit code 1 and one line; with the file moved away it starts again, says so, and sends everything again."""
    run = ["run", "--once", *command.settings(api, receiver)]
    assert command(*run).returncode == 0
    whole = command.state.read_bytes()
    command.state.write_bytes(whole[: len(whole) // 2] if damage == "cut" else whole[:4096] + b"\xa5" * len(whole))

    damaged = command(*run)

    assert damaged.returncode == 1, damaged.stderr
    (line,) = [line for line in damaged.stderr.decode().splitlines() if line.startswith("in-jumpcloud: ")]
    assert "move it away" in line
    _move_away(command.state)

    again = command(*run)

    assert again.returncode == 0, again.stderr
    assert b"new state;" in again.stderr
    assert set(receiver.ids.values()) == {2}


def _move_away(state: Path) -> None:
    for file in state.parent.glob(f"{state.name}*"):
        file.rename(file.with_name(f"old-{file.name}"))


LIVE = {"jumpcloud__interval": "100ms", "jumpcloud__lag": "0s", "jumpcloud__start": "3h"}


def _add(api: SimulatedApi, *names: str) -> None:
    """Events of this moment."""
    now_ms = time.time_ns() // 1_000_000
    for name in names:
        event = {"id": name, "timestamp": rfc3339(now_ms), "service": "sso"}
        next(iter(api.sources.values())).add(event, timestamp_ms=now_ms)


def _ready(port: int) -> str:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", "/readyz")
        return connection.getresponse().read().decode()


def test_a_deleted_file_stops_the_delivery_until_it_is_back(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """It is seen at once: the log and `/readyz` say so, and nothing is delivered that no state would know."""
    port = free_port()
    process = command.start("run", *command.settings(api, receiver, **LIVE, http__listen=f"127.0.0.1:{port}"))
    assert receiver.wait_for(_total(api), timeout=60), command.log.read_text()
    moved = command.state.rename(command.state.with_name("moved"))
    _add(api, "meanwhile")
    wait_until(lambda: f"{command.state}: was deleted while this process is using it" in command.log.read_text())
    wait_until(lambda: "was deleted while" in _ready(port))
    assert "meanwhile" not in receiver.ids

    moved.rename(command.state)

    assert receiver.wait_until(lambda: "meanwhile" in receiver.ids, timeout=60), command.log.read_text()
    process.terminate()
    assert process.wait(30) == 0
    assert sum(receiver.ids.values()) == len(receiver.ids)


def test_a_deleted_lock_lets_no_two_processes_deliver(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """A second process takes over the state, and the first stops by itself: nothing is duplicated."""
    settings = command.settings(api, receiver, **LIVE)
    command.start("run", *settings)
    assert receiver.wait_for(_total(api), timeout=60), command.log.read_text()
    command.state.with_name(f"{command.state.name}.lock").unlink()
    second = command.start("run", *settings)
    for number in range(20):
        _add(api, f"live-{number}")
        assert receiver.wait_until(lambda name=f"live-{number}": name in receiver.ids, timeout=60)  # type: ignore[misc]
    second.terminate()
    assert second.wait(30) == 0
    assert ".lock: was " in command.log.read_text()
    assert sum(receiver.ids.values()) == len(receiver.ids)


@pytest.mark.parametrize("cause", ["disk", "dead letters"])
def test_what_cannot_be_written_is_the_reason_at_once(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, cause: str
) -> None:
    """While a commit is tried again `/readyz` and `status` name the state, not the receiver, which acknowledges."""
    port = free_port()
    settings = {"jumpcloud__page_limit": 100, "http__listen": f"127.0.0.1:{port}"}
    says = "no space for another dead letter"
    if cause == "dead letters":
        settings |= {"dead_letter__max_bytes": 5000, "forward__message_max_bytes": 1500, "forward__chunk_bytes": 1000}
    process = command.start("run", *command.settings(api, receiver, **settings))
    _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    if cause == "disk":
        says = "cannot be written: disk I/O error"
        assert receiver.wait_for(200, timeout=30), command.log.read_text()
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (65_536, most))
    wait_until(lambda: says in command.log.read_text())

    reasons = _ready(port)
    status = command("status", *command.settings(api, receiver, **settings)).stdout.decode()

    (line,) = reasons.splitlines()
    assert line.startswith(f"state: {command.state}: ")
    assert says in line
    assert f"Z  {command.state}: " in next(line for line in status.splitlines() if "last error" in line)
    if cause == "disk":
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
        assert receiver.wait_for(_total(api), timeout=60)
        wait_until(lambda: not _ready(port).startswith("state"))


@pytest.mark.parametrize("made", ["at rest", "in use"])
@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_copy_that_is_put_back_after_the_file_was_deleted(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, made: str, end: str
) -> None:
    """The advice works to the letter. What a copy made at rest lacks comes again: the log that is left is not of it.

    A copy that was made since the log began is completed by it.
    """
    settings = command.settings(api, receiver, **LIVE)
    assert command("run", "--once", *settings).returncode == 0
    copy = command.state.with_name("copy")
    if made == "at rest":
        copy.write_bytes(command.state.read_bytes())
    process = command.start("run", *settings)
    for number in range(3):
        _add(api, f"live-{number}")
        assert receiver.wait_until(lambda name=f"live-{number}": name in receiver.ids, timeout=60)  # type: ignore[misc]
        wait_until(lambda: command.acknowledged() == len(receiver.ids))
        if made == "in use" and number == 0:
            copy.write_bytes(command.state.read_bytes())
    command.state.unlink()
    wait_until(lambda: "was deleted while this process is using it" in command.log.read_text())
    process.send_signal(signal.SIGTERM if end == "stopped" else signal.SIGKILL)
    process.wait(30)
    log = command.state.with_name(f"{command.state.name}-wal")

    without = command("run", "--once", *settings)

    assert without.returncode == 1
    assert f"put the file back, or move {log.name} away to start again at jumpcloud.start" in without.stderr.decode()
    copy.rename(command.state)
    seen = command("status", *settings).stderr
    assert (b"the next start of `in-jumpcloud run` sets it aside" in seen) == (made == "at rest")

    again = command("run", "--once", *settings)

    assert again.returncode == 0, again.stderr
    assert (f"{log}: this log is of another copy of the state" in again.stderr.decode()) == (made == "at rest")
    assert log.with_name(f"{log.name}.unused").exists() == (made == "at rest")
    assert command("run", "--once", *settings).returncode == 0
    twice = {"live-0", "live-1", "live-2"} if made == "at rest" else set()
    assert {name: times for name, times in receiver.ids.items() if times > 1} == dict.fromkeys(twice, 2)


def test_a_start_without_a_copy_after_the_file_was_deleted(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """With the log moved away, as the advice says, it starts again, and says so."""
    settings = command.settings(api, receiver, **LIVE)
    process = command.start("run", *settings)
    assert receiver.wait_for(_total(api), timeout=60), command.log.read_text()
    command.state.unlink()
    wait_until(lambda: "was deleted while this process is using it" in command.log.read_text())
    assert f"move {command.state.name} and {command.state.name}-wal away" in command.log.read_text()
    process.terminate()
    process.wait(30)
    command.state.with_name(f"{command.state.name}-wal").rename(command.directory / "away")

    again = command("run", "--once", *settings)

    assert again.returncode == 0, again.stderr
    assert b"the state that was here is gone; events may be delivered again" in again.stderr
    assert set(receiver.ids.values()) == {2}
