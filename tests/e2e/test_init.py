"""`in-jumpcloud init`: a configuration with what is detected."""

from __future__ import annotations

import re
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from support.command import KEY, ROOT, invoke
from support.geoip import build, named

from in_jumpcloud.cli.init import write_configuration
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config, ServerSettings
from in_jumpcloud.config.types import Secret
from in_jumpcloud.ecs.geoip_account import DEFAULT_DIRECTORY, DEFAULT_EDITIONS
from in_jumpcloud.simulator.receiver import SimulatedReceiver

ENVIRON = {"JUMPCLOUD_API_KEY": KEY}


def _write(path: Path, **options: Any) -> Config:
    """Write a configuration where nothing is detected except what `options` give, and load it."""
    write_configuration(path, **{"force": False, "servers": (), "database_directories": (), "environ": {}, **options})
    return load_config(path, environ=ENVIRON)


def test_as_a_command(tmp_path: Path) -> None:
    """The file is readable only by its owner, has the options, and not the key; the output says what to do next."""
    path = tmp_path / "new" / "jumpcloud.yaml"
    refused = invoke("init", path)
    line = f"{path}: there is no directory {path.parent}; create it first: mkdir -p {path.parent}"
    assert (refused.returncode, refused.stderr.decode()) == (2, f"in-jumpcloud: {line}\n")
    path.parent.mkdir()
    options = (
        "--region",
        "eu",
        "--url",
        "http://127.0.0.1:8080",
        "--organization",
        "5f1a",
        "--provider-id",
        'p"#',
        "--server",
        "127.0.0.1:4711",
    )
    done = invoke("init", path, *options)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    output = done.stdout.decode()
    assert "from the environment variable JUMPCLOUD_API_KEY, which is set" in output
    assert f"next: in-jumpcloud check -c {path}\n" in output
    text = path.read_text()
    assert KEY not in output + text
    assert str(ROOT / "conf" / "jumpcloud.yaml") in text
    settings = load_config(path, environ=ENVIRON)
    assert settings.forward.servers == (ServerSettings(host="127.0.0.1", port=4711),)
    assert (settings.jumpcloud.region, settings.jumpcloud.url) == ("eu", "http://127.0.0.1:8080")
    assert settings.jumpcloud.organizations == ("5f1a",)
    assert settings.jumpcloud.provider_id == 'p"#'


def test_a_url_that_is_none(tmp_path: Path) -> None:
    """It is refused, and not shown: it may contain a password."""
    for url in ("api.example.com", "https://user:swordfish@api.example.com"):
        done = invoke("init", tmp_path / "a.yaml", "--url", url)
        assert done.returncode == 2
        assert "'--url': expected a base URL without a user and a query" in done.stderr.decode()
        assert "swordfish" not in done.stderr.decode()
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    """Exit code 2 without --force, which replaces the file; also if the directory cannot be created."""
    path = tmp_path / "jumpcloud.yaml"
    path.write_text("mine")
    refused = invoke("init", path)
    assert path.read_text() == "mine"
    assert refused.returncode == 2
    assert refused.stderr.decode() == f"in-jumpcloud: {path}: already exists; use --force to overwrite\n"

    assert invoke("init", path, "--force", "--server", "h").returncode == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_config(path, environ=ENVIRON).forward.servers[0].host == "h"

    done = invoke("init", path / "jumpcloud.yaml")
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"in-jumpcloud: {path / 'jumpcloud.yaml'}: cannot be written: ")


def test_nothing_detected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file has the defaults and fits the shipped fluent-bit.yaml; the output says what is missing.

    The databases that `geoip update` brings are in the file as comments.
    """
    path = tmp_path / "jumpcloud.yaml"
    settings = _write(path)
    assert settings == load_config(
        None,
        [
            *("jumpcloud.api_key=simulated-key", 'forward.shared_key=""'),
            f"state.path={tmp_path}/state/in-jumpcloud.db",
        ],
    )
    output = capsys.readouterr().out
    assert "which is not set" in output
    assert "start Fluent Bit, or change forward\n" in output
    assert output.count("; `in-jumpcloud geoip update` gets one, then set geoip.") == 2
    assert f"next: export JUMPCLOUD_API_KEY='your key'; in-jumpcloud check -c {path}" in output
    path.write_text(re.sub("# (city|asn): ", r"\1: ", path.read_text()))
    geoip = load_config(path, environ=ENVIRON).geoip
    assert [geoip.city, geoip.asn] == [DEFAULT_DIRECTORY / f"{edition}.mmdb" for edition in DEFAULT_EDITIONS]


def test_a_receiver_is_detected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first that accepts connections; the file of a socket alone does not count."""
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as unused:
        unused.bind(str(dead))
    with SimulatedReceiver() as receiver:
        closed, open_ = ServerSettings(unix=dead), ServerSettings(host="127.0.0.1", port=receiver.port)
        settings = _write(tmp_path / "a.yaml", servers=(closed, open_))
        assert settings.forward.servers == (open_,)
        assert settings.forward.shared_key is None
    with SimulatedReceiver(unix_path=str(tmp_path / "live.sock")):
        live = ServerSettings(unix=tmp_path / "live.sock")
        assert _write(tmp_path / "b.yaml", servers=(live, open_)).forward.servers == (live,)
    assert f"{live}: accepts connections" in capsys.readouterr().out


def test_a_shared_key_is_detected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty one, as in conf/fluent-bit-unix.yaml, is written to the file; for another one the output says so."""
    notes = {"": "has an empty shared key", "theirs": "requires a shared key; set forward.shared_key"}
    for key, note in notes.items():
        with SimulatedReceiver(shared_key=key) as receiver:
            server = ServerSettings(host="127.0.0.1", port=receiver.port)
            settings = _write(tmp_path / f"{key}.yaml", servers=(server,))
        assert settings.forward.servers == (server,)
        assert (settings.forward.shared_key == Secret("")) == (not key)
        assert f"{server}: {note}" in capsys.readouterr().out


def test_databases_are_detected(tmp_path: Path) -> None:
    """The best one in any of the directories; a file that is not a database does not count."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    build(one / "GeoLite2-Country.mmdb", {"1.1.1.0/24": named("Here")}, "GeoLite2-Country")
    (one / "GeoIP2-City.mmdb").write_bytes(b"not a database")
    better = build(two / "GeoLite2-City.mmdb", {"1.1.1.0/24": named("Here")}, "GeoLite2-City")
    asn = build(two / "GeoLite2-ASN.mmdb", {"1.1.1.0/24": {"autonomous_system_number": 1}}, "GeoLite2-ASN")
    settings = _write(tmp_path / "a.yaml", database_directories=(one, two))
    assert (settings.geoip.city, settings.geoip.asn) == (better, asn)


def test_a_key_in_a_file(tmp_path: Path) -> None:
    """The file is named instead of the environment variable."""
    key = tmp_path / 'the "key" #1'
    key.write_text("a-key")
    assert _write(tmp_path / "a.yaml", api_key_file=key).jumpcloud.api_key == Secret("a-key")
    assert load_config(tmp_path / "a.yaml", environ={}).jumpcloud.api_key == Secret("a-key")


def test_the_server_option(tmp_path: Path) -> None:
    """A host, a host and a port, an IPv6 address, or the path of a socket; anything else is refused."""
    table = {
        "collector": ServerSettings(host="collector"),
        "collector.example.com:1": ServerSettings(host="collector.example.com", port=1),
        "[::1]:24225": ServerSettings(host="::1", port=24225),
        "unix:/run/a b.sock": ServerSettings(unix=Path("/run/a b.sock")),
        "/run/forward.sock": ServerSettings(unix=Path("/run/forward.sock")),
    }
    for text, server in table.items():
        assert invoke("init", tmp_path / "a.yaml", "--force", "--server", text).returncode == 0
        assert load_config(tmp_path / "a.yaml", environ=ENVIRON).forward.servers == (server,)
    for text in (" ", "a:b", "h:70000", "h:0", "http://h", "::1", "a b"):
        done = invoke("init", tmp_path / "b.yaml", "--server", text)
        assert done.returncode == 2
        assert b"'--server': expected HOST, HOST:PORT or the path of a unix socket" in done.stderr
    assert not (tmp_path / "b.yaml").exists()


def test_all_organizations(tmp_path: Path) -> None:
    """They are found by the plugin, and not together with some that are named."""
    path = tmp_path / "a.yaml"
    assert invoke("init", path, "--all-organizations").returncode == 0
    assert load_config(path, environ=ENVIRON).jumpcloud.organizations == "all"
    both = invoke("init", path, "--force", "--all-organizations", "--organization", "a")
    assert both.returncode == 2
    assert b"--all-organizations cannot be used together with --organization" in both.stderr
