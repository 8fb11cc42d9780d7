"""Scripted faults of the simulated API."""

from __future__ import annotations

import json
import threading
from collections import Counter, deque
from dataclasses import dataclass
from http.client import responses
from random import Random
from typing import Any, Literal

import msgspec

from in_jumpcloud.simulator.query import Answer, Refusal

FaultKind = Literal[
    "status", "delay", "cut", "bad_json", "wrong_count", "short_page", "repeat_cursor", "drop", "redirect"
]


@dataclass(frozen=True)
class Fault:
    """A fault in the answer to one request.

    `wrong_count` and `short_page`, which leaves out half of the events and says nothing, apply only to `/events`, and
    `repeat_cursor` only to its requests with a cursor.
    """

    kind: FaultKind
    status: int = 503  # of kind "status"
    retry_after: str | None = None  # of kind "status": the header's value
    seconds: float = 0.0  # of kind "delay": how late the correct answer comes
    message: str = ""  # of kind "status": the message in the body
    path: str = ""  # only requests whose path ends with this

    def fits(self, path: str, *, paging: bool) -> bool:
        """Whether it applies to a request of this path, with or without a cursor."""
        possible = paging or self.kind != "repeat_cursor"
        suffix = "/events" if self.kind in {"wrong_count", "short_page", "repeat_cursor"} else ""
        return possible and path.endswith(suffix) and path.endswith(self.path)

    def refuse(self) -> None:
        """Raise Refusal if this fault replaces the answer by an error."""
        if self.kind == "redirect":
            raise Refusal(302, {"Location": "/elsewhere"})
        if self.kind == "status":
            headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
            raise Refusal(self.status, headers, message=self.message or responses.get(self.status, "Error"))

    def spoil(self, answer: Answer, cursor: Any) -> None:
        """Change the correct answer to a request with this cursor."""
        if self.kind == "wrong_count" and "X-Result-Count" in answer.headers:
            answer.headers["X-Result-Count"] = str(answer.events + 1)
        elif self.kind == "repeat_cursor" and "X-Search_after" in answer.headers:
            answer.headers["X-Search_after"] = json.dumps(cursor, separators=(",", ":"))
        elif self.kind == "short_page" and "X-Result-Count" in answer.headers:
            events = msgspec.json.decode(answer.body, type=list[msgspec.Raw])
            answer.body, answer.events = msgspec.json.encode(events[: len(events) // 2]), len(events) // 2
            answer.headers["X-Result-Count"] = str(answer.events)
        elif self.kind == "bad_json":
            answer.body, answer.events = answer.body[: len(answer.body) // 2], 0
        elif self.kind == "cut":
            answer.cut, answer.events = True, 0
        elif self.kind == "drop":
            answer.status, answer.events = 0, 0


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
