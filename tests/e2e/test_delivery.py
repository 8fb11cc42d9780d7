"""No event lost, none silently duplicated: the installed command between the simulators, through kills and outages."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import EVENTS, Command, fifty_thousand, wait_until

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver

DAYS = 3
CHUNK_RECORDS = 1000
"""More simulated records than fit into a chunk of 1,000,000 bytes."""


@pytest.fixture(scope="module")
def source() -> EventSource:
    """50,000 events over three days, 3,000 of them in the same millisecond."""
    return fifty_thousand(DAYS)


@pytest.fixture
def api(source: EventSource) -> Iterator[SimulatedApi]:
    """JumpCloud with those events."""
    with SimulatedApi(source) as api:
        yield api


def test_every_event_arrives_exactly_once_and_a_second_run_sends_nothing(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """Several windows, three pages in one millisecond: each of 50,000 ids once; a second run sends nothing."""
    run = ["run", "--once", *command.settings(api, receiver, jumpcloud__start="4d")]

    first = command(*run)

    assert first.returncode == 0, first.stderr
    assert len(receiver.ids) == EVENTS
    assert sum(receiver.ids.values()) == EVENTS
    windows = {request.body["start_time"] for request in api.requests if request.body}
    assert len(windows) >= DAYS

    second = command(*run)

    assert second.returncode == 0, second.stderr
    assert sum(receiver.ids.values()) == EVENTS


@pytest.mark.timeout(300)
def test_twenty_kills_lose_nothing(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, dice: random.Random
) -> None:
    """Killed at twenty random moments and restarted: all arrive, and each kill duplicates at most one chunk."""
    run = ["run", "--once", *command.settings(api, receiver, jumpcloud__start="4d")]
    for arrived in sorted(dice.sample(range(EVENTS - 5000), 20)):
        process = command.start(*run)
        assert receiver.wait_for(arrived, timeout=60), command.log.read_text()
        time.sleep(dice.uniform(0, 0.05))
        process.kill()
        assert process.wait() == -signal.SIGKILL

    last = command(*run)

    assert last.returncode == 0, last.stderr
    assert len(receiver.ids) == EVENTS
    duplicates = sum(receiver.ids.values()) - EVENTS
    print(f"20 kills, {duplicates} of {EVENTS} events sent twice, 0 lost")  # noqa: T201 - shown with -s
    assert duplicates <= 20 * CHUNK_RECORDS


@pytest.mark.timeout(300)
def test_an_outage_of_the_receiver_loses_nothing(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """With the receiver down for 20 s, memory and the position do not change; nothing is lost or duplicated."""
    process = command.start("run", "--once", *command.settings(api, receiver, jumpcloud__start="4d"))
    assert receiver.wait_for(EVENTS // 4, timeout=60), command.log.read_text()
    receiver.stop()
    # A chunk or a page that was under way may still be committed or fetched.
    time.sleep(1)
    waiting, size, requests = command.positions(), _resident(process), len(api.requests)

    time.sleep(19)

    assert process.poll() is None
    assert command.positions() == waiting
    assert len(api.requests) == requests
    assert _resident(process) - size < 2_000_000
    receiver.start()
    assert process.wait(timeout=100) == 0, command.log.read_text()
    assert len(receiver.ids) == EVENTS
    # A chunk that arrived but was not acknowledged yet is sent again.
    assert sum(receiver.ids.values()) - EVENTS <= CHUNK_RECORDS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_within_seconds(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, number: signal.Signals
) -> None:
    """SIGTERM and Ctrl-C in a backlog: exit code 0 within seconds; the next run delivers the rest, once."""
    run = ["run", *command.settings(api, receiver, jumpcloud__start="4d")]
    process = command.start(*run)
    assert receiver.wait_for(1000, timeout=60), command.log.read_text()

    process.send_signal(number)

    assert process.wait(timeout=8) == 0, command.log.read_text()
    last = command(*run, "--once")
    assert last.returncode == 0, last.stderr
    assert sum(receiver.ids.values()) == len(receiver.ids) == EVENTS


@pytest.mark.parametrize("fault", ["stalled receiver", "silent API"])
def test_a_signal_interrupts_a_wait(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, fault: str
) -> None:
    """SIGTERM also stops it within seconds while it waits for an ack or an answer."""
    if fault == "silent API":
        api.faults.always(Fault("delay", seconds=30))
    else:
        receiver.pause()
    settings = command.settings(api, receiver, jumpcloud__start="4d", forward__stop_timeout="2s")
    process = command.start("run", *settings)
    wait_until(lambda: api.faults.given["delay"] > 0 or len(api.requests) > 0)

    process.terminate()

    assert process.wait(timeout=10) == 0, command.log.read_text()
    receiver.resume()


def test_organizations_are_streams_and_fail_alone(command: Command, receiver: SimulatedReceiver) -> None:
    """Of three organizations one is refused: the others deliver all events, and the exit code is 1."""
    now_ms = time.time_ns() // 1_000_000
    sources = {
        name: EventSource(seed=2, start_ms=now_ms - 7_200_000, end_ms=now_ms - 60_000, organization=name)
        for name in ("first", "second")
    }
    with SimulatedApi(sources) as api:
        settings = command.settings(api, receiver, jumpcloud__organizations=["first", "unknown", "second"])

        done = command("run", "--once", *settings)

        assert done.returncode == 1
        assert b"organization unknown" in done.stderr
        assert len(receiver.ids) == sum(source.count(0, now_ms, now_ms=now_ms) for source in sources.values())
        assert sum(receiver.ids.values()) == len(receiver.ids)
        positions = command.positions()
        unknown = positions.pop("organization unknown")
        assert (unknown["watermark_ms"], unknown["window"]) == (unknown["origin_ms"], None)
        # Positions move by JumpCloud's clock, whose dates are whole seconds.
        assert all(position["watermark_ms"] > now_ms - 1000 for position in positions.values())


def test_a_unix_socket_delivers_too(command: Command, tmp_path: Path) -> None:
    """The receiver can listen on a Unix socket."""
    now_ms = time.time_ns() // 1_000_000
    source = EventSource(start_ms=now_ms - 600_000, end_ms=now_ms - 60_000)
    with SimulatedApi(source) as api, SimulatedReceiver(unix_path=str(tmp_path / "forward.sock")) as receiver:
        done = command("run", "--once", *command.settings(api, receiver))

        assert done.returncode == 0, done.stderr
        assert len(receiver.records) == source.count(0, now_ms, now_ms=now_ms) > 0
        assert all(each.tag == "jumpcloud.events" for each in receiver.records)


def _resident(process: subprocess.Popen[bytes]) -> int:
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * 4096
