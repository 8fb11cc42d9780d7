"""`in-jumpcloud status`, with and without a running plugin."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import pytest
from support.command import KEY, Command, invoke, wait_until

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.text import format_duration
from in_jumpcloud.timestamps import MINUTE_MS, now_ms


@pytest.fixture
def api() -> SimulatedApi:
    """JumpCloud with about 500 events; not started."""
    return SimulatedApi(
        EventSource(start_ms=now_ms() - 10 * MINUTE_MS, end_ms=now_ms() - MINUTE_MS, per_minute=50),
    )


def _text(*settings: str) -> str:
    done = invoke("status", *settings, JUMPCLOUD_API_KEY="")
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def _json(*settings: str) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(_text("--json", *settings))
    return status


def test_format_duration() -> None:
    """The two largest units that are not zero."""
    table = {0: "0s", 42: "42s", 60: "1m", 61: "1m 1s", 3599: "59m 59s", 3600: "1h", 86_399: "23h 59m"}
    table |= {273_659: "3d 4h", 86_405: "1d", 400 * 86_400: "400d"}
    assert {seconds: format_duration(seconds) for seconds in table} == table


def test_before_the_first_run(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Says that there is no state yet, and creates none."""
    with api:
        settings = command.settings(api, receiver, jumpcloud__organizations=["one", "two"])
    text = _text(*settings)
    assert f"{command.state}, does not exist yet" in text
    assert "organization one\n  position      none yet" in text
    assert "organization two\n" in text
    assert not command.state.exists()
    assert "dead letters  none\n" in text
    assert _json(*settings)["dead_letters"] == {"count": 0, "bytes": 0}


def test_after_a_run(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Position, lag, counters and sizes, and whether each stream is still configured."""
    with api:
        settings = command.settings(api, receiver)
        assert command("run", "--once", *settings).returncode == 0

    text, status = _text(*settings), _json(*settings)
    assert "KiB, not in use" in text
    assert f"  acknowledged  {len(receiver.ids)}\n" in text
    assert "  window        none in progress\n" in text
    assert "  last error    none\n" in text
    (stream,) = status["streams"]
    assert stream["acknowledged"] == len(receiver.ids) > 400
    assert stream["configured"]
    assert stream["lag_seconds"] < 60
    assert stream["position"] <= stream["updated"]
    assert status["state"]["held_by"] is None
    assert status["state"]["bytes"] >= command.state.stat().st_size > 0
    assert KEY not in text
    assert "member" not in text + json.dumps(status)
    assert "group" not in status
    assert list(stream["services_since"]) == ["all"]
    assert "service " not in text

    more = [*settings, "-o", "jumpcloud.services=[all, sso]"]
    with api:
        assert command("run", "--once", *more).returncode == 0
    since = _json(*more)["streams"][0]["services_since"]["sso"]
    assert f"  service       sso, polled from {since} on\n" in _text(*more)

    other = [*settings, "-o", "jumpcloud.organizations=[one]"]
    assert f"\n{stream['name']}  (no longer configured)\n" in _text(*other)
    streams = _json(*other)["streams"]
    assert [(each["name"], each["configured"]) for each in streams] == [
        ("organization one", True),
        (stream["name"], False),
    ]


def test_while_the_plugin_runs(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Names the process, without disturbing it; the last error and the current window of the stream."""
    with api:
        settings = command.settings(api, receiver, jumpcloud__page_limit=100)
        process = command.start("run", *settings, "-o", "jumpcloud.interval=100ms")
        assert receiver.wait_for(400, timeout=30), command.log.read_text()
        assert f"in use by process {process.pid} on " in _text(*settings)
        api.faults.always(Fault("status", status=403, message="Forbidden by the test"))
        wait_until(lambda: bool(_json(*settings)["streams"][0]["error"]))
        process.terminate()
        assert process.wait(10) == 0

    stream = _json(*settings)["streams"][0]
    assert "Forbidden by the test" in stream["error"]
    assert f"  last error    {stream['error_time']}  JumpCloud answered 403" in _text(*settings)
    with sqlite3.connect(command.state) as database:
        database.execute(
            """UPDATE stream SET position = '{"origin_ms": 0, "watermark_ms": 60000, "window": {"start_ms": 0,
            "end_ms": 86400000, "services": ["all"], "limit": 10, "cursor": "[7200000]"}}'"""
        )
    database.close()
    text = _text(*settings)
    assert "position      1970-01-01T00:01:00.000Z; its window has reached 1970-01-01T02:00:00.000Z, 2" in text
    reached_by = now_ms() // 1000 - _json(*settings)["streams"][0]["lag_seconds"]
    assert abs(reached_by - 7200) < 30
    assert "1970-01-01T00:00:00.000Z to 1970-01-02T00:00:00.000Z in progress, first pages delivered" in text


def test_errors(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """A state that is not ours, or a wrong setting: one clear line."""
    command.state.parent.mkdir()
    command.state.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with api:
        settings = command.settings(api, receiver)
    ours = f"state.path: {command.state}: "
    for name, override, words, code in (
        ("status", "log.format=text", ours, 1),
        ("audit", "log.format=text", ours, 1),
        ("status", "state.path=[]", "-o state.path: ", 2),
    ):
        done = invoke(name, *settings, "-o", override)
        (line,) = done.stderr.decode().splitlines()
        assert words in line
        assert done.returncode == code
