"""`in-jumpcloud backfill`: each event of a span, through kills, with and without a process that holds the state."""

from __future__ import annotations

import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from support.command import COMMAND, ROOT, Command, invoke, wait_until

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, now_ms, rfc3339

NOW = now_ms()
SINCE, UNTIL = NOW - 2 * DAY_MS + 12_345, NOW - DAY_MS - 6789
SPAN = ("--since", rfc3339(SINCE), "--until", rfc3339(UNTIL))
PAGE_LIMIT, CHUNK_BYTES, CHUNK_RECORDS = 400, 20_000, 100
"""A chunk has fewer simulated records than this, and a page has several chunks."""


@pytest.fixture(scope="module")
def source() -> EventSource:
    """About 4,300 events of three days; some in one millisecond, some without a date."""
    source = EventSource(seed=5, start_ms=NOW - 3 * DAY_MS, end_ms=NOW - MINUTE_MS, per_minute=1)
    for number in range(250):
        source.add({"id": f"tie-{number}", "timestamp": rfc3339(SINCE + HOUR_MS)}, timestamp_ms=SINCE + HOUR_MS)
    source.add({"id": "undated"}, timestamp_ms=SINCE + 2 * HOUR_MS)
    return source


@pytest.fixture
def api(source: EventSource) -> Iterator[SimulatedApi]:
    """JumpCloud with those events."""
    with SimulatedApi(source) as api:
        yield api


def _ids(source: EventSource, start_ms: int, end_ms: int) -> set[str]:
    return {item.event_id for item in source.between(start_ms, end_ms, now_ms=NOW)}


def _settings(command: Command, api: SimulatedApi, receiver: SimulatedReceiver, **more: object) -> list[str]:
    """Small pages and chunks; streams begin an hour before `NOW`, however late in the suite a test runs."""
    limits = {"jumpcloud__page_limit": PAGE_LIMIT, "forward__chunk_bytes": CHUNK_BYTES}
    options = {"jumpcloud__start": rfc3339(NOW - HOUR_MS), **limits, **more}
    return command.settings(api, receiver, **options)


def _killed_after(process: subprocess.Popen[bytes], receiver: SimulatedReceiver, count: int) -> None:
    """Kill it once so many more records have come in."""
    before = receiver.received
    wait_until(lambda: receiver.received >= before + count)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def _check_sent(receiver: SimulatedReceiver, wanted: set[str], *, kills: int) -> None:
    assert set(receiver.ids) == wanted
    assert sum(receiver.ids.values()) - len(wanted) <= kills * CHUNK_RECORDS


def test_kills(command: Command, source: EventSource, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Killed and started again: each event of the span, no other, duplicates of at most a chunk a kill.

    A repetition sends nothing. With --again it sends exactly the span once more.
    """
    settings, wanted = _settings(command, api, receiver, jumpcloud__requests_per_second=3), _ids(source, SINCE, UNTIL)
    assert len(wanted) > 1500
    for _ in range(3):
        _killed_after(command.start("backfill", *settings, *SPAN), receiver, random.randrange(100, 400))

    done = command("backfill", *settings, *SPAN)

    assert done.returncode == 0, done.stderr
    _check_sent(receiver, wanted, kills=3)
    (line,) = done.stdout.decode().splitlines()
    assert line.startswith(f"backfill 1 is done: {len(wanted)} events of 1 stream, ")

    before = Counter(receiver.ids)
    done = command("backfill", *settings, *SPAN)
    assert f"0 delivered, {len(wanted)} delivered before and not sent again" in done.stdout.decode()
    assert receiver.ids == before

    _killed_after(command.start("backfill", *settings, *SPAN, "--again"), receiver, 300)
    done = command("backfill", *settings, "--resume")
    assert done.returncode == 0, done.stderr
    sent = receiver.ids - before
    assert set(sent) == wanted
    assert sum(sent.values()) - len(wanted) <= CHUNK_RECORDS

    before = Counter(receiver.ids)
    run = command("run", "--once", *settings, "-o", "jumpcloud.start=4d")
    assert run.returncode == 0, run.stderr
    assert len(receiver.ids) > len(before)
    assert all(receiver.ids[each] == before[each] for each in wanted), "the stream sends what a backfill has delivered"


def test_next_to_a_running_process(
    command: Command, source: EventSource, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """`run` takes the backfill over, is killed, continues it; the stream is not disturbed. Then one is cancelled."""
    settings = _settings(command, api, receiver, jumpcloud__requests_per_second=3)
    wanted = _ids(source, SINCE, UNTIL)
    run = command.start("run", *settings, "-o", "jumpcloud.interval=1s")
    wait_until(lambda: command.acknowledged() >= len(_ids(source, NOW - 58 * MINUTE_MS, NOW - MINUTE_MS)))
    of_stream, position = set(receiver.ids), command.positions()["default"]
    follower = command.start("backfill", *settings, *SPAN)

    _killed_after(run, receiver, 300)

    assert follower.wait(20) == 1
    text = command.log.read_text()
    assert f"backfill 1: the state is in use by process {run.pid} on " in text
    assert "backfill 1: not complete, and no process uses the state any more; `in-jumpcloud backfill --resume`" in text

    run = command.start("run", *settings, "-o", "jumpcloud.interval=1s")
    wait_until(lambda: "backfill 1 of default: done" in command.log.read_text())
    _check_sent(receiver, wanted | of_stream | set(receiver.ids) & _ids(source, NOW - 2 * HOUR_MS, NOW), kills=1)
    assert command.acknowledged() < len(of_stream) + 10, "what a backfill delivers is not the stream's"
    assert command.log.read_text().count("default: caught up") == 2, "not once in each run"

    api.faults.always(Fault("delay", seconds=2))  # it takes longer than it takes to list and to cancel it
    follower = command.start("backfill", *settings, *SPAN, "--again")
    before = receiver.received
    wait_until(lambda: receiver.received > before)
    assert "backfill 2 of default" in (listed := invoke("backfill", *settings, "--list").stdout.decode())
    assert "done, " in listed
    cancelled = invoke("backfill", *settings, "--cancel")
    assert cancelled.stdout.decode().startswith("backfill 2 is cancelled")
    assert follower.wait(10) == 1
    api.faults.clear()
    assert "in-jumpcloud: backfill 2 was cancelled\n" in command.log.read_text()
    run.terminate()
    assert run.wait(20) == 0
    assert receiver.received < before + len(wanted), "it was delivered although it was cancelled"
    after = command.positions()["default"]
    assert after["origin_ms"] == position["origin_ms"]
    assert after["watermark_ms"] > position["watermark_ms"]


def test_stopped(command: Command, source: EventSource, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Ctrl-C: one line that says how to continue. --resume sends the rest, and nothing twice."""
    settings = _settings(command, api, receiver, jumpcloud__requests_per_second=3)
    process = command.start("backfill", *settings, *SPAN)
    receiver.wait_for(100, timeout=60)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 1
    assert "backfill 1: not complete; `in-jumpcloud backfill --resume`" in command.log.read_text()
    assert "backfill      1 of default: " in invoke("status", *settings).stdout.decode()

    done = command("backfill", *settings, "--resume")

    assert done.returncode == 0, done.stderr
    _check_sent(receiver, _ids(source, SINCE, UNTIL), kills=0)
    done = command("backfill", *settings, "--resume")
    assert (done.returncode, done.stderr) == (1, b"in-jumpcloud: no backfill is open; --since begins one\n")


def test_late_to_the_stream(
    command: Command, source: EventSource, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """What a backfill has delivered of the time of a stream is in its ledger: counts agree, nothing is sent twice."""
    settings = _settings(command, api, receiver, jumpcloud__start="4d")
    part = ("--since", "2d", "--service", "directory")
    assert command("backfill", *settings, *part).returncode == 0
    assert 0 < len(receiver.ids) < len(_ids(source, NOW - 2 * DAY_MS, NOW))
    assert command("run", "--once", *settings).returncode == 0
    assert receiver.ids == dict.fromkeys(_ids(source, NOW - 3 * DAY_MS, NOW), 1)
    audit = command("audit", *settings, "--since", "3d")
    assert b": 1 events that JumpCloud counts are not in the ledger, 0 events in the ledger" in audit.stderr  # undated


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--since", "1h", "--until", "2h"], "--until: the span ends before it begins: "),
        (["--since", "2100-01-01Z"], "--since: 2100-01-01T00:00:00.000Z is in the future"),
        (["--since", "2026-01-01T00:00:00"], "--since: the time has no zone; write 2026-01-01T00:00:00Z"),
        (["--since", "1h", "--stream", "nosuch"], "--stream: there is no stream 'nosuch'; those of the configuration"),
        (["--since", "1h", "--resume"], "give one of --since, --resume, --cancel and --list"),
        (["--resume", "--again"], "--until, --stream, --service and --again belong to --since"),
        (["--cancel", "x"], "expected the number of a backfill, or all (got 'x')"),
    ],
)
def test_bad_input(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, options: list[str], message: str
) -> None:
    """One line, and there is no state yet."""
    done = invoke("backfill", *_settings(command, api, receiver), *options)
    assert done.returncode == 2
    assert message in done.stderr.decode().splitlines()[-1]
    assert not command.state.exists()


def test_what_jumpcloud_refuses(command: Command, source: EventSource, receiver: SimulatedReceiver) -> None:
    """Before the plan, an unknown service, a wrong key, no receiver: one line; nothing is sent or stays open."""
    with SimulatedApi(source) as api:
        api.retention_ms = 15 * DAY_MS
        settings = _settings(command, api, receiver)
        plan = "is before what JumpCloud keeps for default: its plan reaches back 15 days; begin at 20"
        table: list[tuple[list[str], int, str]] = [
            (["--since", "20d"], 2, plan),
            (["--since", "1h", "--service", "nosuch"], 2, "--service: JumpCloud answered 400: Unsupported service"),
            (["--since", "1h", "-o", "forward.servers=[{host: 127.0.0.1, port: 1}]"], 4, "127.0.0.1:1: "),
        ]
        for options, code, text in table:
            done = command("backfill", *settings, *options)
            assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
            assert text in done.stderr.decode()
        api.faults.always(Fault("status", status=401))
        done = command("backfill", *settings, "--since", "1h")
        assert (done.returncode, len(done.stderr.splitlines())) == (3, 1), done.stderr
        assert invoke("backfill", *settings, "--list").stdout == b"no backfills\n"
    assert receiver.received == 0


def test_progress_lines(command: Command, source: EventSource, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Without a terminal there is a line every 30 s, here every half second, with the same figures."""
    settings = _settings(command, api, receiver, jumpcloud__requests_per_second=3)
    often = "from in_jumpcloud.cli import job_progress, main; job_progress.LINE_SECONDS = 0.5; main()"
    began = time.monotonic()
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", often, "backfill", *settings, *SPAN],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=command._environ({}),
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    total = len(_ids(source, SINCE, UNTIL))
    # Until JumpCloud's count is known, a line has none.
    figures = r"backfill 1: (\d+)%, ([\d,]+)(?: of ([\d,]+))? events, [\d,]+ events/s(?:, \S.* left)?"
    lines = [re.fullmatch(figures, line) for line in done.stderr.splitlines() if line.startswith("backfill 1: ")]
    assert None not in lines, done.stderr
    assert 2 <= len(lines) <= (time.monotonic() - began) / 0.5
    assert lines[-1]
    assert lines[-1][3] == f"{total:,}"
    shares = [int(line[1]) for line in lines if line]
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] <= 100
    assert done.stdout.startswith(f"backfill 1 is done: {total} events of 1 stream, ")


def test_progress_bar(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """A terminal shows a bar with per cent, events, their rate and the time that is left."""
    settings = _settings(command, api, receiver, jumpcloud__requests_per_second=3)
    terminal, other = pty.openpty()
    process = subprocess.Popen(  # noqa: S603 - our own command
        [COMMAND, "backfill", *settings, *SPAN],
        stdout=subprocess.DEVNULL,
        stderr=other,
        cwd=ROOT,
        env=command._environ({}),
    )
    command.processes.append(process)
    os.close(other)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
    os.close(terminal)
    assert process.wait(20) == 0
    assert b"%" in shown
    assert b" events  " in shown
    assert b"/s  " in shown
    assert b" left" in shown
