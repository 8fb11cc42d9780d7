"""The settings: every key, its type and its default; and how a file, the environment and `-o` become them.

All that is wrong is reported at once, each with its path in the file.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
import yaml

from in_jumpcloud.errors import ConfigError
from in_jumpcloud.units import Duration, Secret, Size, Start

HOSTS = {  # https://docs.jumpcloud.com, and JumpCloud's own command-line client for the newer regions
    "us": "https://api.jumpcloud.com",
    "eu": "https://api.eu.jumpcloud.com",
    "in": "https://api.in.jumpcloud.com",
}

Text = Annotated[str, msgspec.Meta(min_length=1)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mapping in the file."""


class JumpCloud(_Section, frozen=True):
    """What is asked, of whom, and how often."""

    api_key: Secret | None = None
    region: Literal["us", "eu", "in"] = "us"
    url: Text | None = None
    organizations: tuple[Text, ...] = ()
    services: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)] = ("all",)
    start: Start = Start("15d")
    interval: Duration = Duration(30)
    lag: Duration = Duration(0)
    overlap: Duration = Duration(120)
    window: Duration = Duration(86_400)
    page_limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1000
    page_bytes: Size = Size(16 * 1024**2)
    requests_per_second: Annotated[float, msgspec.Meta(gt=0)] = 5
    connect_timeout: Duration = Duration(10)
    read_timeout: Duration = Duration(60)
    proxy: Text | None = None
    ca_file: Path | None = None

    @property
    def base_url(self) -> str:
        """The API's base without a slash at its end; paths are appended."""
        return (self.url or HOSTS[self.region]).rstrip("/")


class Ledger(_Section, frozen=True):
    """How long delivered ids are remembered."""

    keep: Duration = Duration(72 * 3600)


class Ecs(_Section, frozen=True):
    """The shape of a record."""

    profile: Literal["elastic"] = "elastic"
    preserve_original_event: bool = False
    preserve_duplicate_custom_fields: bool = False
    tags: tuple[Text, ...] = ("forwarded",)
    namespace: Text = "default"


class GeoIP(_Section, frozen=True):
    """Where addresses are looked up; null turns a database off."""

    city: Path | None = Path("geoip/demo-city.mmdb")
    asn: Path | None = None
    cache: Annotated[int, msgspec.Meta(ge=1)] = 10_000


class Server(_Section, frozen=True):
    """One receiver: `host` and `port`, or `unix`."""

    host: Text | None = None
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 24_224
    unix: Path | None = None

    def __str__(self) -> str:
        if self.unix:
            return f"unix:{self.unix}"
        return f"[{self.host}]:{self.port}" if ":" in (self.host or "") else f"{self.host}:{self.port}"


class Forward(_Section, frozen=True):
    """How records reach the receiver."""

    servers: tuple[Server, ...] = (Server(host="127.0.0.1"),)
    tag: Text = "jumpcloud.events"
    connect_timeout: Duration = Duration(10)
    ack_timeout: Duration = Duration(60)
    chunk_bytes: Size = Size(1_000_000)
    message_max_bytes: Size = Size(6_000_000)


class State(_Section, frozen=True):
    """Where positions and the ledger are kept."""

    path: Path = Path("state/in-jumpcloud.db")


class Log(_Section, frozen=True):
    """What is told on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


class Config(_Section, frozen=True):
    """The whole file."""

    jumpcloud: JumpCloud = JumpCloud()
    ledger: Ledger = Ledger()
    ecs: Ecs = Ecs()
    geoip: GeoIP = GeoIP()
    forward: Forward = Forward()
    state: State = State()
    log: Log = Log()


def load(
    path: Path | None,
    overrides: Sequence[str] = (),
    *,
    offline: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Read `path` (None: the defaults), put `overrides` (`KEY=VALUE`, dotted keys) over it, and check the whole.

    `offline` leaves out what only a connection needs: the key and the receiver.

    Raises:
        ConfigError: one line for each thing that is wrong.
    """
    where = str(path) if path else "the settings"
    reader = _Reader(environ)
    document = _parse(path)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"-o {override}: expected KEY=VALUE, such as -o jumpcloud.interval=1m")
        _put(document, key.split("."), value)
    config = reader.section(Config, document, "")
    # Where something is wrong, defaults stand in for it: nothing more can be said of that section.
    wrong = {_section(problem) for problem in reader.problems}
    contradictions = _contradictions(config, offline=offline)
    problems = [*reader.problems, *(problem for problem in contradictions if _section(problem) not in wrong)]
    if offline:  # a variable for the key may well be unset here
        problems = [line for line in problems if not line.startswith(("jumpcloud.", "forward.", "state."))]
    if problems:
        raise ConfigError("\n".join(f"{where}: {problem}" for problem in problems))
    return config


def _section(problem: str) -> str:
    return re.split(r"[.:]", problem, maxsplit=1)[0]


def _parse(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        document = yaml.load(path.read_bytes(), _OneKeyOnce)  # noqa: S506 - a subclass of SafeLoader
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as a number of too many digits
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected sections such as `jumpcloud:`, got {_kind(document)}")
    return document


class _OneKeyOnce(yaml.SafeLoader):
    """YAML lets a later key silently win over an earlier one; a person would want to know.

    Dates stay text: whether one exists is checked where it is read, with its path.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _as_text(_: yaml.SafeLoader, node: yaml.Node) -> str:
    return str(node.value)


_OneKeyOnce.add_constructor("tag:yaml.org,2002:timestamp", _as_text)


def _put(document: dict[str, Any], keys: list[str], value: str) -> None:
    for key in keys[:-1]:
        inner = document.get(key)
        if not isinstance(inner, dict):
            inner = document[key] = {}
        document = inner
    try:
        document[keys[-1]] = yaml.load(value, _OneKeyOnce)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError):  # the value is not shown: it may be a secret
        raise ConfigError(f"-o {'.'.join(keys)}: expected a YAML value; put quotes around text") from None


S = TypeVar("S", bound=_Section)


class _Reader:
    """Turns plain values into sections, and gathers what is wrong with them."""

    _VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._environ = environ

    def section(self, kind: type[S], data: Any, path: str) -> S:
        if data is None:
            data = {}
        if not isinstance(data, dict):
            self.problems.append(f"{path}: expected a mapping, got {_kind(data)}")
            return kind()
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        secrets = {f"{name}_file": name for name, field in fields.items() if Secret in get_args(field.type)}
        values: dict[str, Any] = {}
        for key, value in data.items():
            at = f"{path}.{key}" if path else str(key)
            if value is None and (key in secrets or key in secrets.values()):
                continue
            if key in secrets:
                if data.get(secrets[key]) is not None:
                    self.problems.append(f"{at}: {secrets[key]} is given too; keep one of the two")
                else:
                    self._store(values, secrets[key], at, self._secret_file, value)
            elif key not in fields:
                near = difflib.get_close_matches(str(key), [*fields, *secrets], n=1)
                self.problems.append(f"{at}: unknown key" + (f"; did you mean {near[0]}?" if near else ""))
            else:
                self._store(values, key, at, self._convert, value, fields[key].type)
        return kind(**values)

    def _store(self, values: dict[str, Any], name: str, at: str, convert: Any, *arguments: Any) -> None:
        try:
            values[name] = convert(at, *arguments)
        except ValueError as error:  # msgspec.ValidationError is one
            self.problems.append(f"{at}: {_plain(str(error))}")

    def _convert(self, at: str, value: Any, kind: Any) -> Any:
        if isinstance(kind, type) and issubclass(kind, _Section):
            return self.section(kind, value, at)
        item = get_args(kind)[0] if get_origin(kind) is tuple else None
        if isinstance(item, type) and issubclass(item, _Section):
            if not isinstance(value, list):
                raise ValueError(f"expected a list, got {_kind(value)}")  # noqa: TRY004 - one kind of error for all
            return tuple(self.section(item, each, f"{at}[{index}]") for index, each in enumerate(value))
        substituted = self._substitute(value)
        # What comes from the environment is always text, also where a number is meant.
        return msgspec.convert(substituted, kind, strict=substituted == value, dec_hook=_read_unit)

    def _substitute(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._substitute(each) for each in value]
        return self._VARIABLE.sub(self._variable, value) if isinstance(value, str) else value

    def _variable(self, match: re.Match[str]) -> str:
        name, default = match.groups()
        value = self._environ.get(name) or default
        if value is None:
            raise ValueError(f"the environment variable {name} is not set, or is empty")
        return value

    def _secret_file(self, at: str, value: Any) -> Secret:
        file = self._convert(at, value, Path)
        try:
            return Secret(file.read_text().strip())
        except (OSError, UnicodeError) as error:
            raise ValueError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'not text'}") from None


def _read_unit(kind: type, value: Any) -> Any:
    if kind in (Duration, Size):
        return kind.parse(value)
    if kind is Start:
        return Start(value)
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {_kind(value)}; put it in quotes")  # noqa: TRY004 - msgspec wants this one
    if not value:
        raise ValueError("is empty")
    return kind(value)


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _plain(message: str) -> str:
    message = re.sub(r" - at \$(\S+)", r" (at \1)", message.replace("`", ""))
    if message.startswith("Expected str, got int"):
        message += "; put it in quotes"
    return message[:1].lower() + message[1:]


def _contradictions(config: Config, *, offline: bool) -> Iterable[str]:
    if not offline:
        yield from _in_jumpcloud(config.jumpcloud)
        yield from _in_forward(config.forward)
    for path in _MORE_THAN_NOTHING:
        section, name = path.split(".")
        if getattr(getattr(config, section), name) <= 0:
            yield f"{path}: must be more than nothing"


_MORE_THAN_NOTHING = (
    "jumpcloud.interval",
    "jumpcloud.window",
    "jumpcloud.page_bytes",
    "jumpcloud.connect_timeout",
    "jumpcloud.read_timeout",
    "forward.connect_timeout",
    "forward.ack_timeout",
    "forward.chunk_bytes",
)


def _in_jumpcloud(settings: JumpCloud) -> Iterable[str]:
    if settings.api_key is None:
        yield "jumpcloud.api_key: missing; set it, or api_key_file"
    elif not re.fullmatch(r"[\x21-\x7e]+", settings.api_key.reveal()):
        yield "jumpcloud.api_key: is empty, or holds a blank, a line break or a letter that no key has"
    if not re.match(r"https?://[^/\s]", settings.base_url):
        yield f"jumpcloud.url: expected a base such as https://api.eu.jumpcloud.com, got {settings.base_url!r}"
    for organization in settings.organizations:
        if not re.fullmatch(r"[\x21-\x7e]+", organization):
            yield f"jumpcloud.organizations: {organization!r} is no id: it holds a blank or a letter that no id has"
    for organization in sorted({each for each in settings.organizations if settings.organizations.count(each) > 1}):
        yield f"jumpcloud.organizations: {organization} stands twice"
    if settings.window <= settings.overlap:
        yield "jumpcloud.window: must be longer than jumpcloud.overlap, or a window would never advance"
    if settings.ca_file and not settings.ca_file.is_file():
        yield f"jumpcloud.ca_file: no such file: {settings.ca_file}"


def _in_forward(settings: Forward) -> Iterable[str]:
    if len(settings.servers) != 1:
        yield "forward.servers: expected one receiver; several are not supported yet"
    for index, server in enumerate(settings.servers):
        if (server.host is None) == (server.unix is None):
            yield f"forward.servers[{index}]: expected either host (and port) or unix"
    if "{" in settings.tag:
        yield "forward.tag: placeholders are not supported yet"
    if settings.chunk_bytes > settings.message_max_bytes:
        yield "forward.chunk_bytes: must be at most forward.message_max_bytes"
