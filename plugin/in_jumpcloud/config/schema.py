"""The settings: every key, its type, its limits and its default.

Text must not be empty, except for a secret. A list and a number have the limits of their `Meta`, whose `extra` has what
words stand for. Paths are absolute once they are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from in_jumpcloud.config.types import DatabaseUrl, Duration, NamedFile, ProxyUrl, Secret, Size, Start
from in_jumpcloud.file_access import package_file

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

CONSOLES = {  # the API of the admin console, which lists organizations
    "us": "https://console.jumpcloud.com",
    "eu": "https://console.eu.jumpcloud.com",
    "in": "https://console.in.jumpcloud.com",
}

_AtLeastOne = msgspec.Meta(min_length=1)
_Positive = msgspec.Meta(gt=0)
PositiveDuration = Annotated[Duration, _Positive]
PositiveSize = Annotated[Size, _Positive]

DEMO_CITY = package_file("geoip/demo-city.mmdb", "geoip/demo-city.mmdb")
DEMO_ASN = package_file("geoip/demo-asn.mmdb", "geoip/demo-asn.mmdb")
_MIN_WORKERS, _MAX_AUTO_WORKERS = 4, 64
"""A worker waits for JumpCloud most of the time: one for each request per second suffices up to a latency of 1 s."""
_MAX_AUTO_CONNECTIONS = 4
DEFAULT_STATE = Path("state/in-jumpcloud.db")
"""Only its name or all of it: `locations.default_state` says where it is."""


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping in the configuration. Each key has a default."""


def split_type(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type of a setting, and the words that may stand in place of such a value; None is one of them."""
    if get_origin(kind) not in (Union, UnionType):
        return kind, ()
    first, *others = get_args(kind)
    return first, tuple(word for each in others for word in (get_args(each) if get_origin(each) is Literal else [None]))


def settings_of(section: Section, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a section and of the sections in it: its dotted key and its value."""
    for name in section.__struct_fields__:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from settings_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


class DiscoverSettings(Section, frozen=True):
    """How the organizations are listed, where they are not in the configuration."""

    every: PositiveDuration = Duration(900)
    include: Annotated[tuple[str, ...], _AtLeastOne] = ("*",)
    exclude: tuple[str, ...] = ()


class OverrideSettings(Section, frozen=True):
    """What is different for one organization; None: as for all."""

    services: Annotated[tuple[str, ...], _AtLeastOne] | None = None
    tag: str | None = None
    start: Start | None = None


class JumpCloudSettings(Section, frozen=True):
    """The API: the account, what is polled, and how often."""

    api_key: Secret | None = None
    client_id: str | None = None
    client_secret: Secret | None = None
    token_url: str | None = None
    region: Literal["us", "eu", "in"] = "us"
    url: str | None = None
    organizations: tuple[str, ...] | Literal["all"] = ()
    organizations_file: Path | None = None
    discover: DiscoverSettings = DiscoverSettings()
    overrides: dict[str, OverrideSettings] = {}
    provider_id: str | None = None
    services: Annotated[tuple[str, ...], _AtLeastOne] = ("all",)
    start: Start = Start("15d")
    interval: PositiveDuration = Duration(30)
    interval_max: PositiveDuration | None = None
    lag: Duration = Duration(0)
    overlap: Duration = Duration(120)
    window: PositiveDuration = Duration(86_400)
    page_limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 3000
    page_bytes: PositiveSize = Size(16 * 1024**2)
    pages_ahead: Annotated[int, msgspec.Meta(ge=1, le=8)] = 2
    event_max_bytes: PositiveSize = Size(32 * 1024**2)
    requests_per_second: Annotated[float, _Positive] = 5
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] | Literal["auto"] = "auto"
    connect_timeout: PositiveDuration = Duration(10)
    read_timeout: PositiveDuration = Duration(60)
    proxy: ProxyUrl | None = None
    allow_plain_http: bool = False
    ca_file: NamedFile | None = None

    @property
    def is_discovered(self) -> bool:
        """Whether organizations join and leave while the process is running."""
        return self.organizations == "all" or self.organizations_file is not None

    @property
    def longest_interval(self) -> float:
        """Seconds between polls of a stream without events."""
        return float(self.interval_max or self.interval)

    @property
    def console_url(self) -> str:
        """The base URL of the API that lists organizations."""
        return (self.url or CONSOLES[self.region]).rstrip("/")

    @property
    def worker_count(self) -> int:
        """How many streams run at the same time."""
        if self.workers == "auto":
            return min(_MAX_AUTO_WORKERS, max(_MIN_WORKERS, math.ceil(self.requests_per_second)))
        return self.workers

    @property
    def base_url(self) -> str:
        """The base URL of the API, without a trailing slash."""
        return (self.url or HOSTS[self.region]).rstrip("/")

    @property
    def token_endpoint(self) -> str:
        """The URL that issues tokens to a service account."""
        return self.token_url or TOKEN_URLS[self.region]


class ReconcileSettings(Section, frozen=True):
    """How late events are found: how often counts are compared, and how far back."""

    every: PositiveDuration = Duration(600)
    reach: PositiveDuration = Duration(15 * 86_400)


class EcsSettings(Section, frozen=True):
    """The shape of a record."""

    profile: Literal["extended", "elastic", "raw"] = "extended"
    raw_fields: tuple[Literal["@timestamp", "client.geo"], ...] = ("@timestamp", "client.geo")
    preserve_original_event: bool = False
    preserve_duplicate_custom_fields: bool = False
    hash_original: bool = False
    tags: tuple[str, ...] = ("forwarded",)
    namespace: str = "default"


class GeoIPSettings(Section, frozen=True):
    """The databases for IP addresses; None turns one off."""

    city: Annotated[Path, msgspec.Meta(extra={"demo": DEMO_CITY})] | None = DEMO_CITY
    asn: Annotated[Path, msgspec.Meta(extra={"demo": DEMO_ASN})] | None = None
    cache: Annotated[int, msgspec.Meta(ge=1)] = 10_000


class ServerSettings(Section, frozen=True):
    """One receiver: `host` and `port`, or `unix`."""

    host: str | None = None
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 24_224
    unix: Path | None = None

    def __str__(self) -> str:
        if self.unix:
            return f"unix:{self.unix}"
        return f"[{self.host}]:{self.port}" if ":" in (self.host or "") else f"{self.host}:{self.port}"


class TlsSettings(Section, frozen=True):
    """TLS to the receivers: how their certificates are checked, and the client certificate."""

    enabled: bool = False
    ca_file: NamedFile | None = None
    cert_file: NamedFile | None = None
    key_file: NamedFile | None = None
    verify: bool = True
    server_name: str | None = None


class ForwardSettings(Section, frozen=True):
    """How records are sent to the receivers."""

    servers: Annotated[tuple[ServerSettings, ...], _AtLeastOne] = (ServerSettings(host="127.0.0.1"),)
    balance: Literal["failover", "round_robin"] = "failover"
    tag: str = "jumpcloud.events"
    shared_key: Secret | None = None
    username: str | None = None
    password: Secret | None = None
    self_hostname: str | None = None
    tls: TlsSettings = TlsSettings()
    compress: Literal["none", "gzip"] = "none"
    connections: Annotated[int, msgspec.Meta(ge=1, le=16)] | Literal["auto"] = "auto"
    connection_max_age: Duration = Duration(600)
    connect_timeout: PositiveDuration = Duration(10)
    ack_timeout: PositiveDuration = Duration(60)
    stop_timeout: Duration = Duration(20)
    chunk_bytes: PositiveSize = Size(1_000_000)
    message_max_bytes: Size = Size(6_000_000)

    def connection_count(self, workers: int) -> int:
        """How many connections to each receiver so many workers use."""
        return min(_MAX_AUTO_CONNECTIONS, -(-workers // 16)) if self.connections == "auto" else self.connections


class StateSettings(Section, frozen=True):
    """The database with positions and the ledger: a file, or with `url` a PostgreSQL server."""

    path: Annotated[Path, msgspec.Meta(extra={None: DEFAULT_STATE})] = DEFAULT_STATE
    url: DatabaseUrl | None = None
    password: Secret | None = None
    schema: str = "in_jumpcloud"

    @property
    def place(self) -> str:
        """Where it is, for people: without a user and a password."""
        return f"{self.url.place}, schema {self.schema}" if self.url else str(self.path)


class MembersSettings(Section, frozen=True):
    """This process as a member of those that share a state on a PostgreSQL server.

    `name` None: the process and the host. After `lease` of silence the others take its streams. `address` is where
    people reach its status page.
    """

    name: str | None = None
    lease: Duration = Duration(15)
    address: str | None = None


class DeadLetterSettings(Section, frozen=True):
    """Events that the receiver refuses for good.

    `path` is the file in which earlier versions kept them; None: `dead-letter.ndjson` in the directory of the state.
    """

    path: Path | None = None
    max_bytes: PositiveSize = Size(100 * 1024**2)


class HttpSettings(Section, frozen=True):
    """Metrics, health and the status page; None for `listen` turns them off."""

    listen: str | None = "127.0.0.1:2021"
    max_lag: PositiveDuration = Duration(900)


class LogSettings(Section, frozen=True):
    """The plugin's own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


REMOVED_KEYS: dict[tuple[type, str], str] = {
    (ServerSettings, "monitor"): "removed; delete it, and use `in-jumpcloud check --fluent-bit FILE` instead",
}
"""Keys of earlier versions, and what to do about each."""


class Config(Section, frozen=True):
    """The whole configuration. `reload`: on SIGHUP, or also when the file changes."""

    jumpcloud: JumpCloudSettings = JumpCloudSettings()
    reconcile: ReconcileSettings = ReconcileSettings()
    ecs: EcsSettings = EcsSettings()
    geoip: GeoIPSettings = GeoIPSettings()
    forward: ForwardSettings = ForwardSettings()
    state: StateSettings = StateSettings()
    members: MembersSettings = MembersSettings()
    dead_letter: DeadLetterSettings = DeadLetterSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    reload: Literal["signal", "auto"] = "signal"
