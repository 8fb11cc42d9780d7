"""The metrics, in Prometheus' text format or OpenMetrics, read from a snapshot at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from in_jumpcloud.counters import BOUNDS, LatencyHistogram
from in_jumpcloud.monitoring.group_metrics import group_metrics
from in_jumpcloud.monitoring.health import OF_GROUP, REASONS, WARNINGS, Reason, not_ready, warnings
from in_jumpcloud.monitoring.snapshot import BackfillStatus, ReceiverStatus, Snapshot, StreamStatus
from in_jumpcloud.monitoring.survey import LAG_BOUNDS, STATES, Survey

_COUNTERS = (  # metric, field of Counters, help
    ("received_events", "received", "Events received from JumpCloud"),
    ("duplicate_events", "duplicates", "Events received again and not sent again"),
    ("late_events", "late", "Events that appeared after their time had been polled"),
    ("foreign_events", "foreign", "Events of another organization than the requested one; delivered"),
    ("mapped_events", "mapped", "Events mapped to records"),
    ("pipeline_error_events", "with_problems", "Events mapped only in part; delivered"),
    ("sent_events", "sent", "Records sent, resends included"),
    ("acknowledged_events", "acknowledged", "Records acknowledged by a receiver and committed"),
    ("dead_lettered_events", "dead_lettered", "Events that became dead letters"),
    ("given_up_minutes", "given_up_minutes", "Minutes whose counts differ for good; events may be missing"),
    ("left_out_events", "left_out", "Events larger than jumpcloud.event_max_bytes, which were not collected"),
    ("unavailable_seconds", "unavailable_seconds", "Time before what the plan reaches, which was not collected"),
    ("unexpected_errors", "unexpected", "Errors that are defects of this program; the page is delivered again"),
    ("api_pages", "pages", "Pages received from JumpCloud"),
    ("api_page_bytes", "page_bytes", "Bytes of received pages, decompressed"),
    ("forward_bytes", "sent_bytes", "Bytes of sent messages, resends included"),
)
_GAUGES: tuple[tuple[str, Callable[[StreamStatus], float | None], str], ...] = (
    ("stream_lag_seconds", lambda stream: stream.lag, "Seconds the stream is behind now"),
    (
        "unacknowledged_age_seconds",
        lambda stream: stream.unacknowledged_age,
        "Age of the oldest fetched event that is not acknowledged; 0 if there is none",
    ),
    (
        "unacknowledged_wait_seconds",
        lambda stream: stream.unacknowledged_wait,
        "Seconds since that event was fetched; 0 if there is none",
    ),
    ("stream_refused", lambda stream: stream.refused, "1 if JumpCloud refuses the requests of the stream"),
    ("open_minutes", lambda stream: stream.counters.open_minutes, "Minutes whose counts differ; they are read again"),
    (
        "compared_lag_seconds",
        lambda stream: stream.compared_lag,
        "Seconds the comparisons are behind the polls",
    ),
    ("parked_events", lambda stream: stream.counters.parked, "Refused events that are sent once more"),
    ("stream_failing", lambda stream: bool(stream.error), "1 if an error stops the stream"),
    (
        "stream_backfilling",
        lambda stream: stream.backfilling,
        "1 if the stream has not caught up since the process started",
    ),
    (
        "stream_backfill_ratio",
        lambda stream: stream.progress.share if stream.progress else 1,
        "Share of its backlog that a stream has delivered since it was found to be behind; 1 if it is not",
    ),
    (
        "stream_backfill_left_seconds",
        lambda stream: stream.progress and stream.progress.seconds_left,
        "Seconds until the stream has caught up, at its present pace; 0 if that is not known",
    ),
)


_END = b"# EOF\n"
"""How a text in the format OpenMetrics ends."""


class Metrics:
    """A registry of the plugin's metrics and those of the process."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._registry = CollectorRegistry()
        self._collector = _SnapshotCollector()
        self._registry.register(self._collector)
        ProcessCollector(registry=self._registry)

    def encode(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that the Accept header prefers, and its media type."""
        encode, media_type = choose_encoder(accept)
        snapshot = self._collector.snapshot = self._snapshot()
        text = encode(self._registry)
        is_open = text.endswith(_END)
        streams = _stream_lines(snapshot.streams, "" if is_open else "_total").encode()
        return (text[: -len(_END)] + streams + _END if is_open else text + streams), media_type


def _stream_lines(streams: Sequence[StreamStatus], suffix: str) -> str:
    """The series of each stream. They are thousands of lines, for which the library takes six times as long.

    `suffix` is that of the names of counters in the comments: the two formats differ only there.
    """
    labels = [f'{{stream="{_escaped(each.name)}"}}' for each in streams]
    lines = []
    for name, field, help_ in _COUNTERS:
        lines += [f"# HELP in_jumpcloud_{name}{suffix} {help_}", f"# TYPE in_jumpcloud_{name}{suffix} counter"]
        values = (getattr(each.counters, field) for each in streams)
        lines += [
            f"in_jumpcloud_{name}_total{label} {float(value)}" for label, value in zip(labels, values, strict=True)
        ]
    for name, get, help_ in _GAUGES:
        lines += [f"# HELP in_jumpcloud_{name} {help_}", f"# TYPE in_jumpcloud_{name} gauge"]
        lines += [
            f"in_jumpcloud_{name}{label} {float(get(each) or 0)}" for label, each in zip(labels, streams, strict=True)
        ]
    return "".join(f"{line}\n" for line in lines)


def _escaped(text: str) -> str:
    """A label's value; a name of a stream is in one line."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


class _SnapshotCollector(Collector):
    snapshot: Snapshot

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not collect once to learn the names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        snapshot = self.snapshot
        build = {"version": snapshot.version, "python": snapshot.python}
        yield InfoMetricFamily("in_jumpcloud_build", "Build information", value=build)
        yield from _streams(snapshot)
        yield from _backfills(snapshot)
        yield from _api(snapshot)
        yield from _receivers(snapshot)
        yield from _health(snapshot)
        if snapshot.group:
            yield from group_metrics(snapshot.group)
        yield from _files(snapshot)


def _streams(snapshot: Snapshot) -> Iterable[Metric]:
    yield from _all_streams(snapshot.survey)
    unknown_types = CounterMetricFamily(
        "in_jumpcloud_unknown_type_events", "Events of types that are not in the catalogue", labels=["event_type"]
    )
    for name, count in snapshot.unknown_types.items():
        unknown_types.add_metric([name], count)
    yield unknown_types


def _all_streams(survey: Survey) -> Iterable[Metric]:
    """Sums and counts over all streams: with many, not each has series of its own."""
    for name, field, help_ in _COUNTERS:
        total = survey.totals.get(field, 0)
        yield CounterMetricFamily(f"in_jumpcloud_all_{name}", f"{help_}; all streams", value=total)
    states = GaugeMetricFamily("in_jumpcloud_streams", "Streams by their state", labels=["state"])
    for state in STATES:
        states.add_metric([state], survey.states.get(state, 0))
    yield states
    yield GaugeMetricFamily("in_jumpcloud_max_lag_seconds", "Seconds the last stream is behind", value=survey.max_lag)
    bounds = [*map(floatToGoString, LAG_BOUNDS), "+Inf"]
    yield GaugeHistogramMetricFamily(
        "in_jumpcloud_all_stream_lag_seconds",
        "Streams by the seconds they are behind now",
        buckets=list(zip(bounds, survey.lags, strict=True)),
        gsum_value=survey.lag_sum,
    )


def _backfills(snapshot: Snapshot) -> Iterable[Metric]:
    labels = ["backfill", "stream"]
    share = GaugeMetricFamily(
        "in_jumpcloud_backfill_ratio", "Share of an open backfill that is delivered", labels=labels
    )
    left = GaugeMetricFamily(
        "in_jumpcloud_backfill_left_seconds", "Seconds until it is done, at its present pace", labels=labels
    )
    for each in snapshot.backfills:
        values = [str(each.number), each.stream]
        share.add_metric(values, each.progress.share)
        if each.progress.seconds_left is not None:
            left.add_metric(values, each.progress.seconds_left)
    yield share
    yield left


def _api(snapshot: Snapshot) -> Iterable[Metric]:
    requests = CounterMetricFamily(
        "in_jumpcloud_api_requests", "Requests to JumpCloud by status; none: no complete response", labels=["code"]
    )
    for code, count in snapshot.requests.items():
        requests.add_metric([code], count)
    yield requests
    latencies = HistogramMetricFamily(
        "in_jumpcloud_api_request_duration_seconds", "Seconds from a request to the end of its response", labels=[]
    )
    _add(latencies, [], snapshot.request_latencies)
    yield latencies


def _receivers(snapshot: Snapshot) -> Iterable[Metric]:
    up = GaugeMetricFamily(
        "in_jumpcloud_receiver_up", "1 if the last attempt succeeded; absent before the first", labels=["receiver"]
    )
    acks = HistogramMetricFamily(
        "in_jumpcloud_ack_duration_seconds", "Seconds from sending a chunk to its ack", labels=["receiver"]
    )
    for receiver in snapshot.receivers:
        if receiver.up is not None:
            up.add_metric([receiver.name], receiver.up)
        _add(acks, [receiver.name], receiver.latencies)
    yield up
    yield acks


def _health(snapshot: Snapshot) -> Iterable[Metric]:
    reasons, attention = (
        [code for code in codes if snapshot.group or code not in OF_GROUP] for codes in (REASONS, WARNINGS)
    )
    yield _reasons("in_jumpcloud_not_ready", "1 for each reason why it is not ready", reasons, not_ready(snapshot))
    yield _reasons("in_jumpcloud_warning", "1 for each thing that needs attention", attention, warnings(snapshot))
    yield _errors(snapshot)
    is_refused = any(trouble.name == "reload" for trouble in snapshot.troubles)
    text = "1 if the last reload of the configuration succeeded, or there was none"
    yield GaugeMetricFamily("in_jumpcloud_config_last_reload_successful", text, value=not is_refused)
    if snapshot.clock_skew is not None:
        text = "Seconds this machine's clock is ahead of JumpCloud's"
        yield GaugeMetricFamily("in_jumpcloud_clock_skew_seconds", text, value=snapshot.clock_skew)
    if snapshot.organizations is not None:
        text = "Organizations of the last list, where they are discovered"
        yield GaugeMetricFamily("in_jumpcloud_discovered_organizations", text, value=snapshot.organizations)
    if snapshot.load:
        needed, possible = "Requests per second that all streams need", "Requests per second that are possible"
        yield GaugeMetricFamily("in_jumpcloud_needed_requests_per_second", needed, value=snapshot.load.needed)
        yield GaugeMetricFamily("in_jumpcloud_possible_requests_per_second", possible, value=snapshot.load.possible)
        text = "Seconds between two polls of a stream: as configured, and as they are kept"
        interval = GaugeMetricFamily("in_jumpcloud_poll_interval_seconds", text, labels=["kind"])
        interval.add_metric(["wanted"], snapshot.load.interval)
        interval.add_metric(["kept"], snapshot.load.kept)
        yield interval


def _reasons(name: str, text: str, codes: Iterable[str], found: list[Reason]) -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=["reason"])
    present = {reason.code for reason in found}
    for code in codes:
        gauge.add_metric([code], code in present)
    return gauge


def _errors(snapshot: Snapshot) -> Metric:
    """The class of each present error: a whole message would be a new series at each try."""
    text = "Seconds since a stream, receiver or backfill fails; absent if it does not"
    gauge = GaugeMetricFamily("in_jumpcloud_failing_seconds", text, labels=["kind", "name", "error"])
    failing: dict[str, Sequence[StreamStatus | ReceiverStatus | BackfillStatus]] = {
        "stream": snapshot.streams,
        "receiver": snapshot.receivers,
        "backfill": snapshot.backfills,
    }
    for kind, parts in failing.items():
        for part in parts:
            if part.error:
                gauge.add_metric([kind, part.name, part.error_kind], part.error_for)
    return gauge


def _files(snapshot: Snapshot) -> Iterable[Metric]:
    yield CounterMetricFamily(
        "in_jumpcloud_geo_cache_hits", "Address lookups answered by the cache", value=snapshot.geo_hits
    )
    yield CounterMetricFamily(
        "in_jumpcloud_geo_cache_misses", "Address lookups not answered by the cache", value=snapshot.geo_misses
    )
    age = GaugeMetricFamily(
        "in_jumpcloud_geo_database_age_seconds", "Seconds since the database was built", labels=["database"]
    )
    for database in snapshot.databases:
        age.add_metric([database.setting.removeprefix("geoip.")], snapshot.now_ms / 1000 - database.built)
    yield age
    yield GaugeMetricFamily("in_jumpcloud_state_file_bytes", "Size of the state on disk", value=snapshot.state_bytes)
    if snapshot.state_free_bytes is not None:
        yield GaugeMetricFamily(
            "in_jumpcloud_state_free_bytes", "Free bytes on the disk of the state", value=snapshot.state_free_bytes
        )
    yield GaugeMetricFamily(
        "in_jumpcloud_dead_letters", "Refused events in the state, until they are replayed", value=snapshot.dead_letters
    )


def _add(family: HistogramMetricFamily, labels: list[str], latencies: LatencyHistogram) -> None:
    counts, seconds = latencies.read()
    bounds = [*map(floatToGoString, BOUNDS), "+Inf"]
    family.add_metric(labels, buckets=list(zip(bounds, accumulate(counts), strict=True)), sum_value=seconds)
