"""`in-jumpcloud status`, beside a running plugin and without one."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from support.command import KEY, Command

from in_jumpcloud.cli.status import format_duration
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver


@pytest.fixture
def api() -> SimulatedApi:
    """JumpCloud with about 500 events; not started."""
    now_ms = time.time_ns() // 1_000_000
    return SimulatedApi(EventSource(start_ms=now_ms - 600_000, end_ms=now_ms - 60_000, per_minute=50))


def _settings(command: Command, api: SimulatedApi, receiver: SimulatedReceiver, **overrides: object) -> list[str]:
    letters = str(command.directory / "dead-letter.ndjson")
    return command.settings(api, receiver, dead_letter__path=letters, **overrides)


def _json(command: Command, settings: list[str]) -> dict[str, Any]:
    done = command("status", "--json", *settings, JUMPCLOUD_API_KEY="")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0s"), (42, "42s"), (60, "1m"), (61, "1m 1s"), (3599, "59m 59s"), (3600, "1h"), (86_399, "23h 59m")),
        *((273_659, "3d 4h"), (86_405, "1d"), (400 * 86_400, "400d")),
    ],
)
def test_a_lag_is_spelt_in_two_units(seconds: int, text: str) -> None:
    """The two largest units that say something."""
    assert format_duration(seconds) == text


def test_before_the_first_run(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Where there is no state yet that is said, and none is made."""
    with api:
        settings = _settings(command, api, receiver, jumpcloud__organizations=["one", "two"])

    done = command("status", *settings, JUMPCLOUD_API_KEY="")

    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert "not there yet; the first `in-jumpcloud run` makes it" in text
    assert "organization one\n  position      none yet" in text
    assert "organization two\n" in text
    assert not command.state.exists()


def test_after_a_run(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Without a running plugin, and without a key: position, lag, counts, sizes, and that nobody holds the state."""
    with api:
        settings = _settings(command, api, receiver)
        assert command("run", "--once", *settings).returncode == 0

    done = command("status", *settings, JUMPCLOUD_API_KEY="")
    found = _json(command, settings)

    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert "KiB, not in use" in text
    assert f"  acknowledged  {len(receiver.ids)}\n" in text
    assert "  window        none under way\n" in text
    assert "  last error    none\n" in text
    (stream,) = found["streams"]
    assert stream["acknowledged"] == len(receiver.ids) > 400
    assert stream["configured"]
    assert stream["lag_seconds"] < 60
    assert stream["position"] <= stream["updated"]
    assert found["state"]["held_by"] is None
    assert found["state"]["bytes"] >= command.state.stat().st_size > 0
    assert KEY not in text


def test_beside_a_running_plugin(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Who holds the state is told, and the plugin goes on undisturbed."""
    with api:
        settings = _settings(command, api, receiver)
        process = command.start("run", *settings)
        assert receiver.wait_for(400, timeout=30), command.log.read_text()

        done = command("status", *settings)

        assert f"in use by process {process.pid} on " in done.stdout.decode()
        assert done.returncode == 0
        process.terminate()
        assert process.wait(10) == 0


def test_the_last_error_and_the_window_under_way(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """A stream that stands still says why and since when, and which window it is in the midst of."""
    with api:
        settings = _settings(command, api, receiver, jumpcloud__page_limit=100)
        process = command.start("run", *settings, "-o", "jumpcloud.interval=100ms")
        assert receiver.wait_for(400, timeout=30), command.log.read_text()
        api.faults.always(Fault("status", status=403, message="Forbidden by the test"))
        deadline = time.monotonic() + 20
        while not (stream := _json(command, settings)["streams"][0])["error"]:
            assert time.monotonic() < deadline, command.log.read_text()
        process.terminate()
        process.wait(10)

    text = command("status", *settings).stdout.decode()
    assert "Forbidden by the test" in stream["error"]
    assert f"  last error    {stream['error_time']}  JumpCloud answered 403" in text
    with sqlite3.connect(command.state) as database:
        database.execute(
            """UPDATE stream SET position = '{"origin_ms": 0, "watermark_ms": 60000, "window": {"start_ms": 0,
            "end_ms": 86400000, "services": ["all"], "limit": 10, "cursor": "[1]"}}'"""
        )
    database.close()
    text = command("status", *settings).stdout.decode()
    assert "1970-01-01T00:01:00.000Z, 2" in text
    assert "1970-01-01T00:00:00.000Z to 1970-01-02T00:00:00.000Z under way, its first pages are delivered" in text


def test_a_stream_that_is_no_longer_configured(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """What the state has and the configuration has not is shown, and marked."""
    with api:
        settings = _settings(command, api, receiver)
        assert command("run", "--once", *settings).returncode == 0

        text = command("status", *settings, "-o", "jumpcloud.organizations=[one]").stdout.decode()
        streams = _json(command, [*settings, "-o", "jumpcloud.organizations=[one]"])["streams"]

    assert "default  (no longer configured)\n" in text
    assert [(each["name"], each["configured"]) for each in streams] == [
        ("organization one", True),
        ("default", False),
    ]


def test_dead_letters_are_weighed(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path
) -> None:
    """The size of the file of dead letters is told."""
    (tmp_path / "dead-letter.ndjson").write_bytes(b"x" * 3000)
    with api:
        settings = _settings(command, api, receiver)

    assert "dead-letter.ndjson, 2.9 KiB\n" in command("status", *settings).stdout.decode()
    assert _json(command, settings)["dead_letter"]["bytes"] == 3000


@pytest.mark.parametrize("name", ["status", "audit"])
def test_what_is_no_state_gets_one_clear_line(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, name: str
) -> None:
    """A damaged state, or a file of somebody else's, ends with exit code 1 and what to do."""
    command.state.parent.mkdir()
    command.state.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with api:
        settings = _settings(command, api, receiver)

    done = command(name, *settings)

    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"in-jumpcloud: state.path: {command.state}: ")
    assert "move it away" in line
    assert done.returncode == 1


def test_a_wrong_setting_is_still_told_without_a_key(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """Only the key may be missing; what else is wrong in the file is refused."""
    with api:
        settings = _settings(command, api, receiver)

    done = command("status", *settings, "-o", "state.path=[]", JUMPCLOUD_API_KEY="")

    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert "state.path: " in line
