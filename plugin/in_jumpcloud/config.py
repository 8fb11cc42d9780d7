"""The settings: every key, its type and its default; and how a file, the environment and `-o` become them.

All that is wrong is reported at once, each with its path in the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from in_jumpcloud.contradictions import contradictions_in
from in_jumpcloud.errors import ConfigError
from in_jumpcloud.reading import Reader, Section, parse, put
from in_jumpcloud.units import Duration, Secret, Size, Start

HOSTS = {  # https://docs.jumpcloud.com, and JumpCloud's own command-line client for the newer regions
    "us": "https://api.jumpcloud.com",
    "eu": "https://api.eu.jumpcloud.com",
    "in": "https://api.in.jumpcloud.com",
}
TOKEN_URLS = {  # JumpCloud's own command-line client
    "us": "https://admin-oauth.id.jumpcloud.com/oauth2/token",
    "eu": "https://admin-oauth.id.eu.jumpcloud.com/oauth2/token",
    "in": "https://admin-oauth.id.in.jumpcloud.com/oauth2/token",
}

Text = Annotated[str, msgspec.Meta(min_length=1)]


class JumpCloud(Section, frozen=True):
    """What is asked, of whom, and how often."""

    api_key: Secret | None = None
    client_id: Text | None = None
    client_secret: Secret | None = None
    token_url: Text | None = None
    region: Literal["us", "eu", "in"] = "us"
    url: Text | None = None
    organizations: tuple[Text, ...] = ()
    provider_id: Text | None = None
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

    @property
    def token_endpoint(self) -> str:
        """Where a service account gets its tokens."""
        return self.token_url or TOKEN_URLS[self.region]


class Reconcile(Section, frozen=True):
    """How late events are found."""

    every: Duration = Duration(600)
    window: Duration = Duration(86_400)


class Ledger(Section, frozen=True):
    """How long delivered ids are remembered."""

    keep: Duration = Duration(72 * 3600)


class Ecs(Section, frozen=True):
    """The shape of a record."""

    profile: Literal["extended", "elastic"] = "extended"
    preserve_original_event: bool = False
    preserve_duplicate_custom_fields: bool = False
    hash_original: bool = False
    tags: tuple[Text, ...] = ("forwarded",)
    namespace: Text = "default"


class GeoIP(Section, frozen=True):
    """Where addresses are looked up; null turns a database off."""

    city: Path | None = Path("geoip/demo-city.mmdb")
    asn: Path | None = None
    cache: Annotated[int, msgspec.Meta(ge=1)] = 10_000


class Server(Section, frozen=True):
    """One receiver: `host` and `port`, or `unix`. `monitor` is the URL of Fluent Bit's HTTP server, for `check`."""

    host: Text | None = None
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 24_224
    unix: Path | None = None
    monitor: Text | None = None

    def __str__(self) -> str:
        if self.unix:
            return f"unix:{self.unix}"
        return f"[{self.host}]:{self.port}" if ":" in (self.host or "") else f"{self.host}:{self.port}"


class Tls(Section, frozen=True):
    """How the receivers' certificates are checked, and what they are shown."""

    enabled: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    verify: bool = True
    server_name: Text | None = None


class Forward(Section, frozen=True):
    """How records reach the receiver."""

    servers: tuple[Server, ...] = (Server(host="127.0.0.1"),)
    balance: Literal["failover", "round_robin"] = "failover"
    tag: Text = "jumpcloud.events"
    shared_key: Secret | None = None
    username: Text | None = None
    password: Secret | None = None
    self_hostname: Text | None = None
    tls: Tls = Tls()
    compress: Literal["none", "gzip"] = "none"
    connection_max_age: Duration = Duration(600)
    connect_timeout: Duration = Duration(10)
    ack_timeout: Duration = Duration(60)
    chunk_bytes: Size = Size(1_000_000)
    message_max_bytes: Size = Size(6_000_000)


class State(Section, frozen=True):
    """Where positions and the ledger are kept."""

    path: Path = Path("state/in-jumpcloud.db")


class DeadLetter(Section, frozen=True):
    """Where events are kept that the receiver refuses for good."""

    path: Path = Path("state/dead-letter.ndjson")
    max_bytes: Size = Size(100 * 1024**2)


class Http(Section, frozen=True):
    """Metrics, health and the status page; null for `listen` turns them off."""

    listen: Text | None = "127.0.0.1:2021"
    max_lag: Duration = Duration(900)


class Log(Section, frozen=True):
    """What is told on standard error, and, with `forward`, to the receivers too."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"
    forward: bool = False
    tag: Text = "in_jumpcloud.log"


class Config(Section, frozen=True):
    """The whole file."""

    jumpcloud: JumpCloud = JumpCloud()
    reconcile: Reconcile = Reconcile()
    ledger: Ledger = Ledger()
    ecs: Ecs = Ecs()
    geoip: GeoIP = GeoIP()
    forward: Forward = Forward()
    state: State = State()
    dead_letter: DeadLetter = DeadLetter()
    http: Http = Http()
    log: Log = Log()


_OF_A_CONNECTION = ("jumpcloud.", "forward.", "state.", "dead_letter.")
_OF_A_KEY = ("jumpcloud.api_key", "jumpcloud.client_")


def load(
    path: Path | None,
    overrides: Sequence[str] = (),
    *,
    offline: bool = False,
    needs_key: bool = True,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Read `path` (None: the defaults), put `overrides` (`KEY=VALUE`, dotted keys) over it, and check the whole.

    `offline` leaves out what only a connection needs: the key and the receiver. Without `needs_key` only the key is.

    Raises:
        ConfigError: one line for each thing that is wrong.
    """
    where = str(path) if path else "the settings"
    reader = Reader(environ)
    document = parse(path)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"-o {override}: expected KEY=VALUE, such as -o jumpcloud.interval=1m")
        put(document, key.split("."), value)
    config = reader.section(Config, document, "")
    # Where something is wrong, defaults stand in for it: nothing more can be said of that section.
    wrong = {_section(problem) for problem in reader.problems}
    contradictions = [each for each in contradictions_in(config, offline=offline) if _section(each) not in wrong]
    problems = [*reader.problems, *contradictions]
    if offline:  # a variable for the key may well be unset here
        problems = [line for line in problems if not line.startswith(_OF_A_CONNECTION)]
    elif not needs_key:
        problems = [line for line in problems if not line.startswith(_OF_A_KEY)]
    if problems:
        raise ConfigError("\n".join(f"{where}: {problem}" for problem in problems))
    return config


def _section(problem: str) -> str:
    return re.split(r"[.:]", problem, maxsplit=1)[0]
