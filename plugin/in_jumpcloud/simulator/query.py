"""What the simulated API answers to a query: pages, counts, histograms and distinct values, or why it refuses.

Two differences from the real one. Its cursors carry a signature of their query, so that a `search_after` under another
query is a 400 here and not a silent gap. And it does not search: `q`, `exact_match` and `search_term` are a 501.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Self

import msgspec

from in_jumpcloud.simulator.catalog import SERVICES
from in_jumpcloud.simulator.events import EventSource, Item

DEFAULT_LIMIT = 1000
MAX_LIMIT = 10_000
MAX_BUCKETS = 65_536
KNOWN_SERVICES = frozenset({*SERVICES, "all", "alert", "workflows", "aigw", "genai", "di_events"})

_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_MONDAY_MS = 4 * 86_400_000  # 1970-01-05: weeks begin there
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_PREFIX = 14  # characters of a cursor that come from the document id; the other 6 sign the query
_SEARCH = ("q", "exact_match", "search_term")


@dataclass
class Answer:
    """One answer over HTTP; `events` says how many events its body holds."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    events: int = 0


class Refusal(Exception):
    """The query gets an error for an answer."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.answer = Answer(status, msgspec.json.encode({"message": message}))


def parse_time(text: object, name: str) -> int:
    """RFC 3339 with 0 to 9 digits of a second, UTC where no zone is given, as epoch milliseconds (cut, not rounded)."""
    if isinstance(text, str) and (match := _TIME.fullmatch(text)):
        with contextlib.suppress(ValueError):
            whole = datetime.fromisoformat(match[1] + (match[3] or "Z"))
            return int(whole.timestamp()) * 1000 + int((match[2] or "").ljust(3, "0")[:3])
    raise Refusal(f"Invalid {name}: {text!r} is not an RFC3339 timestamp")


def _written(milliseconds: int) -> str:
    second, rest = divmod(milliseconds, 1000)
    fraction = f".{rest:03d}".rstrip("0").rstrip(".")
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"


@dataclass
class Query:
    """A query that has passed every check."""

    body: dict[str, Any]
    source: EventSource
    now_ms: int
    start_ms: int
    end_ms: int
    services: frozenset[str] | None

    @classmethod
    def of(cls, body: dict[str, Any], source: EventSource, now_ms: int) -> Self:
        """Check a request's body.

        Raises:
            Refusal: it is no query
        """
        names = body.get("service")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise Refusal("service is required: an array of service names")
        if unknown := sorted(set(names) - KNOWN_SERVICES):
            raise Refusal(f"Unsupported service: {', '.join(unknown)}; supported: {', '.join(sorted(KNOWN_SERVICES))}")
        if "start_time" not in body:
            raise Refusal("start_time is required")
        start = parse_time(body["start_time"], "start_time")
        end = now_ms if body.get("end_time") is None else parse_time(body["end_time"], "end_time")
        if start > now_ms:
            raise Refusal(f"Start Time is in the future {_written(start)} > {_written(now_ms)}")
        if start >= end:
            raise Refusal(f"Start Time not after End Time {_written(start)} > {_written(end)}")
        if _holds_boolean(body.get("search_term")):
            raise Refusal("Invalid search_term: values must be strings")
        if any(body.get(name) for name in _SEARCH):
            raise Refusal("The simulated API does not search", HTTPStatus.NOT_IMPLEMENTED)
        named = frozenset("alerts" if name == "alert" else name for name in names)
        return cls(body, source, now_ms, start, end, None if "all" in named else named)

    def items(self) -> Iterator[Item]:
        """Every event that it finds."""
        items = self.source.between(self.start_ms, self.end_ms, now_ms=self.now_ms)
        return (item for item in items if self.services is None or item.service in self.services)

    def count(self, start_ms: int, end_ms: int) -> int:
        """How many of its events lie in [start, end)."""
        start_ms, end_ms = max(start_ms, self.start_ms), min(end_ms, self.end_ms)
        return self.source.count(start_ms, end_ms, now_ms=self.now_ms, services=self.services)

    def cursor(self, item: Item) -> list[int | str]:
        """The `search_after` that leads beyond an event."""
        return [item.timestamp_ms, item.doc_id[:_PREFIX] + self._signature()]

    def after(self) -> tuple[int, str] | None:
        """The place that `search_after` names, which only a cursor of this very query can."""
        match self.body.get("search_after"):
            case None | []:
                return None
            case [int() | str() as moment, str() as doc_id] if re.fullmatch(r"\d{1,15}", str(moment)):
                if doc_id[_PREFIX:] == self._signature():
                    return int(moment), doc_id[:_PREFIX]
                raise Refusal("Invalid search_after: it does not belong to this query")
        raise Refusal("Invalid search_after")

    def _signature(self) -> str:
        names = ("service", "start_time", "end_time", "limit", "sort", "fields", "skip")
        query = [self.source.organization, *(self.body.get(name) for name in names)]
        return hashlib.blake2b(msgspec.json.encode(query), digest_size=3).hexdigest()


def _holds_boolean(term: object) -> bool:
    if isinstance(term, dict):
        return any(map(_holds_boolean, term.values()))
    return any(map(_holds_boolean, term)) if isinstance(term, list) else isinstance(term, bool)


def page(query: Query) -> Answer:
    """One page of events, with the cursor to the next."""
    limit = _whole(query.body.get("limit"), 1, DEFAULT_LIMIT)
    if limit > MAX_LIMIT:
        raise Refusal(f"Invalid limit: {limit} is above {MAX_LIMIT}")
    sort = "DESC" if str(query.body.get("sort")).upper() == "DESC" else "ASC"
    items = query.source.page(
        query.start_ms,
        query.end_ms,
        now_ms=query.now_ms,
        limit=limit,
        services=query.services,
        after=query.after(),
        descending=sort == "DESC",
        skip=_whole(query.body.get("skip"), 0, 0),
    )
    raws = [item.raw for item in items]
    if (names := query.body.get("fields")) is not None:
        raws = _projected(raws, names)
    cursor = query.cursor(items[-1]) if items else query.body.get("search_after") or []
    headers = {
        "X-Result-Count": str(len(items)),
        "X-Limit": str(limit),
        "X-Sort": sort,
        "X-Search_after": json.dumps(cursor, separators=(",", ":")),
    }
    return Answer(200, b"[" + b",".join(raws) + b"]", headers, len(items))


def _whole(value: object, least: int, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= least else default


def _projected(raws: list[bytes], names: object) -> list[bytes]:
    if not isinstance(names, list) or not names:
        raise Refusal("Invalid fields: name at least one")
    events = [msgspec.json.decode(raw) for raw in raws]
    kept = [{name: event[name] for name in names if name in event} for event in events]
    if kept and not any(kept):
        raise Refusal("Invalid fields: none of them is known")
    return [msgspec.json.encode(event) for event in kept]


def count(query: Query) -> Answer:
    """How many events there are."""
    return _json(count=query.count(query.start_ms, query.end_ms))


def interval(query: Query) -> Answer:
    """A histogram: how many events there are in each interval of time."""
    unit, value = str(query.body.get("interval_unit")), str(query.body.get("interval_value") or "1")
    if unit not in _UNITS_MS:
        raise Refusal("interval_unit is required: one of s, m, h, d, w")
    if not re.fullmatch(r"0*[1-9]\d{0,8}", value, re.ASCII):
        raise Refusal(f"Invalid interval_value: {value!r}")
    named = query.body.get("timezone") or "UTC"
    zone = re.fullmatch(r"([+-])(\d\d):?(\d\d)", "+0000" if named == "UTC" else str(named), re.ASCII)
    if not zone:
        raise Refusal("Invalid timezone: such as -0500 or UTC")
    step = _UNITS_MS[unit] * int(value)
    shift = int(zone[1] + "1") * (int(zone[2]) * 60 + int(zone[3])) * 60_000
    origin = (_MONDAY_MS if unit == "w" else 0) - shift
    first = query.start_ms - (query.start_ms - origin) % step
    if (query.end_ms - first) // step > MAX_BUCKETS:
        raise Refusal("Too many buckets: choose a larger interval")
    counts = [(key, query.count(key, key + step)) for key in range(first, query.end_ms, step)]
    # A histogram reaches from its first event to its last, and has its empty buckets between them only.
    filled = [index for index, (_, count) in enumerate(counts) if count]
    buckets = [
        {"key": key, "key_as_string": _written(key), "doc_count": count}
        for key, count in (counts[filled[0] : filled[-1] + 1] if filled else ())
    ]
    return _json(buckets=buckets)


def distinct(query: Query) -> Answer:
    """The values of a field, most frequent first."""
    name = query.body.get("field")
    if not isinstance(name, str) or not name:
        raise Refusal("field is required")
    values = (_inside(msgspec.json.decode(item.raw), name) for item in query.items())
    texts = (value if isinstance(value, str) else json.dumps(value) for value in values if value is not None)
    buckets = [{"key": key, "doc_count": count} for key, count in Counter(texts).most_common()]
    return _json(buckets=buckets, doc_count_error_upper_bound=0, sum_other_doc_count=0)


def _inside(event: object, path: str) -> Any:
    """What a dotted path leads to, or None."""
    for part in path.split("."):
        event = event.get(part) if isinstance(event, dict) else None
    return event


def _json(**fields: object) -> Answer:
    return Answer(200, msgspec.json.encode(fields))
