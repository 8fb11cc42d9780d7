"""How the plugin is doing at one moment: plain values, from which metrics, health and the status page are made."""

from __future__ import annotations

import copy
import os
import platform
import time
from pathlib import Path

import msgspec

from in_jumpcloud import __version__
from in_jumpcloud.app import App
from in_jumpcloud.collector import Collector
from in_jumpcloud.config.schema import Config
from in_jumpcloud.counters import Counters, LatencyHistogram
from in_jumpcloud.errors import InJumpCloudError, RequestRejected
from in_jumpcloud.insights.transport import MAX_RETRY_AFTER
from in_jumpcloud.insights.window import Window
from in_jumpcloud.state.dead_letters import DeadLetterFile

_HANDSHAKES = 60.0
"""Seconds for TLS, HELO and PONG, and to spare."""
_PAUSES = 120.0
"""Seconds of the longest pauses between two tries."""


class StreamStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One stream. Ages are in seconds; `lag` is how far its watermark lies behind now.

    `error` keeps it from going on, None: nothing does; `refused` tells that JumpCloud said no. `backfilling`: it has
    not come up to now since the process began. `advanced` is how long ago it last got further. `silent` is how long
    the worker that is at it has shown no sign of life, `overdue` for how long none has taken it up; None: not so.
    `oldest` and `waiting` are the age of the oldest event that is not yet acknowledged, and for how long it is here.
    """

    name: str
    watermark_ms: int
    window: Window | None
    lag: float
    counters: Counters
    error: str | None = None
    refused: bool = False
    backfilling: bool = False
    advanced: float = 0.0
    silent: float | None = None
    overdue: float | None = None
    oldest: float | None = None
    waiting: float | None = None


class ReceiverStatus(msgspec.Struct, frozen=True):
    """One receiver; `up` is whether the last try went well, None before the first."""

    name: str
    up: bool | None
    latencies: LatencyHistogram


class DatabaseStatus(msgspec.Struct, frozen=True):
    """A database for look-ups, named by its setting; `built` is in epoch seconds."""

    setting: str
    type: str
    built: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The whole. `uptime` is in seconds; `allowed_lag` and `allowed_silence` are the limits of health, in seconds."""

    now_ms: int
    uptime: float
    streams: tuple[StreamStatus, ...]
    receivers: tuple[ReceiverStatus, ...]
    allowed_lag: float
    allowed_silence: float
    workers_alive: bool = True
    databases: tuple[DatabaseStatus, ...] = ()
    requests: dict[str, int] = {}
    request_latencies: LatencyHistogram = msgspec.field(default_factory=LatencyHistogram)
    unknown_types: dict[str, int] = {}
    geo_hits: int = 0
    geo_misses: int = 0
    state_path: str = ""
    state_bytes: int = 0
    dead_letter_bytes: int = 0
    version: str = __version__
    python: str = platform.python_version()
    pid: int = msgspec.field(default_factory=os.getpid)


def take_snapshot(plugin: App, *, now_ms: int, began: float) -> Snapshot:
    """How `plugin` is doing; `began` is when, on the monotonic clock. Locks nothing that the workers wait for."""
    resources, now = plugin.resources, time.monotonic()
    settings, geo = resources.settings, resources.geo.statistics()
    return Snapshot(
        now_ms=now_ms,
        uptime=now - began,
        streams=tuple(_stream(each, now_ms, now) for each in plugin.collectors),
        receivers=tuple(
            ReceiverStatus(str(each.server), each.up, each.latencies) for each in resources.servers.senders
        ),
        allowed_lag=settings.http.max_lag + settings.jumpcloud.lag + settings.jumpcloud.interval,
        allowed_silence=max_silence(settings),
        workers_alive=plugin.alive,
        databases=tuple(DatabaseStatus(*each) for each in geo.databases),
        requests=resources.api.requests.codes(),
        request_latencies=resources.api.requests.latencies,
        unknown_types=dict(resources.mapper.unknown_types),
        geo_hits=geo.hits,
        geo_misses=geo.misses,
        state_path=str(settings.state.path.resolve()),
        state_bytes=_bytes(settings.state.path),
        dead_letter_bytes=_dead_letter_bytes(resources.dead_letters),
    )


def max_silence(settings: Config) -> float:
    """Seconds that a sound worker may be without a sign of life: the longest request, delivery or pause, with its kin.

    A token and a page are asked for one after the other, and a receiver after the other is tried.
    """
    asking = settings.jumpcloud
    request = asking.connect_timeout + 5 * asking.read_timeout
    forward = settings.forward
    delivery = len(forward.servers) * 2 * (forward.connect_timeout + forward.ack_timeout + _HANDSHAKES)
    return 2 * (request + MAX_RETRY_AFTER) + delivery + _PAUSES


def _stream(one: Collector, now_ms: int, now: float) -> StreamStatus:
    position, liveness, in_flight, error = one.position, one.counters.liveness, one.counters.in_flight, one.error
    due_at, now_ns = liveness.due_at, now_ms * 1_000_000
    return StreamStatus(
        name=one.stream.name,
        watermark_ms=position.watermark_ms,
        window=position.window,
        lag=max(0, now_ms - position.watermark_ms) / 1000,
        counters=copy.copy(one.counters),
        error=str(error) if error else None,
        refused=isinstance(error, RequestRejected),
        backfilling=not liveness.caught_up_once,
        advanced=max(0.0, now - liveness.progress_at),
        silent=max(0.0, now - liveness.touched_at) if due_at is None else None,
        overdue=now - max(due_at, liveness.touched_at) if due_at is not None and now > due_at else None,
        oldest=max(0, now_ns - in_flight[0]) / 1e9 if in_flight else None,
        waiting=max(0, now_ns - in_flight[1]) / 1e9 if in_flight else None,
    )


def _bytes(path: Path) -> int:
    """Of the database and of what is not yet written back into it."""
    return sum(_size(file) for file in (path, path.with_name(f"{path.name}-wal")))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _dead_letter_bytes(letters: DeadLetterFile) -> int:
    try:
        return letters.size()
    except InJumpCloudError:
        return 0
