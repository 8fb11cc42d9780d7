"""`run --supervised`: the process that starts it is killed, closes the output, or is gone already."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import COMMAND, Command, wait_until

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms

END_SECONDS = 2.0
ENDED = "the process that started this one has ended, so this one ends too"
PARENT = """
import signal, socket, subprocess, sys
port = socket.create_server(("127.0.0.1", 0))
port.set_inheritable(True)
output = subprocess.PIPE if sys.argv[1] == "pipe" else open(sys.argv[1], "wb")
child = subprocess.Popen(sys.argv[2:], stdout=output, close_fds=False)
print(port.getsockname()[1], flush=True)
for line in child.stdout or []:
    print(line.decode(), end="", flush=True)
signal.pause()
"""
NO_PIDFD = "import os\nif hasattr(os, 'pidfd_open'): del os.pidfd_open\n"


@pytest.fixture
def api() -> Iterator[SimulatedApi]:
    """An API with an hour of events."""
    end_ms = now_ms()
    with SimulatedApi(EventSource(start_ms=end_ms - 60 * MINUTE_MS, end_ms=end_ms, per_minute=10)) as api:
        yield api


def start_parent(command: Command, output: str, line: list[str], **environ: str) -> tuple[subprocess.Popen[bytes], int]:
    """A process that starts `line` with a listening socket of its own, and the read end of the errors of all of it.

    `output` is "pipe", which the parent reads, or the path of a file.
    """
    errors, write = os.pipe()
    parent = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", PARENT, output, *line],
        stdout=subprocess.PIPE,
        stderr=write,
        env=command._environ(environ),
        cwd=COMMAND.parents[2],
    )
    os.close(write)
    command.processes.append(parent)
    return parent, errors


@pytest.mark.parametrize(
    ("kind", "shell", "pidfd"),
    [("pipe", False, True), ("pipe", True, True), ("file", False, True), ("file", False, False)],
    ids=["pipe", "shell", "file", "no-pidfd"],
)
def test_ends_with_its_parent(
    command: Command,
    api: SimulatedApi,
    receiver: SimulatedReceiver,
    tmp_path: Path,
    *,
    kind: str,
    shell: bool,
    pidfd: bool,
) -> None:
    """After a kill of the parent its port is free at once, and the process ends in time although it awaits an ack.

    A shell between the two holds the port as long as the process runs.
    """
    receiver.faults.stall(60)
    log = tmp_path / "log.json"
    (tmp_path / "sitecustomize.py").write_text(NO_PIDFD)
    line = [str(COMMAND), "run", "--supervised", *command.settings(api, receiver)]
    if shell:
        line = ["/bin/sh", "-c", '"$@"; exit', "sh", *line]
    environ = {} if pidfd else {"PYTHONPATH": str(tmp_path)}
    parent, errors = start_parent(command, "pipe" if kind == "pipe" else str(log), line, **environ)
    assert parent.stdout
    with parent.stdout as stream:
        port = int(stream.readline())
        wait_until(lambda: receiver.faults.given["stall"] == 1)

        parent.kill()
        parent.wait()
        killed_at = time.monotonic()
        if not shell:
            socket.create_server(("127.0.0.1", port)).close()
        with open(errors, "rb") as error_stream:  # noqa: PTH123 - a descriptor
            message = error_stream.read().decode()  # until no process has it open
        assert time.monotonic() - killed_at < END_SECONDS
        socket.create_server(("127.0.0.1", port)).close()
        assert [json.loads(line)["message"] for line in message.splitlines()] == [ENDED]
        lines = (log.read_bytes() if kind == "file" else stream.read()).splitlines()
    assert any("in_jumpcloud.collector" in json.loads(line)["log.logger"] for line in lines)


def test_ends_if_its_parent_is_gone_already(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """It ends at once if no process reads its output, although init or another process has taken it over."""
    read, write = os.pipe()
    os.close(read)
    line = [str(COMMAND), "run", "--supervised", *command.settings(api, receiver)]
    began = time.monotonic()
    result = subprocess.run(  # noqa: S603 - our own command
        line, stdout=write, stderr=subprocess.PIPE, env=command._environ({}), cwd=COMMAND.parents[2], check=False
    )
    os.close(write)
    assert [json.loads(line)["message"] for line in result.stderr.splitlines()] == [ENDED]
    assert time.monotonic() - began < END_SECONDS + 5


def test_stdout_closed(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Without a standard output it says so, and collects nothing."""
    line = ["/bin/sh", "-c", '"$@" >&-', "sh", str(COMMAND), "run", "--supervised", *command.settings(api, receiver)]
    result = subprocess.run(  # noqa: S603 - our own command
        line, stderr=subprocess.PIPE, env=command._environ({}), cwd=COMMAND.parents[2], check=False
    )
    assert result.returncode == 1
    advice = "start it with standard output open, as Fluent Bit's exec input does"
    message = f"standard output is closed, and --supervised logs there; {advice}"
    assert [json.loads(line)["message"] for line in result.stderr.splitlines()] == [message]
    assert not api.requests


def test_errors_are_in_the_log(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """A configuration that is wrong is a JSON line for each problem; the exit code is that of run."""
    result = command("run", "--supervised", *command.settings(api, receiver, log__level="loud", log__format="yaml"))
    assert result.returncode == 2
    assert result.stderr == b""
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["log.level"], line["message"].partition(":")[0]) for line in lines] == [
        ("error", "-o log.level"),
        ("error", "-o log.format"),
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--bogus",), "No such option"),
        (("--output", "file"), "Invalid value for '--output'"),
        (("-c",), "requires an argument"),
        (("surplus",), "there are more arguments than expected"),
        (("--dry-run",), "--supervised cannot be used together with --dry-run"),
        (("--json",), "--json can only be used together with --dry-run"),
        (("-c", "/nowhere.yaml"), "/nowhere.yaml: cannot be read"),
    ],
)
def test_wrong_options_are_in_the_log(command: Command, arguments: tuple[str, ...], says: str) -> None:
    """Whatever is wrong with the command line is one JSON line on standard output too."""
    result = command("run", "--supervised", *arguments)
    assert (result.returncode, result.stderr) == (2, b"")
    (line,) = map(json.loads, result.stdout.splitlines())
    assert line["log.level"] == "error"
    assert says in line["message"]


def test_an_unexpected_error_is_in_the_log(command: Command, tmp_path: Path) -> None:
    """A defect is one JSON line, with the traceback in it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import threading\ndef start(self): raise ValueError('by the test')\nthreading.Thread.start = start\n"
    )
    result = command("run", "--supervised", "-o", f"state.path={tmp_path / 's.db'}", PYTHONPATH=str(tmp_path))
    assert (result.returncode, result.stderr) == (1, b"")
    line = json.loads(result.stdout.splitlines()[-1])
    assert line["log.level"] == "critical"
    assert "ValueError: by the test" in line["error.stack_trace"]


def test_a_stop_is_an_ordinary_stop(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """SIGTERM, which Fluent Bit sends, ends it with exit code 0 and the log on standard output."""
    process = command.start("run", "--supervised", *command.settings(api, receiver))
    wait_until(lambda: bool(receiver.ids))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    lines = [json.loads(line) for line in command.output.read_text().splitlines()]
    assert lines[-1]["message"].startswith("stopped after")
    assert command.log.read_text() == ""
