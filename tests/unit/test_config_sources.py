"""Where settings come from: which source wins, which file is used, where the state is, what relative paths mean."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from in_jumpcloud.config.environment import variable_name
from in_jumpcloud.config.loader import load_config, read_document
from in_jumpcloud.config.locations import default_state, find_config_file
from in_jumpcloud.config.schema import DEMO_ASN, DEMO_CITY, ServerSettings
from in_jumpcloud.config.types import Duration, Secret
from in_jumpcloud.errors import ConfigError

DOCUMENTED = Path(__file__).parents[2] / "conf" / "jumpcloud.yaml"
KEY = "jca_another-one"  # it is hidden as long as the table below lives

FILE = "FILE"  # the name of the configuration file, in the tables


def problems(path: Path | None, environ: dict[str, str], *overrides: str) -> list[str]:
    """The lines that are said of these sources, with FILE for the path of the file."""
    with pytest.raises(ConfigError) as raised:
        load_config(path, overrides, environ=environ)
    return str(raised.value).replace(str(path), FILE).splitlines()


PRECEDENCE: list[tuple[str, str, dict[str, str], list[str], Any, tuple[str, str]]] = [
    # key, file, environment, -o, the value in use, its origin
    ("forward.tag", "", {}, [], "jumpcloud.events", ("default", "")),
    ("forward.tag", "forward: {tag: f}", {}, [], "f", ("file", FILE)),
    ("forward.tag", "", {"FORWARD__TAG": "e"}, [], "e", ("environment", "IN_JUMPCLOUD_FORWARD__TAG")),
    ("forward.tag", "forward: {tag: f}", {"FORWARD__TAG": "e"}, [], "e", ("environment", "IN_JUMPCLOUD_FORWARD__TAG")),
    ("forward.tag", "forward: {tag: f}", {"FORWARD__TAG": "e"}, ["forward.tag=o"], "o", ("option", "forward.tag")),
    ("forward.tag", "forward: {tag: f}", {}, ["forward.tag=o"], "o", ("option", "forward.tag")),
    ("forward.balance", "forward: {balance: round_robin}", {"FORWARD__TAG": "e"}, [], "round_robin", ("file", FILE)),
    ("forward.compress", "", {"FORWARD__TAG": "e"}, ["forward.balance=failover"], "none", ("default", "")),
    # The text of a variable is not YAML, and has no variables of its own, unless the key needs a list or a mapping.
    ("forward.shared_key", "", {"FORWARD__SHARED_KEY": "a: #${B"}, [], Secret("a: #${B"), ("environment", "…")),
    ("forward.shared_key", "", {"FORWARD__SHARED_KEY": ""}, [], Secret(""), ("environment", "…")),
    ("forward.shared_key", "forward: {shared_key: f}", {"FORWARD__SHARED_KEY": "null"}, [], None, ("environment", "…")),
    ("jumpcloud.provider_id", "", {"JUMPCLOUD__PROVIDER_ID": "0123"}, [], "0123", ("environment", "…")),
    ("jumpcloud.page_limit", "", {"JUMPCLOUD__PAGE_LIMIT": "20"}, [], 20, ("environment", "…")),
    ("jumpcloud.interval", "", {"JUMPCLOUD__INTERVAL": "90s"}, [], Duration(90), ("environment", "…")),
    ("jumpcloud.services", "", {"JUMPCLOUD__SERVICES": "[sso, ldap]"}, [], ("sso", "ldap"), ("environment", "…")),
    ("http.listen", "", {"HTTP__LISTEN": "null"}, [], None, ("environment", "…")),
    ("forward.tls.verify", "", {"FORWARD__TLS__VERIFY": "0"}, [], False, ("environment", "…")),
    ("forward.tls.verify", "", {"FORWARD__TLS": "{verify: false}"}, [], False, ("environment", "…")),
    (
        "forward.tls.server_name",
        "forward: {tls: {verify: false}}",
        {"FORWARD__TLS": "{enabled: true}", "FORWARD__TLS__SERVER_NAME": "e"},
        ["forward.tls={server_name: o}"],
        "o",
        ("option", "forward.tls"),
    ),
    (
        "forward.servers",
        "forward: {servers: [{host: f}]}",
        {"FORWARD__SERVERS": "[{host: e, port: 1}]"},
        [],
        (ServerSettings(host="e", port=1),),
        ("environment", "IN_JUMPCLOUD_FORWARD__SERVERS"),
    ),
    # The key of the account.
    ("jumpcloud.api_key", "", {}, [], Secret(KEY), ("environment", "JUMPCLOUD_API_KEY")),
    ("jumpcloud.api_key", "jumpcloud: {client_id: null}", {}, [], Secret(KEY), ("environment", "JUMPCLOUD_API_KEY")),
    ("jumpcloud.api_key", "jumpcloud: {api_key: f}", {}, [], Secret("f"), ("file", FILE)),
    ("jumpcloud.api_key", "", {"JUMPCLOUD__API_KEY": KEY}, [], Secret(KEY), ("environment", "…")),
    ("jumpcloud.api_key", "", {}, ["jumpcloud.api_key=o"], Secret("o"), ("option", "jumpcloud.api_key")),
    (
        "jumpcloud.api_key",
        "jumpcloud: {client_id: c, client_secret: s, organizations: [o]}",
        {},
        [],
        None,
        ("default", ""),
    ),
]


def test_precedence(tmp_path: Path) -> None:
    """-o over the environment over the file over the default, key by key, and the origin of each is known."""
    path = tmp_path / "jumpcloud.yaml"
    for key, text, variables, overrides, value, (kind, name) in PRECEDENCE:
        path.write_text(text)
        environ = {"JUMPCLOUD_API_KEY": KEY} | {f"IN_JUMPCLOUD_{each}": text for each, text in variables.items()}
        found: Any = load_config(path, overrides, environ=environ)
        for each in key.split("."):
            found = getattr(found, each)
        origin = read_document(path, overrides, environ)[0].origin(key)
        assert (found, origin.kind) == (value, kind), (key, text, variables, overrides)
        names = {FILE: str(path), "…": f"IN_JUMPCLOUD_{next(iter(variables), '')}"}
        assert origin.name == names.get(name, name), (key, text, variables, overrides)


def test_every_key_by_the_environment() -> None:
    """What conf/jumpcloud.yaml has gives the same settings as variables, without a file."""
    environ = {"STATE_DIRECTORY": "/s"}

    def give(values: dict[str, Any], prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                give(value, f"{prefix}{name}.")
            else:
                text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
                environ[variable_name(f"{prefix}{name}")] = text.replace("${JUMPCLOUD_API_KEY}", KEY)

    give(yaml.safe_load(DOCUMENTED.read_bytes()), "")
    assert environ["IN_JUMPCLOUD_FORWARD__TLS__VERIFY"] == "true"
    documented = load_config(DOCUMENTED, environ={"JUMPCLOUD_API_KEY": KEY, "STATE_DIRECTORY": "/s"})
    assert load_config(None, environ=environ) == documented


def test_wrong_variables(tmp_path: Path) -> None:
    """One line each, with the name of the variable, and the nearest for one that names no key."""
    path = tmp_path / "jumpcloud.yaml"
    path.write_text("forward: {shared_key: f}\n")
    key = {"JUMPCLOUD_API_KEY": KEY}
    (tmp_path / "secret").write_text("s")
    secret = f"{tmp_path}/secret"
    tag, no_yaml = "did you mean IN_JUMPCLOUD_FORWARD__TAG?", "expected YAML, such as [one, two] or {key: value}"
    table = {
        ("FORWARD__TAGS", "x"): f"names no setting; {tag}",
        ("forward__tag", "x"): f"names no setting; {tag}",
        ("_FORWARD__TAG", "x"): f"names no setting; {tag}",
        ("FORWARD__SERVERS__0", "x"): "names no setting; did you mean IN_JUMPCLOUD_FORWARD__SERVERS?",
        ("Q__Q", "x"): "names no setting; `in-jumpcloud config show` lists the settings",
        ("FORWARD__SERVERS", "[x"): no_yaml,
        ("FORWARD__SERVERS", ""): no_yaml,
        ("FORWARD__SERVERS", "x"): "expected a list, got text",
        ("FORWARD__SERVERS", "[{prot: 1}]"): "forward.servers[0].prot: unknown key; did you mean port?",
        ("FORWARD__TAG", ""): "must not be empty",
        ("JUMPCLOUD__REGION", "de"): "must be one of us, eu, in (got 'de')",
        ("JUMPCLOUD__PAGE_LIMIT", "many"): "expected a whole number, got text",
        # Two sources for one secret.
        ("FORWARD__SHARED_KEY_FILE", secret): f"{FILE}: forward.shared_key is set too; remove one of the two",
        ("JUMPCLOUD__API_KEY", "x"): "JUMPCLOUD_API_KEY is set too; unset one of the two",
        ("JUMPCLOUD__API_KEY_FILE", secret): "JUMPCLOUD_API_KEY is set too; unset one of the two",
    }
    for (name, value), text in table.items():
        assert problems(path, key | {f"IN_JUMPCLOUD_{name}": value}) == [f"IN_JUMPCLOUD_{name}: {text}"]
    line = f"-o forward.shared_key_file: {FILE}: forward.shared_key is set too; remove one of the two"
    assert problems(path, key, f"forward.shared_key_file={secret}") == [line]
    missing = problems(None, key, "jumpcloud.api_key=null")  # not from JUMPCLOUD_API_KEY
    assert [line.partition("; ")[0] for line in missing] == ["-o jumpcloud.api_key: missing"]
    path.write_text("forward: {tags: f}\n")
    everything = problems(path, key | {"IN_JUMPCLOUD_A__B": "x", "IN_JUMPCLOUD_LOG__LEVEL": "x"})
    assert [line.partition(": ")[0] for line in everything] == ["IN_JUMPCLOUD_A__B", FILE, "IN_JUMPCLOUD_LOG__LEVEL"]


def test_variables_of_others(tmp_path: Path) -> None:
    """Those that Kubernetes makes for a service of our name, and those that the file itself names, are no mistake."""
    of_kubernetes = [
        *("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_METRICS", "METRICS_SERVICE_HOST"),
        *("PORT", "PORT_2021_TCP", "PORT_2021_TCP_PROTO", "PORT_2021_TCP_PORT", "PORT_2021_TCP_ADDR"),
    ]
    others = {f"IN_JUMPCLOUD_{name}": "tcp://10.0.0.1:2021" for name in of_kubernetes}
    others |= {"IN_JUMPCLOUD_CONFIG": "c", "JUMPCLOUD_API_KEY": KEY, "OTHER__NAME": "x", "IN_JUMPCLOUD_TAG": "ours"}
    path = tmp_path / "named.yaml"
    path.write_text("forward: {tag: '${IN_JUMPCLOUD_TAG}'}\n")
    assert load_config(path, environ=others).forward.tag == "ours"
    assert len(problems(None, others)) == 1


def test_names_that_are_nearly_ours() -> None:
    """Every other name that begins as ours is refused, with the nearest one that is."""
    for name, meant in {
        "IN_JUMPCLOUD_FORWARD_TAG": "; did you mean IN_JUMPCLOUD_FORWARD__TAG?",
        "IN_JUMPCLOUD__FORWARD__TAG": "; did you mean IN_JUMPCLOUD_FORWARD__TAG?",
        "IN_JUMPCLOUD___FORWARD_TAG": "; did you mean IN_JUMPCLOUD_FORWARD__TAG?",
        "IN_JUMPCLOUD__RELOAD": "; did you mean IN_JUMPCLOUD_RELOAD?",
        "IN_JUMPCLOUDRELOAD": "; did you mean IN_JUMPCLOUD_RELOAD?",
        "IN_JUMPCLOUD_CONFIG_FILE": "; did you mean IN_JUMPCLOUD_CONFIG?",
        "IN_JUMPCLOUD_JUMPCLOUD": ", but a section; a setting in it is IN_JUMPCLOUD_JUMPCLOUD__API_KEY",
        "IN_JUMPCLOUD_HTTP": ", but a section; a setting in it is IN_JUMPCLOUD_HTTP__LISTEN",
        "IN_JUMPCLOUD": "; `in-jumpcloud config show` lists the settings",
        "IN_JUMPCLOUD_DEBUG": "; `in-jumpcloud config show` lists the settings",
    }.items():
        environ = {"JUMPCLOUD_API_KEY": KEY, name: "x"}
        assert problems(None, environ) == [f"{name}: names no setting{meant}"]


def test_which_file(tmp_path: Path) -> None:
    """$IN_JUMPCLOUD_CONFIG, the working directory, /etc, none. One that cannot be read is not passed over."""
    own, system, named = (tmp_path / name for name in ("own.yaml", "system.yaml", "named.yaml"))
    table: list[tuple[list[Path], str, Path | None]] = [
        ([own, system], str(named), named),
        ([own, system], "", own),
        ([system], "", system),
        ([], "", None),
    ]
    for existing, variable, expected in table:
        for path in (own, system):
            path.unlink(missing_ok=True)
        for path in existing:
            path.touch()
        assert find_config_file({"IN_JUMPCLOUD_CONFIG": variable}, (own, system)) == expected
    own.symlink_to("nowhere")
    assert find_config_file({}, (own, system)) == own


def test_where_the_state_is(tmp_path: Path) -> None:
    """The directory of systemd, else next to the file, else the user's directory; always absolute."""
    systemd, shared = ("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), ("XDG_STATE_HOME", "/x")
    home = "/h/.local/state/in-jumpcloud/in-jumpcloud.db"
    table: list[tuple[dict[str, str], Path | None, str, str | None]] = [
        (dict([systemd, shared]), tmp_path, "/var/lib/a/in-jumpcloud.db", "STATE_DIRECTORY"),
        (dict([shared]), tmp_path, f"{tmp_path}/state/in-jumpcloud.db", None),
        (dict([shared]), None, "/x/in-jumpcloud/in-jumpcloud.db", "XDG_STATE_HOME"),
        ({"XDG_STATE_HOME": "relative"}, None, home, None),
        ({}, None, home, None),
    ]
    for environ, directory, expected, variable in table:
        assert default_state(environ | {"HOME": "/h"}, directory) == (Path(expected), variable)
    assert default_state({}, None).path.is_absolute()
    path = tmp_path / "jumpcloud.yaml"
    path.write_text("state: {path: null}")
    for file, expected in (
        (path, f"{tmp_path}/state/in-jumpcloud.db"),
        (None, "/h/.local/state/in-jumpcloud/in-jumpcloud.db"),
    ):
        assert load_config(file, environ={"JUMPCLOUD_API_KEY": KEY, "HOME": "/h"}).state.path == Path(expected)


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the file start at its directory, those of the environment and of -o at the working directory."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "key").write_text(KEY)
    (tmp_path / "key").write_text("other")
    monkeypatch.chdir(tmp_path)
    path = Path("etc/jumpcloud.yaml")
    path.write_text(
        "jumpcloud: {api_key_file: key}\ngeoip: {city: c.mmdb, asn: demo}\nstate: {path: s.db}\n"
        "forward: {servers: [{unix: f.sock}]}\n"
    )
    config = load_config(path, environ={})
    etc = tmp_path / "etc"
    assert config.jumpcloud.api_key == Secret(KEY)
    assert (config.geoip.city, config.geoip.asn, config.state.path) == (etc / "c.mmdb", DEMO_ASN, etc / "s.db")
    assert config.forward.servers[0].unix == etc / "f.sock"
    environ = {"IN_JUMPCLOUD_GEOIP__CITY": "e.mmdb", "IN_JUMPCLOUD_JUMPCLOUD__API_KEY_FILE": "key"}
    config = load_config(path, ["state.path=o.db", "geoip.asn=/a.mmdb"], environ=environ)
    assert config.jumpcloud.api_key == Secret("other")
    assert (config.geoip.city, config.geoip.asn) == (tmp_path / "e.mmdb", Path("/a.mmdb"))
    assert config.state.path == tmp_path / "o.db"
    assert load_config(None, environ={"JUMPCLOUD_API_KEY": KEY}).geoip.city == DEMO_CITY
    assert DEMO_CITY.is_file()

    reading, writing = os.pipe()  # a pipe is in no directory
    os.write(writing, b"state: {path: s.db}")
    os.close(writing)
    assert load_config(Path(f"/dev/fd/{reading}"), environ={"JUMPCLOUD_API_KEY": KEY}).state.path == tmp_path / "s.db"
    os.close(reading)

    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    line = "-o state.path: is relative, but the working directory was removed; give an absolute path"
    assert problems(None, {"JUMPCLOUD_API_KEY": KEY}, "state.path=o.db") == [line]


@pytest.mark.parametrize(
    ("text", "former"),
    [
        ("state: {path: here/s.db}", "here/s.db"),
        ("state: {path: '${NAME}'}", "here/s.db"),
        ("", "state/in-jumpcloud.db"),
        ("dead_letter: {path: dead.ndjson}", "dead.ndjson"),
    ],
)
def test_a_state_of_earlier_versions(tmp_path: Path, text: str, former: str) -> None:
    """One in the working directory, where relative paths started, is never passed over: the start is refused."""
    work, etc = tmp_path / "work", tmp_path / "etc"
    etc.mkdir()
    (work / former).parent.mkdir(parents=True)
    (work / former).touch()
    path = etc / "jumpcloud.yaml"
    path.write_text(text)
    environ = {"JUMPCLOUD_API_KEY": KEY, "HOME": str(tmp_path), "NAME": "here/s.db"}
    with contextlib.chdir(work):
        key = text.partition(":")[0] or "state"
        (line,) = problems(path, environ)
        assert line.startswith(f"{FILE}: {key}.path: {etc / former} does not exist, but {work / former} does")
        load_config(path, [f"{key}.path={work / former}"], environ=environ)  # the advice
        if not text:
            (line,) = problems(None, environ)
            assert f"{work / former} does" in line
        (etc / former).parent.mkdir(exist_ok=True)
        (work / former).rename(etc / former)
        load_config(path, environ=environ)
