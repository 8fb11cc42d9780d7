"""`run --dry-run` and `run --output -`: everything but sending and committing, with no file written."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.command import COMMAND, KEY, ROOT, Command, wait_until
from support.fluent_bit import free_port

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.state.jobs import JobSpec
from in_jumpcloud.state.sqlite.store import open_shared
from in_jumpcloud.timestamps import MINUTE_MS, now_ms, rfc3339

END = now_ms() - MINUTE_MS
OLD_SCHEMA = ROOT / "tests" / "data" / "state_schemas" / "4.sql"


@pytest.fixture
def source() -> EventSource:
    """An hour of events."""
    return EventSource(start_ms=END - 60 * MINUTE_MS, end_ms=END, per_minute=30)


@pytest.fixture
def api(source: EventSource) -> Iterator[SimulatedApi]:
    """JumpCloud with those events."""
    with SimulatedApi(source) as api:
        yield api


def files(directory: Path) -> dict[str, bytes]:
    """The content of every file, without those that SQLite needs to read: its index, and an empty log."""
    contents = {str(each): each.read_bytes() for each in directory.rglob("*") if each.is_file()}
    return {name: content for name, content in contents.items() if content and not name.endswith("-shm")}


def test_a_dry_run_says_what_a_run_then_does(
    command: Command, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """From the position in the state on, without the known events: the records, chunks, bytes and dead letters."""
    limits = {"forward__message_max_bytes": 20_000, "forward__chunk_bytes": 20_000}
    overrides = {"jumpcloud__start": "2h", "forward__tag": "jc.{service}", **limits}
    settings = command.settings(api, receiver, **overrides)
    assert command("run", "--once", *settings).returncode == 0
    delivered, messages, size = receiver.received, receiver.messages, receiver.bytes
    moment = now_ms() - 10_000  # in the overlap; the dates of answers have no fraction
    for number in range(500):
        event = {"id": f"new-{number}", "event_type": "new_type" if number else "other_type", "service": "sso"}
        source.add({**event, "timestamp": rfc3339(moment)}, timestamp_ms=moment)
    source.add({"id": "large", "timestamp": rfc3339(moment), "text": "x" * 30_000}, timestamp_ms=moment)
    before = files(command.directory)

    down = command.settings(api, free_port(), **overrides)
    done = command("run", "--dry-run", "--json", *down)

    assert done.returncode == 0, done.stderr
    assert files(command.directory) == before
    report = json.loads(done.stdout)
    (stream,) = report["streams"]
    assert (report["complete"], report["records"], stream["records"]) == (True, 500, 500)
    assert stream["received"] == 501 + stream["duplicates"]
    assert stream["dead_letters"] == 1
    assert [(each["id"], "message_max_bytes" in each["reason"]) for each in report["dead_letters"]] == [("large", True)]
    types = {each["name"]: (each["records"], each["first"]["event"]["action"]) for each in report["event_types"]}
    assert types == {"new_type": (499, "new_type"), "other_type": (1, "other_type")}

    sent = command("run", "--once", *settings)

    assert sent.returncode == 1  # because of the dead letter
    assert receiver.received - delivered == report["records"]
    assert receiver.messages - messages == report["chunks"]
    assert receiver.bytes - size == report["bytes"]
    assert command.dead_letters() == ["large"]


def test_a_dry_run_for_people(command: Command, api: SimulatedApi, source: EventSource) -> None:
    """Without a state it begins at jumpcloud.start; the counts by type, then the first record of each as JSON lines."""
    done = command("run", "--dry-run", *command.settings(api, free_port(), jumpcloud__start="2h"))
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    table, _, records = text.partition("The first record of each type:\n")
    counts = {name: int(count) for count, name in re.findall(r"^ +(\d+)  (\w+)$", table, re.MULTILINE)}
    items = source.between(0, now_ms(), now_ms=now_ms())
    assert counts == Counter(json.loads(item.raw)["event_type"] for item in items)
    assert sorted(json.loads(line)["event"]["action"] for line in records.splitlines()) == sorted(counts)
    assert f"{len(items)} records in " in table
    assert "nothing was sent, and no state was written" in table
    assert not command.state.parent.exists()


def test_a_dry_run_with_an_open_backfill(
    command: Command, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """It includes what the next run would send of it, and the backfill stays open, as it was."""
    settings = command.settings(api, receiver, jumpcloud__start="10m")
    assert command("run", "--once", *settings).returncode == 0
    delivered, messages = receiver.received, receiver.messages
    spec = JobSpec(END - 40 * MINUTE_MS, END - 20 * MINUTE_MS, ("all",), again=False)
    with open_shared(command.state) as state:
        state.jobs.create(["default", "organization gone"], spec, now_ms())
    total = source.count(spec.since_ms, spec.until_ms, now_ms=now_ms())
    before = files(command.directory)

    down = command.settings(api, free_port(), jumpcloud__start="10m")
    done = command("run", "--dry-run", "--json", *down)

    assert done.returncode == 0, done.stderr
    assert files(command.directory) == before
    report = json.loads(done.stdout)
    ours, other = report["backfills"]
    assert (report["complete"], report["records"]) == (True, total)
    assert report["streams"][0]["records"] == 0
    expected = {"since": rfc3339(spec.since_ms), "until": rfc3339(spec.until_ms), "complete": True, "error": None}
    assert ours == {"name": "backfill 1 of default", "received": total, "records": total, "dead_letters": 0} | expected
    assert (other["complete"], other["records"]) == (False, 0)
    assert other["error"] == "stream organization gone is not in the configuration"
    text = command("run", "--dry-run", *down).stdout.decode()
    assert f"backfill 1 of default\n  span          {expected['since']} to {expected['until']}\n" in text
    assert f"  would send    {total} records\n" in text

    sent = command("run", "--once", *settings)

    assert sent.returncode == 0, sent.stderr
    assert receiver.received - delivered == report["records"]
    assert receiver.messages - messages == report["chunks"]


def test_a_dry_run_next_to_a_run(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """It reads a state that a process holds, and does not disturb it; the override of a start is said to be ignored."""
    settings = command.settings(api, receiver, jumpcloud__start="2h")
    process = command.start("run", *settings)
    total = sum(each.count(0, END, now_ms=END) for each in api.sources.values())
    wait_until(lambda: command.acknowledged() == total)
    done = command("run", "--dry-run", "--json", *settings, "-o", "jumpcloud.start=5d")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["records"], report["event_types"]) == (0, [])
    assert "-o jumpcloud.start is ignored for default: a stream continues at its position in" in done.stderr.decode()
    assert "`in-jumpcloud backfill --since TIME`" in done.stderr.decode()
    process.terminate()
    assert process.wait(timeout=20) == 0
    assert "trouble" not in command.log.read_text()
    assert receiver.received == total


def test_a_dry_run_on_a_state_of_an_older_version(command: Command, api: SimulatedApi) -> None:
    """It is read as the next run would, and stays of that version."""
    command.state.parent.mkdir()
    with closing(sqlite3.connect(command.state)) as database, database:
        database.executescript(OLD_SCHEMA.read_text())
        database.execute("PRAGMA application_id = 0x696E6A63")
        database.execute("PRAGMA user_version = 4")
        database.execute("INSERT INTO identity (agent_id) VALUES ('the agent')")
        position = json.dumps({"origin_ms": END - 20 * MINUTE_MS, "watermark_ms": END - 10 * MINUTE_MS})
        database.execute("INSERT INTO stream (number, name, position) VALUES (1, 'default', ?)", (position,))
    before = files(command.directory)
    done = command("run", "--dry-run", "--json", *command.settings(api, free_port()))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["streams"][0]["from"] == rfc3339(END - 10 * MINUTE_MS)
    assert 300 <= report["records"] <= 20 * 30
    assert {each["first"]["agent"]["id"] for each in report["event_types"]} == {"the agent"}
    assert files(command.directory) == before


def test_records_on_standard_output(command: Command, api: SimulatedApi, source: EventSource) -> None:
    """The lines are those of `fetch | map`, byte for byte but for the time of collection and the agent's ids.

    No record is too large for a line.
    """
    source.add({"id": "large", "timestamp": rfc3339(END), "text": "ü" * 50_000}, timestamp_ms=END)
    limits = {"forward__message_max_bytes": 10_000, "forward__chunk_bytes": 10_000}
    settings = command.settings(api, free_port(), jumpcloud__start="2h", **limits)
    done = command("run", "--output", "-", "--once", *settings)
    assert done.returncode == 0, done.stderr
    assert "events may be lost or come again" in done.stderr.decode()
    assert not command.state.parent.exists()
    raw = command("fetch", "--since", "2h", *settings).stdout
    mapped = command("map", *settings, stdin=raw).stdout
    assert _without_ids(done.stdout) == _without_ids(mapped)
    assert len(done.stdout.splitlines()) > 1000
    assert b"\xc3\xbc" * 50_000 in done.stdout


def _without_ids(lines: bytes) -> list[bytes]:
    return sorted(re.sub(rb'"(created|id|ephemeral_id)":"(?:[-0-9a-f]{36}|20[^"]*Z)"', b"", lines).splitlines())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_output_until_it_is_stopped(
    command: Command, api: SimulatedApi, source: EventSource, number: signal.Signals
) -> None:
    """Polls overlap, yet each event is written once, also one that comes later; a signal ends it with exit code 0."""
    settings = command.settings(api, free_port(), jumpcloud__start="2h", jumpcloud__interval="200ms")
    process = command.start("run", "--output", "-", *settings)
    total = source.count(0, END, now_ms=END)
    wait_until(lambda: command.output.read_bytes().count(b"\n") == total)
    polled = len(api.requests)
    moment = now_ms()
    source.add({"id": "new", "timestamp": rfc3339(moment)}, timestamp_ms=moment)
    wait_until(lambda: b'"id":"new"' in command.output.read_bytes() and len(api.requests) > polled + 5)
    process.send_signal(number)
    assert process.wait(timeout=20) == 0, command.log.read_text()
    assert command.output.read_bytes().count(b"\n") == total + 1
    assert f"stopped: {total + 1} records written" in command.log.read_text()


@pytest.mark.parametrize("output", ["| head -n 1", "> /dev/full", ">&-"])
def test_an_output_that_is_closed(command: Command, api: SimulatedApi, output: str) -> None:
    """One clear line, and exit code 1."""
    settings = command.settings(api, free_port(), jumpcloud__start="2h")
    done = subprocess.run(  # noqa: S603
        ["bash", "-c", f'"$0" run --output - "$@" {output}; exit ${{PIPESTATUS[0]}}', COMMAND, *settings],  # noqa: S607
        capture_output=True,
        cwd=ROOT,
        env={"JUMPCLOUD_API_KEY": KEY, "PATH": "/usr/bin:/bin"},
        timeout=60,
        check=False,
    )
    lines = [line for line in done.stderr.decode().splitlines() if line.startswith("in-jumpcloud: ")]
    assert (done.returncode, len(lines)) == (1, 1), done.stderr
    assert lines[0].startswith("in-jumpcloud: cannot write to standard output: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--dry-run --output -", "--dry-run cannot be used together with --output"),
        ("--json", "--json can only be used together with --dry-run"),
        ("--once -o jumpcloud.start=2100-01-01", "-o jumpcloud.start: must not be in the future (got 2100-01-01T00:00"),
    ],
)
def test_a_mistake_is_one_line(command: Command, api: SimulatedApi, arguments: str, message: str) -> None:
    """Exit code 2, and nothing is sent."""
    done = command("run", *command.settings(api, free_port()), *arguments.split())
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"in-jumpcloud: {message}")
    assert (done.returncode, len(api.requests)) == (2, 0)
