"""Scripted faults of the simulated API."""

from __future__ import annotations

import json
import re
import threading
import uuid
import zlib
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from http.client import responses
from random import Random
from typing import Any, Literal

import msgspec

from in_jumpcloud.simulator.query import Answer, Refusal
from in_jumpcloud.timestamps import HOUR_MS

FaultKind = Literal[
    "status",
    "delay",
    "cut",
    "bad_json",
    "wrong_count",
    "long_count",
    "no_count",
    "short_page",
    "reversed",
    "repeated_row",
    "other_bytes",
    "start_excluded",
    "start_ignored",
    "end_included",
    "whole_seconds",
    "no_cursor",
    "cursor_ignored",
    "repeat_cursor",
    "bucket_missing",
    "counts_lower",
    "counts_shifted",
    "counts_negative",
    "counts_ahead",
    "date_ahead",
    "date_behind",
    "no_date",
    "deflate",
    "drop",
    "redirect",
]
WITH_SECONDS = {"delay", "counts_ahead", "date_ahead", "date_behind"}


@dataclass(frozen=True)
class Fault:
    """A fault in the answer to one request.

    Those of _OF_EVENTS apply only to `/events`, those of _OF_PAGING only to its requests with a cursor, and those of
    _OF_COUNTS only to `/events/interval`. `short_page` leaves out half of the events and says nothing. `counts_ahead`
    counts events that `/events` returns only `seconds` later.
    """

    kind: FaultKind
    status: int = 503  # of kind "status"
    retry_after: str | None = None  # of kind "status": the header's value
    seconds: float = 0.0  # of kind "delay": how late the correct answer comes; of the others of WITH_SECONDS: how far
    message: str = ""  # of kind "status": the message in the body
    path: str = ""  # only requests whose path ends with this

    def fits(self, path: str, *, paging: bool) -> bool:
        """Whether it applies to a request of this path, with or without a cursor."""
        possible = paging or self.kind not in _OF_PAGING
        suffix = "/events" if self.kind in _OF_EVENTS | _OF_PAGING else "/interval" if self.kind in _OF_COUNTS else ""
        return possible and path.endswith(suffix) and path.endswith(self.path)

    @property
    def ahead_ms(self) -> int:
        """How far in the future the answer is taken from, in milliseconds."""
        return round(self.seconds * 1000) if self.kind == "counts_ahead" else 0

    def refuse(self) -> None:
        """Raise Refusal if this fault replaces the answer by an error."""
        if self.kind == "redirect":
            raise Refusal(302, {"Location": "/elsewhere"})
        if self.kind == "status":
            headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
            raise Refusal(self.status, headers, message=self.message or responses.get(self.status, "Error"))

    def alter(self, query: dict[str, Any]) -> dict[str, Any]:
        """The query that is answered instead of this one."""
        return _QUERIES[self.kind](query) if self.kind in _QUERIES else query

    def spoil(self, answer: Answer, cursor: Any) -> None:
        """Change the correct answer to a request with this cursor."""
        if self.kind == "wrong_count" and "X-Result-Count" in answer.headers:
            answer.headers["X-Result-Count"] = str(answer.events + 1)
        elif self.kind == "long_count":
            answer.headers["X-Result-Count"] = "9" * 5000  # more digits than Python converts
        elif self.kind == "repeat_cursor" and "X-Search_after" in answer.headers:
            answer.headers["X-Search_after"] = json.dumps(cursor, separators=(",", ":"))
        elif self.kind in _MISSING:
            answer.headers.pop(_MISSING[self.kind], None)
        elif self.kind in _DATES:
            answer.date_skew = _DATES[self.kind](self.seconds)
        elif self.kind == "deflate":
            answer.body = zlib.compress(answer.body)
            answer.headers["Content-Encoding"] = "deflate"
        elif self.kind in _ROWS and "X-Result-Count" in answer.headers:
            events = _ROWS[self.kind](msgspec.json.decode(answer.body, type=list[msgspec.Raw]))
            answer.body, answer.events = msgspec.json.encode(events), len(events)
            answer.headers["X-Result-Count"] = str(answer.events)
        elif self.kind in _BUCKETS and b"buckets" in answer.body:
            buckets = msgspec.json.decode(answer.body)["buckets"]
            answer.body = msgspec.json.encode({"buckets": _BUCKETS[self.kind](buckets)})
        elif self.kind == "bad_json":
            answer.body, answer.events = answer.body[: len(answer.body) // 2], 0
        elif self.kind == "cut":
            answer.cut, answer.events = True, 0
        elif self.kind == "drop":
            answer.status, answer.events = 0, 0


def _other_bytes(events: list[Any]) -> list[Any]:
    """Each event with one more field, which has another value in each answer."""
    return [msgspec.json.decode(event) | {"read": uuid.uuid4().hex} for event in events]


def _lower(buckets: list[Any]) -> list[Any]:
    """Each minute with several events has one less."""
    return [bucket | {"doc_count": max(min(1, bucket["doc_count"]), bucket["doc_count"] - 1)} for bucket in buckets]


def _without_one(buckets: list[Any]) -> list[Any]:
    """The last minute but one that has events is missing."""
    occupied = [bucket for bucket in buckets if bucket["doc_count"]]
    return [bucket for bucket in buckets if bucket not in occupied[-2:-1]]


def _whole_seconds(query: dict[str, Any]) -> dict[str, Any]:
    """The milliseconds of both times are ignored."""
    return query | {name: re.sub(r"\.\d+", "", query[name]) for name in ("start_time", "end_time")}


def _next_millisecond(query: dict[str, Any], name: str) -> dict[str, Any]:
    return query | {name: query[name].replace("Z", "999999Z")}


_QUERIES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "start_excluded": lambda query: _next_millisecond(query, "start_time"),
    "start_ignored": lambda query: query | {"start_time": "2000-01-01T00:00:00Z"},
    "end_included": lambda query: _next_millisecond(query, "end_time"),
    "whole_seconds": _whole_seconds,
    "cursor_ignored": lambda query: {name: value for name, value in query.items() if name != "search_after"},
}
"""Which query each fault answers instead."""
_ROWS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "short_page": lambda events: events[: len(events) // 2],
    "reversed": lambda events: events[::-1],
    "repeated_row": lambda events: [*events, *events[-1:]],
    "other_bytes": _other_bytes,
}
"""What each fault makes of the events of a page."""
_BUCKETS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "bucket_missing": _without_one,
    "counts_lower": _lower,
    "counts_shifted": lambda buckets: [bucket | {"key": bucket["key"] + HOUR_MS} for bucket in buckets],
    "counts_negative": lambda buckets: [bucket | {"doc_count": -bucket["doc_count"]} for bucket in buckets],
}
"""What each fault makes of the counts."""
_MISSING = {"no_count": "X-Result-Count", "no_cursor": "X-Search_after"}
"""The header that each fault leaves out."""
_DATES: dict[str, Callable[[float], float | None]] = {
    "date_ahead": lambda seconds: seconds,
    "date_behind": lambda seconds: -seconds,
    "no_date": lambda _: None,
}
"""The seconds that each fault adds to `Date`; None leaves it out."""
_OF_PAGING = {"repeat_cursor", "cursor_ignored"}
_OF_COUNTS = {*_BUCKETS, "counts_ahead"}
_OF_EVENTS = {*_ROWS, *_QUERIES, *_MISSING, "wrong_count", "long_count"} - _OF_PAGING


class Faults:
    """Which requests get a fault: first those of `once`, then the others, in the order given."""

    def __init__(self) -> None:
        self.given: Counter[str] = Counter()
        self._once: deque[Fault] = deque()
        self._lasting: list[tuple[Fault, float, Random]] = []
        self._lock = threading.Lock()

    def once(self, *faults: Fault) -> None:
        """Apply these to the next requests, one each and in order. A fault waits for a request that it fits."""
        with self._lock:
            self._once.extend(faults)

    def always(self, fault: Fault) -> None:
        """Apply this fault to every request that it fits."""
        self.random(fault, 1)

    def random(self, fault: Fault, probability: float, seed: int = 1) -> None:
        """Apply this fault to a request with this probability (0 to 1)."""
        with self._lock:
            self._lasting.append((fault, probability, Random(seed)))

    def clear(self) -> None:
        """Remove every fault. The counts in `given` stay."""
        with self._lock:
            self._once.clear()
            self._lasting.clear()

    def take(self, path: str, *, paging: bool) -> Fault | None:
        """The fault of one request, if any; `given` counts it by its kind."""
        with self._lock:
            fault = self._pick(path, paging=paging)
            if fault:
                self.given[fault.kind] += 1
            return fault

    def _pick(self, path: str, *, paging: bool) -> Fault | None:
        if self._once and self._once[0].fits(path, paging=paging):
            return self._once.popleft()
        for fault, probability, random in self._lasting:
            if fault.fits(path, paging=paging) and random.random() < probability:
                return fault
        return None
