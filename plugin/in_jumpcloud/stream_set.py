"""Which streams and backfills run in this process: what the settings, the lists and the group say."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, suppress
from typing import NamedTuple

from in_jumpcloud.backfill import Backfill, BackfillWatch
from in_jumpcloud.backoff import MAX_DELAY
from in_jumpcloud.collector import Collector, Stream, first_position
from in_jumpcloud.config.schema import Config
from in_jumpcloud.delivery_lock import DeliveryLock
from in_jumpcloud.discovery import Discovery, discovery_settings, list_of
from in_jumpcloud.errors import Fatal, Fenced, InJumpCloudError, StateCorrupt, Stopped
from in_jumpcloud.insights.pages_ahead import AheadLimit
from in_jumpcloud.insights.window import Position
from in_jumpcloud.member import MemberHost, key_digest, settings_digest
from in_jumpcloud.resources import Resources, same_stream_settings
from in_jumpcloud.runtime import Runtime
from in_jumpcloud.scheduler import Scheduler, Unit
from in_jumpcloud.state.group import Group
from in_jumpcloud.state.jobs import JobRow
from in_jumpcloud.streams import (
    known_organizations,
    organizations_of,
    override_of,
    settings_of_stream,
    stream_named,
    streams,
)

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
"""How soon streams that could not begin are tried again."""
_NEVER_SECONDS = 3600.0
_STORED, _READ = "stored", "read"
"""What may fail with the names of organizations."""


class Replaced(NamedTuple):
    """What new settings have replaced: `resources` can be closed once no step of `leaving` runs."""

    resources: ExitStack
    leaving: list[Unit]
    kept: int
    restarted: int


class StreamSet:
    """The collectors, the open backfills and the discovery. Methods are safe in any thread, where not said."""

    def __init__(
        self,
        resources: Resources,
        scheduler: Scheduler,
        *,
        wake: Callable[[], None],
        corrupt: Callable[[StateCorrupt], None],
        only_backfills: bool,
        give_up_after: float | None,
        runtime: Runtime,
    ) -> None:
        """With `only_backfills` no stream is polled. `give_up_after`: as in Collector.

        `wake` has the main thread call `follow_group` and start more workers. `corrupt`: the state cannot be used.
        """
        self.discovery: Discovery | None = None
        """What lists the organizations; None where they are in the configuration."""
        self.resumed: set[str] = set()
        """The streams that the last start or reload added and that had a position."""
        self.begin_error: InJumpCloudError | None = None
        """Why the group does not know all streams."""
        self._resources = resources
        self._scheduler = scheduler
        self._wake = wake
        self._only_backfills = only_backfills
        self._give_up_after = give_up_after
        self._runtime = runtime
        self._ahead_limit = AheadLimit()
        self._changing = runtime.lock()  # held while streams and backfills are added and removed
        self._collectors: dict[str, Collector] = {}
        self._backfills: dict[int, Backfill] = {}  # by unit
        self._delivery_locks: dict[str, DeliveryLock] = {}  # by stream
        self._organizations: list[str] | None = None  # those that the discovery found
        self._group = resources.state.group
        self._begun: set[str] = set()  # the streams that have a position
        self._wanted: set[str] = set()  # those that this process has named to the group
        self._lists = True  # whether it is to list the organizations
        self._names_at = math.inf  # when the names that a member has listed are read again
        self._begin_at = 0.0  # when streams that could not begin are tried again
        self._tokens: dict[str, int | None] = {}  # by stream, with which its collector was made; of a group
        self.watch = BackfillWatch(resources.state, self._update_backfills)
        scheduler.add([self.watch], is_background=True)
        if self._group:
            self._host = MemberHost(
                resources,
                collectors=lambda: self.collectors,
                running=self._streams_running,
                changed=wake,
                corrupt=corrupt,
                runtime=runtime,
            )
            self._introduce(self._group)
            scheduler.add([self._host], is_background=True)
        self._discover()
        self._add_streams()

    def _introduce(self, group: Group) -> None:
        """Tell the group of the settings that are in use."""
        settings = self._resources.settings
        group.follow(self._host, settings=settings_digest(settings), key=key_digest(settings))

    @property
    def collectors(self) -> list[Collector]:
        """The collector of each stream."""
        return list(self._collectors.values())

    @property
    def backfills(self) -> list[Backfill]:
        """The streams of open backfills."""
        return [each for each in list(self._backfills.values()) if not each.ended]

    def apply(self, settings: Config) -> Replaced:
        """Apply new settings. Streams that they do not change are not interrupted.

        Raises:
            ConfigError: they cannot be applied. The old ones stay.
        """
        with self._changing:
            old = self._resources.settings
            replaced = self._resources.apply(settings)
            if discovery_settings(old) != discovery_settings(settings):
                self._discover()
            is_same, before, after = same_stream_settings(old, settings), old.jumpcloud, settings.jumpcloud
            leaving = self._keep(
                {name for name in self._names() if is_same and override_of(before, name) == override_of(after, name)}
            )
            kept = len(self._collectors)
            if self._group:
                self._introduce(self._group)
            self._add_streams()
            return Replaced(replaced, leaving, kept, len(self._collectors) - kept)

    def follow_group(self) -> float:
        """Run the streams that this member has now, and no others. Returns the seconds until it is due again."""
        group = self._group
        if group is None:
            return _NEVER_SECONDS
        self._resources.api.share_limit(group.share)
        if self._only_backfills:
            return _NEVER_SECONDS
        with self._changing:
            if self._is_listed_once and self._lists != group.lists:
                self._discover()
            owned = group.owned
            here = {name for name, token in owned.items() if self._tokens.get(name) == token}
            is_due = self.begin_error is not None and self._runtime.monotonic() >= self._begin_at
            if here != self._collectors.keys() or here != owned.keys() or is_due:
                self._keep(here)
                self._add_streams()
            elif self._runtime.monotonic() >= self._names_at:
                self._names_at = self._runtime.monotonic() + self._resources.settings.jumpcloud.discover.every
                self._read_names(owned)
        due = min(self._names_at, self._begin_at if self.begin_error else math.inf)
        return min(_NEVER_SECONDS, max(0.0, due - self._runtime.monotonic()))

    def fenced(self, stream: str) -> None:
        """Another process has taken over this stream."""
        self._delivery_lock(stream).drop()
        with self._changing:  # it may come back, with another token
            self._tokens.pop(stream, None)

    def has_left(self, backfill: Backfill) -> None:
        """A backfill that was removed has ended its last step: what it leaves parked is sent again by its stream."""
        if stream := self._collectors.get(backfill.stream.name):
            stream.look_for_parked()

    def take_no_more(self) -> None:
        """The process is about to end."""
        if self._group:
            self._group.take_no_more()

    def write_owed(self) -> None:
        """Write what could not be written until now, if it can be. Nothing runs any more."""
        stop = self._runtime.event()
        stop.set()  # a delivery that did not end in time has the lock
        for stream, lock in self._delivery_locks.items():
            if lock.owes:
                try:
                    lock.write_owed(stop)
                except Fenced as error:
                    log.info("%s", error)
                except InJumpCloudError as error:
                    text = "%s: %s; what was acknowledged last is sent again at the next start"
                    log.error(text, stream, error)  # noqa: TRY400 - no traceback

    def _streams_running(self) -> set[str]:
        """The streams of which something runs, or of which a commit is still to be written."""
        at_once = self._runtime.event()
        at_once.set()
        running = {unit.stream.name for unit in self._scheduler.running() if isinstance(unit, Collector | Backfill)}
        running |= {each.stream.name for each in self.collectors} | {each.stream.name for each in self.backfills}
        owing = [(name, lock) for name, lock in list(self._delivery_locks.items()) if lock.owes and name not in running]
        for name, lock in owing:
            with suppress(InJumpCloudError):
                lock.write_owed(at_once)
            if lock.owes:
                running.add(name)
        return running

    def _names(self) -> set[str]:
        """The streams that are to run here."""
        return {stream.name for stream in self._mine()}

    def _mine(self) -> list[Stream]:
        """The streams that are to run here: all, or those that this member has."""
        if self._group is None:
            return streams(self._resources.settings, self._organizations)
        return [stream_named(name) for name in self._group.owned]  # some may be in the lists of other members only

    def _keep(self, names: Collection[str]) -> list[Unit]:
        """Remove the streams but these, and their backfills: those of streams that come back are found again."""
        leaving: list[Unit] = [each for name, each in self._collectors.items() if name not in names]
        backfills = [unit for unit, each in self._backfills.items() if each.stream.name not in names]
        leaving += [self._backfills.pop(unit) for unit in backfills]
        self._scheduler.remove(leaving)
        self._collectors = {name: each for name, each in self._collectors.items() if name in names}
        return leaving

    def _discover(self) -> None:
        """Begin to list the organizations, if they are not in the configuration. What is polled stays until then."""
        settings, state, group = self._resources.settings.jumpcloud, self._resources.state, self._group
        if self.discovery:
            self._scheduler.remove([self.discovery])
            self._resources.troubles.end(self.discovery.name)  # the next one finds out
        self.discovery = self._organizations = None
        # Another one has listed before: its member has ended, or is not yet gone.
        is_next = group is not None and (not self._lists or len(group.view.members) > 1)
        self._lists = group is None or not self._is_listed_once or group.lists
        self._names_at = 0.0 if group and self._is_listed_once else math.inf
        if not settings.is_discovered or self._only_backfills:
            self._resources.organizations.clear()
            for what in (_STORED, _READ):
                self._resources.troubles.end(_trouble(what))
            return
        if not self._lists:
            self._organizations = []
            return
        self._organizations = organizations_of(self._wanted or self._collectors)
        self.discovery = Discovery(
            settings,
            list_of(settings, self._list_organizations),
            known=lambda: known_organizations(state),
            name=self._name_organizations,
            apply=self._update_organizations,
            polled=self._organizations,
            polled_by_others=lambda: organizations_of(group.wanted()) if group and is_next else (),
            troubles=self._resources.troubles,
            runtime=self._runtime,
        )
        self._scheduler.add([self.discovery])

    def _name_organizations(self, names: Mapping[str, str]) -> None:
        """The records have these names; those of other members and of later runs too."""
        self._resources.organizations.update(names)
        self._resources.troubles.end(_trouble(_READ))
        if self._is_listed_once:
            self._try_names(_STORED, lambda: self._resources.state.name_organizations(names))

    def _read_names(self, streams: Iterable[str]) -> None:
        """Know the names of their organizations that were listed, which may have been by another member."""
        known, state, wanted = self._resources.organizations, self._resources.state, set(organizations_of(streams))
        if self._group is None:
            wanted -= known.keys()  # listed here
        if wanted and self._is_listed_once:
            self._try_names(_READ, lambda: known.update(state.organization_names(wanted)))

    def _try_names(self, what: str, call: Callable[[], None]) -> None:
        """If it fails, records are without some names. That is said once, and ends nothing."""
        try:
            call()
            self._resources.troubles.end(_trouble(what))
        except Exception as error:
            if not isinstance(error, InJumpCloudError):
                log.exception("unexpected error; continuing")
            text = f"the names of the organizations cannot be {what}"
            self._resources.troubles.begin(_trouble(what), text, str(error))
            self._names_at = min(self._names_at, self._runtime.monotonic() + MAX_DELAY)

    @property
    def _is_listed_once(self) -> bool:
        """Whether one member lists the organizations for all. A file each reads by itself: they may differ."""
        return self._resources.settings.jumpcloud.organizations == "all"

    def _list_organizations(self, provider: str | None, stop: threading.Event) -> dict[str, str]:
        return self._resources.api.organizations(provider, stop)  # a reload may replace the client

    def _update_organizations(self, organizations: list[str], stop: threading.Event) -> None:
        """Have these organizations polled, and no others. A worker calls it.

        Raises:
            Stopped: `stop` was set.
        """
        with self._changing:
            if stop.is_set():  # by a reload
                raise Stopped
            self._organizations = organizations
            self._wanted = set()  # said again with each list: another member may have said otherwise, and be gone
            self._keep(self._names())
            self._add_streams()
        self.watch.step(stop)  # they may have open backfills
        self._wake()

    def _delivery_lock(self, stream: str) -> DeliveryLock:
        return self._delivery_locks.setdefault(stream, DeliveryLock(self._runtime))

    def _update_backfills(self, rows: list[JobRow]) -> None:
        """Start the open backfills that do not run, and stop those that are no longer open."""
        with self._changing:
            over = [self._backfills.pop(unit) for unit in self._backfills.keys() - {row.unit for row in rows}]
            self._scheduler.remove(over)
            for backfill in over:
                self.has_left(backfill)
            new = self._new_backfills(rows) if rows else []
            self._backfills |= {each.row.unit: each for each in new}
            self._read_names(each.stream.name for each in new)
            self._scheduler.add(new)
        if over or new:
            self._wake()

    def _new_backfills(self, rows: Iterable[JobRow]) -> list[Backfill]:
        resources, organizations = self._resources, self._organizations
        if self._only_backfills and resources.settings.jumpcloud.is_discovered:
            organizations = organizations_of(row.stream for row in rows)
        mine = self._mine() if self._group else streams(resources.settings, organizations)
        known = {stream.name: stream for stream in mine}
        new: list[Backfill] = []
        for row in rows:
            if row.unit in self._backfills or (self._group and row.stream not in known):
                continue  # it runs, or another member delivers it
            if row.stream not in known:
                self._note_unknown(row)
                continue
            backfill = Backfill(
                *(row, known[row.stream], resources.api, resources.for_pipeline),
                settings_of_stream(resources.settings, known[row.stream]),
                clock=resources.clock,
                ahead_limit=self._ahead_limit,
                delivery_lock=self._delivery_lock(row.stream),
                give_up_after=self._give_up_after,
                runtime=self._runtime,
            )
            new.append(backfill)
        return new

    def _note_unknown(self, row: JobRow) -> None:
        """Write that a backfill is of no stream that there is."""
        is_listed = self.discovery is None or self.discovery.count is not None
        text = f"stream {row.stream} is not in the {'list of organizations' if self.discovery else 'configuration'}"
        if is_listed and row.error != text:
            self._resources.state.jobs.record_error(row.unit, text, self._runtime.now_ms())

    def _add_streams(self) -> None:
        """Create a collector for each stream that has none."""
        if self._only_backfills:
            return
        self._begin_streams()
        new = dict[str, Collector]()
        owned = self._group.owned if self._group else {}
        missing = [stream for stream in self._mine() if stream.name not in self._collectors]
        self._read_names(stream.name for stream in missing)
        for stream in missing:
            self._tokens[stream.name] = owned.get(stream.name)
            new[stream.name] = Collector(
                stream,
                self._resources.api,
                self._resources.for_pipeline,
                settings_of_stream(self._resources.settings, stream),
                clock=self._resources.clock,
                ahead_limit=self._ahead_limit,
                delivery_lock=self._delivery_lock(stream.name),
                give_up_after=self._give_up_after,
                runtime=self._runtime,
            )
        self._collectors |= new
        self._scheduler.add(new.values())

    def _begin_streams(self) -> None:
        """Store the first position of each stream that has none, in one transaction, also of those of other members.

        The group learns which streams this process names.
        """
        positions: dict[tuple[str, ...], dict[str, Position]] = {}  # by the services that are fetched from there on
        found = streams(self._resources.settings, self._organizations) if self._lists else []
        now_ms = self._resources.clock.now_ms()
        self.resumed = {stream.name for stream in found if stream.name in self._begun}
        for stream in found:
            if stream.name not in self._begun:
                settings = settings_of_stream(self._resources.settings, stream)
                positions.setdefault(settings.jumpcloud.services, {})[stream.name] = first_position(settings, now_ms)
        names = {stream.name for stream in found}
        try:
            for services, those in positions.items():
                self.resumed |= self._resources.state.begin(those, services)
                self._begun |= those.keys()
            is_known = self.discovery is None or self.discovery.count is not None  # else they were not listed yet
            if self._group and is_known and names != self._wanted:
                self._group.want(names)
                self._wanted = names
            self.begin_error = None
        except InJumpCloudError as error:
            self._cannot_begin(error, _RETRY_SECONDS)
        except Exception:
            log.exception("unexpected error at the start of streams; continuing")
            self._cannot_begin(Fatal("unexpected error at the start of streams"), MAX_DELAY)

    def _cannot_begin(self, error: InJumpCloudError, seconds: float) -> None:
        """Each stream finds that out too, but not those that a group does not know."""
        if self._group:
            self.begin_error, self._begin_at = error.kept(), self._runtime.monotonic() + seconds


def _trouble(what: str) -> str:
    return f"organization names {what}"
