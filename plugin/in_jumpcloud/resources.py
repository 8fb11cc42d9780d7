"""Opens what all streams share, and reopens what a reload changes."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple, Protocol

import msgspec

from in_jumpcloud.config.schema import Config, JumpCloudSettings, MembersSettings, StateSettings
from in_jumpcloud.ecs import geoip
from in_jumpcloud.ecs.encoder import RecordEncoder
from in_jumpcloud.ecs.geoip_database import OLD_ADVICE, DatabaseInfo
from in_jumpcloud.ecs.geoip_search import find_database
from in_jumpcloud.ecs.mapper import Mapper, new_id
from in_jumpcloud.errors import ConfigError, Problem, StateUnavailable
from in_jumpcloud.forward import connection
from in_jumpcloud.forward.connection import Network
from in_jumpcloud.forward.failover import Failover, Receivers
from in_jumpcloud.insights.api import DirectoryInsights
from in_jumpcloud.insights.auth import create_auth
from in_jumpcloud.insights.clock import EarlierClock
from in_jumpcloud.insights.http_exchange import Exchange
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.record_sender import PipelineResources
from in_jumpcloud.runtime import SYSTEM, Runtime
from in_jumpcloud.state.opening import open_store
from in_jumpcloud.state.sqlite.database import Connect
from in_jumpcloud.state.store import StateStore
from in_jumpcloud.timestamps import DAY_MS
from in_jumpcloud.troubles import Troubles

log = logging.getLogger(__name__)

_OF_STREAMS = ("organizations", "organizations_file", "discover", "overrides", "provider_id")
_WATCH_STATE_SECONDS, _WATCH_TROUBLE_SECONDS = 60.0, 5.0
"""How often the files of the state and the space on its disk are looked at: normally, and while there is a trouble."""


class OpenState(Protocol):
    """Opens the state, as `state.opening.open_store` does."""

    def __call__(
        self,
        settings: StateSettings,
        *,
        new_agent_id: str,
        max_dead_letter_bytes: int,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float],
        connect: Connect,
        members: MembersSettings | None,
    ) -> StateStore:
        """See there."""


class Outside(NamedTuple):
    """What the process calls outside of itself. The default is the real thing; a simulation replaces it.

    `exchange` sends HTTP requests; None: over real connections. `connect` opens the database of the state. `network`
    connects to the receivers. `receivers` takes the chunks instead of those; `open_state` opens the state.
    """

    exchange: Exchange | None = None
    connect: Connect = sqlite3.connect
    network: Network = connection
    receivers: Receivers | None = None
    open_state: OpenState = open_store


class Resources:
    """The shared resources in use. The state stays open for the whole life of the process."""

    def __init__(
        self,
        settings: Config,
        *,
        runtime: Runtime = SYSTEM,
        troubles: Troubles | None = None,
        outside: Outside = Outside(),  # noqa: B008 - immutable
        is_member: bool = True,
    ) -> None:
        """Open everything. `is_member`: other processes may share the state, if it can be shared.

        Raises:
            ConfigError: a setting cannot be used, such as the state's path.
            StateCorrupt, StateUnavailable: the state cannot be used.
            Fatal: another process holds the state.
        """
        self.settings = settings
        self._runtime = runtime
        self._outside = outside
        self.clock = EarlierClock(runtime)
        """The clock by which positions move."""
        self.troubles = Troubles(runtime.now_ms) if troubles is None else troubles
        """What is waited for, or done without for now."""
        self._ephemeral_id = new_id(runtime.random)
        self._watch_state_at = 0.0
        self.organizations: dict[str, str] = {}
        """The names of organizations by their IDs, as records have them. Change it, but do not replace it."""
        with ExitStack() as on_failure:
            self.state = on_failure.enter_context(
                outside.open_state(
                    settings.state,
                    new_agent_id=new_id(runtime.random),
                    max_dead_letter_bytes=settings.dead_letter.max_bytes,
                    now_ms=runtime.now_ms,
                    monotonic=runtime.monotonic,
                    connect=outside.connect,
                    members=settings.members if is_member else None,
                )
            )
            self.state.keep(_asked_for_ms(settings))
            former = None if settings.state.url else settings.state.path.with_name("dead-letter.ndjson")
            if path := settings.dead_letter.path or former:
                self.state.import_dead_letters(path)
            self.geo = geoip.open_databases(settings, self.troubles)
            on_failure.callback(self.geo.close)
            self._set_mapper(settings)
            self.api = self._new_api(settings)
            on_failure.callback(self.api.close)
            self.receivers = self._new_receivers(settings)
            on_failure.pop_all()
        self._ages_logged: set[tuple[DatabaseInfo, bool]] = set()
        self._log_ages()
        if self.state.is_new:
            log.info("%s: new state; every stream begins at jumpcloud.start", self.state.where)

    @property
    def for_pipeline(self) -> PipelineResources[StateStore]:
        """The resources that a pipeline uses."""
        return PipelineResources(self._encoder, self.receivers, self.state)

    def apply(self, settings: Config) -> ExitStack:
        """Apply new settings: reopen what they change, all or nothing.

        Returns:
            What was replaced. Close it once no stream uses it any more.

        Raises:
            ConfigError: the settings cannot be applied; nothing has changed.
        """
        old = self.settings
        if _place(old.state) != _place(settings.state):
            name = "state.url" if old.state.url or settings.state.url else "state.path"
            raise ConfigError(Problem(name, "can only be changed by a restart"))
        if old.members != settings.members:
            raise ConfigError(Problem("members", "can only be changed by a restart"))
        if old.http.listen != settings.http.listen:
            raise ConfigError(Problem("http.listen", "can only be changed by a restart"))
        with ExitStack() as on_failure, ExitStack() as replaced:
            geo, api, receivers = self.geo, self.api, self.receivers
            if (old.geoip, old.ecs.profile) != (settings.geoip, settings.ecs.profile):
                # A database that the old settings name too may be missing, as at start.
                is_same = (old.geoip.city, old.geoip.asn) == (settings.geoip.city, settings.geoip.asn)
                geo = geoip.open_databases(settings, self.troubles if is_same else None)
                on_failure.callback(geo.close)
                if not is_same:
                    replaced.callback(self._end_geoip_troubles)
                replaced.callback(self.geo.close)
            if _api_settings(old) != _api_settings(settings):
                api = self._new_api(settings)
                on_failure.callback(api.close)
                replaced.callback(self.api.close)
            workers = old.jumpcloud.worker_count, settings.jumpcloud.worker_count
            if old.forward != settings.forward or workers[0] != workers[1]:
                receivers = self._new_receivers(settings)
                replaced.callback(self.receivers.close)
            on_failure.pop_all()
            self.settings, self.geo, self.api, self.receivers = settings, geo, api, receivers
            if (old.geoip, old.ecs) != (settings.geoip, settings.ecs):
                self._set_mapper(settings)
            self.state.dead_letters.max_bytes = settings.dead_letter.max_bytes
            self.state.keep(_asked_for_ms(settings))
            self._log_ages()
            return replaced.pop_all()

    def retry(self) -> float:
        """Try again to open what is done without for now, and look after the state.

        Returns:
            Seconds until it is due again.
        """
        until_geo = self.geo.retry_missing()
        self._log_ages()
        now = self._runtime.monotonic()
        if now >= self._watch_state_at:
            is_well = self._watch("state.files", self.state.verify)
            is_well &= self._watch("state.space", self.state.require_space)
            self._watch_state_at = now + (_WATCH_STATE_SECONDS if is_well else _WATCH_TROUBLE_SECONDS)
        return min(until_geo, self._watch_state_at - now)

    def _watch(self, name: str, check: Callable[[], None]) -> bool:
        """Whether the check succeeds; otherwise there is a trouble."""
        try:
            check()
        except StateUnavailable as error:
            self.troubles.begin(name, error.message, error.advice)
            return False
        self.troubles.end(name)
        return True

    def close(self) -> None:
        """Close everything."""
        with ExitStack() as stack:
            stack.callback(self.state.close)
            stack.callback(self.geo.close)
            stack.callback(self.api.close)
            stack.callback(self.receivers.close)

    def _log_ages(self) -> None:
        """Log once how old each database is: when it is opened, and when it has become old."""
        now = self._runtime.now_ms() / 1000
        for database in self.geo.statistics().databases:
            is_old = database.is_old(now)
            if (database, is_old) in self._ages_logged:
                continue
            self._ages_logged.add((database, is_old))
            if database.is_demo and (real := find_database(database.setting)):
                text = "%s: the demo database is in use, although there is a real one; set %s to %s"
                log.warning(text, database.setting, database.setting, real)
            if is_old:
                log.warning("%s: %s is %d days old; %s", database.setting, database, database.days_old(now), OLD_ADVICE)
            else:
                log.info("%s: %s, %d days old", database.setting, database, database.days_old(now))

    def _end_geoip_troubles(self) -> None:
        for setting in ("geoip.city", "geoip.asn"):
            self.troubles.end(setting)

    def _new_api(self, settings: Config) -> DirectoryInsights:
        group = self.state.group
        paused = group.hold if group else lambda _: None
        rate_limiter = RateLimiter(settings.jumpcloud.requests_per_second, paused=paused, runtime=self._runtime)
        if group:
            rate_limiter.share(group.share)
        exchange = self._outside.exchange
        auth = create_auth(settings.jumpcloud, rate_limiter, exchange=exchange, runtime=self._runtime)
        return DirectoryInsights(
            settings.jumpcloud, auth, rate_limiter, clock=self.clock, exchange=exchange, runtime=self._runtime
        )

    def _new_receivers(self, settings: Config) -> Receivers:
        if self._outside.receivers:
            return self._outside.receivers
        try:
            return Failover(
                settings.forward,
                connections=settings.forward.connection_count(settings.jumpcloud.worker_count),
                network=self._outside.network,
                runtime=self._runtime,
            )
        except OSError as error:  # a file was replaced or removed since the configuration was checked
            reason = getattr(error, "reason", None) or error.strerror or error
            problem = Problem("forward.tls", f"a certificate or key cannot be used: {reason}", may_pass=True)
            raise ConfigError(problem) from None

    def _set_mapper(self, settings: Config) -> None:
        ids = {"agent_id": self.state.agent_id, "ephemeral_id": self._ephemeral_id}
        self.mapper = Mapper(settings.ecs, self.geo, organizations=self.organizations, **ids)
        self._encoder = RecordEncoder(self.mapper)


def _place(settings: StateSettings) -> StateSettings:
    """Where the state is: without a password that is read from its file at each connection."""
    is_read_again = settings.password is not None and settings.password.file
    return msgspec.structs.replace(settings, password=None) if is_read_again else settings


def _asked_for_ms(settings: Config) -> int:
    """How far back the ledger is asked for events."""
    return settings.reconcile.reach.ms + DAY_MS


def same_stream_settings(old: Config, new: Config) -> bool:
    """Whether a stream of both configurations can continue unchanged: they differ only in the list of streams."""
    return _stream_settings(old) == _stream_settings(new)


def _stream_settings(settings: Config) -> Config:
    default = Config()
    unused = {name: getattr(default, name) for name in ("log", "http", "reload")}
    return msgspec.structs.replace(settings, jumpcloud=_api_settings(settings), **unused)


def _api_settings(settings: Config) -> JumpCloudSettings:
    """What all streams share: which streams there are is left out, and what is different for one of them."""
    default = JumpCloudSettings()
    unused = {name: getattr(default, name) for name in _OF_STREAMS}
    return msgspec.structs.replace(settings.jumpcloud, **unused)
