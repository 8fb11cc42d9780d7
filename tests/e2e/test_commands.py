"""What a user meets at the door: output, one clear line for whatever is wrong, and the right exit code."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import re
import signal
import socket
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from support.command import COMMAND, KEY, ROOT, Command

from in_jumpcloud import __version__
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver

DATA = ROOT / "tests" / "data"


@pytest.fixture
def api() -> SimulatedApi:
    """JumpCloud with a few events; not started."""
    now_ms = time.time_ns() // 1_000_000
    return SimulatedApi(EventSource(start_ms=now_ms - 600_000, end_ms=now_ms - 60_000))


def test_the_seed_example_maps_value_for_value(command: Command) -> None:
    """The original event of the integration's own example gives every field of that example."""
    expected = json.loads((DATA / "seed_record.json").read_text())

    done = command(
        "map",
        *("-o", "ecs.preserve_original_event=true", "-o", "ecs.preserve_duplicate_custom_fields=true"),
        *("-o", "ecs.namespace=ep", "-o", "ecs.profile=elastic"),
        DATA / "seed_event.json",
    )

    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    for theirs_alone in ("agent", "elastic_agent", "input"):
        expected.pop(theirs_alone)
    for theirs_alone in ("agent_id_status", "created", "ingested"):
        expected["event"].pop(theirs_alone)
    record["event"].pop("created")
    del record["agent"]
    assert record.pop("input") == {"type": "in_jumpcloud"}
    assert record == expected


@pytest.mark.parametrize(
    "text",
    [
        b'[{"id": "1"}, {"id": "2"}]',
        b'{"id": "1"}\n\n{"id": "2"}\n',
        b'\xef\xbb\xbf{"id": "1"}\n{"id": "2"}',
        b'{"id": "1"}\nnot JSON, but its own record\n',
    ],
)
def test_map_reads_an_array_or_a_line_each(command: Command, text: bytes) -> None:
    """Events come as a JSON array or one a line, from standard input too; each gives one record."""
    done = command("map", stdin=text)

    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) == 2
    assert records[0]["event"]["id"] == "1"


def test_map_reads_one_event_over_several_lines(command: Command) -> None:
    """An event that was made readable is still one event."""
    done = command("map", stdin=json.dumps({"id": "1", "service": "sso"}, indent=2).encode())

    (record,) = done.stdout.splitlines()
    assert json.loads(record)["event"]["module"] == "sso"


def test_fields_as_csv_has_name_type_and_description(command: Command) -> None:
    """The table can be read by a program."""
    done = command("fields", "--format", "csv")

    rows = list(csv.DictReader(io.StringIO(done.stdout.decode())))
    assert {"name": "@timestamp", "type": "date", "description": "Event timestamp."} in rows
    assert json.loads(command("fields", "--format", "json").stdout) == rows
    assert b"jumpcloud.event.changes" in command("fields").stdout


def test_version_and_help(command: Command) -> None:
    """Both answer, and every command has a line of help."""
    assert command("--version").stdout.decode() == f"in-jumpcloud {__version__}\n"
    help_text = command("--help").stdout.decode()
    for name in ("run", "map", "fields", "simulate", "demo"):
        assert any(line.split()[:1] == [name] and len(line.split()) > 3 for line in help_text.splitlines()), name


def test_demo_shows_records_and_a_summary(command: Command) -> None:
    """The first thing that a newcomer runs: records with client.geo, and every event acknowledged."""
    done = command("demo", FLUENT_BIT="", PATH="/nowhere")

    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode()
    assert '"country_iso_code"' in shown
    summary = re.search(r"sent (\d+) events, acknowledged (\d+), looked up (\d+) addresses, in ([\d.]+) s", shown)
    assert summary
    assert int(summary[1]) == int(summary[2]) > 10_000
    assert int(summary[3]) > 0
    assert float(summary[4]) < 60


def test_demo_draws_a_progress_bar_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal the bar fills up to the end."""
    mine, its = pty.openpty()
    process = subprocess.Popen([COMMAND, "demo"], stdout=its, stderr=its, cwd=ROOT, env={"PATH": str(tmp_path)})  # noqa: S603
    os.close(its)
    shown = b""
    with contextlib.suppress(OSError):  # a terminal's end is an error
        while part := os.read(mine, 65_536):
            shown += part
    os.close(mine)

    assert process.wait(10) == 0, shown
    assert b"delivered" in shown
    assert b"100%" in shown


def _lines(stderr: bytes) -> list[str]:
    lines = stderr.decode().splitlines()
    assert "Traceback" not in stderr.decode()
    return [line for line in lines if line.startswith("in-jumpcloud: ")]


def test_every_mistake_in_a_file_is_told_at_once(command: Command, tmp_path: Path) -> None:
    """One line each, with its path in the file; exit code 2."""
    file = tmp_path / "wrong.yaml"
    file.write_text("jumpcloud: {regoin: us, interval: soon}\ngeoip: {cache: none}\n")

    done = command("run", "-c", file)

    assert done.returncode == 2
    assert [line.split(": ")[2] for line in _lines(done.stderr)] == [
        "jumpcloud.regoin",
        "jumpcloud.interval",
        "geoip.cache",
    ]


@pytest.mark.parametrize(
    ("overrides", "says", "code"),
    [
        (["jumpcloud.api_key=null"], "jumpcloud.api_key: missing", 2),
        (["jumpcloud.api_key=wrong"], "the key is wrong, expired or revoked, or belongs to another region", 3),
        (["geoip.city=nowhere.mmdb"], "geoip.city", 2),
        (["geoip.city=README.md"], "geoip.city", 2),
        (["geoip.city=geoip/demo-asn.mmdb"], "geoip.city", 2),
        (["state.path=README.md/state.db"], "state.path", 2),
        (["state.path=LICENSE"], "not a database", 2),
        (["jumpcloud.services=[nonsense]"], "JumpCloud answered 400", 1),
        (["forward.servers=[{host: 127.0.0.1, port: 1}]"], "receiver 127.0.0.1:1: Connection refused", 4),
        (["forward.servers=[{unix: /nowhere/forward.sock}]"], "receiver unix:/nowhere/forward.sock", 4),
    ],
)
def test_what_is_wrong_gets_one_clear_line(
    command: Command,
    api: SimulatedApi,
    receiver: SimulatedReceiver,
    overrides: list[str],
    says: str,
    code: int,
) -> None:
    """A wrong key, path, database or receiver: one line that names it, and the right exit code."""
    options = [part for override in overrides for part in ("-o", override)]
    with api:
        done = command("run", "--once", *command.settings(api, receiver), *options)

    (line,) = _lines(done.stderr)
    assert says in line
    assert done.returncode == code
    assert KEY not in done.stderr.decode()


def test_a_state_of_a_newer_version_is_left_alone(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """A program that is older than its state says so, and changes nothing."""
    with api:
        assert command("run", "--once", *command.settings(api, receiver)).returncode == 0
        with sqlite3.connect(command.state) as database:
            database.execute("PRAGMA user_version = 99")
        database.close()

        done = command("run", "--once", *command.settings(api, receiver))

    assert done.returncode == 2
    assert "version 99, newer than" in _lines(done.stderr)[0]


def test_a_second_process_is_told_who_holds_the_state(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver
) -> None:
    """One process at a time; the other gets the first one's number."""
    with api:
        first = command.start("run", *command.settings(api, receiver))
        assert receiver.wait_for(1, timeout=30), command.log.read_text()

        second = command("run", "--once", *command.settings(api, receiver))

    assert second.returncode == 1
    assert f"process {first.pid}" in _lines(second.stderr)[0]


@pytest.mark.parametrize("what", ["api", "receiver"])
def test_a_port_in_use_gets_one_clear_line(command: Command, what: str) -> None:
    """A simulator says that its port is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = command("simulate", what, "--port", taken.getsockname()[1])

    assert done.returncode == 1
    assert "in use" in _lines(done.stderr)[0]


def test_the_simulators_serve_the_plugin(command: Command, tmp_path: Path) -> None:
    """The two simulators and the plugin, each as a command: what is received is printed, a record a line."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        api_port, receiver_port = one.getsockname()[1], two.getsockname()[1]
    command.start("simulate", "api", "--port", api_port, "--since", "10m", "--fault", "status:503=0.2")
    receiver = command.start("simulate", "receiver", "--port", receiver_port)
    _await_listening(api_port, receiver_port)

    done = command(
        "run",
        "--once",
        *("-c", ROOT / "conf" / "jumpcloud.yaml", "-o", f"jumpcloud.url=http://127.0.0.1:{api_port}"),
        *("-o", f"forward.servers=[{{host: 127.0.0.1, port: {receiver_port}}}]"),
        *("-o", f"state.path={tmp_path / 'state.db'}"),
    )

    assert done.returncode == 0, done.stderr
    receiver.send_signal(signal.SIGINT)
    assert receiver.wait(timeout=10) == 0
    records = [json.loads(line) for line in command.output.read_bytes().splitlines()]
    assert len(records) > 500
    assert len({record["event"]["id"] for record in records}) == len(records)


def test_a_fault_of_the_wrong_form_is_explained(command: Command) -> None:
    """A mistyped option of the simulator names the form that it takes."""
    done = command("simulate", "api", "--fault", "explode=often")

    assert done.returncode == 2
    assert "status:503=0.1" in _lines(done.stderr)[0]


def _await_listening(*ports: int) -> None:
    deadline = time.monotonic() + 20
    for port in ports:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                assert time.monotonic() < deadline, f"nobody listens at {port}"
                time.sleep(0.05)
            else:
                break
