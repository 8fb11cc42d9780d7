"""A plugin between the simulators that the test steps itself, and its HTTP endpoints."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from support.command import KEY, ROOT
from support.streams import open_app

from in_jumpcloud import app
from in_jumpcloud.app import App
from in_jumpcloud.collector import Collector
from in_jumpcloud.config.schema import (
    Config,
    ForwardSettings,
    GeoIPSettings,
    JumpCloudSettings,
    ServerSettings,
    StateSettings,
)
from in_jumpcloud.config.types import Secret, Start
from in_jumpcloud.monitoring.server import StatusServer
from in_jumpcloud.runtime import SYSTEM
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.timestamps import now_ms

PAGES = ("/", "/status.json", "/metrics", "/healthz", "/readyz")


class Response(NamedTuple):
    """One HTTP response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Watched(NamedTuple):
    """A plugin that is open but not running, and the URL of its endpoints."""

    plugin: app.App
    url: str

    def get(self, path: str, method: str = "GET", **headers: str) -> Response:
        """Send one request."""
        where = urlsplit(self.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            lower = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, lower, response.read().decode())
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """Every sample, by its name and labels as the text has them."""
        lines = self.get("/metrics").body.splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}


def settings_of(url: str, directory: Path, *ports: int, **changes: Any) -> Config:
    """Settings for an API and receivers at these ports; a change is `section__key=value`."""
    servers = tuple(ServerSettings(host="127.0.0.1", port=port) for port in ports)
    settings = Config(
        jumpcloud=JumpCloudSettings(api_key=Secret(KEY), url=url, start=Start("3h"), requests_per_second=1000),
        geoip=GeoIPSettings(city=ROOT / "geoip" / "demo-city.mmdb"),
        forward=ForwardSettings(servers=servers or (ServerSettings(host="127.0.0.1"),)),
        state=StateSettings(path=directory / "state.db"),
    )
    for name, value in changes.items():
        section, key = name.split("__")
        changed = msgspec.structs.replace(getattr(settings, section), **{key: value})
        settings = msgspec.structs.replace(settings, **{section: changed})
    return settings


def catch_up(*collectors: Collector) -> None:
    """Step these streams until each has caught up."""
    for collector in collectors:
        while not collector.caught_up:
            collector.step(threading.Event())
            assert collector.error is None


@contextmanager
def serve(listen: str | None, plugin: App, **options: Any) -> Iterator[str | None]:
    """Serve the endpoints of `plugin` with a StatusServer of these options; yields the URL of the status page."""
    with StatusServer(listen, plugin.resources.troubles, **options) as server:
        server.show(plugin)
        yield server.url


@contextmanager
def watched(
    settings: Config, *, once: bool = False, now_ms: Callable[[], int] = now_ms, **limits: float
) -> Iterator[Watched]:
    """Open the plugin and serve its endpoints at a free port; `limits` are arguments of `serve`."""
    with (
        open_app(settings, SYSTEM, once=once) as plugin,
        serve("127.0.0.1:0", plugin, now_ms=now_ms, **limits) as url,
    ):
        assert url is not None
        yield Watched(plugin, url)


def refusing(api: SimulatedApi) -> dict[str, Any]:
    """Settings with two streams, of which the second is refused: its organization does not exist."""
    return {"jumpcloud__organizations": (next(iter(api.sources)), "missing")}
