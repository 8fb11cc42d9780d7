"""`in-jumpcloud dead-letter`: from the refusal to the delivery after all."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import KEY, Command

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
    """Three dead letters, the second of which is large."""
    file = DeadLetterFile(tmp_path / "dead-letter.ndjson", max_bytes=10_000_000)
    for number, size in enumerate((10, 100_000, 10)):
        event = {"id": f"event-{number}", "timestamp": rfc3339(NOW - 60_000), "service": "sso", "message": "x" * size}
        file.add("default", f"event-{number}", "too odd", json.dumps(event).encode(), now_ms=NOW)
    return file


def _settings(command: Command, receiver: SimulatedReceiver, letters: DeadLetterFile | Path) -> list[str]:
    nowhere = SimulatedApi(EventSource(start_ms=NOW))
    path = letters.path if isinstance(letters, DeadLetterFile) else letters
    return command.settings(nowhere, receiver, dead_letter__path=str(path), forward__ack_timeout="5s")


def _replay(command: Command, settings: list[str]) -> subprocess.CompletedProcess[bytes]:
    return command("dead-letter", "replay", *settings, JUMPCLOUD_API_KEY="")


def test_list(command: Command, receiver: SimulatedReceiver, letters: DeadLetterFile) -> None:
    """A line each: when, of which stream, its id and why; or the lines as they are. No key is needed."""
    settings = _settings(command, receiver, letters)

    table = command("dead-letter", "list", *settings, JUMPCLOUD_API_KEY="")
    lines = command("dead-letter", "list", "--format", "json", *settings)

    assert table.returncode == 0, table.stderr
    assert [line.split() for line in table.stdout.decode().splitlines()] == [
        ["time", "stream", "id", "reason"],
        *([rfc3339(NOW), "default", f"event-{number}", "too", "odd"] for number in range(3)),
    ]
    assert lines.stdout == letters.path.read_bytes()


def test_list_survives_odd_text(command: Command, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """What a terminal would obey, or could not show, is not put on it."""
    file = DeadLetterFile(tmp_path / "odd", max_bytes=10_000)
    file.add("a", "\x1b[31m\ud800", "no\nack", b"\xff", now_ms=NOW)

    done = command("dead-letter", "list", *_settings(command, receiver, file))

    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines()[1] == f"{rfc3339(NOW)}  a       ?[31m?  no?ack"


@pytest.mark.parametrize("name", ["list", "replay"])
def test_none(command: Command, receiver: SimulatedReceiver, tmp_path: Path, name: str) -> None:
    """Where there are none that is said, nothing is made, and no receiver is needed."""
    settings = _settings(command, receiver, tmp_path / "none")
    receiver.stop()

    done = command("dead-letter", name, *settings)

    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == f"no dead letters in {tmp_path / 'none'}\n"
    assert not (tmp_path / "none").exists()


def test_replay(command: Command, receiver: SimulatedReceiver, letters: DeadLetterFile) -> None:
    """Each is mapped as the configuration says now, delivered in a chunk of its own, and taken out of the file."""
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
    """One that is refused again stays, with its reason told, after the others were delivered; exit code 1."""
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


def test_one_above_the_largest_size_is_not_sent(
    command: Command, receiver: SimulatedReceiver, letters: DeadLetterFile
) -> None:
    """What is larger than forward.message_max_bytes stays, and the setting is named."""
    limits = ["-o", "forward.message_max_bytes=50000", "-o", "forward.chunk_bytes=50000"]

    done = _replay(command, [*_settings(command, receiver, letters), *limits])

    assert done.returncode == 1
    assert "larger than forward.message_max_bytes" in done.stderr.decode().splitlines()[0]
    assert [letter.id for letter in letters.letters()] == ["event-1"]
    assert receiver.refused == 0


def test_one_lost_ack_is_no_refusal(command: Command, receiver: SimulatedReceiver, letters: DeadLetterFile) -> None:
    """A connection that breaks while a chunk is under way does not make it stay."""
    receiver.faults.reset_before_ack()

    done = _replay(command, _settings(command, receiver, letters))

    assert done.returncode == 0, done.stderr
    assert letters.size() == 0
    assert len(receiver.ids) == 3


def test_a_receiver_that_is_down(command: Command, receiver: SimulatedReceiver, letters: DeadLetterFile) -> None:
    """Without a receiver all stay, and the exit code is 4."""
    before = letters.path.read_bytes()
    receiver.stop()

    done = _replay(command, _settings(command, receiver, letters))

    assert done.returncode == 4
    (line,) = done.stderr.decode().splitlines()
    assert "Connection refused" in line
    assert letters.path.read_bytes() == before


def test_a_receiver_that_takes_nothing(command: Command, receiver: SimulatedReceiver, letters: DeadLetterFile) -> None:
    """A receiver that refuses whatever comes is down: nobody's event is to blame, and the exit code is 4."""
    receiver.faults.refuse_above(1)

    done = _replay(command, _settings(command, receiver, letters))

    assert done.returncode == 4
    assert done.stdout.decode() == "dead letters delivered: 0\n"
    assert len(list(letters.letters())) == 3


def test_an_unreadable_line_stays(command: Command, receiver: SimulatedReceiver, letters: DeadLetterFile) -> None:
    """A line that a crash left is told, stays, and keeps none of the others from being delivered."""
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
    """Asked to end, it ends soon, keeps what was not delivered and takes out what was."""
    receiver.faults.close_after_ack()
    receiver.faults.stall(60)
    process = command.start(
        "dead-letter", "replay", *_settings(command, receiver, letters), "-o", "forward.ack_timeout=60s"
    )
    assert receiver.wait_until(lambda: receiver.messages == 2, timeout=30)

    process.send_signal(signal.SIGINT)

    assert process.wait(15) == 1
    assert command.log.read_text() == "in-jumpcloud: asked to end; what was not delivered stays\n"
    assert command.output.read_text() == "dead letters delivered: 1\n"
    assert [letter.id for letter in letters.letters()] == ["event-1", "event-2"]


def test_from_the_refusal_to_the_delivery(command: Command, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """The whole way: a run gives one event up, the list has it, the replay delivers it under the plugin's own id."""
    now_ms = time.time_ns() // 1_000_000
    source = EventSource(start_ms=now_ms - 600_000, end_ms=now_ms - 60_000, per_minute=10)
    large = {"id": "large", "timestamp": rfc3339(now_ms - 300_000), "service": "sso", "message": "x" * 300_000}
    source.add(large, timestamp_ms=now_ms - 300_000)
    receiver.faults.refuse_above(200_000)
    with SimulatedApi(source) as api:
        settings = command.settings(api, receiver, dead_letter__path=str(tmp_path / "dead-letter.ndjson"))
        run = command("run", "--once", *settings)
    assert run.returncode == 0, run.stderr
    assert b"  large  receiver" in command("dead-letter", "list", *settings).stdout
    receiver.faults.clear()

    done = _replay(command, settings)

    assert done.returncode == 0, done.stderr
    assert receiver.ids["large"] == 1
    assert len({each.record["agent"]["id"] for each in receiver.records}) == 1
    assert KEY not in run.stderr.decode()


def test_help(command: Command) -> None:
    """Every command has a line of help, in the list and of its own."""
    overview = command("--help").stdout.decode()
    for name in ("status", "audit", "dead-letter"):
        assert any(line.split()[:1] == [name] and len(line.split()) > 3 for line in overview.splitlines()), name
        assert command(name, "--help").returncode == 0
    inner = command("dead-letter", "--help").stdout.decode()
    for name in ("list", "replay"):
        assert any(line.split()[:1] == [name] and len(line.split()) > 3 for line in inner.splitlines()), name
