"""`in-jumpcloud audit`: shows that nothing is missing, and finds what is."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from support.command import KEY, Command, invoke

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import HOUR_MS, MINUTE_MS, now_ms, rfc3339

HOURS = 5


class Delivered:
    """Some hours of events, delivered by a run that has ended."""

    def __init__(self, command: Command, api: SimulatedApi, settings: list[str], end_ms: int) -> None:
        self.command = command
        self.api = api
        self.settings = settings
        self.first_hour = (end_ms - (HOURS - 1) * HOUR_MS) // HOUR_MS  # the first complete one

    def audit(self, *options: object) -> tuple[int, dict[str, Any], str]:
        """The exit code, the JSON, and standard error."""
        done = invoke("audit", *self.settings, "--json", *options)
        return done.returncode, json.loads(done.stdout or "null"), done.stderr.decode()

    @contextmanager
    def ledger(self) -> Iterator[sqlite3.Connection]:
        """The database of the ledger, for changes."""
        with closing(sqlite3.connect(self.command.state)) as database, database:
            yield database

    def hour(self, number: int) -> str:
        """The complete hour of this number, as the audit writes it."""
        return f"{rfc3339((self.first_hour + number) * HOUR_MS)[:16]}Z"


@pytest.fixture
def delivered(command: Command, receiver: SimulatedReceiver) -> Iterator[Delivered]:
    """50 events per minute, for more than some hours."""
    end_ms = now_ms()
    source = EventSource(start_ms=end_ms - HOURS * HOUR_MS, end_ms=end_ms, per_minute=50)
    with SimulatedApi(source) as api:
        settings = command.settings(api, receiver, jumpcloud__start="1d", forward__ack_timeout="20s")
        done = command("run", "--once", *settings)
        assert done.returncode == 0, done.stderr
        yield Delivered(command, api, settings, end_ms)


def test_nothing_is_missing(delivered: Delivered) -> None:
    """After a run no hour differs, the most recent minutes are not compared, and the exit code is 0."""
    code, found, errors = delivered.audit("--since", "4h30m")

    assert (code, errors) == (0, "")
    (stream,) = found["streams"]
    assert [hour["difference"] for hour in stream["hours"]] == [0] * len(stream["hours"])
    whole = [hour for hour in stream["hours"] if hour["hour"] == delivered.hour(1)]
    assert [(hour["jumpcloud"], hour["ledger"]) for hour in whole] == [(3000, 3000)]
    assert sum(hour["ledger"] for hour in stream["hours"]) >= 50 * 60 * 4
    (not_compared,) = stream["not_compared"]
    assert not_compared.endswith("most recent minutes, still being polled")

    done = invoke("audit", *delivered.settings)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[-1].endswith(" hours: no difference")
    assert KEY not in done.stdout.decode()


def test_missing_events_are_found(delivered: Delivered) -> None:
    """Ids that are not in the ledger are reported in the right hour, and the exit code is 1."""
    minute = (delivered.first_hour + 1) * 60
    with delivered.ledger() as ledger:
        gone = ledger.execute(
            "DELETE FROM ledger WHERE minute IN (?, ?) AND digest < (SELECT max(digest) FROM ledger WHERE minute = ?)",
            (minute, minute + 59, minute),
        ).rowcount

    code, found, errors = delivered.audit()

    assert code == 1
    (line,) = errors.splitlines()
    assert f"1 of {len(found['streams'][0]['hours'])} hours differ: {gone} events" in line
    wrong = [hour for hour in found["streams"][0]["hours"] if hour["difference"]]
    assert [(hour["hour"], hour["difference"]) for hour in wrong] == [(delivered.hour(1), -gone)]
    text = invoke("audit", *delivered.settings).stdout.decode()
    assert [line.split()[-1] for line in text.splitlines() if delivered.hour(1) in line] == [f"-{gone}"]


def test_one_minute_does_not_hide_another(delivered: Delivered) -> None:
    """Missing and surplus events are both reported, although the sums of the hour are equal."""
    minute = (delivered.first_hour + 1) * 60
    with delivered.ledger() as ledger:
        ledger.execute("UPDATE ledger SET minute = ? WHERE minute = ?", (minute + 1, minute))

    code, found, errors = delivered.audit()

    assert code == 1
    (wrong,) = [hour for hour in found["streams"][0]["hours"] if hour["missing"] or hour["surplus"]]
    assert (wrong["hour"], wrong["missing"], wrong["surplus"], wrong["difference"]) == (delivered.hour(1), 50, 50, 0)
    assert "50 events that JumpCloud counts are not in the ledger, 50 events in the ledger are not" in errors


def test_what_is_not_compared(delivered: Delivered) -> None:
    """Time before the stream's start, or before what the ledger keeps, and a stream that has not started."""
    _, found, _ = delivered.audit("--since", "3d")
    before, recent = found["streams"][0]["not_compared"]
    assert before.endswith("Z: before the start of the stream")
    assert "most recent" in recent

    with delivered.ledger() as ledger:
        ledger.execute("UPDATE stream SET kept_from_ms = ?", ((delivered.first_hour + 1) * 3_600_000,))
    code, found, _ = delivered.audit("--since", "3d")
    assert found["streams"][0]["not_compared"][0] == f"until {delivered.hour(1)}: older than the ledger"
    assert 3 <= len(found["streams"][0]["hours"]) <= 4
    assert code == 0

    code, found, _ = delivered.audit("-o", "jumpcloud.organizations=[other]")
    assert found["streams"] == [
        {
            "name": "organization other",
            "not_compared": ["everything: the stream has not started"],
            "is_behind": True,
            "hours": [],
        }
    ]
    assert code == 0


def test_a_stream_that_is_behind(delivered: Delivered) -> None:
    """What it has not fetched yet is not said to agree."""

    def move_to(watermark_ms: int, **window: object) -> None:
        with delivered.ledger() as ledger:
            position = {"origin_ms": 0, "watermark_ms": watermark_ms, "window": window or None}
            ledger.execute("UPDATE stream SET position = ?", (json.dumps(position),))

    watermark_ms = (delivered.first_hour + 2) * HOUR_MS
    move_to(watermark_ms)
    code, found, _ = delivered.audit()
    text = invoke("audit", *delivered.settings).stdout.decode()
    (stream,) = found["streams"]
    assert (code, stream["is_behind"]) == (0, True)
    assert re.fullmatch(r"from \S+Z: not fetched yet: the stream is [23]h( \d+m)? behind", stream["not_compared"][-1])
    assert stream["hours"]
    assert text.endswith("hours: no difference; of 1 of 1 stream not all is fetched yet, see above\n")
    move_to(0)
    text = invoke("audit", *delivered.settings).stdout.decode()
    assert text.endswith("\nnothing could be compared; of 1 of 1 stream not all is fetched yet, see above\n")


def test_a_temporary_fault_is_retried(delivered: Delivered) -> None:
    """One 503 is not a failure; a line says why it takes longer."""
    delivered.api.faults.once(Fault("status", status=503))
    code, _, errors = delivered.audit()
    (line,) = errors.splitlines()
    assert code == 0
    assert "JumpCloud answered 503" in line
    assert "; retrying in " in line


def test_an_error_is_one_line(command: Command, receiver: SimulatedReceiver) -> None:
    """The usual exit codes for the key, the configuration, and a missing state."""
    table: list[tuple[list[str], int, str]] = [
        (["-o", "jumpcloud.api_key=wrong"], 3, "JumpCloud answered 401"),
        (["-o", "jumpcloud.api_key=null"], 2, "jumpcloud.api_key: missing"),
        (["-o", "state.path=nowhere.db"], 2, "nowhere.db: no such file"),
    ]
    with SimulatedApi(EventSource(start_ms=now_ms() - 20 * MINUTE_MS, per_minute=5)) as api:
        settings = command.settings(api, receiver)
        assert command("run", "--once", *settings).returncode == 0
        for options, code, message in table:
            done = invoke("audit", *settings, *options)
            (line,) = done.stderr.decode().splitlines()
            assert message in line
            assert (done.returncode, done.stdout) == (code, b"")
