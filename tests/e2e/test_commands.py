"""The commands as users run them: output, one clear line for an error, and the exit code."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support.command import COMMAND, KEY, ROOT, Command, invoke, wait_until

from in_jumpcloud import __version__
from in_jumpcloud.cli import cli
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms

TEMPLATES = ROOT / "conf" / "index-templates"


@pytest.fixture
def api() -> SimulatedApi:
    """JumpCloud with a few events; not started."""
    return SimulatedApi(EventSource(start_ms=now_ms() - 10 * MINUTE_MS, end_ms=now_ms() - MINUTE_MS))


def _error_lines(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    assert b"Traceback" not in done.stderr
    return [line for line in done.stderr.decode().splitlines() if line.startswith("in-jumpcloud: ")]


# Standard streams


@pytest.mark.parametrize("arguments", ["fields", "fields --format csv", "template opensearch", "map $1", "--version"])
@pytest.mark.parametrize("output", ["> /dev/full", ">&-", ""], ids=["full", "closed", "closed pipe"])
def test_an_output_that_cannot_be_written(arguments: str, output: str) -> None:
    """One line and exit code 1; nothing about what is left in a buffer."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(  # noqa: S603
        ["sh", "-c", f'"$0" {arguments} {output}', COMMAND, "tests/data/map-two-objects.json"],  # noqa: S607
        stdout=writer,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    os.close(writer)
    reason = {"> /dev/full": "No space left on device", ">&-": "it is closed", "": "Broken pipe"}[output]
    expected = f"in-jumpcloud: cannot write to standard output: {reason}\n"
    if (arguments, output) == ("--version", ""):
        expected = ""  # no command runs
    assert (done.returncode, done.stderr.decode()) == (1, expected)


def test_standard_streams_that_cannot_be_used(command: Command) -> None:
    """A closed standard input, or a state that is a directory, is one line and an exit code."""
    done = subprocess.run(["sh", "-c", '"$0" map <&-', COMMAND], capture_output=True, cwd=ROOT, check=False, timeout=60)  # noqa: S603, S607
    assert (done.returncode, done.stderr) == (1, b"in-jumpcloud: standard input is closed\n")
    state = command.directory / "directory"
    state.mkdir()
    for name in ("status", "audit"):
        done = command(name, "-c", ROOT / "conf" / "jumpcloud.yaml", "-o", f"state.path={state}")
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr
        assert done.stderr.startswith(f"in-jumpcloud: state.path: {state}: cannot be used: ".encode())


# fields, template


def test_fields() -> None:
    """The table can be read by a program; the page in conf is what is printed, with every field."""
    rows = list(csv.DictReader(io.StringIO(invoke("fields", "--format", "csv").stdout.decode())))
    assert {"name": "@timestamp", "type": "date", "description": "Event timestamp."} in rows
    assert json.loads(invoke("fields", "--format", "json").stdout) == rows
    assert b"jumpcloud.event.changes" in invoke("fields").stdout
    page = invoke("fields", "--format", "markdown").stdout
    assert page == (ROOT / "conf" / "fields.md").read_bytes(), "in-jumpcloud fields --format markdown differs"
    names = [line.split("`")[1] for line in page.decode().splitlines() if line.startswith("| `")]
    assert sorted(names) == sorted(row["name"] for row in rows)


def test_template() -> None:
    """The templates in conf are printed, byte for byte; the page there names each option; other stores are refused."""
    for store in ("elasticsearch", "opensearch"):
        done = invoke("template", store)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == (TEMPLATES / f"{store}.json").read_bytes(), f"out of date: in-jumpcloud template {store}"

    options = ("--index-pattern", "audit-*", "--index-pattern", "audit", "--no-data-stream", "--profile", "elastic")
    template = json.loads(invoke("template", "opensearch", *options).stdout)
    assert template["index_patterns"] == ["audit-*", "audit"]
    assert "data_stream" not in template
    properties = template["template"]["mappings"]["properties"]
    event = properties["jumpcloud"]["properties"]["event"]["properties"]
    assert ("mfa" in event, "category" in event) == (True, False)
    page = (TEMPLATES / "README.md").read_text(encoding="utf-8")
    assert [option for option in options if option.startswith("--") and option not in page] == []

    done = invoke("template", "solr")
    assert done.returncode == 2
    assert b"'elasticsearch', 'opensearch'" in done.stderr


# Help, version, completion


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found
        inner = click.Context(found, info_name=name, parent=context, terminal_width=80)
        if isinstance(found, click.Group):
            yield from _commands(found, inner)
        else:
            yield found, inner


def test_help() -> None:
    """Every command has a line of help that fits into 80 columns, and examples with options that it has."""
    context = click.Context(cli, info_name="in-jumpcloud", terminal_width=80)
    for group in (), ("config",), ("dead-letters",), ("simulate",):
        overview = invoke(*group, "--help", COLUMNS="80").stdout.decode()
        lines = overview.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
        assert len(lines) > 1
        assert [line for line in lines if line.endswith("...") or len(line.split()) < 4] == []
    commands = list(_commands(cli, context))
    assert len(commands) > 12
    for found, inner in commands:
        text = found.get_help(inner)
        example = next(line for line in text.partition("Examples:\n")[2].splitlines() if inner.command_path in line)
        words = example.partition("|")[0].partition(">")[0].split()
        options = {option for parameter in found.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-") and word[1:]} <= options, example
        undocumented = [each for each in found.params if isinstance(each, click.Option) and not each.help]
        assert undocumented == [], inner.command_path


def test_version(command: Command) -> None:
    """`--version` alone, and with other options."""
    for arguments in (("--version",), ("--version", "run")):
        assert command(*arguments).stdout.decode() == f"in-jumpcloud {__version__}\n"


def test_completion(command: Command) -> None:
    """The script for each shell is valid where that shell is installed, and gets commands and options from us."""
    for shell in ("bash", "zsh", "fish"):
        done = invoke("completion", shell)
        assert f"_IN_JUMPCLOUD_COMPLETE={shell}_complete" in done.stdout.decode()
        if path := shutil.which(shell):
            assert subprocess.run([path, "-n"], input=done.stdout, check=False).returncode == 0  # noqa: S603
    for words, expected in (("in-jumpcloud ch", "plain,check"), ("in-jumpcloud check --pr", "plain,--probe")):
        index = str(len(words.split()) - 1)
        done = command(_IN_JUMPCLOUD_COMPLETE="bash_complete", COMP_CWORD=index, COMP_WORDS=words)
        assert done.stdout.decode().split() == [expected]


# demo


def test_demo(command: Command, tmp_path: Path) -> None:
    """It shows records with client.geo, and a summary: every event acknowledged. On a terminal a bar reaches 100 %."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([COMMAND, "demo"], stdout=theirs, stderr=theirs, cwd=ROOT, env={"PATH": str(tmp_path)})  # noqa: S603
    os.close(theirs)
    output = ""
    with contextlib.suppress(OSError):  # raised at the end of a terminal
        while part := os.read(ours, 65_536):
            output += part.decode(errors="replace")
    os.close(ours)
    assert process.wait(10) == 0, output
    assert "100%" in output
    assert '"country_iso_code"' in output
    summary = re.search(r"sent (\d+) events, acknowledged (\d+), looked up (\d+) addresses, in ([\d.]+) s", output)
    assert summary
    assert int(summary[1]) == int(summary[2]) > 10_000
    assert int(summary[3]) > 0
    assert float(summary[4]) < 60
    piped = command("demo", FLUENT_BIT="", PATH="/nowhere")
    assert (piped.returncode, b"acknowledged" in piped.stdout, b"100%" in piped.stdout) == (0, True, False)


# Errors


def test_every_mistake_in_a_file_is_reported_at_once(tmp_path: Path) -> None:
    """One line for each, with its path; exit code 2."""
    file = tmp_path / "wrong.yaml"
    file.write_text("jumpcloud: {regoin: us, interval: soon}\ngeoip: {cache: none}\n")
    done = invoke("run", "-c", file, "-o", "log.level=loud")
    assert done.returncode == 2
    lines = _error_lines(done)
    for line, path in zip(lines, ("jumpcloud.regoin", "jumpcloud.interval", "geoip.cache"), strict=False):
        assert line.startswith(f"in-jumpcloud: {file}: {path}: ")
    assert lines[3:] == ["in-jumpcloud: -o log.level: must be one of debug, info, warning, error (got 'loud')"]


@pytest.mark.parametrize(
    ("override", "message", "code"),
    [
        ("jumpcloud.api_key=null", "jumpcloud.api_key: missing", 2),
        ("jumpcloud.api_key=wrong", "JumpCloud answered 401", 3),
        (
            "jumpcloud.url=http://api.example.com",
            "would send the key unencrypted to api.example.com; use https:",
            2,
        ),
        ("state.path=README.md/state.db", "state.path", 2),
        ("state.path=LICENSE", "LICENSE", 1),
        ("jumpcloud.services=[nonsense]", "JumpCloud answered 400", 1),
        ("forward.servers=[{host: 127.0.0.1, port: 1}]", "receiver 127.0.0.1:1: Connection refused", 4),
        ("forward.servers=[{unix: /nowhere/forward.sock}]", "receiver unix:/nowhere/forward.sock", 4),
    ],
)
def test_an_error_is_one_line(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, override: str, message: str, code: int
) -> None:
    """A wrong key, path or receiver: one line that names it, and the exit code."""
    with api:
        done = command("run", "--once", *command.settings(api, receiver), "-o", override)
    (line,) = _error_lines(done)
    assert message in line
    assert done.returncode == code
    assert KEY not in done.stderr.decode()


def test_a_second_process_is_refused(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> None:
    """Only one process uses a state; the second one names the first."""
    with api:
        first = command.start("run", *command.settings(api, receiver))
        assert receiver.wait_for(1, timeout=30), command.log.read_text()
        second = command("run", "--once", *command.settings(api, receiver))
    assert second.returncode == 1
    assert f"process {first.pid}" in _error_lines(second)[0]


# The simulators


def test_the_simulators_serve_the_plugin(command: Command, tmp_path: Path) -> None:
    """Both simulators and the plugin, each as a command: received records are printed, one per line."""
    command.start("simulate", "api", "--port", 0, "--since", "10m", "--fault", "status:503=0.2")
    receiver = command.start("simulate", "receiver", "--port", 0)
    wait_until(lambda: command.log.read_text().count("press Ctrl-C") == 2)
    (url,) = re.findall(r"http://\S+(?=,)", command.log.read_text())
    (receiver_port,) = re.findall(r"receiving at 127\.0\.0\.1:(\d+)", command.log.read_text())

    done = command(
        "run",
        "--once",
        *("-c", ROOT / "conf" / "jumpcloud.yaml", "-o", f"jumpcloud.url={url}"),
        *("-o", f"forward.servers=[{{host: 127.0.0.1, port: {receiver_port}}}]"),
        *("-o", f"state.path={tmp_path / 'state.db'}", "-o", "jumpcloud.start=1h"),
    )

    assert done.returncode == 0, done.stderr
    receiver.send_signal(signal.SIGINT)
    assert receiver.wait(timeout=10) == 0
    records = [json.loads(line) for line in command.output.read_bytes().splitlines()]
    assert len(records) > 500
    assert len({record["event"]["id"] for record in records}) == len(records)


def test_a_port_in_use() -> None:
    """A simulator names the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for simulator in ("api", "receiver"):
            done = invoke("simulate", simulator, "--port", port)
            (line,) = _error_lines(done)
            assert f"127.0.0.1:{port}: already in use" in line
            assert done.returncode == 1


def test_simulator_options_that_make_no_sense(tmp_path: Path) -> None:
    """The last line names the option; exit code 2, before anything listens."""
    (tmp_path / "x.pem").write_text("nothing\n")
    unix = f"--unix {tmp_path}/x.sock"
    table = {
        "api --late 1.5": "'--late': 1.5 is not in the range",
        "api --per-minute -1": "'--per-minute': -1.0 is not in the range",
        "api --per-minute inf": "'--per-minute': inf is not in the range",
        "api --late nan": "'--late': 'nan' is not a number",
        "api --since soon": "'--since': expected a duration",
        "api --fault explode=often": "'--fault': expected KIND=PROBABILITY, such as status:503=0.1",
        "api --fault cut=2": "'--fault': expected",
        "api --fault cut:5=0.1": "'--fault': expected",
        "api --fault status:200=0.1": "'--fault': expected",
        "api --fault delay:-1=0.1": "'--fault': expected",
        f"receiver {unix} --port 1": "--port cannot be used together with --unix",
        f"receiver {unix} --host ::1": "--host cannot be used together with --unix",
        "receiver --tls-cert missing.pem": "'--tls-cert': File 'missing.pem' does not exist",
        "receiver --tls-cert .": "'--tls-cert': File '.' is a directory",
        f"receiver --tls-cert {tmp_path}/x.pem": "expected a certificate and its key",
    }
    for arguments, message in table.items():
        done = invoke("simulate", *arguments.split(" "))
        line = done.stderr.decode().splitlines()[-1]
        assert message in line, arguments
        assert done.returncode == 2
