"""`in-jumpcloud init` and `completion`: set up with what can be found out."""

from __future__ import annotations

import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
from support.command import KEY, ROOT, Command
from support.geoip import build, named

from in_jumpcloud.cli import cli
from in_jumpcloud.cli.init import init
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config, ServerSettings
from in_jumpcloud.config.types import Secret
from in_jumpcloud.errors import ConfigError
from in_jumpcloud.simulator.receiver import SimulatedReceiver

TEMPLATE = (ROOT / "conf" / "jumpcloud.yaml").read_text()
ENVIRON = {"JUMPCLOUD_API_KEY": KEY}


def _init(path: Path, **options: Any) -> Config:
    """Run it where nothing is found unless it is given, and read what it wrote."""
    given = {"force": False, "servers": (), "databases": (), "environ": ENVIRON, **options}
    init(path, **given)
    return load_config(path, environ=ENVIRON)


def test_as_a_command(command: Command, tmp_path: Path) -> None:
    """It writes a file that only its owner may read, which `check` and `run` take, and says what comes next."""
    path = tmp_path / "new" / "jumpcloud.yaml"

    done = command("init", path, "--server", "127.0.0.1:4711", "--region", "eu", "--organization", "5f1a")

    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    text = done.stdout.decode()
    assert "from the environment variable JUMPCLOUD_API_KEY, which is set" in text
    assert f"next: in-jumpcloud check -c {path}\n" in text
    assert KEY not in text + path.read_text()
    settings = load_config(path, environ=ENVIRON)
    assert settings.forward.servers == (ServerSettings(host="127.0.0.1", port=4711),)
    assert settings.jumpcloud.region == "eu"
    assert settings.jumpcloud.organizations == ("5f1a",)


def test_it_never_overwrites_unasked(command: Command, tmp_path: Path) -> None:
    """A file that is there stays as it is, exit code 2; --force writes it anew."""
    path = tmp_path / "jumpcloud.yaml"
    path.write_text("mine")

    refused = command("init", path)
    assert path.read_text() == "mine"
    forced = command("init", path, "--force", "--server", "h")

    assert refused.returncode == 2
    assert refused.stderr.decode() == (
        f"in-jumpcloud: {path}: is there already; --force writes it anew, or name another file\n"
    )
    assert forced.returncode == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_config(path, environ=ENVIRON).forward.servers[0].host == "h"


def test_nothing_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not there is said, and the file is good all the same: the template, with the look-ups turned off."""
    path = tmp_path / "jumpcloud.yaml"

    settings = _init(path, environ={})

    assert settings == load_config(
        ROOT / "conf" / "jumpcloud.yaml", ["geoip.city=null", "geoip.asn=null"], environ=ENVIRON
    )
    text = capsys.readouterr().out
    assert "which is not set" in text
    assert "start Fluent Bit, or correct forward.servers" in text
    assert f"next: export JUMPCLOUD_API_KEY='your key'; in-jumpcloud check -c {path}" in text


def test_every_comment_is_kept(tmp_path: Path) -> None:
    """Only values change, and the lines of the receiver; comments stay in their column."""
    path = tmp_path / "jumpcloud.yaml"

    _init(path, region="in", server="/run/x.sock", provider_id="p")

    before, after = TEMPLATE.splitlines(), path.read_text().splitlines()
    gone = [line for line in before if line not in after]
    new = [line for line in after if line not in before]
    assert [line.split(":")[0].strip() for line in new] == ["region", "provider_id", "city", "- unix"]
    assert [line.split(":")[0].strip() for line in gone] == [
        "region",
        "provider_id",
        "city",
        "- host",
        "port",
        "# monitor",
    ]
    for old, changed in zip(gone[:3], new[:3], strict=True):
        assert changed.index("#") == old.index("#")
        assert changed.partition("#")[2] == old.partition("#")[2]


def test_a_fluent_bit_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first that takes connections; a socket file that nobody serves is none."""
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(dead))
    with SimulatedReceiver() as receiver:
        closed, open_ = ServerSettings(unix=dead), ServerSettings(host="127.0.0.1", port=receiver.port)
        settings = _init(tmp_path / "a.yaml", servers=(closed, open_))
        assert settings.forward.servers == (open_,)
    with SimulatedReceiver(unix_path=str(tmp_path / "live.sock")):
        live = ServerSettings(unix=tmp_path / "live.sock")
        assert _init(tmp_path / "b.yaml", servers=(live, open_)).forward.servers == (live,)

    assert f"{live}: takes connections" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "says"), [("", "has an empty shared key"), ("theirs", "it asks for a shared key: set forward.shared_key")]
)
def test_a_shared_key_is_found_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, says: str) -> None:
    """An empty one, as conf/fluent-bit-unix.yaml has it, is put into the file; of another it is said."""
    with SimulatedReceiver(shared_key=key) as receiver:
        server = ServerSettings(host="127.0.0.1", port=receiver.port)
        settings = _init(tmp_path / "a.yaml", servers=(server,))

    assert settings.forward.servers == (server,)
    assert (settings.forward.shared_key == Secret("")) == (not key)
    assert f"{server}: {says}" in capsys.readouterr().out


def test_databases_are_found(tmp_path: Path) -> None:
    """The better one first, wherever it lies; what is no database is passed over."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    build(one / "GeoLite2-Country.mmdb", {"1.1.1.0/24": named("Here")}, "GeoLite2-Country")
    (one / "GeoIP2-City.mmdb").write_bytes(b"no database")
    better = build(two / "GeoLite2-City.mmdb", {"1.1.1.0/24": named("Here")}, "GeoLite2-City")
    asn = build(two / "GeoLite2-ASN.mmdb", {"1.1.1.0/24": {"autonomous_system_number": 1}}, "GeoLite2-ASN")

    settings = _init(tmp_path / "a.yaml", databases=(one, two))

    assert settings.geoip.city == better
    assert settings.geoip.asn == asn


def test_a_key_in_a_file(tmp_path: Path) -> None:
    """The file is named, and takes the place of the environment's variable."""
    key = tmp_path / 'the "key" #1'
    key.write_text("a-key")

    init(tmp_path / "a.yaml", force=False, api_key_file=key, servers=(), databases=(), environ={})

    settings = load_config(tmp_path / "a.yaml", environ={})
    assert settings.jumpcloud.api_key is not None
    assert settings.jumpcloud.api_key.reveal() == "a-key"


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("collector", ServerSettings(host="collector")),
        ("collector.example.com:1", ServerSettings(host="collector.example.com", port=1)),
        ("[::1]:24225", ServerSettings(host="::1", port=24225)),
        ("unix:/run/a b.sock", ServerSettings(unix=Path("/run/a b.sock"))),
        ("/run/forward.sock", ServerSettings(unix=Path("/run/forward.sock"))),
    ],
)
def test_a_receiver_that_is_named(tmp_path: Path, text: str, server: ServerSettings) -> None:
    """Host, host and port, IPv6, or a socket's path."""
    assert _init(tmp_path / "a.yaml", server=text).forward.servers == (server,)


@pytest.mark.parametrize("text", [" ", "a:b", "h:70000", "h:0", "http://h", "::1", "a b"])
def test_a_receiver_of_no_form(tmp_path: Path, text: str) -> None:
    """Anything else is refused before anything is written."""
    with pytest.raises(ConfigError, match="expected HOST, HOST:PORT or the path of a unix socket"):
        _init(tmp_path / "a.yaml", server=text)

    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(command: Command, tmp_path: Path) -> None:
    """One clear line, exit code 2."""
    (tmp_path / "file").touch()

    done = command("init", tmp_path / "file" / "jumpcloud.yaml")

    assert done.returncode == 2
    assert done.stderr.decode().startswith(f"in-jumpcloud: {tmp_path / 'file' / 'jumpcloud.yaml'}: cannot be written: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_package_brings_the_template() -> None:
    """What `init` writes is conf/jumpcloud.yaml wherever the package is installed: the build takes that very file."""
    text = (ROOT / "pyproject.toml").read_text()

    assert '"conf/jumpcloud.yaml" = "in_jumpcloud/jumpcloud.yaml"' in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(command: Command, shell: str) -> None:
    """A script for each shell, that asks the command itself; where the shell is there, it can read it."""
    done = command("completion", shell)

    assert done.returncode == 0, done.stderr
    assert f"_IN_JUMPCLOUD_COMPLETE={shell}_complete" in done.stdout.decode()
    if found := shutil.which(shell):
        assert subprocess.run([found, "-n"], input=done.stdout, check=False).returncode == 0  # noqa: S603


def test_completion_completes(command: Command) -> None:
    """Commands and options, as the script asks for them."""
    asked: dict[str, Any] = {
        "_IN_JUMPCLOUD_COMPLETE": "bash_complete",
        "COMP_CWORD": "1",
        "COMP_WORDS": "in-jumpcloud ch",
    }
    commands = command(timeout=100, **asked).stdout.decode().split()
    asked |= {"COMP_CWORD": "2", "COMP_WORDS": "in-jumpcloud check --pr"}
    options = command(timeout=100, **asked).stdout.decode().split()

    assert commands == ["plain,check"]
    assert options == ["plain,--probe"]


def _commands(group: click.Group, *names: str) -> list[tuple[str, ...]]:
    found = []
    for name, each in group.commands.items():
        found += _commands(each, *names, name) if isinstance(each, click.Group) else [(*names, name)]
    return found


@pytest.mark.parametrize("names", _commands(cli), ids=" ".join)
def test_every_command_has_examples_that_it_understands(names: tuple[str, ...]) -> None:
    """Its help ends in examples of its own options."""
    context = click.Context(cli, info_name="in-jumpcloud")
    found: click.Command = cli
    for name in names:
        assert isinstance(found, click.Group)
        found = found.commands[name]
        context = click.Context(found, info_name=name, parent=context)
    text = found.get_help(context)

    assert found.help
    assert "Examples:\n" in text
    options = {option for parameter in found.params for option in parameter.opts}
    example = next(line for line in (found.epilog or "").splitlines() if " ".join(["in-jumpcloud", *names]) in line)
    words = example.partition("|")[0].partition(">")[0].split()
    assert {word for word in words if word.startswith("-") and word[1:]} <= options
