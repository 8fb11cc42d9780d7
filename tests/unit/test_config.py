"""The settings: what a file, the environment and `-o` become, and what is said of what is wrong with them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config, JumpCloudSettings, ServerSettings
from in_jumpcloud.config.types import Duration, Secret, Start
from in_jumpcloud.errors import ConfigError

DOCUMENTED = Path(__file__).parents[2] / "conf" / "jumpcloud.yaml"
KEY = "jca_Zw41PqLmN8sT0uV7xY2bC5dE9fG3hJ6kA1rB"
NO_START = "expected a duration back from now (15d), a date (2026-11-01T00:00:00Z) or now"
ENVIRON = {"JUMPCLOUD_API_KEY": KEY}

Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a file of this text; the environment is the keyword arguments alone."""

    def load(text: str | bytes, *overrides: str, offline: bool = False, **environ: str) -> Config:
        path = tmp_path / "the.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(path, overrides, offline=offline, environ=environ)

    return load


@pytest.fixture
def problems(load: Load) -> Callable[..., list[str]]:
    """Load a file that is wrong; what is said of it, without the file's path."""

    def problems(text: str | bytes, *overrides: str, **options: Any) -> list[str]:
        with pytest.raises(ConfigError) as raised:
            load(text, *overrides, **options)
        return [line.partition("the.yaml")[2].removeprefix(": ") or line for line in str(raised.value).splitlines()]

    return problems


def keyed(text: str = "") -> str:
    """A file whose first section has a key and these lines."""
    return f"jumpcloud:\n  api_key: {KEY}\n" + "".join(f"  {line}\n" for line in text.splitlines())


# Files, the environment, -o


def walk(section: msgspec.Struct, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a section and of those within, dotted, with its value."""
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        at = f"{path}{field.name}"
        if isinstance(value, msgspec.Struct):
            yield from walk(value, f"{at}.")
        else:
            yield at, repr(value) if isinstance(value, Start | Secret) else value


def test_documented_file_is_the_defaults() -> None:
    """`conf/jumpcloud.yaml` holds every key that there is, and every default exactly; only the key has none."""
    written = dict(walk(load_config(DOCUMENTED, environ=ENVIRON)))
    defaults = dict(walk(Config()))
    assert written.pop("jumpcloud.api_key") == "Secret(...)"
    assert defaults.pop("jumpcloud.api_key") is None
    assert written == defaults
    document = yaml.safe_load(DOCUMENTED.read_bytes())
    for path in ["jumpcloud.api_key", *defaults]:
        *sections, key = path.split(".")
        assert key in functools.reduce(operator.getitem, sections, document), f"{path} is not documented"
    assert list(document) == [field.name for field in msgspec.structs.fields(Config)]


def test_without_a_file() -> None:
    """No file means the same as the documented one: `-o` alone can carry a configuration."""
    alone = load_config(None, [f"jumpcloud.api_key={KEY}"], environ={})
    assert dict(walk(alone)) == dict(walk(load_config(DOCUMENTED, environ=ENVIRON)))


def test_environment(load: Load) -> None:
    """`${NAME}` and `${NAME:-default}` are replaced, also within text, in lists and in keys of other types."""
    text = keyed(
        "region: ${REGION:-eu}\npage_limit: ${LIMIT}\nurl: http://${HOST}:${PORT:-8080}/\nservices: ['${ONE}']"
    )
    text += "forward:\n  servers: [{host: h, port: '${PORT_OF_FLUENT}'}]\necs: {preserve_original_event: '${KEEP}'}\n"
    settings = load(text, LIMIT="500", HOST="api", ONE="sso", PORT_OF_FLUENT="24225", KEEP="true")
    assert settings.jumpcloud.region == "eu"
    assert settings.jumpcloud.page_limit == 500
    assert settings.jumpcloud.base_url == "http://api:8080"
    assert settings.jumpcloud.services == ("sso",)
    assert str(settings.forward.servers[0]) == "h:24225"
    assert settings.ecs.preserve_original_event is True


def test_environment_of_the_wrong_type(problems: Callable[..., list[str]]) -> None:
    """Text from the environment that is no number where one is meant is refused; so is a quoted number in the file."""
    assert problems(keyed("page_limit: ${LIMIT}"), LIMIT="many") == ["jumpcloud.page_limit: expected int, got str"]
    assert problems(keyed("page_limit: '500'")) == ["jumpcloud.page_limit: expected int, got str"]


@pytest.mark.parametrize("environ", [{}, {"THE_KEY": ""}])
def test_environment_unset(problems: Callable[..., list[str]], environ: dict[str, str]) -> None:
    """A variable that is not set, or empty, and has no default is named with the path of the key that wants it."""
    text = "jumpcloud:\n  api_key: ${THE_KEY}\n"
    assert problems(text, **environ) == [
        "jumpcloud.api_key: the environment variable THE_KEY is not set, or is empty",
    ]


def test_overrides(load: Load) -> None:
    """`-o` lays a YAML value over the file under a dotted key, the last one winning, and reads the environment too."""
    settings = load(
        keyed("interval: 1m\nregion: eu"),
        "jumpcloud.interval=2m",
        "jumpcloud.interval=3m",
        "jumpcloud.services=[sso, ldap]",
        "jumpcloud.start=2026-09-01",
        "ledger.keep=${KEEP}",
        "forward.servers=[{unix: /run/forward.sock}]",
        "geoip.city=null",
        KEEP="4d",
    )
    assert (settings.jumpcloud.interval, settings.jumpcloud.region) == (Duration(180), "eu")
    assert settings.jumpcloud.services == ("sso", "ldap")
    assert settings.jumpcloud.start.resolve(0) == 1_788_220_800_000
    assert settings.ledger.keep == Duration(4 * 86_400)
    assert str(settings.forward.servers[0]) == "unix:/run/forward.sock"
    assert settings.geoip.city is None


@pytest.mark.parametrize("override", ["jumpcloud.interval", "=1m", ""])
def test_override_without_key_or_value(problems: Callable[..., list[str]], override: str) -> None:
    """An override that is not KEY=VALUE is refused with an example."""
    assert problems(keyed(), override) == [f"-o {override}: expected KEY=VALUE, such as -o jumpcloud.interval=1m"]


def test_override_is_checked_like_the_file(problems: Callable[..., list[str]]) -> None:
    """An unknown key or a wrong value from `-o` is refused with its path."""
    assert problems(keyed(), "jumpcloud.intervall=1m", "jumpcloud.start=soon") == [
        "jumpcloud.intervall: unknown key; did you mean interval?",
        f"jumpcloud.start: {NO_START}, got 'soon'",
    ]


# Secrets


def test_secret_does_not_show_itself(load: Load) -> None:
    """Neither repr nor str nor formatting of a secret, or of the settings that hold it, shows it; `reveal` does."""
    settings = load(keyed())
    secret = settings.jumpcloud.api_key
    assert secret is not None
    assert secret.reveal() == KEY
    assert KEY not in f"{secret} {secret!r} {settings} {settings!r} {settings.jumpcloud!s}"


def test_secret_file(load: Load, tmp_path: Path) -> None:
    """A secret may lie in a file of its own, with or without a line break at its end."""
    (tmp_path / "key").write_text(f"{KEY}\n")
    settings = load("jumpcloud: {api_key_file: '${CREDENTIALS}/key'}", CREDENTIALS=str(tmp_path))
    assert settings.jumpcloud.api_key is not None
    assert settings.jumpcloud.api_key.reveal() == KEY


def test_secret_given_twice(problems: Callable[..., list[str]], load: Load, tmp_path: Path) -> None:
    """A secret and its file together are refused; a null one does not count."""
    (tmp_path / "key").write_text(KEY)
    said = problems(keyed(f"api_key_file: {tmp_path}/key"))
    assert said == ["jumpcloud.api_key_file: api_key is given too; keep one of the two"]
    for text in (f"api_key: null, api_key_file: {tmp_path}/key", f"api_key_file: {tmp_path}/key, api_key: null"):
        assert load(f"jumpcloud: {{{text}}}").jumpcloud.api_key is not None
    assert load(keyed("api_key_file: null")).jumpcloud.api_key is not None


def test_secret_file_that_cannot_be_read(problems: Callable[..., list[str]], tmp_path: Path) -> None:
    """A secret file that is missing, or not text, is named with the reason."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, reason in [("nowhere", "No such file or directory"), ("binary", "not text")]:
        said = problems(f"jumpcloud: {{api_key_file: {tmp_path}/{name}}}")
        assert said == [f"jumpcloud.api_key_file: {tmp_path}/{name} cannot be read: {reason}"]


@pytest.mark.parametrize("text", ["", " ", "two words", "line\nbreak", "schlüssel", "\x7f"])
def test_key_that_no_header_can_hold(problems: Callable[..., list[str]], tmp_path: Path, text: str) -> None:
    """A key that is empty, or holds what no key has, is refused before it is sent, and not shown."""
    (tmp_path / "key").write_text(text)
    said = problems(f"jumpcloud: {{api_key_file: {tmp_path}/key}}")
    assert said == ["jumpcloud.api_key: is empty, or holds a blank, a line break or a letter that no key has"]


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        (f"jumpcloud: {{api_key: [{KEY}]}}", ()),
        (f"jumpcloud: {{api_key: {{value: {KEY}}}}}", ()),
        ("jumpcloud: {api_key: 8765432109876543}", ()),
        (f"jumpcloud: {{api_key: '{KEY} '}}", ()),
        (f"jumpcloud:\n  api_key: '{KEY}\n", ()),
        (f"jumpcloud:\n  api_key: {KEY}\n  api_key: {KEY}\n", ()),
        (f"jumpcloud:\n  api_key: {KEY}\n bad", ()),
        (f"jumpcloud:\n  api_key: @{KEY}\n", ()),
        ("", (f"jumpcloud.api_key=@{KEY}",)),
        ("", (f"jumpcloud.api_key=[{KEY}",)),
        ("", (f"jumpcloud.api_kye={KEY}",)),
        (f"jumpcloud: {KEY}", ()),
    ],
)
def test_errors_do_not_show_the_key(load: Load, text: str, overrides: tuple[str, ...]) -> None:
    """However the key is mangled, no error repeats it."""
    with pytest.raises(ConfigError) as raised:
        load(text, *overrides)
    assert KEY not in str(raised.value)
    assert "8765432109876543" not in str(raised.value)
    assert raised.value.__cause__ is None


# What is wrong is said at once, each thing with its path


def test_everything_wrong_at_once(problems: Callable[..., list[str]]) -> None:
    """Unknown keys, wrong types, bad values and contradictions of all sections come in one error, a line each."""
    text = """
jumpcloud:
  api_key: ${NOT_SET}
  regoin: eu
  region: mars
  organizations: [5, org]
  services: []
  start: 2026-02-30
  interval: 30
  page_limit: 10001
  page_bytes: lots
  requests_per_second: 0
  proxy: 3128
  ca_file: ''
ledger: 72h
ecs: {profile: null, tags: forwarded, preserve_original_event: 'yes'}
geoip: {cache: 0, asn: [x]}
forward: {servers: [{host: a, prot: 1}, b, {port: 70000}], tag: ''}
state: {path: 5}
log: {level: loud}
extra: 1
7: 8
"""
    assert problems(text) == [
        "jumpcloud.api_key: the environment variable NOT_SET is not set, or is empty",
        "jumpcloud.regoin: unknown key; did you mean region?",
        "jumpcloud.region: invalid enum value 'mars'",
        "jumpcloud.organizations: expected str, got int (at [0]); put it in quotes",
        "jumpcloud.services: expected array of length >= 1",
        f"jumpcloud.start: {NO_START}, got '2026-02-30'",
        "jumpcloud.interval: expected a duration such as 30s, 5m or 15d, got 30",
        "jumpcloud.page_limit: expected int <= 10000",
        "jumpcloud.page_bytes: expected a size in bytes or such as 16MiB, got 'lots'",
        "jumpcloud.requests_per_second: expected float > 0.0",
        "jumpcloud.proxy: expected str | null, got int",
        "jumpcloud.ca_file: is empty",
        "ledger: expected a mapping, got text",
        "ecs.profile: expected str, got null",
        "ecs.tags: expected array, got str",
        "ecs.preserve_original_event: expected bool, got str",
        "geoip.cache: expected int >= 1",
        "geoip.asn: expected text, got a list; put it in quotes",
        "forward.servers[0].prot: unknown key; did you mean port?",
        "forward.servers[1]: expected a mapping, got text",
        "forward.servers[2].port: expected int <= 65535",
        "forward.tag: expected str of length >= 1",
        "state.path: expected text, got a number; put it in quotes",
        "log.level: invalid enum value 'loud'",
        "extra: unknown key",
        "7: unknown key",
    ]


def test_contradictions(problems: Callable[..., list[str]], tmp_path: Path) -> None:
    """Values that are right by themselves but not together, or not possible, are refused, also all at once."""
    text = f"""
jumpcloud:
  url: api.example.com
  organizations: [a, b, a, 'two words', 組織]
  interval: 0s
  overlap: 1h
  window: 1h
  page_bytes: 0
  connect_timeout: 0s
  read_timeout: 0s
  ca_file: {tmp_path}/ca.pem
forward:
  servers: [{{host: a, unix: /b}}, {{port: 1}}]
  tag: jumpcloud.{{event}}
  connect_timeout: 0s
  ack_timeout: 0s
  chunk_bytes: 7MB
"""
    assert problems(text) == [
        "jumpcloud.api_key: missing; set it, or api_key_file, or client_id and client_secret",
        "jumpcloud.url: expected a base such as https://api.eu.jumpcloud.com, got 'api.example.com'",
        "jumpcloud.organizations: 'two words' is no id: it holds a blank or a letter that no id has",
        "jumpcloud.organizations: '組織' is no id: it holds a blank or a letter that no id has",
        "jumpcloud.organizations: a stands twice",
        "jumpcloud.window: must be longer than jumpcloud.overlap, or a window would never advance",
        f"jumpcloud.ca_file: no such file: {tmp_path}/ca.pem",
        "forward.servers[0]: expected either host (and port) or unix",
        "forward.servers[1]: expected either host (and port) or unix",
        "forward.tag: the placeholders are {service} and {organization}",
        "forward.chunk_bytes: must be at most forward.message_max_bytes",
        *(
            f"{path}: must be more than nothing"
            for path in (
                "jumpcloud.interval",
                "jumpcloud.page_bytes",
                "jumpcloud.connect_timeout",
                "jumpcloud.read_timeout",
                "forward.connect_timeout",
                "forward.ack_timeout",
            )
        ),
    ]


def test_contradictions_beside_other_errors(problems: Callable[..., list[str]]) -> None:
    """An error in one section hides no contradiction in another; a default that stands in contradicts nothing."""
    assert problems("jumpcloud: {window: 1m, overlap: short}\nforward: {servers: []}\n") == [
        "jumpcloud.overlap: expected a duration such as 30s, 5m or 15d, got 'short'",
        "forward.servers: expected at least one receiver",
    ]


def test_offline(load: Load, problems: Callable[..., list[str]]) -> None:
    """Without a connection neither key nor receiver nor state is needed, but the rest is still checked."""
    text = "jumpcloud: {api_key: '${NOT_SET}'}\nforward: {servers: []}\nstate: {path: 5}\necs: {namespace: mine}\n"
    assert load(text, offline=True).ecs.namespace == "mine"
    assert problems(text + "geoip: {cache: 0}\n", offline=True) == ["geoip.cache: expected int >= 1"]


# YAML


def test_empty_sections(load: Load) -> None:
    """A section, or a file, without anything in it is the defaults."""
    assert repr(load("ecs:\n", offline=True)) == repr(load("", offline=True)) == repr(Config())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jumpcloud:\n  region: [us\n", ":3:1: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("jumpcloud:\n\tregion: us\n", ":2:1: not valid YAML: found character '\\t' that cannot start any token"),
        ("log: {}\njumpcloud: {}\nlog: {}\n", ":3:1: not valid YAML: 'log' stands twice"),
        ("log: {level: info, level: debug}\n", ":1:20: not valid YAML: 'level' stands twice"),
        ("- jumpcloud\n", "expected sections such as `jumpcloud:`, got a list"),
        ("jumpcloud", "expected sections such as `jumpcloud:`, got text"),
        ("5", "expected sections such as `jumpcloud:`, got a number"),
    ],
)
def test_yaml_faults(problems: Callable[..., list[str]], text: str, said: str) -> None:
    """What is no YAML, holds a key twice, or is no mapping is said with line and column where there is one."""
    assert problems(text) == [said]


@pytest.mark.parametrize("text", [b"log: \xff\xfe", b"log: \x00", b"[" * 500, b"log: {level: " + b"9" * 5000 + b"}"])
def test_yaml_that_breaks_its_reader(problems: Callable[..., list[str]], text: bytes) -> None:
    """Bytes that are no text, nesting without end and endless numbers are one line too."""
    (said,) = problems(text)
    assert said.startswith("not valid YAML: ")


def test_unreadable_file(tmp_path: Path) -> None:
    """A file that is missing, or a directory, is named with the reason."""
    for path, reason in [(tmp_path / "no.yaml", "No such file or directory"), (tmp_path, "Is a directory")]:
        with pytest.raises(ConfigError) as raised:
            load_config(path, environ={})
        assert str(raised.value) == f"{path}: cannot be read: {reason}"


def test_server_names_itself() -> None:
    """A receiver's text is what a person would type, with brackets around IPv6."""
    assert str(ServerSettings(host="::1")) == "[::1]:24224"


def test_region_and_url() -> None:
    """The base is the region's host, or `url` without a slash at its end."""
    bases = [JumpCloudSettings(region=region).base_url for region in ("us", "eu", "in")]
    assert bases == ["https://api.jumpcloud.com", "https://api.eu.jumpcloud.com", "https://api.in.jumpcloud.com"]
    assert JumpCloudSettings(url="http://127.0.0.1:1//").base_url == "http://127.0.0.1:1"
