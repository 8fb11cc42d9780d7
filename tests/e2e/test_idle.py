"""A process with nothing to do sleeps, writes nothing, and still acts at once."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.idle import between, usage
from support.command import KEY, Command, invoke, wait_until
from support.fluent_bit import free_port

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.state.sqlite.store import open_readonly
from in_jumpcloud.timestamps import MINUTE_MS, now_ms, rfc3339

SECONDS = 10
MAX_WAKEUPS = 1.0
"""A second, of all threads; `make idle` measures it for an hour."""
AT_ONCE = 5.0
"""Seconds, on a machine that is busy. A process that only looked now and then would take up to a minute."""


@pytest.fixture(name="source")
def _source() -> EventSource:
    """About 60 events of an hour ago, and then nothing."""
    end_ms = now_ms() - 60 * MINUTE_MS
    return EventSource(start_ms=end_ms - 10 * MINUTE_MS, end_ms=end_ms, per_minute=6)


@pytest.fixture(name="api")
def _api(source: EventSource) -> Iterator[SimulatedApi]:
    with SimulatedApi(source) as api:
        yield api


def start(command: Command, *settings: str) -> subprocess.Popen[bytes]:
    """Start it, and wait until it has nothing more to do."""
    before = _log(command).count(": caught up")
    process = command.start("run", *settings)
    wait_until(lambda: _log(command).count(": caught up") > before)
    return process


def _log(command: Command) -> str:
    return command.log.read_text() if command.log.exists() else ""


def _total(source: EventSource) -> int:
    return source.count(0, now_ms(), now_ms=now_ms())


def test_it_sleeps_and_acts_at_once(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """With the default interval and a status page all threads together hardly wake; a reload and a stop do not wait."""
    settings = command.settings(api, receiver, jumpcloud__start="2h", http__listen=f"127.0.0.1:{free_port()}")
    process = start(command, *settings)
    before = usage(process.pid)
    time.sleep(SECONDS)
    cost = between(before, usage(process.pid), 1)
    assert cost.wakeups_per_second <= MAX_WAKEUPS, cost

    began = time.monotonic()
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: "configuration reloaded: 0 streams restarted, 1 unchanged" in _log(command))
    assert time.monotonic() - began < AT_ONCE
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert time.monotonic() - began < AT_ONCE
    assert _log(command).count(": caught up") == 1


def _files(state: Path) -> list[tuple[int, int]]:
    paths = (state, state.with_name(f"{state.name}-wal"))
    return [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


def _next_polls(api: SimulatedApi, count: int) -> None:
    before = len(api.requests)
    wait_until(lambda: len(api.requests) >= before + count)


def _behind_ms(state: Path) -> int:
    """How far the position on disk is behind now."""
    with open_readonly(state) as reader:
        (row,) = reader.streams()
    return now_ms() - row.position.watermark_ms


def test_empty_polls_write_nothing(
    command: Command, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """The file stays as it is, `status` shows how far it came; after a kill nothing is lost or duplicated."""
    settings = command.settings(
        api, receiver, jumpcloud__start="2h", jumpcloud__interval="100ms", http__listen=f"127.0.0.1:{free_port()}"
    )
    process = start(command, *settings)
    _next_polls(api, 3)
    before, behind_ms = _files(command.state), _behind_ms(command.state)
    _next_polls(api, 20)
    time.sleep(1)
    assert _files(command.state) == before
    assert _behind_ms(command.state) >= behind_ms + 1000
    (stream,) = json.loads(invoke("status", "--json", *settings).stdout)["streams"]
    shown = stream["lag_seconds"]
    process.kill()
    process.wait()
    assert shown < _behind_ms(command.state) / 1000

    for number in range(5):
        at_ms = now_ms() - (5 - number) * 100
        source.add({"id": f"after-{number}", "timestamp": rfc3339(at_ms), "service": "sso"}, timestamp_ms=at_ms)
    process = start(command, *settings)
    assert receiver.wait_until(lambda: len(receiver.ids) == _total(source), timeout=60), _log(command)
    wait_until(lambda: _behind_ms(command.state) > shown * 1000 + 5000)
    written = command.positions()["default"]["watermark_ms"]
    process.terminate()
    assert process.wait(30) == 0
    assert command.positions()["default"]["watermark_ms"] > written + 3000
    assert set(receiver.ids.values()) == {1}


def test_status_without_a_page(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """The lag is that of the last commit: the position in the state is old because there was nothing to write."""
    settings = command.settings(api, receiver, jumpcloud__start="2h", jumpcloud__interval="100ms")
    process = start(command, *settings)
    wait_until(lambda: _behind_ms(command.state) > 3000)
    text = invoke("status", *settings).stdout.decode()
    process.terminate()
    assert process.wait(30) == 0
    assert " behind at the last commit\n" in text
    assert " behind now\n" in invoke("status", *settings).stdout.decode()


def test_the_log_at_level_debug(
    command: Command, api: SimulatedApi, source: EventSource, receiver: SimulatedReceiver
) -> None:
    """Each request, chunk and commit is a line with fields; none has the key."""
    settings = command.settings(
        api, receiver, jumpcloud__start="2h", jumpcloud__page_limit=20, log__level="debug", log__format="json"
    )
    done = command("run", "--once", *settings, timeout=60)
    assert done.returncode == 0, done.stderr
    assert KEY.encode() not in done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    requests = [line for line in lines if line.get("url.path") == "events"]
    pages = [line for line in requests if line["in_jumpcloud.query.limit"] == 20]
    total = _total(source)
    assert sum(int(line["in_jumpcloud.events"]) for line in pages) >= total
    assert any(line["in_jumpcloud.query.search_after"] for line in pages if "in_jumpcloud.query.search_after" in line)
    for line in requests:
        assert line["http.response.status_code"] == 200
        assert line["http.response.body.bytes"] > 0
        assert line["in_jumpcloud.query.start_time"] < line["in_jumpcloud.query.end_time"]
        assert line["event.duration"] > 0
    chunks = [line for line in lines if "in_jumpcloud.chunk.id" in line]
    assert sum(line["in_jumpcloud.chunk.records"] for line in chunks) == total
    assert all(line["in_jumpcloud.chunk.tag"] and line["in_jumpcloud.chunk.bytes"] for line in chunks)
    commits = [line for line in lines if "in_jumpcloud.ids" in line]
    assert sum(line["in_jumpcloud.ids"] for line in commits) == total
    assert {line["in_jumpcloud.stream"] for line in commits} == {"default"}
