"""`in-jumpcloud fetch` prints the events of a span as JumpCloud sent them, each once, and needs nothing else."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.command import COMMAND, KEY, ROOT, Command, wait_until

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, now_ms, rfc3339

HOURS = 5


@pytest.fixture(scope="module")
def source() -> EventSource:
    """Some hours of events, 700 of them in one millisecond; one on several lines, one without a date."""
    end_ms = now_ms() - MINUTE_MS
    source = EventSource(start_ms=end_ms - HOURS * HOUR_MS, end_ms=end_ms, per_minute=8)
    moment = end_ms - 2 * HOUR_MS + 123
    for number in range(700):
        source.add({"id": f"tie-{number}", "timestamp": rfc3339(moment)}, timestamp_ms=moment)
    indented = json.dumps({"id": "indented", "timestamp": rfc3339(moment), "text": 'a\\\n"b ü'}, indent=2)
    source.add(indented.encode(), timestamp_ms=moment)
    source.add(b'{"id": "raw\nline end", "x": NaN}', timestamp_ms=moment + HOUR_MS)
    return source


@pytest.fixture
def api(source: EventSource) -> Iterator[SimulatedApi]:
    """JumpCloud with those events."""
    with SimulatedApi(source) as api:
        yield api


def options(api: SimulatedApi, **overrides: object) -> list[str]:
    """The options of a configuration that has neither a receiver nor a usable state."""
    values = {"jumpcloud.url": api.url, "jumpcloud.requests_per_second": 1000, "jumpcloud.page_limit": 250}
    values |= {"state.path": "/dev/null/state.db", "forward.tls.ca_file": "/nowhere/ca.pem"}
    values |= {name.replace("__", "."): value for name, value in overrides.items()}
    return ["-c", "conf/jumpcloud.yaml", *(f"-o{name}={json.dumps(value)}" for name, value in values.items())]


def lines_of(source: EventSource, start_ms: int, end_ms: int) -> list[bytes]:
    """What is printed of a span: the bytes that are served, with line ends replaced."""
    raws = [item.raw for item in source.between(start_ms, end_ms, now_ms=now_ms())]
    return [
        raw.replace(b"raw\nline end", b"raw\\nline end") if b"raw\n" in raw else raw.replace(b"\n", b" ")
        for raw in raws
    ]


FAULTS: dict[str, list[Fault]] = {
    "none": [],
    "temporary": [Fault("status", status=503), Fault("cut"), Fault("bad_json"), Fault("drop")],
    "lost cursors": [Fault("repeat_cursor"), Fault("wrong_count")],
    "an end that is included": [Fault("end_included")] * 100,
}


@pytest.mark.parametrize("faults", FAULTS)
def test_each_event_once_and_in_order(command: Command, api: SimulatedApi, source: EventSource, faults: str) -> None:
    """Byte for byte, over many windows and pages, whatever fails in between; nothing is written anywhere."""
    end_ms = now_ms()
    start_ms = end_ms - 4 * HOUR_MS
    arguments = ["--since", rfc3339(start_ms), "--until", rfc3339(end_ms), *options(api, jumpcloud__window="33m")]
    # The first request only tries whether JumpCloud returns the span.
    api.faults.once(*FAULTS[faults])
    before = set(command.directory.iterdir())

    done = command("fetch", *arguments)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == lines_of(source, start_ms, end_ms)
    waits = done.stderr.decode().splitlines()
    assert all(line.startswith("in-jumpcloud: ") and "; retrying in " in line for line in waits)
    assert bool(waits) == (faults in {"temporary", "lost cursors"})
    assert set(command.directory.iterdir()) == before
    windows = {(request.body["start_time"], request.body["end_time"]) for request in api.requests}
    assert len(windows) >= 4 * 60 / 33


def test_records_are_those_that_a_receiver_gets(command: Command, api: SimulatedApi) -> None:
    """What `map` makes of the events is what `run` sends, except for the time of collection and the agent's ids."""
    with SimulatedReceiver() as receiver:
        settings = command.settings(api, receiver, jumpcloud__start="4h")
        assert command("run", "--once", *settings).returncode == 0
        start = rfc3339(command.positions()["default"]["origin_ms"])
        fetched = command("fetch", *settings, "--since", start)
        assert fetched.returncode == 0, fetched.stderr
        mapped = command("map", *settings, stdin=fetched.stdout)
        assert mapped.returncode == 0, mapped.stderr
        ours = sorted(_comparable(json.loads(line)) for line in mapped.stdout.splitlines())
        theirs = sorted(_comparable(each.record) for each in receiver.records)
    # One event is not JSON: its record has its text and, instead of its own time, that of its collection.
    assert len(ours) == len(theirs) > 2000
    assert len(set(ours) - set(theirs)) == 1


def _comparable(record: dict[str, Any]) -> str:
    event = {name: value for name, value in record["event"].items() if name != "created"}
    agent = {name: value for name, value in record["agent"].items() if name not in {"id", "ephemeral_id"}}
    return json.dumps({**record, "event": event, "agent": agent}, sort_keys=True)


def test_an_event_that_is_too_large() -> None:
    """It is left out with its place and exit code 1; all others are printed, soon in whole pages again."""
    end_ms = now_ms() // MINUTE_MS * MINUTE_MS
    start_ms = end_ms - 4 * HOUR_MS
    large = EventSource(start_ms=end_ms - HOURS * HOUR_MS, end_ms=end_ms - MINUTE_MS, per_minute=8)
    moment = end_ms - 3 * HOUR_MS  # the first event of its minute, the one behind it, and one between others
    for number, after_ms in enumerate((0, 1, 90_000)):
        large.add({"id": f"large-{number}", "text": "x" * 3_000_000}, timestamp_ms=moment + after_ms)
    with SimulatedApi(large) as api:
        limits = {"jumpcloud__event_max_bytes": "2MB", "jumpcloud__page_bytes": "1MB"}
        since, until = rfc3339(start_ms), rfc3339(end_ms)
        done = invoke_fetch("--since", since, "--until", until, *options(api, **limits))
    assert done.returncode == 1
    *places, summary = done.stderr.decode().splitlines()
    assert len(places) == 3
    assert all("default: the event at cursor [" in line for line in places)
    assert summary.startswith("in-jumpcloud: 3 events larger than jumpcloud.event_max_bytes left out; ")
    ids = [json.loads(line)["id"] for line in done.stdout.splitlines()]
    items = large.between(start_ms, end_ms, now_ms=end_ms)
    assert ids == [item.event_id for item in items if not item.event_id.startswith("large-")]
    assert len(api.requests) < 90 < len(ids)


def invoke_fetch(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    """Run it as a process: it handles signals."""
    return subprocess.run(  # noqa: S603 - our own command
        [COMMAND, "fetch", *map(str, arguments)],
        capture_output=True,
        cwd=ROOT,
        env={"JUMPCLOUD_API_KEY": KEY},
        timeout=60,
        check=False,
    )


def test_streams_and_services() -> None:
    """All streams one after the other, or those that are named; of the services only those that are named."""
    end_ms = now_ms() - MINUTE_MS
    sources = {
        name: EventSource(seed=seed, start_ms=end_ms - HOUR_MS, end_ms=end_ms, organization=name)
        for seed, name in enumerate(("one", "two", "three"))
    }
    with SimulatedApi(sources) as api:
        settings = options(api, jumpcloud__organizations=["one", "two"])
        until = ("--since", rfc3339(end_ms - HOUR_MS), "--until", rfc3339(end_ms))
        both = invoke_fetch(*until, *settings).stdout.splitlines()
        two = invoke_fetch(*until, *settings, "--stream", "two").stdout.splitlines()
        sso = invoke_fetch(*until, *settings, "--service", "sso", "--service", "ldap").stdout.splitlines()
    expected = {name: lines_of(each, end_ms - HOUR_MS, end_ms) for name, each in sources.items()}
    assert both == expected["one"] + expected["two"]
    assert two == expected["two"]
    assert sso == [line for line in both if json.loads(line)["service"] in {"sso", "ldap"}] != []


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        ("--since 2h --until 3h", "--until: the span ends before it begins: ", 2),
        ("--since 2100-01-01Z", "--since: 2100-01-01T00:00:00.000Z is in the future", 2),
        ("--since 2h --until 2100-01-01Z", "--until: 2100-01-01T00:00:00.000Z is in the future", 2),
        ("--since 2026-01-31", "--since: the time has no zone; write 2026-01-31T00:00:00Z", 2),
        ("--since soon", "--since: expected a time with a zone", 2),
        (
            "--since 2h --stream other",
            "--stream: there is no stream 'other'; those of the configuration are: default",
            2,
        ),
        ("--since 2h --service nonsense", "--service: JumpCloud answered 400: Unsupported service: nonsense", 2),
        ("--since 40d", "is before what JumpCloud keeps for default: its plan reaches back 15 days; begin at ", 2),
        ("--since 2h -o jumpcloud.api_key=null", "jumpcloud.api_key: missing", 2),
        ("--since 2h -o jumpcloud.api_key=wrong", "JumpCloud answered 401", 3),
        ("--since 2h -o jumpcloud.organizations=[other]", "organization other: JumpCloud answered 403", 1),
        ("--since 2h -o jumpcloud.services=[nonsense]", "default: JumpCloud answered 400", 1),
    ],
)
def test_a_mistake_is_one_line(api: SimulatedApi, arguments: str, message: str, code: int) -> None:
    """One line that names it, and the exit code; nothing is printed."""
    api.retention_ms = 15 * DAY_MS
    done = invoke_fetch(*options(api), *arguments.split())
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("in-jumpcloud: ")
    assert message in line
    assert (done.returncode, done.stdout) == (code, b"")


def test_a_plan_is_not_exceeded_by_a_second_try(api: SimulatedApi) -> None:
    """The time that the refusal names is accepted."""
    api.retention_ms = 15 * DAY_MS
    done = invoke_fetch(*options(api), "--since", "40d")
    start = done.stderr.decode().split("begin at ")[1].split()[0]
    assert invoke_fetch(*options(api), "--since", start).returncode == 0


def test_a_reader_that_has_seen_enough(api: SimulatedApi) -> None:
    """A closed pipe ends it quietly, with the exit code of the signal that ends other programs then."""
    words = shlex.join(options(api))
    done = subprocess.run(  # noqa: S603
        ["bash", "-c", f'"$0" fetch --since 4h {words} | head -n 1; exit ${{PIPESTATUS[0]}}', COMMAND],  # noqa: S607
        capture_output=True,
        cwd=ROOT,
        env={"JUMPCLOUD_API_KEY": KEY, "PATH": "/usr/bin:/bin"},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout.count(b"\n")) == (128 + signal.SIGPIPE, b"", 1)


def test_progress(api: SimulatedApi, tmp_path: Path) -> None:
    """A bar where standard error is a terminal, up to 100 %. Ctrl-C gives the cursor back that a bar hides."""
    for is_stopped in (False, True):
        if is_stopped:
            api.faults.always(Fault("delay", seconds=30, path="/events"))
        ours, theirs = pty.openpty()
        with (tmp_path / "events").open("wb") as events:
            words = [str(COMMAND), "fetch", *options(api), "--since", "4h"]
            environ = {"JUMPCLOUD_API_KEY": KEY, "TERM": "xterm"}
            process = subprocess.Popen(words, stdout=events, stderr=theirs, cwd=ROOT, env=environ)  # noqa: S603
        os.close(theirs)
        if is_stopped:
            wait_until(lambda: api.faults.given["delay"] > 0)
            process.send_signal(signal.SIGINT)
        shown = b""
        with suppress(OSError):  # raised at the end of a terminal
            while part := os.read(ours, 65_536):
                shown += part
        os.close(ours)
        assert process.wait(20) == (128 + signal.SIGINT if is_stopped else 0), shown
        assert (b"100%" in shown) != is_stopped
        assert shown.endswith(b"\x1b[?25h\r\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once(command: Command, api: SimulatedApi, number: signal.Signals) -> None:
    """Also during a request that hangs; what was printed ends with a whole line."""
    process = command.start("fetch", *options(api), "--since", "4h")
    wait_until(lambda: command.output.stat().st_size > 0)
    api.faults.always(Fault("delay", seconds=30))
    wait_until(lambda: api.faults.given["delay"] > 0 or process.poll() is not None)
    process.send_signal(number)
    assert process.wait(timeout=5) == 128 + number
    assert command.output.read_bytes().endswith(b"}\n")
    assert command.log.read_bytes() == b""
