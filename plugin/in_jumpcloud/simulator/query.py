"""The simulated API's answers to a query: pages, counts and a histogram by minute, or the reason for a refusal.

It implements what the plugin sends, and differs from the real API in two ways that show faults of a client. Its cursors
carry a signature of their query, so a `search_after` under another query is a 400 instead of a silent gap. And options
of the real API that it does not implement are a 501.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any, Self

import msgspec

from in_jumpcloud.simulator.events import EventSource, Item
from in_jumpcloud.simulator.templates import templates
from in_jumpcloud.timestamps import MINUTE_MS, rfc3339

DEFAULT_LIMIT = 1000
MAX_LIMIT = 10_000
MAX_BUCKETS = 65_536

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z", re.ASCII)
_PREFIX = 14  # characters of a cursor that come from the document id; the other 6 sign the query
_OTHER_SERVICES = {"all", "alert", "workflows", "aigw", "genai", "di_events"}
_COMMON_KEYS = {"service", "start_time", "end_time"}
_PAGE_KEYS = _COMMON_KEYS | {"limit", "sort", "search_after"}
_INTERVAL_KEYS = _COMMON_KEYS | {"interval_unit", "interval_value", "timezone"}


@dataclass
class Answer:
    """One HTTP answer; `events` is the number of events in its body."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    events: int = 0


class Refusal(Exception):
    """The answer is an error."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.answer = Answer(status, msgspec.json.encode({"message": message}))


def parse_time(text: object, name: str) -> int:
    """RFC 3339 in UTC with up to 9 fraction digits, as epoch milliseconds (cut, not rounded).

    Raises:
        Refusal: `text` has another form.
    """
    if isinstance(text, str) and (match := _TIME.fullmatch(text)):
        with contextlib.suppress(ValueError):
            whole = datetime.fromisoformat(f"{match[1]}Z")
            return int(whole.timestamp()) * 1000 + int((match[2] or "").ljust(3, "0")[:3])
    raise Refusal(f"Invalid {name}: {text!r} is not an RFC3339 timestamp")


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
    def parse(cls, body: dict[str, Any], source: EventSource, now_ms: int) -> Self:
        """Check the body of a request.

        Raises:
            Refusal: it is not a valid query.
        """
        names = body.get("service")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise Refusal("service is required: an array of service names")
        known = {*templates().services, *_OTHER_SERVICES}
        if unknown := sorted(set(names) - known):
            raise Refusal(f"Unsupported service: {', '.join(unknown)}; supported: {', '.join(sorted(known))}")
        if "start_time" not in body:
            raise Refusal("start_time is required")
        start = parse_time(body["start_time"], "start_time")
        end = now_ms if body.get("end_time") is None else parse_time(body["end_time"], "end_time")
        if start > now_ms:
            raise Refusal(f"Start Time is in the future {rfc3339(start)} > {rfc3339(now_ms)}")
        if start >= end:
            raise Refusal(f"Start Time not after End Time {rfc3339(start)} > {rfc3339(end)}")
        selected = frozenset("alerts" if name == "alert" else name for name in names)
        return cls(body, source, now_ms, start, end, None if "all" in selected else selected)

    def only(self, keys: set[str]) -> None:
        """Refuse options that the endpoint does not implement.

        Raises:
            Refusal: the body has a key that is not among `keys`.
        """
        if others := sorted(self.body.keys() - keys):
            raise Refusal(f"The simulated API does not implement: {', '.join(others)}", HTTPStatus.NOT_IMPLEMENTED)

    def count(self, start_ms: int, end_ms: int) -> int:
        """The number of its events in [start, end)."""
        start_ms, end_ms = max(start_ms, self.start_ms), min(end_ms, self.end_ms)
        return self.source.count(start_ms, end_ms, now_ms=self.now_ms, services=self.services)

    def cursor(self, item: Item) -> list[int | str]:
        """The `search_after` of the page after this event."""
        return [item.timestamp_ms, item.doc_id[:_PREFIX] + self._signature()]

    def after(self) -> tuple[int, str] | None:
        """The place that `search_after` names: a millisecond and the beginning of a document id.

        Raises:
            Refusal: it is not a cursor of this query.
        """
        match self.body.get("search_after"):
            case None | []:
                return None
            case [int() | str() as moment, str() as doc_id] if re.fullmatch(r"\d{1,15}", str(moment)):
                if doc_id[_PREFIX:] == self._signature():
                    return int(moment), doc_id[:_PREFIX]
                raise Refusal("Invalid search_after: it does not belong to this query")
        raise Refusal("Invalid search_after")

    def _signature(self) -> str:
        query = [self.source.organization, *(self.body.get(name) for name in sorted(_PAGE_KEYS - {"search_after"}))]
        return hashlib.blake2b(msgspec.json.encode(query), digest_size=3).hexdigest()


def page(query: Query) -> Answer:
    """One page of events in ascending order, with the cursor of the next. A limit that is no number counts as 1000.

    Raises:
        Refusal: the limit is too large, the cursor is wrong, or an option is not implemented.
    """
    query.only(_PAGE_KEYS)
    limit = query.body.get("limit")
    if type(limit) is not int or limit < 1:
        limit = DEFAULT_LIMIT
    if limit > MAX_LIMIT:
        raise Refusal(f"Invalid limit: {limit} is above {MAX_LIMIT}")
    if str(query.body.get("sort", "ASC")).upper() != "ASC":
        raise Refusal("The simulated API sorts only ASC", HTTPStatus.NOT_IMPLEMENTED)
    items = query.source.between(
        query.start_ms,
        query.end_ms,
        now_ms=query.now_ms,
        limit=limit,
        services=query.services,
        after=query.after(),
    )
    cursor = query.cursor(items[-1]) if items else query.body.get("search_after") or []
    headers = {
        "X-Result-Count": str(len(items)),
        "X-Limit": str(limit),
        "X-Sort": "ASC",
        "X-Search_after": json.dumps(cursor, separators=(",", ":")),
    }
    return Answer(200, b"[" + b",".join(item.raw for item in items) + b"]", headers, len(items))


def count(query: Query) -> Answer:
    """The number of events.

    Raises:
        Refusal: an option is not implemented.
    """
    query.only(_COMMON_KEYS)
    return Answer(200, msgspec.json.encode({"count": query.count(query.start_ms, query.end_ms)}))


def interval(query: Query) -> Answer:
    """The number of events in each minute, from the first that has events to the last.

    Raises:
        Refusal: the interval is not one minute in UTC, or the window has too many minutes.
    """
    query.only(_INTERVAL_KEYS)
    unit, value, zone = (query.body.get(name) for name in ("interval_unit", "interval_value", "timezone"))
    if unit is None:
        raise Refusal("interval_unit is required: one of s, m, h, d, w")
    if (unit, value, zone or "UTC") != ("m", "1", "UTC"):
        raise Refusal("The simulated API counts only by 1 m in UTC", HTTPStatus.NOT_IMPLEMENTED)
    first = query.start_ms - query.start_ms % MINUTE_MS
    if (query.end_ms - first) // MINUTE_MS > MAX_BUCKETS:
        raise Refusal("Too many buckets: choose a larger interval")
    counts = {key: query.count(key, key + MINUTE_MS) for key in range(first, query.end_ms, MINUTE_MS)}
    occupied = [key for key, events in counts.items() if events] or [0, -1]
    buckets = [
        {"key": key, "key_as_string": rfc3339(key), "doc_count": counts[key]}
        for key in range(occupied[0], occupied[-1] + 1, MINUTE_MS)
    ]
    return Answer(200, msgspec.json.encode({"buckets": buckets}))
