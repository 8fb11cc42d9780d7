"""`in-jumpcloud dead-letter`: list refused events, and deliver them again."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import KEY, Command, invoke

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.state.dead_letters import DeadLetterFile
from in_jumpcloud.timestamps import rfc3339

NOW = 1_767_225_600_000


@pytest.fixture
def receiver() -> Iterator[SimulatedReceiver]:
    """A receiver that keeps its records."""
    with SimulatedReceiver() as receiver:
        yield receiver


@pytest.fixture
def letters(tmp_path: Path) -> DeadLetterFile:
    """Three dead letters, of which the second is large."""
    file = DeadLetterFile(tmp_path / "dead-letter.ndjson", max_bytes=10_000_000)
    for number, size in enumerate((10, 100_000, 10)):
        event = {"id": f"event-{number}", "timestamp": rfc3339(NOW - 60_000), "service": "sso", "message": "x" * size}
        file.add("default", f"event-{number}", "too odd", json.dumps(event).encode(), now_ms=NOW)
    return file


def _settings(command: Command, receiver: SimulatedReceiver, letters: DeadLetterFile | Path) -> list[str]:
    unused = SimulatedApi(EventSource(start_ms=NOW), port=1)
    path = letters.path if isinstance(letters, DeadLetterFile) else letters
    return command.settings(unused, receiver, dead_letter__path=str(path), forward__ack_timeout="5s")


def _replay(command: Command, settings: list[str]) -> subprocess.CompletedProcess[bytes]:
    return command("dead-letter", "replay", *settings, JUMPCLOUD_API_KEY="")


def test_list(command: Command, receiver: SimulatedReceiver, letters: DeadLetterFile) -> None:
    """A row for each, or the lines of the file; characters that a terminal cannot show are replaced. Needs no key."""
    letters.add("a", "\x1b[31m\ud800", "no\nack", b"\xff", now_ms=NOW)
    settings = _settings(command, receiver, letters)

    table = invoke("dead-letter", "list", *settings, JUMPCLOUD_API_KEY="")
    lines = invoke("dead-letter", "list", "--format", "json", *settings)

    assert table.returncode == 0, table.stderr
    assert [line.split() for line in table.stdout.decode().splitlines()] == [
        ["time", "stream", "id", "reason"],
        *([rfc3339(NOW), "default", f"event-{number}", "too", "odd"] for number in range(3)),
        [rfc3339(NOW), "a", "?[31m?", "no?ack"],
    ]
    assert lines.stdout == letters.path.read_bytes()


def test_no_dead_letters(command: Command, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """Both commands say so, create nothing, and need no receiver."""
    settings = _settings(command, receiver, tmp_path / "none")
    receiver.stop()
    for name in ("list", "replay"):
        done = invoke("dead-letter", name, *settings)
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode() == f"no dead letters in {tmp_path / 'none'}\n"
    assert not (tmp_path / "none").exists()


def test_replay(command: Command, receiver: SimulatedReceiver, letters: DeadLetterFile) -> None:
    """Each is mapped with the current configuration, delivered in a chunk of its own, and removed from the file."""
    settings = [*_settings(command, receiver, letters), "-o", "ecs.namespace=again"]

    done = _replay(command, settings)

    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == "dead letters delivered: 3\n"
    assert letters.path.read_bytes() == b""
    assert [each.record["event"]["id"] for each in receiver.records] == ["event-0", "event-1", "event-2"]
    record = receiver.records[0].record
    assert record["@timestamp"] == rfc3339(NOW - 60_000)
    assert record["event"]["created"] == rfc3339(NOW)
    assert record["data_stream"]["namespace"] == "again"
    assert receiver.messages == 3


def test_a_refused_one_stays(command: Command, receiver: SimulatedReceiver, letters: DeadLetterFile) -> None:
    """One that is refused again stays, with the reason; the others are delivered; exit code 1."""
    receiver.faults.refuse_above(50_000)

    done = _replay(command, _settings(command, receiver, letters))

    assert done.returncode == 1
    assert done.stdout.decode() == "dead letters delivered: 2\n"
    reason, summary = done.stderr.decode().splitlines()
    assert reason.startswith("in-jumpcloud: default: event event-1 stays: receiver ")
    assert summary == f"in-jumpcloud: dead letters that stay in {letters.path}: 1"
    assert [letter.id for letter in letters.letters()] == ["event-1"]

    receiver.faults.clear()
    assert _replay(command, _settings(command, receiver, letters)).returncode == 0
    assert sorted(receiver.ids.values()) == [1, 1, 1]


def test_none_is_delivered(command: Command, receiver: SimulatedReceiver, letters: DeadLetterFile) -> None:
    """Without a receiver, or with one that refuses everything, which counts as down, all stay; exit code 4."""
    before = letters.path.read_bytes()
    settings = _settings(command, receiver, letters)
    receiver.faults.refuse_above(1)
    refusing = _replay(command, settings)
    receiver.stop()
    stopped = _replay(command, settings)

    assert (refusing.returncode, refusing.stdout.decode()) == (4, "dead letters delivered: 0\n")
    assert stopped.returncode == 4
    (line,) = stopped.stderr.decode().splitlines()
    assert "Connection refused" in line
    assert letters.path.read_bytes() == before


def test_one_above_the_largest_size(command: Command, receiver: SimulatedReceiver, letters: DeadLetterFile) -> None:
    """One that is larger than forward.message_max_bytes is not sent, and stays; the setting is named.

    The others are delivered, also after a connection that breaks before the ack, which is not a refusal.
    """
    limits = ["-o", "forward.message_max_bytes=50000", "-o", "forward.chunk_bytes=50000"]
    receiver.faults.reset_before_ack()

    done = _replay(command, [*_settings(command, receiver, letters), *limits])

    assert done.returncode == 1
    assert "larger than forward.message_max_bytes" in done.stderr.decode().splitlines()[0]
    assert [letter.id for letter in letters.letters()] == ["event-1"]
    assert (receiver.refused, len(receiver.ids)) == (0, 2)


def test_an_unreadable_line_stays(command: Command, receiver: SimulatedReceiver, letters: DeadLetterFile) -> None:
    """An incomplete line is reported and stays; the others are delivered."""
    with letters.path.open("ab") as file:
        file.write(b'{"time": "2026-')

    done = _replay(command, _settings(command, receiver, letters))

    assert done.returncode == 1
    warning, summary = done.stderr.decode().splitlines()
    assert ":4: not a dead letter" in warning
    assert summary.endswith(": 1")
    assert len(receiver.ids) == 3
    assert letters.path.read_bytes() == b'{"time": "2026-'


def test_ctrl_c(command: Command, receiver: SimulatedReceiver, letters: DeadLetterFile) -> None:
    """It stops soon, removes the delivered events and keeps the others."""
    receiver.faults.close_after_ack()
    receiver.faults.stall(60)
    process = command.start(
        "dead-letter", "replay", *_settings(command, receiver, letters), "-o", "forward.ack_timeout=60s"
    )
    assert receiver.wait_until(lambda: receiver.messages == 2, timeout=30)

    process.send_signal(signal.SIGINT)

    assert process.wait(15) == 1
    assert command.log.read_text() == "in-jumpcloud: interrupted; events that were not delivered stay in the file\n"
    assert command.output.read_text() == "dead letters delivered: 1\n"
    assert [letter.id for letter in letters.letters()] == ["event-1", "event-2"]


def test_from_the_refusal_to_the_delivery(command: Command, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """`run` refuses one event, `list` shows it, `replay` delivers it with the agent id of the plugin."""
    now_ms = time.time_ns() // 1_000_000
    source = EventSource(start_ms=now_ms - 600_000, end_ms=now_ms - 60_000, per_minute=10)
    large = {"id": "large", "timestamp": rfc3339(now_ms - 300_000), "service": "sso", "message": "x" * 300_000}
    source.add(large, timestamp_ms=now_ms - 300_000)
    receiver.faults.refuse_above(200_000)
    with SimulatedApi(source) as api:
        settings = command.settings(api, receiver, dead_letter__path=str(tmp_path / "dead-letter.ndjson"))
        run = command("run", "--once", *settings)
    assert run.returncode == 0, run.stderr
    assert b"  large  receiver" in invoke("dead-letter", "list", *settings).stdout
    receiver.faults.clear()

    done = _replay(command, settings)

    assert done.returncode == 0, done.stderr
    assert receiver.ids["large"] == 1
    assert len({each.record["agent"]["id"] for each in receiver.records}) == 1
    assert KEY not in run.stderr.decode()
