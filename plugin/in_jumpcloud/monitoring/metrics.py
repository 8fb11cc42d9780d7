"""The metrics, in Prometheus' text format or OpenMetrics: read from a snapshot when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from in_jumpcloud.counters import BOUNDS, LatencyHistogram
from in_jumpcloud.monitoring.snapshot import Snapshot, StreamStatus

_EVENTS = (
    ("received", "received", "Events on the pages that were read"),
    ("duplicate", "duplicates", "Events that were known from before, and not sent again"),
    ("late", "late", "Events that appeared only after their time had been asked for"),
    ("foreign", "foreign", "Events of another organization than the one asked for; delivered all the same"),
    ("mapped", "mapped", "Events that became records"),
    ("pipeline_error", "with_problems", "Events that could not be mapped as a whole; delivered all the same"),
    ("sent", "sent", "Records in chunks that were sent, each sending counted"),
    ("acknowledged", "acknowledged", "Records whose chunk was acknowledged and committed"),
    ("dead_lettered", "dead_lettered", "Events that the receiver refuses for good, kept on disk"),
)
_OTHERS = (
    ("api_pages", "pages", "Pages that were read"),
    ("api_page_bytes", "page_bytes", "Bytes of those pages, decompressed"),
    ("forward_bytes", "sent_bytes", "Bytes of messages that were sent, each sending counted"),
)


class Metrics:
    """The registry, which holds nothing of its own but what the kernel says of this process."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_SnapshotCollector(snapshot))
        ProcessCollector(registry=self._registry)

    def encode(self, accept: str) -> tuple[bytes, str]:
        """All of them in the format that `accept`, a request's header, prefers; and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type


class _SnapshotCollector(Collector):
    """Reads the rooms' own counters: there is no second set of them."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry need not collect once just to learn the names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Every family."""
        seen = self._snapshot()
        yield InfoMetricFamily(
            "in_jumpcloud_build", "What runs", value={"version": seen.version, "python": seen.python}
        )
        for name, field, help_ in _EVENTS:
            yield _of_streams(f"{name}_events", help_, seen, field)
        for name, field, help_ in _OTHERS:
            yield _of_streams(name, help_, seen, field)
        yield from _streams(seen)
        yield from _api(seen)
        yield from _receivers(seen)
        yield from _files(seen)


def _of_streams(name: str, help_: str, seen: Snapshot, field: str) -> Metric:
    family = CounterMetricFamily(f"in_jumpcloud_{name}", help_, labels=["stream"])
    for each in seen.streams:
        family.add_metric([each.name], getattr(each.counters, field))
    return family


def _streams(seen: Snapshot) -> Iterable[Metric]:
    gauges: list[tuple[str, str, Callable[[StreamStatus], float | None]]] = [
        ("stream_lag_seconds", "Now less the watermark", lambda one: one.lag),
        ("unacknowledged_age_seconds", "Age of the oldest event that is fetched and not acknowledged; 0: there is none",
         lambda one: one.oldest),
        ("unacknowledged_wait_seconds", "How long that event has been here", lambda one: one.waiting),
        ("stream_refused", "1: JumpCloud refuses what is asked", lambda one: one.refused),
        ("stream_failing", "1: an error keeps the stream from going on", lambda one: bool(one.error)),
        ("stream_backfilling", "1: it has not come up to now since the process began", lambda one: one.backfilling),
    ]  # fmt: skip
    for name, help_, value in gauges:
        family = GaugeMetricFamily(f"in_jumpcloud_{name}", help_, labels=["stream"])
        for each in seen.streams:
            family.add_metric([each.name], float(value(each) or 0))
        yield family
    family_of_types = CounterMetricFamily(
        "in_jumpcloud_unknown_type_events", "Events of types that the catalogue does not know", labels=["event_type"]
    )
    for name, count in seen.unknown_types.items():
        family_of_types.add_metric([name], count)
    yield family_of_types


def _api(seen: Snapshot) -> Iterable[Metric]:
    requests = CounterMetricFamily(
        "in_jumpcloud_api_requests", "Requests to JumpCloud by status; none: no whole answer came", labels=["code"]
    )
    for code, count in seen.requests.items():
        requests.add_metric([code], count)
    yield requests
    latencies = HistogramMetricFamily(
        "in_jumpcloud_api_request_duration_seconds", "From a request to the end of its answer", labels=[]
    )
    _add(latencies, [], seen.request_latencies)
    yield latencies


def _receivers(seen: Snapshot) -> Iterable[Metric]:
    up = GaugeMetricFamily(
        "in_jumpcloud_receiver_up", "1: the last try went well; absent before the first", labels=["receiver"]
    )
    acks = HistogramMetricFamily(
        "in_jumpcloud_ack_duration_seconds", "From the sending of a chunk to its ack", labels=["receiver"]
    )
    for each in seen.receivers:
        if each.up is not None:
            up.add_metric([each.name], each.up)
        _add(acks, [each.name], each.latencies)
    yield up
    yield acks


def _files(seen: Snapshot) -> Iterable[Metric]:
    for name, count in (("hits", seen.geo_hits), ("misses", seen.geo_misses)):
        yield CounterMetricFamily(f"in_jumpcloud_geo_cache_{name}", f"Addresses: {name} of the cache", value=count)
    age = GaugeMetricFamily(
        "in_jumpcloud_geo_database_age_seconds", "Time since the database was built", labels=["database"]
    )
    for each in seen.databases:
        age.add_metric([each.setting.removeprefix("geoip.")], seen.now_ms / 1000 - each.built)
    yield age
    yield GaugeMetricFamily("in_jumpcloud_state_file_bytes", "Size of the state, on disk", value=seen.state_bytes)
    yield GaugeMetricFamily(
        "in_jumpcloud_dead_letter_file_bytes", "Size of the file of dead letters", value=seen.dead_letter_bytes
    )


def _add(family: HistogramMetricFamily, labels: list[str], latencies: LatencyHistogram) -> None:
    counts, seconds = latencies.read()
    bounds = [*map(floatToGoString, BOUNDS), "+Inf"]
    family.add_metric(labels, buckets=list(zip(bounds, accumulate(counts), strict=True)), sum_value=seconds)
