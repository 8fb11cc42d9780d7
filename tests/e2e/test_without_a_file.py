"""The installed command in an empty directory: the environment alone, and the files that it finds by itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.command import KEY, ROOT, Command

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import HOUR_MS, now_ms

NOW = now_ms()


@pytest.fixture
def api() -> SimulatedApi:
    """The events of some hours."""
    return SimulatedApi(EventSource(seed=5, start_ms=NOW - 5 * HOUR_MS, end_ms=NOW - 60_000, per_minute=2))


@pytest.fixture
def empty(command: Command, tmp_path: Path) -> Path:
    """An empty directory, in which the command runs; `tmp_path` is the home."""
    command.working_directory = tmp_path / "empty"
    command.working_directory.mkdir()
    command.environ = {
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": "",
        "STATE_DIRECTORY": "",
        "IN_JUMPCLOUD_HTTP__LISTEN": "null",
        "IN_JUMPCLOUD_LOG__FORMAT": "text",
        "IN_JUMPCLOUD_SERVICE_PORT": "2021",  # Kubernetes makes such
    }
    return command.working_directory


def test_the_environment_alone(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path, empty: Path
) -> None:
    """Everything is delivered, with the database of the package; the start names the state, all commands find it."""
    with api:
        command.environ |= {
            "IN_JUMPCLOUD_JUMPCLOUD__URL": api.url,
            "IN_JUMPCLOUD_FORWARD__SERVERS": f"[{{host: 127.0.0.1, port: {receiver.port}}}]",
        }
        done = command("run", "--once")
        assert done.returncode == 0, done.stderr
        checked = command("check", "--json")
    (source,) = api.sources.values()
    total = source.count(0, NOW, now_ms=NOW)
    assert len(receiver.ids) == sum(receiver.ids.values()) == total
    state = tmp_path / ".local" / "state" / "in-jumpcloud" / "in-jumpcloud.db"
    assert state.is_file()
    log = done.stderr.decode()
    nowhere = "the environment alone, no file (none at ./jumpcloud.yaml or /etc/in-jumpcloud/jumpcloud.yaml)"
    assert f"configuration: {nowhere}; state: {state}\n" in log
    assert not list(empty.iterdir())
    results = {each["check"]: each for each in reversed(json.loads(checked.stdout)["checks"])}
    assert results["configuration"]["message"] == f"{nowhere}: valid"
    assert results["state"]["message"].startswith(f"{state}: streams: 1")
    assert "Demo" in results["database"]["message"]
    status = json.loads(command("status", "--json").stdout)
    assert status["state"]["path"] == str(state)


def test_the_files_that_are_found(command: Command, tmp_path: Path, empty: Path) -> None:
    """./jumpcloud.yaml, unless the environment names another, unless -c does; the state is next to the file."""
    for name in ("named", "given"):
        (tmp_path / name).mkdir()
    files = {name: tmp_path / name / "jumpcloud.yaml" for name in ("empty", "named", "given")}
    for name, path in files.items():
        path.write_text(f"forward: {{tag: {name}}}\n")
    options: list[str] = []
    for name in ("empty", "named", "given"):
        if name == "named":
            command.environ["IN_JUMPCLOUD_CONFIG"] = str(files[name])
        if name == "given":
            options = ["-c", str(files[name])]
        status = json.loads(command("status", "--json", *options).stdout)
        assert status["state"]["path"] == str(tmp_path / name / "state" / "in-jumpcloud.db")
    missing = command("status", IN_JUMPCLOUD_CONFIG=str(tmp_path / "none.yaml"))
    assert missing.returncode == 2
    reason = f"{tmp_path}/none.yaml: cannot be read: No such file or directory"
    assert missing.stderr.decode() == f"in-jumpcloud: {reason}\n"
    assert [each.name for each in empty.iterdir()] == ["jumpcloud.yaml"]


def test_what_is_refused(command: Command, tmp_path: Path, empty: Path) -> None:
    """One line each, without a secret, and exit code 2; nothing is made."""
    (tmp_path / "key").write_text("other-secret")
    table = [
        ({"IN_JUMPCLOUD_FORWARD__TAGG": "x"}, "names no setting; did you mean IN_JUMPCLOUD_FORWARD__TAG?"),
        ({"IN_JUMPCLOUD_JUMPCLOUD__API_KEY": "another-key"}, "JUMPCLOUD_API_KEY is set too; unset one of the two"),
        (
            {"IN_JUMPCLOUD_JUMPCLOUD__API_KEY_FILE": str(tmp_path / "key")},
            "JUMPCLOUD_API_KEY is set too; unset one of the two",
        ),
    ]
    for environ, text in table:
        done = command("run", "--once", timeout=100, stdin=b"", **environ)
        assert done.returncode == 2
        assert done.stderr.decode() == f"in-jumpcloud: {next(iter(environ))}: {text}\n"
        assert not {"another-key", "other-secret", KEY} & set(done.stderr.decode().split())
    done = command("run", JUMPCLOUD_API_KEY="")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("in-jumpcloud: no configuration file: jumpcloud.api_key: missing; set ")
    assert not list(empty.iterdir())
    assert not (tmp_path / ".local").exists()


def test_a_state_where_earlier_versions_kept_it(command: Command, tmp_path: Path, empty: Path) -> None:
    """It is not passed over: a new state would begin at jumpcloud.start again."""
    (empty / "state").mkdir()
    (empty / "state" / "in-jumpcloud.db").touch()
    done = command("run")
    assert done.returncode == 2
    new = tmp_path / ".local" / "state" / "in-jumpcloud" / "in-jumpcloud.db"
    (line,) = done.stderr.decode().splitlines()
    assert f"state.path: {new} does not exist, but {empty}/state/in-jumpcloud.db does" in line
    assert line.endswith("set state.path (or IN_JUMPCLOUD_STATE__PATH) to it, or move its directory")


def test_config_show(command: Command, empty: Path) -> None:
    """Each setting with its value and its origin, without secrets; the values are settings again."""
    (empty / "jumpcloud.yaml").write_text(
        "jumpcloud: {start: 2026-01-31, interval: 90s, proxy: 'http://user:swordfish@proxy:3128'}\n"
        "forward: {password_file: password, username: u, shared_key: '', tls: {verify: false}}\n"
    )
    (empty / "password").write_text("password-of-the-receiver")
    environ = {"IN_JUMPCLOUD_FORWARD__SERVERS": "[{host: h}, {unix: /s}]", "IN_JUMPCLOUD_JUMPCLOUD__PAGE_BYTES": "9KiB"}
    command.environ |= environ
    shown = command("config", "show", "-o", "forward.tag=o")
    assert shown.returncode == 0, shown.stderr
    first, *lines = shown.stdout.decode().splitlines()
    file = str(empty / "jumpcloud.yaml")
    assert first == f"# {file}"
    rows = {key: (value, origin) for key, value, origin in (re.split(r" {2,}", line) for line in lines)}
    expected = {
        "jumpcloud.api_key": ("***", "JUMPCLOUD_API_KEY"),
        "jumpcloud.start": ("2026-01-31", file),
        "jumpcloud.interval": ("1m30s", file),
        "jumpcloud.page_bytes": ("9KiB", "IN_JUMPCLOUD_JUMPCLOUD__PAGE_BYTES"),
        "jumpcloud.proxy": ("***", file),
        "forward.servers": (
            '[{"host": "h", "port": 24224}, {"port": 24224, "unix": "/s"}]',
            "IN_JUMPCLOUD_FORWARD__SERVERS",
        ),
        "forward.password_file": (str(empty / "password"), file),
        "forward.shared_key": ('""', file),
        "forward.tag": ("o", "-o forward.tag"),
        "forward.tls.verify": ("false", file),
        "forward.balance": ("failover", "default"),
        "state.path": (str(empty / "state" / "in-jumpcloud.db"), "default"),
    }
    assert {key: rows[key] for key in expected} == expected
    assert not re.search(rb"swordfish|password-of|" + KEY.encode(), shown.stdout)

    shown = command("config", "show", STATE_DIRECTORY="/var/lib/a")
    assert re.search(rb"^state\.path +/var/lib/a/in-jumpcloud\.db +STATE_DIRECTORY$", shown.stdout, re.MULTILINE)

    printed = json.loads(command("config", "show", "--json", "-o", "forward.tag=o").stdout)
    assert printed["file"] == file
    assert printed["settings"]["forward.tag"] == {"value": "o", "origin": "option", "name": "forward.tag"}
    assert printed["settings"]["jumpcloud.start"] == {"value": "2026-01-31", "origin": "file", "name": file}
    values = {key: each["value"] for key, each in printed["settings"].items() if each["value"] != "***"}
    for name in environ:
        del command.environ[name]
    (empty / "jumpcloud.yaml").write_text("jumpcloud: {proxy: 'http://user:swordfish@proxy:3128'}\n")
    again = command("config", "show", "--json", *(f"-o{key}={json.dumps(value)}" for key, value in values.items()))
    assert {key: each["value"] for key, each in json.loads(again.stdout)["settings"].items() if key in values} == values


@pytest.mark.usefixtures("empty")
def test_config_schema(command: Command) -> None:
    """It is the shipped one."""
    printed = json.loads(command("config", "schema").stdout)
    assert printed == json.loads((ROOT / "conf" / "jumpcloud.schema.json").read_text())
