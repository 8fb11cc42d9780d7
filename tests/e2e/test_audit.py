"""`in-jumpcloud audit`: the proof that nothing is missing, and that it finds what is."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from support.command import KEY, Command

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS as MINUTE
from in_jumpcloud.timestamps import rfc3339

HOUR = 60 * MINUTE
HOURS = 5


class Delivered:
    """Some hours of events, delivered by a run that has ended."""

    def __init__(self, command: Command, api: SimulatedApi, settings: list[str], now_ms: int) -> None:
        self.command = command
        self.api = api
        self.settings = settings
        self.first_hour = (now_ms - (HOURS - 1) * HOUR) // HOUR  # the first whole one

    def audit(self, *options: object) -> tuple[int, dict[str, Any], str]:
        """The exit code, what was found, and what was said to standard error."""
        done = self.command("audit", *self.settings, "--json", *options)
        return done.returncode, json.loads(done.stdout or "null"), done.stderr.decode()

    @contextmanager
    def ledger(self) -> Iterator[sqlite3.Connection]:
        """The ledger, to be falsified."""
        with closing(sqlite3.connect(self.command.state)) as database, database:
            yield database

    def hour(self, number: int) -> str:
        """How the audit writes the whole hour of this number."""
        return f"{rfc3339((self.first_hour + number) * HOUR)[:16]}Z"


@pytest.fixture
def delivered(command: Command, receiver: SimulatedReceiver) -> Iterator[Delivered]:
    """50 events a minute for some hours, and then some."""
    now_ms = time.time_ns() // 1_000_000
    source = EventSource(start_ms=now_ms - HOURS * HOUR, end_ms=now_ms, per_minute=50)
    with SimulatedApi(source) as api:
        settings = command.settings(
            api,
            receiver,
            dead_letter__path=str(command.directory / "dead-letter.ndjson"),
            jumpcloud__start="1d",
            forward__ack_timeout="20s",
        )
        done = command("run", "--once", *settings)
        assert done.returncode == 0, done.stderr
        yield Delivered(command, api, settings, now_ms)


def test_nothing_is_missing(delivered: Delivered) -> None:
    """After a run every hour agrees, the newest span is left out and said so, and the exit code is 0."""
    code, found, said = delivered.audit("--since", "4h30m")

    assert (code, said) == (0, "")
    (stream,) = found["streams"]
    assert [hour["difference"] for hour in stream["hours"]] == [0] * len(stream["hours"])
    whole = [hour for hour in stream["hours"] if hour["hour"] == delivered.hour(1)]
    assert [(hour["jumpcloud"], hour["ledger"]) for hour in whole] == [(3000, 3000)]
    assert sum(hour["ledger"] for hour in stream["hours"]) >= 50 * 60 * 4
    (left_out,) = stream["not_compared"]
    assert left_out.endswith("the newest span, which the polls still go over")

    done = delivered.command("audit", *delivered.settings)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[-1].endswith(" hours: no difference")
    assert KEY not in done.stdout.decode()


def test_a_hole_is_found_in_its_hour(delivered: Delivered) -> None:
    """Ids that vanish from the ledger show as what it lacks, in the right hour, and the exit code is 1."""
    minute = (delivered.first_hour + 1) * 60
    with delivered.ledger() as ledger:
        gone = ledger.execute(
            "DELETE FROM ledger WHERE minute IN (?, ?) AND id < (SELECT max(id) FROM ledger WHERE minute = ?)",
            (minute, minute + 59, minute),
        ).rowcount

    code, found, said = delivered.audit()

    assert code == 1
    (line,) = said.splitlines()
    assert f"1 of {len(found['streams'][0]['hours'])} hours differ: the ledger lacks {gone} events" in line
    wrong = [hour for hour in found["streams"][0]["hours"] if hour["difference"]]
    assert [(hour["hour"], hour["difference"]) for hour in wrong] == [(delivered.hour(1), -gone)]
    text = delivered.command("audit", *delivered.settings).stdout.decode()
    assert [line.split()[-1] for line in text.splitlines() if delivered.hour(1) in line] == [f"-{gone}"]


def test_one_minute_does_not_hide_another(delivered: Delivered) -> None:
    """What one minute lacks and another has too much of are both told, though the hour's sums are equal."""
    minute = (delivered.first_hour + 1) * 60
    with delivered.ledger() as ledger:
        ledger.execute("UPDATE ledger SET minute = ? WHERE minute = ?", (minute + 1, minute))

    code, found, said = delivered.audit()

    assert code == 1
    (wrong,) = [hour for hour in found["streams"][0]["hours"] if hour["missing"] or hour["surplus"]]
    assert (wrong["hour"], wrong["missing"], wrong["surplus"], wrong["difference"]) == (delivered.hour(1), 50, 50, 0)
    assert "lacks 50 events that JumpCloud counts, and has 50 that" in said


def test_what_is_left_out_is_said(delivered: Delivered) -> None:
    """What lies before the stream's beginning or is older than the ledger is not compared, and that is said."""
    _, found, _ = delivered.audit("--since", "3d")
    began, newest = found["streams"][0]["not_compared"]
    assert began.endswith("Z: the stream began there")
    assert "newest" in newest

    keep = ["-o", "reconcile.window=1h", "-o", "ledger.keep=3h"]
    code, found, _ = delivered.audit("--since", "3d", *keep)
    assert found["streams"][0]["not_compared"][0].endswith("Z: it is older than ledger.keep")
    assert 3 <= len(found["streams"][0]["hours"]) <= 4
    assert code == 0


def test_a_stream_that_has_not_begun(delivered: Delivered) -> None:
    """A stream that was configured after the last run has nothing to compare."""
    code, found, _ = delivered.audit("-o", "jumpcloud.organizations=[other]")

    assert found["streams"] == [
        {"name": "organization other", "not_compared": ["everything: the stream has not begun"], "hours": []}
    ]
    assert code == 0


def test_a_passing_fault_is_tried_again(delivered: Delivered) -> None:
    """One answer of 503 is no reason to give up."""
    delivered.api.faults.once(Fault("status", status=503))

    code, _, said = delivered.audit()

    assert (code, said) == (0, "")


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["-o", "jumpcloud.api_key=wrong"], 3, "the key is wrong"),
        (["-o", "jumpcloud.api_key=null"], 2, "jumpcloud.api_key: missing"),
        (["--since", "soon"], 2, "--since: expected a duration"),
        (["-o", "state.path=nowhere.db"], 2, "no such file; the first `in-jumpcloud run` creates the state"),
    ],
)
def test_what_is_wrong_gets_one_clear_line(
    command: Command, receiver: SimulatedReceiver, options: list[str], code: int, says: str
) -> None:
    """The usual exit codes: for the key, for the configuration, for a state that is not there."""
    now_ms = time.time_ns() // 1_000_000
    with SimulatedApi(EventSource(start_ms=now_ms - 20 * MINUTE, per_minute=5)) as api:
        letters = str(command.directory / "dead-letter.ndjson")
        settings = command.settings(api, receiver, dead_letter__path=letters)
        assert command("run", "--once", *settings).returncode == 0

        done = command("audit", *settings, *options)

    (line,) = done.stderr.decode().splitlines()
    assert says in line
    assert done.returncode == code
    assert "nowhere.db" not in options[-1] or not done.stdout
