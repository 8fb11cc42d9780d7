"""Scripted faults of the simulated API."""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from http.client import responses
from random import Random
from typing import Any, Literal

import msgspec

from in_jumpcloud.simulator.query import Answer, Refusal

FaultKind = Literal[
    "status",
    "delay",
    "cut",
    "bad_json",
    "wrong_count",
    "no_count",
    "short_page",
    "reversed",
    "repeated_row",
    "other_bytes",
    "end_included",
    "cursor_ignored",
    "repeat_cursor",
    "bucket_missing",
    "counts_lower",
    "drop",
    "redirect",
]
_OF_EVENTS = {"wrong_count", "no_count", "short_page", "reversed", "repeated_row", "other_bytes", "end_included"}
_OF_PAGING = {"repeat_cursor", "cursor_ignored"}
_OF_COUNTS = {"bucket_missing", "counts_lower"}


@dataclass(frozen=True)
class Fault:
    """A fault in the answer to one request.

    Those of _OF_EVENTS apply only to `/events`, those of _OF_PAGING only to its requests with a cursor, and those of
    _OF_COUNTS only to `/events/interval`. `short_page` leaves out half of the events and says nothing.
    """

    kind: FaultKind
    status: int = 503  # of kind "status"
    retry_after: str | None = None  # of kind "status": the header's value
    seconds: float = 0.0  # of kind "delay": how late the correct answer comes
    message: str = ""  # of kind "status": the message in the body
    path: str = ""  # only requests whose path ends with this

    def fits(self, path: str, *, paging: bool) -> bool:
        """Whether it applies to a request of this path, with or without a cursor."""
        possible = paging or self.kind not in _OF_PAGING
        suffix = "/events" if self.kind in _OF_EVENTS | _OF_PAGING else "/interval" if self.kind in _OF_COUNTS else ""
        return possible and path.endswith(suffix) and path.endswith(self.path)

    def refuse(self) -> None:
        """Raise Refusal if this fault replaces the answer by an error."""
        if self.kind == "redirect":
            raise Refusal(302, {"Location": "/elsewhere"})
        if self.kind == "status":
            headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
            raise Refusal(self.status, headers, message=self.message or responses.get(self.status, "Error"))

    def alter(self, query: dict[str, Any]) -> dict[str, Any]:
        """The query that is answered instead of this one."""
        if self.kind == "cursor_ignored":
            return {name: value for name, value in query.items() if name != "search_after"}
        if self.kind == "end_included":
            return query | {"end_time": query["end_time"].replace("Z", "999999Z")}
        return query

    def spoil(self, answer: Answer, cursor: Any) -> None:
        """Change the correct answer to a request with this cursor."""
        if self.kind == "wrong_count" and "X-Result-Count" in answer.headers:
            answer.headers["X-Result-Count"] = str(answer.events + 1)
        elif self.kind == "repeat_cursor" and "X-Search_after" in answer.headers:
            answer.headers["X-Search_after"] = json.dumps(cursor, separators=(",", ":"))
        elif self.kind == "no_count":
            answer.headers.pop("X-Result-Count", None)
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


_ROWS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "short_page": lambda events: events[: len(events) // 2],
    "reversed": lambda events: events[::-1],
    "repeated_row": lambda events: [*events, *events[-1:]],
    "other_bytes": _other_bytes,
}
"""What each fault makes of the events of a page."""
_BUCKETS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "bucket_missing": lambda buckets: buckets[:-2] + buckets[-1:],
    "counts_lower": _lower,
}
"""What each fault makes of the counts."""


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
