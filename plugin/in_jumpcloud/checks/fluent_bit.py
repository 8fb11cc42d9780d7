"""What Fluent Bit's own HTTP server tells of settings that lose data. It shows metrics, and no configuration.

Read from what Fluent Bit 5.1.1 answers; older ones have less of it. Why each matters: conf/delivery.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
import requests
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from in_jumpcloud.checks.result import CheckResult, ok, warning

_WHAT = "Fluent Bit"
_TIMEOUT = (3.0, 5.0)
_LARGEST = 8 * 1024**2
_LOSSY, _BETTER = (3, 2, 0), (5, 1, 0)
_UNSEEN = "workers, storage.checksum, retry_limit, storage.pause_on_chunks_overlimit"
_SEE = "compare them with conf/delivery.md"


def check_fluent_bit(url: str) -> Iterator[CheckResult]:
    """Ask the HTTP server at `url`, and say what of it loses data. Nothing here is a failure: records may flow."""
    shown = _without_password(url)
    with requests.Session() as session:
        session.trust_env = False  # no proxy leads to a neighbour

        def get(path: str) -> bytes:
            with session.get(url.rstrip("/") + path, timeout=_TIMEOUT, stream=True, allow_redirects=False) as answer:
                answer.raise_for_status()
                return bytes(answer.raw.read(_LARGEST, decode_content=True))

        try:
            version = str(msgspec.json.decode(get("/"))["fluent-bit"]["version"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            reason = "no Fluent Bit answers there" if not isinstance(error, OSError) else _reason(error)
            advice = "set http_server: on in its service section, or correct the receiver's monitor"
            yield warning(_WHAT, f"{shown}: {reason}", advice)
            return
        metrics = _optional(lambda: _samples(get("/api/v2/metrics/prometheus").decode()))
        storage = _optional(lambda: msgspec.json.decode(get("/api/v1/storage"), type=dict[str, Any]))
        plugins = _optional(lambda: msgspec.json.decode(get("/api/v1/plugins"))["plugins"]["inputs"])
    yield from (
        finding._replace(found=f"{shown}: {finding.found}") for finding in judge(version, metrics, storage, plugins)
    )


def judge(
    version: str, metrics: Iterable[Sample] | None, storage: Mapping[str, Any] | None, plugins: Iterable[str] | None
) -> Iterator[CheckResult]:
    """What the answers mean; None where one was not to be had. `plugins`: the kinds of inputs that it has."""
    yield _version(version)
    unseen = [_UNSEEN]
    if metrics is None:
        unseen.append("threaded, pauses and drops")
    else:
        forward = _ForwardInput(plugins or ())
        for sample in metrics:
            name = sample.labels.get("name") or sample.labels.get("input", "")
            tell = _TELLING.get(sample.name) if sample.value > 0 or sample.name == _MEMRB else None
            if tell and (sample.name.startswith("fluentbit_output") or forward.may_be(name)):
                yield tell(name, sample)
    yield from _storage(storage, unseen)
    yield ok(_WHAT, f"cannot be seen there: {', '.join(unseen)}; {_SEE}")


def _version(text: str) -> CheckResult:
    number = tuple(map(int, re.findall(r"\d+", text)[:3]))
    if number < _LOSSY:
        advice = "upgrade to 5.1 or later"
        return warning(_WHAT, f"version {text} acknowledges what it throws away while it is paused", advice)
    better = "" if number >= _BETTER else "; 5.1 or later is better, see conf/delivery.md"
    return ok(_WHAT, f"version {text}{better}")


class _ForwardInput:
    """Tells inputs that cannot be of the forward plugin from those that may: an alias hides the kind."""

    def __init__(self, plugins: Iterable[str]) -> None:
        others = [re.escape(each) for each in plugins if each != "forward"]
        self._other = re.compile(rf"({'|'.join(['emitter_for_.*', 'storage_backlog', *others])})\.\d+")

    def may_be(self, name: str) -> bool:
        return not self._other.fullmatch(name)


def _threaded(name: str, _: Sample) -> CheckResult:
    found = f"input {name} is threaded: it acknowledges before a record is safe"
    return warning(_WHAT, found, "set threaded: false there, if it is the forward input")


def _paused(name: str, _: Sample) -> CheckResult:
    found = f"input {name} is paused: it takes nothing until its outputs have caught up"
    return warning(_WHAT, found, "see what holds its outputs up")


def _ring_buffer(name: str, sample: Sample) -> CheckResult:
    found = f"input {name} could not keep {sample.value:.0f} times what it had acknowledged"
    return warning(_WHAT, found, "set threaded: false there")


def _memrb(name: str, _: Sample) -> CheckResult:
    found = f"input {name} has storage.type: memrb, which drops the oldest when it is full"
    return warning(_WHAT, found, "set storage.type: filesystem there")


def _dropped(name: str, sample: Sample) -> CheckResult:
    found = f"output {name} has given up {sample.value:.0f} records since it was started"
    return warning(_WHAT, found, "set retry_limit: no_limits there, and see its log for what the output refuses")


def _unmatched(name: str, sample: Sample) -> CheckResult:
    unrouted = sample.labels.get("output") == "unmatched"
    where = "no output matches their tag" if unrouted else f"at output {sample.labels.get('output')}"
    advice = "give an output a match for forward.tag" if unrouted else "see its log"
    found = f"{sample.value:.0f} records of input {name} were dropped since it was started: {where}"
    return warning(_WHAT, found, advice)


_MEMRB = "fluentbit_input_memrb_dropped_chunks_total"
"""Only an input of that type has it. The parser adds `_total` to a counter."""
_TELLING: dict[str, Callable[[str, Sample], CheckResult]] = {
    "fluentbit_input_ring_buffer_writes_total": _threaded,
    "fluentbit_input_ring_buffer_retry_failures_total": _ring_buffer,
    "fluentbit_input_ingestion_paused": _paused,
    _MEMRB: _memrb,
    "fluentbit_output_dropped_records_total": _dropped,
    "fluentbit_routing_logs_drop_records_total": _unmatched,
}


def _storage(storage: Mapping[str, Any] | None, unseen: list[str]) -> Iterator[CheckResult]:
    """Of what type the chunks are that wait now; without any, nothing shows it."""
    try:
        chunks = (storage or {})["storage_layer"]["chunks"]
        total, in_memory = int(chunks["total_chunks"]), int(chunks["mem_chunks"])
    except (LookupError, TypeError, ValueError):
        unseen.append("storage.type (storage.metrics: on shows more)")
        return
    if in_memory:
        found = f"{in_memory} of {total} waiting chunks are in memory only, and lost with the process"
        yield warning(_WHAT, found, "set storage.path, and storage.type: filesystem at the forward input")
    elif total:
        yield ok(_WHAT, f"{total} waiting chunks, all of them on disk")
    else:
        unseen.append("storage.type while no chunk waits")


def _samples(text: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def _optional(ask: Callable[[], Any]) -> Any:
    """What an older Fluent Bit, or one with other settings, may not have."""
    try:
        return ask()
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _reason(error: OSError) -> str:
    if isinstance(error, requests.HTTPError):
        return f"it answers {error.response.status_code}"
    return "no answer in time" if isinstance(error, requests.Timeout) else "nobody answers there"


def _without_password(url: str) -> str:
    return urlsplit(url)._replace(netloc=urlsplit(url).netloc.rpartition("@")[2]).geturl()
