"""Loading a configuration: the file, the environment, `-o`, secrets, and the problems that are reported."""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from support.certificates import Certificates

from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config, JumpCloudSettings, ServerSettings
from in_jumpcloud.config.types import Duration, Secret, Start
from in_jumpcloud.errors import ConfigError

DOCUMENTED = Path(__file__).parents[2] / "conf" / "jumpcloud.yaml"
KEY = "jca_Zw41PqLmN8sT0uV7xY2bC5dE9fG3hJ6kA1rB"
ENVIRON = {"JUMPCLOUD_API_KEY": KEY}

Load = Callable[..., Config]
Problems = Callable[..., dict[str, str]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a file with this text; the keyword arguments are the environment."""

    def load(text: str | bytes, *overrides: str, offline: bool = False, **environ: str) -> Config:
        path = tmp_path / "the.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(path, overrides, offline=offline, environ=environ)

    return load


@pytest.fixture
def problems(load: Load) -> Problems:
    """Load a file that is wrong, and return the text of each problem by its path."""

    def problems(text: str | bytes, *overrides: str, **options: Any) -> dict[str, str]:
        with pytest.raises(ConfigError) as raised:
            load(text, *overrides, **options)
        found = {problem.path: problem.text for problem in raised.value.problems}
        assert len(found) == len(raised.value.problems) == len(str(raised.value).splitlines())
        return found

    return problems


def keyed(text: str = "") -> str:
    """A file whose first section has a key and these lines."""
    return f"jumpcloud:\n  api_key: {KEY}\n" + "".join(f"  {line}\n" for line in text.splitlines())


# The file, the environment, -o


def walk(section: msgspec.Struct, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of a section and its subsections, with its value."""
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        at = f"{path}{field.name}"
        if isinstance(value, msgspec.Struct):
            yield from walk(value, f"{at}.")
        else:
            yield at, repr(value) if isinstance(value, Start | Secret) else value


def test_documented_file_has_every_default(load: Load) -> None:
    """`conf/jumpcloud.yaml` has every key with its default, but for the key; so has a missing or an empty file."""
    environ = {"STATE_DIRECTORY": "/var/lib/in-jumpcloud"}
    written = dict(walk(load_config(DOCUMENTED, environ=ENVIRON | environ)))
    assert written == dict(walk(load_config(None, [f"jumpcloud.api_key={KEY}"], environ=environ)))
    defaults = dict(walk(Config()))
    assert written.pop("state.path") == Path("/var/lib/in-jumpcloud") / defaults.pop("state.path").name
    assert written.pop("jumpcloud.api_key") == "Secret(...)"
    assert defaults.pop("jumpcloud.api_key") is None
    assert written == defaults
    document = yaml.safe_load(DOCUMENTED.read_bytes())
    for path in ["jumpcloud.api_key", "state.path", *defaults]:
        *sections, key = path.split(".")
        assert key in functools.reduce(operator.getitem, sections, document), f"{path} is not documented"
    assert list(document) == [field.name for field in msgspec.structs.fields(Config)]
    assert repr(load("ecs:\n", offline=True)) == repr(load("", offline=True))


def test_environment(load: Load, problems: Problems) -> None:
    """`${NAME}` and `${NAME:-default}` work within text, in lists and for values of every type."""
    text = keyed(
        "region: ${REGION:-eu}\npage_limit: ${LIMIT}\nurl: https://${HOST}:${PORT:-8080}/\nservices: ['${ONE}']\n"
        "requests_per_second: ${RATE}"
    )
    text += "forward:\n  servers: [{host: h, port: '${PORT_OF_FLUENT}'}]\necs: {preserve_original_event: '${KEEP}'}\n"
    environ = {"LIMIT": "500", "HOST": "api", "ONE": "sso", "PORT_OF_FLUENT": "24225", "KEEP": "true", "RATE": "2.5"}
    settings = load(text, **environ)
    assert settings.jumpcloud.region == "eu"
    assert (settings.jumpcloud.page_limit, settings.jumpcloud.requests_per_second) == (500, 2.5)
    assert settings.jumpcloud.base_url == "https://api:8080"
    assert settings.jumpcloud.services == ("sso",)
    assert str(settings.forward.servers[0]) == "h:24225"
    assert settings.ecs.preserve_original_event is True
    assert problems(text, **environ | {"LIMIT": "many", "RATE": ""}) == {
        "jumpcloud.page_limit": "expected a whole number, got text",
        "jumpcloud.requests_per_second": "the environment variable RATE is not set, or is empty",
    }


def test_malformed_variables(load: Load, problems: Problems) -> None:
    """What begins like a variable but is none is an error; `$${` stands for `${`."""
    expected = "expected ${NAME} or ${NAME:-default}; write $${ for the text ${"
    for value in ("${", "${}", "${HOME", "${A-B}", "${9}", "${A:default}", "a${A:-${B}}"):
        assert problems(keyed(), f"forward.tag='{value}'", A="a") == {"forward.tag": expected}, value
        assert problems(f"jumpcloud: {{api_key: '{value}'}}", A="a") == {"jumpcloud.api_key": expected}, value
    assert load(keyed(), "forward.shared_key='$${A}$A$'", A="a").forward.shared_key == Secret("${A}$A$")


def test_text_that_no_name_has(load: Load, problems: Problems) -> None:
    """A control character, or a byte of the environment that is not UTF-8, is refused; a path may have any byte."""
    text = "contains a control character, or a byte that is not UTF-8"
    for value in ("\udc80", "a\nb", "\x1b[2J", "\x9b"):
        assert problems(keyed(), "ecs.namespace=${A}", A=value) == {"ecs.namespace": text}
    assert os.fsencode(load(keyed(), "state.path=${A}", A="/a\udc80").state.path) == b"/a\x80"
    assert problems('jumpcloud: {"a\\nb\\e": 1}', f"jumpcloud.api_key={KEY}") == {r"jumpcloud.a\nb\x1b": "unknown key"}
    text = "must be between 1 and 10000 (got a number that is too large)"
    assert problems(keyed(), f"jumpcloud.page_limit=0x{5000 * 'f'}") == {"jumpcloud.page_limit": text}
    assert "NUL" in problems(keyed(), "state.path=${A}", A="a\0")["state.path"]


def test_overrides(load: Load) -> None:
    """`-o` sets a YAML value for a dotted key, the last one wins, and `${NAME}` works there too."""
    settings = load(
        keyed("interval: 1m\nregion: eu"),
        "jumpcloud.interval=2m",
        "jumpcloud.interval=3m",
        "jumpcloud.services=[sso, ldap]",
        "jumpcloud.start=2024-09-01",
        "reconcile.reach=${KEEP}",
        "forward.servers=[{unix: /run/forward.sock}]",
        "geoip.city=null",
        KEEP="4d",
    )
    assert (settings.jumpcloud.interval, settings.jumpcloud.region) == (Duration(180), "eu")
    assert settings.jumpcloud.services == ("sso", "ldap")
    assert settings.jumpcloud.start.resolve(0) == 1_725_148_800_000
    assert settings.reconcile.reach == Duration(4 * 86_400)
    assert str(settings.forward.servers[0]) == "unix:/run/forward.sock"
    assert settings.geoip.city is None


def test_a_problem_names_where_the_value_came_from(load: Load, tmp_path: Path) -> None:
    """The file, or `-o` with the key as it was given."""
    cases = {
        ("jumpcloud.intervall=1m",): "-o jumpcloud.intervall: unknown key; did you mean interval?",
        ("foward.tag=x",): "-o foward.tag: unknown key; did you mean forward?",
        ("jumpcloud.region=de",): "-o jumpcloud.region: must be one of us, eu, in (got 'de')",
        ("forward.servers=[{port: 0, host: h}]",): "-o forward.servers[0].port: must be between 1 and 65535 (got 0)",
        ("reconcile=72h",): "-o reconcile: expected a mapping, got text",
        ("log.level=info",): f"{tmp_path}/the.yaml: log.format: must be one of json, text (got 'xml')",
    }
    for overrides, line in cases.items():
        with pytest.raises(ConfigError) as raised:
            load(keyed() + "log: {format: xml}\n", *overrides)
        assert line in str(raised.value).splitlines()
    with pytest.raises(ConfigError, match=r"^no configuration file: jumpcloud.api_key: missing"):
        load_config(None, ["jumpcloud.interval=1m"], environ={})


def test_override_of_the_wrong_form(load: Load) -> None:
    """An override that is not KEY=VALUE is refused with an example; a value that is not YAML is not shown."""
    for override in ("jumpcloud.interval", "=1m", ""):
        with pytest.raises(ConfigError, match=r"expected KEY=VALUE, such as -o jumpcloud.interval=1m"):
            load(keyed(), override)
    with pytest.raises(ConfigError, match=r"^-o log.level: expected a YAML value; put text in quotes$"):
        load(keyed(), "log.level=[info")


# Secrets


def test_secret_file(load: Load, problems: Problems, tmp_path: Path) -> None:
    """A secret may be in a file; then the key itself must be null. Only `reveal` shows it."""
    settings = load(keyed())
    secret = settings.jumpcloud.api_key
    assert secret is not None
    assert secret.reveal() == KEY
    assert KEY not in f"{secret} {secret!r} {settings} {settings!r} {settings.jumpcloud!s}"
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    path = f"api_key_file: {tmp_path}/key"
    for text in (path, f"api_key: null, {path}", f"{path}, api_key: null", f"api_key: {KEY}, api_key_file: null"):
        assert load(f"jumpcloud: {{{text}}}").jumpcloud.api_key == Secret(KEY)
    assert load("jumpcloud: {api_key_file: '${DIR}/key'}", DIR=str(tmp_path)).jumpcloud.api_key == Secret(KEY)

    found = problems(keyed(path))
    assert found == {"jumpcloud.api_key_file": "api_key is set too; remove one of the two"}
    for name, reason in [("missing", "No such file or directory"), ("binary", "not text")]:
        found = problems(f"jumpcloud: {{api_key_file: {tmp_path}/{name}}}")
        assert found == {"jumpcloud.api_key_file": f"{tmp_path}/{name}: cannot be read: {reason}"}


MISPLACED = [("jumpcloud", "region"), ("jumpcloud", "interval"), ("jumpcloud", "page_bytes"), ("jumpcloud", "start")]
MISPLACED += [("jumpcloud", "page_limit"), ("jumpcloud", "url"), ("jumpcloud", "proxy"), ("http", "listen")]


def test_a_file_with_other_content(load: Load, tmp_path: Path, certificates: Certificates) -> None:
    """Settings are equal while each file that they name has the same content; so a reload uses a renewed one."""
    pair, authority = certificates.issue("client"), certificates.ca_file
    names = ("api_key", "client_secret", "shared_key", "password")
    secrets = {name: tmp_path / name for name in names}
    for name, path in secrets.items():
        path.write_text(name)
    forward = {
        "shared_key_file": str(secrets["shared_key"]),
        "username": "u",
        "password_file": str(secrets["password"]),
        "tls": {"enabled": True, "ca_file": str(authority)},
    }
    account = {"client_id": "i", "client_secret_file": str(secrets["client_secret"]), "organizations": ["o"]}
    key = {"api_key_file": str(secrets["api_key"]), "ca_file": str(authority)}
    ours = {"tls": {"enabled": True, "cert_file": str(pair.certificate), "key_file": str(pair.key)}}
    used = [
        ({"jumpcloud": key}, [secrets["api_key"], authority]),
        ({"jumpcloud": account, "forward": forward}, [*list(secrets.values())[1:], authority]),
        ({"jumpcloud": key, "forward": ours}, [pair.certificate, pair.key]),
    ]
    for settings, files in used:
        text = yaml.safe_dump(settings)
        for file in files:
            before = load(text)
            file.write_bytes(file.read_bytes())
            assert load(text) == before
            file.write_bytes(file.read_bytes() + b"more")  # a certificate may be followed by other text
            assert load(text) != before, file


def test_errors_do_not_show_the_key(load: Load) -> None:
    """No error repeats the key, wherever a mistake puts it."""
    files = [
        f"jumpcloud: {{api_key: [{KEY}]}}",
        f"jumpcloud: {{api_key: {{value: {KEY}}}}}",
        "jumpcloud: {api_key: 8765432109876543}",
        f"jumpcloud: {{api_key: '{KEY} '}}",
        f"jumpcloud:\n  api_key: '{KEY}\n",
        f"jumpcloud:\n  api_key: {KEY}\n  api_key: {KEY}\n",
        f"jumpcloud:\n  api_key: {KEY}\n bad",
        f"jumpcloud:\n  api_key: @{KEY}\n",
        f"jumpcloud: {KEY}",
    ]
    files += ["jumpcloud: {api_key_file: '${KEY}'}", f"jumpcloud: {{api_key_file: {KEY}}}"]
    files += [f"{section}: {{{key}: '${{KEY}}'}}" for section, key in MISPLACED]
    overrides = [
        f"jumpcloud.api_key:{KEY}",
        f"jumpcloud.api_key=@{KEY}",
        f"jumpcloud.api_key=[{KEY}",
        f"jumpcloud.api_kye={KEY}",
    ]
    for arguments in [*((file,) for file in files), *(("", override) for override in overrides)]:
        with pytest.raises(ConfigError) as raised:
            load(*arguments, KEY=KEY)
        assert KEY not in str(raised.value), arguments
        assert "8765432109876543" not in str(raised.value)
        assert raised.value.__cause__ is None


# Wrong values


def test_every_problem_at_once(problems: Problems) -> None:
    """Unknown keys, wrong types and bad values of all sections come in one error, each with its path."""
    text = """
jumpcloud:
  api_key: ${NOT_SET}
  regoin: eu
  region: mars
  organizations: [5, org]
  services: []
  start: 2026-02-30
  interval: 30
  lag: '-1s'
  window: 0s
  page_limit: 10001
  page_bytes: lots
  requests_per_second: 0
  proxy: 3128
  ca_file: ''
reconcile: 72h
ecs: {profile: null, tags: forwarded, preserve_original_event: 'yes'}
geoip: {cache: 0, asn: [x]}
forward: {servers: [{host: a, prot: 1, monitor: x}, b, {port: 70000}], tag: '', chunk_bytes: 0}
state: {path: 5}
dead_letter: {max_bytes: true}
http: {max_lag: null}
log: {level: loud}
extra: 1
7: 8
"""
    expected = {
        "jumpcloud.api_key": "the environment variable NOT_SET is not set, or is empty",
        "jumpcloud.regoin": "unknown key; did you mean region?",
        "jumpcloud.region": "must be one of us, eu, in (got 'mars')",
        "jumpcloud.organizations[0]": "expected text, got a number; put it in quotes",
        "jumpcloud.services": "must not be empty",
        "jumpcloud.start": "(got '2026-02-30')",
        "jumpcloud.interval": "expected a duration such as 30s, 5m or 15d (got 30)",
        "jumpcloud.lag": "(got '-1s')",
        "jumpcloud.window": "must be greater than 0 (got '0s')",
        "jumpcloud.page_limit": "must be between 1 and 10000 (got 10001)",
        "jumpcloud.page_bytes": "expected a size in bytes, or with a unit such as 16MiB (got 'lots')",
        "jumpcloud.requests_per_second": "must be greater than 0 (got 0)",
        "jumpcloud.proxy": "expected text, got a number; put it in quotes",
        "jumpcloud.ca_file": "must not be empty",
        "reconcile": "expected a mapping, got text",
        "ecs.profile": "must be one of extended, elastic, raw (got None)",
        "ecs.tags": "expected a list, got text",
        "ecs.preserve_original_event": "expected true or false, got text",
        "geoip.cache": "must be at least 1 (got 0)",
        "geoip.asn": "expected text, got a list",
        "forward.servers[0].prot": "unknown key; did you mean port?",
        "forward.servers[0].monitor": "removed; delete it, and use `in-jumpcloud check --fluent-bit FILE` instead",
        "forward.servers[1]": "expected a mapping, got text",
        "forward.servers[2].port": "must be between 1 and 65535 (got 70000)",
        "forward.tag": "must not be empty",
        "forward.chunk_bytes": "must be greater than 0 (got 0)",
        "state.path": "expected text, got a number; put it in quotes",
        "dead_letter.max_bytes": "(got True)",
        "http.max_lag": "(got None)",
        "log.level": "must be one of debug, info, warning, error (got 'loud')",
        "extra": "unknown key",
        "7": "unknown key",
    }
    found = problems(text)
    assert list(found) == list(expected)
    assert {path: text for path, text in found.items() if not text.endswith(expected[path])} == {}
    assert problems(keyed("page_limit: '500'")) == {"jumpcloud.page_limit": "expected a whole number, got text"}
    assert problems(keyed("page_limit: 1.5")) == {
        "jumpcloud.page_limit": "expected a whole number, got a decimal number"
    }


def test_a_wrong_value_hides_only_the_contradictions_of_its_section(problems: Problems) -> None:
    """The default that replaces a wrong value contradicts nothing; other sections are checked."""
    assert list(problems("jumpcloud: {window: 1m, overlap: short}\nforward: {servers: [{port: 1}]}\n")) == [
        "jumpcloud.overlap",
        "forward.servers[0]",
    ]


def test_offline_and_without_a_key(load: Load, problems: Problems, tmp_path: Path) -> None:
    """Offline, the API, receivers and state do not matter; without a need for a key, only the account does not."""
    text = "jumpcloud: {api_key: '${NOT_SET}'}\nforward: {servers: []}\nstate: {path: 5}\necs: {namespace: mine}\n"
    assert load(text, offline=True).ecs.namespace == "mine"
    assert list(problems(text + "geoip: {cache: 0}\n", offline=True)) == ["geoip.cache"]

    path = tmp_path / "no-key.yaml"
    for account in ("api_key: '${NOT_SET}'", f"api_key_file: {tmp_path}/none", "client_id: 'a:b'", "api_key: null"):
        path.write_text(f"jumpcloud: {{{account}, organizations: [a]}}\n")
        assert load_config(path, needs_key=False, environ={}).jumpcloud.organizations == ("a",)
    with pytest.raises(ConfigError, match=r"geoip\.cache"):
        load_config(path, ["geoip.cache=0"], needs_key=False, environ={})


# YAML


def laughs(form: str) -> str:
    """Ten values, in each line ten times those of the line before."""
    first = f"a0: &a0 {form.format('')}\n"
    return first + "".join(
        f"a{level}: &a{level} {form.format(','.join(10 * [f'*a{level - 1}']))}\n" for level in range(1, 30)
    )


def test_aliases(load: Load) -> None:
    """Aliases and merge keys work."""
    text = "log: &log {level: debug, format: text}\nforward: {servers: [&one {host: a}, {<<: *one, port: 1}]}\n"
    assert list(map(str, load(keyed() + text).forward.servers)) == ["a:24224", "a:1"]


def test_yaml_errors(problems: Problems, tmp_path: Path) -> None:
    """A file that cannot be read, is not YAML, has a duplicate key, or is not a mapping: one line, with position."""
    table: dict[str | bytes, str] = {
        "jumpcloud:\n  region: [us\n": ":3:1: not valid YAML: expected ',' or ']', but got '<stream end>'",
        "jumpcloud:\n\tregion: us\n": ":2:1: not valid YAML: found character '\\t' that cannot start any token",
        "log: {}\njumpcloud: {}\nlog: {}\n": ":3:1: not valid YAML: duplicate key 'log'",
        "log: {level: info, level: debug}\n": ":1:20: not valid YAML: duplicate key 'level'",
        "- jumpcloud\n": ": expected sections such as `jumpcloud:`, got a list",
        "5": ": expected sections such as `jumpcloud:`, got a number",
        **dict.fromkeys([b"log: \xff\xfe", b"log: \x00", b"[" * 500], ": not valid YAML: "),
        b"log: {level: " + b"9" * 5000 + b"}": ": not valid YAML: ",
        "log: {[level]: info}\n": ":1:7: not valid YAML: found unhashable key",
        "log: {{level}: info}\n": ":1:7: not valid YAML: found unhashable key",
        "log: &log [*log]\n": ":1:6: not valid YAML: a value contains itself",
        "log: &log {<<: *log}\n": ":1:6: not valid YAML: a value contains itself",
        laughs("[{}]"): ":6:5: not valid YAML: aliases make more than 100,000 values of it",
        laughs("{{<<: [{}]}}"): ":6:14: not valid YAML: aliases make more than 100,000 values of it",
        b" " * 5_000_000: ": cannot be read: it is larger than 4,194,304 bytes",
    }
    for text, message in table.items():
        (found,) = problems(text).values()
        assert found.startswith(f"{tmp_path}/the.yaml{message}")
    for path, reason in [(tmp_path / "no.yaml", "No such file or directory"), (tmp_path, "Is a directory")]:
        with pytest.raises(ConfigError) as raised:
            load_config(path, environ={})
        assert str(raised.value) == f"{path}: cannot be read: {reason}"


def test_what_is_no_file(load: Load, problems: Problems, tmp_path: Path) -> None:
    """A device or a pipe, as configuration or as a secret, is read to a limit; a pipe with a writer works."""
    os.mkfifo(tmp_path / "pipe")
    larger, silent = "it is larger than {} bytes", "it is a pipe that nothing writes to"
    for path, reason in [("/dev/zero", larger), (f"{tmp_path}/pipe", silent)]:
        with pytest.raises(ConfigError) as raised:
            load_config(Path(path), environ={})
        assert str(raised.value) == f"{path}: cannot be read: {reason.format('4,194,304')}"
        found = problems(f"jumpcloud: {{api_key_file: {path}}}")
        assert found == {"jumpcloud.api_key_file": f"{path}: cannot be read: {reason.format('65,536')}"}
        assert not raised.value.may_pass
    reading, writing = os.pipe()
    os.write(writing, f"{KEY}\n".encode())
    os.close(writing)
    assert load(f"jumpcloud: {{api_key_file: /dev/fd/{reading}}}").jumpcloud.api_key == Secret(KEY)
    os.close(reading)


def test_addresses() -> None:
    """A receiver is shown as a person types it; the base URL is the region's, or `url` without a trailing slash."""
    assert str(ServerSettings(host="::1")) == "[::1]:24224"
    bases = [JumpCloudSettings(region=region).base_url for region in ("us", "eu", "in")]
    assert bases == ["https://api.jumpcloud.com", "https://api.eu.jumpcloud.com", "https://api.in.jumpcloud.com"]
    assert JumpCloudSettings(url="http://127.0.0.1:1//").base_url == "http://127.0.0.1:1"
