"""The rooms that all streams share, opened as the settings say, and opened anew where new settings differ."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack

import msgspec

from in_jumpcloud.config.schema import Config, HttpSettings, JumpCloudSettings, LogSettings
from in_jumpcloud.ecs import geoip as databases
from in_jumpcloud.ecs.encoder import RecordEncoder
from in_jumpcloud.ecs.mapper import Mapper, new_id
from in_jumpcloud.errors import ConfigError
from in_jumpcloud.forward.failover import Failover
from in_jumpcloud.insights.api import DirectoryInsights
from in_jumpcloud.insights.auth import auth_for as auth_of
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.pipeline import PipelineResources
from in_jumpcloud.state.dead_letters import DeadLetterFile
from in_jumpcloud.state.store import StateStore

log = logging.getLogger(__name__)


class Resources:
    """Holds the rooms that are in use. The state is the same for the whole life of the process."""

    def __init__(self, settings: Config, *, now_ms: Callable[[], int]) -> None:
        """Open every room. `now_ms` is the clock, in epoch milliseconds.

        Raises:
            ConfigError, Failed: a room could not be opened.
        """
        self.settings = settings
        self._now_ms = now_ms
        self._ephemeral_id = new_id()
        with ExitStack() as on_failure:
            self.state = on_failure.enter_context(StateStore(settings.state.path, new_agent_id=new_id()))
            self.geo = databases.open_databases(settings)
            on_failure.callback(self.geo.close)
            self._begin_to_map(settings)
            self.api = self._new_api(settings)
            on_failure.callback(self.api.close)
            self.servers = Failover(settings.forward)
            on_failure.pop_all()
        self.dead_letters = _dead_letters(settings)
        if self.state.is_new:
            log.info("%s: a new state; every stream begins at jumpcloud.start", self.state.path)

    @property
    def for_pipeline(self) -> PipelineResources:
        """What a page passes through."""
        return PipelineResources(self._encoder, self.servers, self.state, self.dead_letters)

    def renew(self, settings: Config) -> ExitStack:
        """Take up `settings`, opening anew only the rooms that they change; all of it, or nothing.

        Returns:
            The closing of the rooms that were replaced, due once nobody uses them any more.

        Raises:
            ConfigError: they cannot be taken up; everything is as it was.
        """
        old = self.settings
        if old.state != settings.state:
            raise ConfigError("state.path: can only be changed by a restart")
        if old.http.listen != settings.http.listen:
            raise ConfigError("http.listen: can only be changed by a restart")
        with ExitStack() as on_failure, ExitStack() as replaced:
            geo, api, servers = self.geo, self.api, self.servers
            if (old.geoip, old.ecs.profile) != (settings.geoip, settings.ecs.profile):
                geo = databases.open_databases(settings)
                on_failure.callback(geo.close)
                replaced.callback(self.geo.close)
            if _asking(old) != _asking(settings):
                api = self._new_api(settings)
                on_failure.callback(api.close)
                replaced.callback(self.api.close)
            if old.forward != settings.forward:
                servers = Failover(settings.forward)
                replaced.callback(self.servers.close)
            on_failure.pop_all()
            self.settings, self.geo, self.api, self.servers = settings, geo, api, servers
            if (old.geoip, old.ecs) != (settings.geoip, settings.ecs):
                self._begin_to_map(settings)
            self.dead_letters = _dead_letters(settings)
            return replaced.pop_all()

    def close(self) -> None:
        """Close every room."""
        with ExitStack() as stack:
            stack.callback(self.state.close)
            stack.callback(self.geo.close)
            stack.callback(self.api.close)
            stack.callback(self.servers.close)

    def _new_api(self, settings: Config) -> DirectoryInsights:
        rate_limiter = RateLimiter(settings.jumpcloud.requests_per_second)
        auth = auth_of(settings.jumpcloud, rate_limiter)
        return DirectoryInsights(settings.jumpcloud, auth, rate_limiter, now_ns=lambda: self._now_ms() * 1_000_000)

    def _begin_to_map(self, settings: Config) -> None:
        self.mapper = Mapper(settings.ecs, self.geo, agent_id=self.state.agent_id, ephemeral_id=self._ephemeral_id)
        self._encoder = RecordEncoder(self.mapper)


def only_streams_differ(one: Config, other: Config) -> bool:
    """Whether two configurations say the same of every stream that both have."""
    return _of_a_stream(one) == _of_a_stream(other)


def _of_a_stream(settings: Config) -> Config:
    return msgspec.structs.replace(settings, jumpcloud=_asking(settings), log=LogSettings(), http=HttpSettings())


def _asking(settings: Config) -> JumpCloudSettings:
    return msgspec.structs.replace(settings.jumpcloud, organizations=(), provider_id=None)


def _dead_letters(settings: Config) -> DeadLetterFile:
    return DeadLetterFile(settings.dead_letter.path, max_bytes=settings.dead_letter.max_bytes)
