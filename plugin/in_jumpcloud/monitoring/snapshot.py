"""The state of the plugin at one moment, as plain values: the source of metrics, health and the status page.

Text in it is as people see it: without secrets and control characters.
"""

from __future__ import annotations

import copy
import os
import platform

import msgspec

from in_jumpcloud import __version__
from in_jumpcloud.app import App
from in_jumpcloud.backfill import Backfill
from in_jumpcloud.collector import Collector
from in_jumpcloud.counters import Counters, LatencyHistogram
from in_jumpcloud.errors import RequestRejected, StateUnavailable
from in_jumpcloud.forward.failover import ReceiverStatistics
from in_jumpcloud.insights.window import Window
from in_jumpcloud.load import Load
from in_jumpcloud.monitoring.group_status import GroupStatus, take_group
from in_jumpcloud.monitoring.survey import NOTHING, Limits, Survey, take_survey
from in_jumpcloud.progress import Progress
from in_jumpcloud.state import opening
from in_jumpcloud.state.jobs import job_name
from in_jumpcloud.state.store import StateStore
from in_jumpcloud.text import shown, shown_in_one
from in_jumpcloud.troubles import Trouble


class StreamStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One stream. Durations are in seconds.

    `lag` is how far before now the stream has delivered everything: it falls with each page. `error` is the last error
    until the stream recovers, `refused` whether JumpCloud refused the request. `backfilling`: the stream has not caught
    up since the process started.
    `since_progress` is the time since the last commit. `silent` is the time since the last activity while a worker runs
    the stream, `overdue` the time since it became due while no worker does; None otherwise. `unacknowledged_age` is the
    age of the oldest fetched event that is not acknowledged, `unacknowledged_wait` the time since it was fetched; None
    if there is no such event. `late_error` is why late events cannot be looked for, since `late_error_for` seconds.
    `compared_lag` is how far the comparisons are behind the polls, in the time of events. `error_for` and `error_kind`
    are since when `error` is there and its class, `has_advice` whether its text says what to do. `state_error` is why
    the state cannot be read or written for this stream. `held_up` is why the delivery under way is tried again, and
    `awaits_ack` whether it waits for a receiver at this moment. `progress` is that of a stream far behind now.
    """

    name: str
    watermark_ms: int
    reached_ms: int
    window: Window | None
    lag: float
    counters: Counters
    error: str | None = None
    error_for: float = 0.0
    error_kind: str = ""
    has_advice: bool = False
    refused: bool = False
    backfilling: bool = False
    since_progress: float = 0.0
    silent: float | None = None
    overdue: float | None = None
    unacknowledged_age: float | None = None
    unacknowledged_wait: float | None = None
    state_error: str | None = None
    held_up: str | None = None
    awaits_ack: bool = False
    late_error: str | None = None
    late_error_for: float = 0.0
    compared_lag: float = 0.0
    progress: Progress | None = None


class BackfillStatus(msgspec.Struct, frozen=True):
    """One stream of a backfill that is open. `error` is why it cannot go on, for `error_for` seconds.

    `silent` is the time since the last activity while a worker runs it.
    """

    number: int
    stream: str
    progress: Progress
    error: str | None = None
    error_for: float = 0.0
    error_kind: str = ""
    silent: float | None = None

    @property
    def name(self) -> str:
        """What the log calls it."""
        return job_name(self.number, self.stream)


class ReceiverStatus(msgspec.Struct, frozen=True):
    """One receiver; `up` is whether the last attempt succeeded, None before the first.

    `error` is why it did not, of class `error_kind`, and `error_for` since how many seconds there are errors.
    """

    name: str
    up: bool | None
    latencies: LatencyHistogram
    error: str | None = None
    error_for: float = 0.0
    error_kind: str = ""


class DatabaseStatus(msgspec.Struct, frozen=True):
    """A GeoIP database, named by its setting; `built` is in epoch seconds."""

    setting: str
    type: str
    built: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The whole plugin. `streams` are those that are shown, `survey` is of all of them.

    `uptime` is in seconds; `max_lag` and `max_silence` are the limits of health, in seconds. `clock_skew` is how far
    this machine's clock is ahead of JumpCloud's, in seconds; None if that is not known. `organizations` is how many the
    last list has, None if they are in the configuration or were not listed yet. `group` is None if the process has the
    state for itself.
    """

    now_ms: int
    uptime: float
    streams: tuple[StreamStatus, ...]
    survey: Survey = NOTHING
    receivers: tuple[ReceiverStatus, ...]
    backfills: tuple[BackfillStatus, ...] = ()
    max_lag: float
    max_silence: float
    workers_alive: bool = True
    databases: tuple[DatabaseStatus, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    clock_skew: float | None = None
    organizations: int | None = None
    group: GroupStatus | None = None
    load: Load | None = None
    requests: dict[str, int] = {}
    request_latencies: LatencyHistogram = msgspec.field(default_factory=LatencyHistogram)
    unknown_types: dict[str, int] = {}
    geo_hits: int = 0
    geo_misses: int = 0
    state_path: str = ""
    state_bytes: int = 0
    state_free_bytes: int | None = None
    dead_letters: int = 0
    dead_letter_bytes: int = 0
    version: str = __version__
    python: str = platform.python_version()
    pid: int = msgspec.field(default_factory=os.getpid)


def take_snapshot(plugin: App, *, now_ms: int, began: float) -> Snapshot:
    """The state of `plugin` now; `began` is its start on the monotonic clock. Never blocks a worker for long."""
    resources, collectors, now = plugin.resources, plugin.collectors, plugin.runtime.monotonic()
    settings, geo, api = resources.settings, resources.geo.statistics(), resources.api.statistics()
    max_lag = settings.http.max_lag + settings.jumpcloud.lag + settings.jumpcloud.longest_interval
    # It is the same for all: they share the API client and the receivers.
    max_silence = collectors[0].max_silence_seconds if collectors else 0.0
    survey, shown_streams = take_survey(collectors, Limits(max_lag, max_silence, now_ms, now))
    return Snapshot(
        now_ms=now_ms,
        uptime=now - began,
        streams=tuple(_stream(each, now_ms, now) for each in shown_streams),
        survey=survey,
        backfills=tuple(_backfill(each, now) for each in plugin.backfills),
        receivers=tuple(_receiver(each, now) for each in resources.receivers.statistics()),
        max_lag=max_lag,
        max_silence=max_silence,
        workers_alive=plugin.alive,
        databases=tuple(DatabaseStatus(each.setting, shown(each.type), each.built) for each in geo.databases),
        troubles=tuple(_shown_trouble(each) for each in resources.troubles.current()),
        clock_skew=resources.clock.skew_seconds,
        organizations=plugin.discovery.count if plugin.discovery else None,
        group=take_group(resources.state.group) if resources.state.group else None,
        load=plugin.load(),
        requests=api.codes,
        request_latencies=api.latencies,
        unknown_types={shown(name): count for name, count in resources.mapper.unknown_types.items()},
        geo_hits=geo.hits,
        geo_misses=geo.misses,
        state_path=shown(opening.where(settings.state)),
        state_bytes=resources.state.size,
        state_free_bytes=_state_free_bytes(resources.state),
        dead_letters=resources.state.dead_letters.count,
        dead_letter_bytes=resources.state.dead_letters.bytes,
    )


def _shown_trouble(trouble: Trouble) -> Trouble:
    return trouble._replace(what=shown_in_one(trouble.what), advice=shown_in_one(trouble.advice))


def _receiver(receiver: ReceiverStatistics, now: float) -> ReceiverStatus:
    name, up, latencies, error, since = receiver
    if error is None:
        return ReceiverStatus(shown(name), up, latencies)
    return ReceiverStatus(shown(name), up, latencies, shown_in_one(error), max(0.0, now - since), type(error).__name__)


def _backfill(backfill: Backfill, now: float) -> BackfillStatus:
    error, liveness = backfill.error, backfill.counters.liveness
    return BackfillStatus(
        backfill.row.number,
        shown(backfill.stream.name),
        backfill.progress,
        error=shown_in_one(error) if error else None,
        error_for=max(0.0, now - backfill.poller.error_since) if error else 0.0,
        error_kind=type(error).__name__ if error else "",
        silent=max(0.0, now - liveness.touched_at) if liveness.due_at is None else None,
    )


def _stream(collector: Collector, now_ms: int, now: float) -> StreamStatus:
    position, counters, late = collector.position, copy.copy(collector.counters), collector.reconciler
    liveness, in_flight = counters.liveness, counters.in_flight
    error, error_since = collector.error, collector.poller.error_since
    held_up, held_up_since = counters.held_up or (None, 0.0)
    if isinstance(held_up, StateUnavailable):  # a receiver has its own error
        error, error_since = held_up, held_up_since
    state_error = next((each for each in (error, late.error) if isinstance(each, StateUnavailable)), None)
    due_at, now_ns = liveness.due_at, now_ms * 1_000_000
    return StreamStatus(
        name=shown(collector.stream.name),
        watermark_ms=position.watermark_ms,
        reached_ms=position.reached_ms,
        window=position.window,
        lag=max(0, now_ms - position.reached_ms) / 1000,
        counters=counters,
        error=shown_in_one(error) if error else None,
        error_for=max(0.0, now - error_since) if error else 0.0,
        error_kind=type(error).__name__ if error else "",
        has_advice=bool(error and error.advice),
        refused=isinstance(error, RequestRejected),
        backfilling=not liveness.caught_up_once,
        since_progress=max(0.0, now - liveness.progress_at),
        silent=max(0.0, now - liveness.touched_at) if due_at is None else None,
        overdue=now - max(due_at, liveness.touched_at) if due_at is not None and now > due_at else None,
        unacknowledged_age=max(0, now_ns - in_flight[0]) / 1e9 if in_flight else None,
        unacknowledged_wait=max(0, now_ns - in_flight[1]) / 1e9 if in_flight else None,
        state_error=shown_in_one(state_error) if state_error else None,
        held_up=shown_in_one(held_up) if held_up else None,
        awaits_ack=counters.awaits_ack,
        late_error=shown_in_one(late.error) if late.error else None,
        late_error_for=now - late.error_since if late.error else 0.0,
        compared_lag=late.lag_ms(position) / 1000,
        progress=collector.catch_up.progress,
    )


def _state_free_bytes(state: StateStore) -> int | None:
    try:
        return state.space().free_bytes
    except StateUnavailable:
        return None
