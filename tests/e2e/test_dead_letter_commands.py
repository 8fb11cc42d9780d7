"""`in-jumpcloud dead-letters`: show refused events, deliver them again, drop them, also while the plugin is running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import KEY, Command, invoke, wait_until

from in_jumpcloud.insights.event import parse_event
from in_jumpcloud.insights.window import Position
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.state.dead_letters import Refused
from in_jumpcloud.state.sqlite.store import SqliteStore
from in_jumpcloud.timestamps import rfc3339

NOW = 1_767_225_600_000
POSITION = Position.starting_at(NOW)


@pytest.fixture
def receiver() -> Iterator[SimulatedReceiver]:
    """A receiver that keeps its records."""
    with SimulatedReceiver() as receiver:
        yield receiver


@pytest.fixture
def settings(command: Command, receiver: SimulatedReceiver) -> list[str]:
    """The options, with three dead letters in the state, of which the second is large."""
    for number, size in enumerate((10, 100_000, 10)):
        event = {"id": f"event-{number}", "timestamp": rfc3339(NOW - 60_000), "service": "sso", "message": "x" * size}
        _add(command.state, f"event-{number}", json.dumps(event).encode())
    return _settings(command, receiver)


def _settings(command: Command, receiver: SimulatedReceiver) -> list[str]:
    unused = SimulatedApi(EventSource(start_ms=NOW), port=1)
    return command.settings(unused, receiver, forward__ack_timeout="5s")


def _add(path: Path, event_id: str, event: bytes, reason: str = "too odd", stream: str = "default") -> None:
    with SqliteStore(path, new_agent_id="x") as state:
        letter = Refused(parse_event(event).key, event_id, reason, NOW, "tag", event)
        state.commit(stream, [letter.key], POSITION, dead_letters=[letter])


def _run(name: str, settings: list[str], *options: str) -> subprocess.CompletedProcess[bytes]:
    return invoke("dead-letters", name, *settings, *options, JUMPCLOUD_API_KEY="")


def test_list(command: Command, settings: list[str]) -> None:
    """A row for each; characters that control a terminal are escaped. Needs no key; the former name works."""
    _add(command.state, "\x1b[31m\ud800", b"\xff", reason="no\nack", stream="a")

    for name in ("dead-letters", "dead-letter"):
        table = invoke(name, "list", *settings, JUMPCLOUD_API_KEY="")
        assert table.returncode == 0, table.stderr
        assert [line.split() for line in table.stdout.decode().splitlines()] == [
            ["time", "stream", "id", "reason"],
            *([rfc3339(NOW), "default", f"event-{number}", "too", "odd"] for number in range(3)),
            [rfc3339(NOW), "a", "\\x1b[31m\\ud800", "no\\nack"],
        ]


def test_show_and_export(command: Command, settings: list[str]) -> None:
    """`show` prints the fields and the event for a person, `export` a line of JSON for a program; both can select."""
    _add(command.state, "odd", b"\xffno JSON", reason="larger")

    shown = _run("show", settings, "--id", "event-0", "--id", "odd").stdout.decode()
    exported = [json.loads(line) for line in _run("export", settings, "--reason", "odd").stdout.splitlines()]

    assert "id      event-0\nreason  too odd\nsize    " in shown
    assert '"service": "sso"' in shown
    assert "no JSON" in shown
    assert "event-1" not in shown
    assert [(each["id"], json.loads(each["event"])["id"]) for each in exported] == [
        (f"event-{number}", f"event-{number}") for number in range(3)
    ]


def test_no_dead_letters(command: Command, receiver: SimulatedReceiver) -> None:
    """Without a state, and with one that has none, each command says so, creates nothing, and needs no receiver."""
    settings = _settings(command, receiver)
    receiver.stop()
    said = {"list": "no dead letters\n", "show": "no dead letters\n", "export": "", "replay": "no dead letters\n"}
    said["drop"] = "dead letters dropped: 0\n"
    for _ in range(2):
        for name, text in said.items():
            done = _run(name, settings, *(["--all"] if name == "drop" else []))
            assert (done.returncode, done.stdout.decode(), done.stderr) == (0, text, b"")
        if not command.state.exists():
            assert not command.state.parent.exists()
            SqliteStore(command.state, new_agent_id="x").close()


def test_none_matches(settings: list[str]) -> None:
    """A selection that matches nothing is not the same as no dead letters."""
    for name in ("list", "show", "replay"):
        for option in ("--id", "--reason"):
            done = _run(name, settings, option, "nope")
            assert (done.returncode, done.stdout) == (0, b"none of 3 dead letters matches --id and --reason\n")


def test_drop(command: Command, settings: list[str]) -> None:
    """What is selected is removed for good; without a selection nothing is, and the exit code is 2."""
    refused = _run("drop", settings)
    assert refused.returncode == 2
    assert b"--id or --reason, or give --all" in refused.stderr
    assert len(command.dead_letters()) == 3
    assert _run("drop", settings, "--id", "event-1").stdout == b"dead letters dropped: 1\n"
    assert _run("drop", settings, "--reason", "other").stdout == b"dead letters dropped: 0\n"
    assert command.dead_letters() == ["event-0", "event-2"]
    assert _run("drop", settings, "--all").stdout == b"dead letters dropped: 2\n"
    assert command.dead_letters() == []


def test_replay(command: Command, receiver: SimulatedReceiver, settings: list[str]) -> None:
    """Each is mapped with the current configuration, delivered in a chunk of its own, and removed."""
    done = _run("replay", settings, "-o", "ecs.namespace=again")

    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == "dead letters delivered: 3\n"
    assert command.dead_letters() == []
    assert [each.record["event"]["id"] for each in receiver.records] == ["event-0", "event-1", "event-2"]
    record = receiver.records[0].record
    assert record["@timestamp"] == rfc3339(NOW - 60_000)
    assert record["event"]["created"] == rfc3339(NOW)
    assert record["data_stream"]["namespace"] == "again"
    assert receiver.messages == 3


def test_replay_of_some(command: Command, receiver: SimulatedReceiver, settings: list[str]) -> None:
    """Only what is selected is delivered."""
    assert _run("replay", settings, "--id", "event-1", "--reason", "odd").returncode == 0
    assert command.dead_letters() == ["event-0", "event-2"]
    assert list(receiver.ids) == ["event-1"]


def test_a_refused_one_stays(command: Command, receiver: SimulatedReceiver, settings: list[str]) -> None:
    """One that is refused again stays, and one that was too large to receive; the others are delivered; exit code 1."""
    receiver.faults.refuse_above(50_000)
    _add(command.state, "[1,2]", b"", reason="the event at cursor [1,2] is left out")

    done = _run("replay", settings)

    assert done.returncode == 1
    assert done.stdout.decode() == "dead letters delivered: 2\n"
    reason, left_out, summary = done.stderr.decode().splitlines()
    assert reason.startswith("in-jumpcloud: default: event event-1 stays: receiver ")
    assert left_out == "in-jumpcloud: default: event [1,2] stays: it was too large to be received"
    assert summary == "in-jumpcloud: 2 dead letters not delivered; see `in-jumpcloud dead-letters list`"
    assert command.dead_letters() == ["event-1", "[1,2]"]

    receiver.faults.clear()
    assert _run("drop", settings, "--id", "[1,2]").returncode == 0
    assert _run("replay", settings).returncode == 0
    assert sorted(receiver.ids.values()) == [1, 1, 1]


def test_none_is_delivered(command: Command, receiver: SimulatedReceiver, settings: list[str]) -> None:
    """Without a receiver, or with one that refuses everything, which counts as down, all stay; exit code 4."""
    receiver.faults.refuse_above(1)
    refusing = _run("replay", settings)
    receiver.stop()
    stopped = _run("replay", settings)

    assert (refusing.returncode, refusing.stdout.decode()) == (4, "dead letters delivered: 0\n")
    assert stopped.returncode == 4
    (line,) = stopped.stderr.decode().splitlines()
    assert "Connection refused" in line
    assert len(command.dead_letters()) == 3


def test_one_above_the_largest_size(command: Command, receiver: SimulatedReceiver, settings: list[str]) -> None:
    """One that is larger than forward.message_max_bytes is not sent, and stays; the setting is named.

    The others are delivered, also after a connection that breaks before the ack, which is not a refusal.
    """
    receiver.faults.reset_before_ack()

    done = _run("replay", settings, "-o", "forward.message_max_bytes=50000", "-o", "forward.chunk_bytes=50000")

    assert done.returncode == 1
    assert "larger than forward.message_max_bytes" in done.stderr.decode().splitlines()[0]
    assert command.dead_letters() == ["event-1"]
    assert (receiver.refused, len(receiver.ids)) == (0, 2)


def test_ctrl_c_and_a_second_replay(command: Command, receiver: SimulatedReceiver, settings: list[str]) -> None:
    """A second replay is refused meanwhile. Ctrl-C ends the first soon: what was not delivered stays."""
    receiver.faults.close_after_ack()
    receiver.faults.stall(60)
    process = command.start(
        "dead-letters", "replay", *settings, "-o", "forward.ack_timeout=60s", "-o", "forward.stop_timeout=1s"
    )
    assert receiver.wait_until(lambda: receiver.messages == 2, timeout=30)

    second = _run("replay", settings)
    process.send_signal(signal.SIGINT)

    assert second.returncode == 1
    assert b"another command is using its dead letters; try again when it has ended" in second.stderr
    assert process.wait(15) == 1
    assert command.log.read_text() == "in-jumpcloud: interrupted; events that were not delivered stay dead letters\n"
    assert command.output.read_text() == "dead letters delivered: 1\n"
    assert command.dead_letters() == ["event-1", "event-2"]


def test_from_the_refusal_to_the_delivery(command: Command, receiver: SimulatedReceiver) -> None:
    """While `run` is running it refuses one event, `list` shows it, `replay` delivers it with the plugin's agent id."""
    now_ms = time.time_ns() // 1_000_000
    source = EventSource(start_ms=now_ms - 600_000, end_ms=now_ms - 60_000, per_minute=10)
    large = {"id": "large", "timestamp": rfc3339(now_ms - 300_000), "service": "sso", "message": "x" * 300_000}
    source.add(large, timestamp_ms=now_ms - 300_000)
    receiver.faults.refuse_above(200_000)
    with SimulatedApi(source) as api:
        settings = command.settings(api, receiver)
        process = command.start("run", *settings)
        wait_until(lambda: command.state.exists() and b"  large  receiver" in _run("list", settings).stdout)
        receiver.faults.clear()

        done = _run("replay", settings)

        assert done.returncode == 0, done.stderr
        assert receiver.ids["large"] == 1
        assert len({each.record["agent"]["id"] for each in receiver.records}) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert command.dead_letters() == []
    assert KEY not in command.log.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_keeps_the_owner_of_the_files(command: Command, settings: list[str]) -> None:
    """After commands that root runs, the plugin's user owns every file, also after a kill, and of a new state."""
    directory = command.state.parent
    for each in (directory, *directory.iterdir()):
        os.chown(each, 65534, 65534)
    for options in (["drop", "--id", "event-1"], ["replay"], ["list"]):
        assert _run(options[0], settings, *options[1:]).returncode == 0
    with SqliteStore(directory / "new.db", new_agent_id="x") as state:
        state.commit("a", [], POSITION)
        owners = {each.name: each.stat().st_uid for each in directory.iterdir()}
    assert {"new.db", "new.db-wal", "new.db-shm", "new.db.lock", f"{command.state.name}.dead-letters.lock"} <= set(
        owners
    )
    assert set(owners.values()) == {65534}
