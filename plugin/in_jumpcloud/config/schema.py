"""The settings: every key, its type and its default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from in_jumpcloud.config.reader import Section
from in_jumpcloud.config.types import Duration, Secret, Size, Start

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


class JumpCloudSettings(Section, frozen=True):
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


class ReconcileSettings(Section, frozen=True):
    """How late events are found."""

    every: Duration = Duration(600)
    window: Duration = Duration(86_400)


class LedgerSettings(Section, frozen=True):
    """How long delivered ids are remembered."""

    keep: Duration = Duration(72 * 3600)


class EcsSettings(Section, frozen=True):
    """The shape of a record."""

    profile: Literal["extended", "elastic"] = "extended"
    preserve_original_event: bool = False
    preserve_duplicate_custom_fields: bool = False
    hash_original: bool = False
    tags: tuple[Text, ...] = ("forwarded",)
    namespace: Text = "default"


class GeoIPSettings(Section, frozen=True):
    """Where addresses are looked up; null turns a database off."""

    city: Path | None = Path("geoip/demo-city.mmdb")
    asn: Path | None = None
    cache: Annotated[int, msgspec.Meta(ge=1)] = 10_000


class ServerSettings(Section, frozen=True):
    """One receiver: `host` and `port`, or `unix`. `monitor` is the URL of Fluent Bit's HTTP server, for `check`."""

    host: Text | None = None
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 24_224
    unix: Path | None = None
    monitor: Text | None = None

    def __str__(self) -> str:
        if self.unix:
            return f"unix:{self.unix}"
        return f"[{self.host}]:{self.port}" if ":" in (self.host or "") else f"{self.host}:{self.port}"


class TlsSettings(Section, frozen=True):
    """How the receivers' certificates are checked, and what they are shown."""

    enabled: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    verify: bool = True
    server_name: Text | None = None


class ForwardSettings(Section, frozen=True):
    """How records reach the receiver."""

    servers: tuple[ServerSettings, ...] = (ServerSettings(host="127.0.0.1"),)
    balance: Literal["failover", "round_robin"] = "failover"
    tag: Text = "jumpcloud.events"
    shared_key: Secret | None = None
    username: Text | None = None
    password: Secret | None = None
    self_hostname: Text | None = None
    tls: TlsSettings = TlsSettings()
    compress: Literal["none", "gzip"] = "none"
    connection_max_age: Duration = Duration(600)
    connect_timeout: Duration = Duration(10)
    ack_timeout: Duration = Duration(60)
    chunk_bytes: Size = Size(1_000_000)
    message_max_bytes: Size = Size(6_000_000)


class StateSettings(Section, frozen=True):
    """Where positions and the ledger are kept."""

    path: Path = Path("state/in-jumpcloud.db")


class DeadLetterSettings(Section, frozen=True):
    """Where events are kept that the receiver refuses for good."""

    path: Path = Path("state/dead-letter.ndjson")
    max_bytes: Size = Size(100 * 1024**2)


class HttpSettings(Section, frozen=True):
    """Metrics, health and the status page; null for `listen` turns them off."""

    listen: Text | None = "127.0.0.1:2021"
    max_lag: Duration = Duration(900)


class LogSettings(Section, frozen=True):
    """The plugin's own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


class Config(Section, frozen=True):
    """The whole file."""

    jumpcloud: JumpCloudSettings = JumpCloudSettings()
    reconcile: ReconcileSettings = ReconcileSettings()
    ledger: LedgerSettings = LedgerSettings()
    ecs: EcsSettings = EcsSettings()
    geoip: GeoIPSettings = GeoIPSettings()
    forward: ForwardSettings = ForwardSettings()
    state: StateSettings = StateSettings()
    dead_letter: DeadLetterSettings = DeadLetterSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
