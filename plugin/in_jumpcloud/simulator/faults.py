"""Scripted faults of the simulated API."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass
from random import Random
from typing import Literal

FaultKind = Literal["status", "delay", "cut", "bad_json", "wrong_count", "repeat_cursor", "drop", "redirect"]


@dataclass(frozen=True)
class Fault:
    """A fault in the answer to one request.

    `wrong_count` applies only to `/events`, and `repeat_cursor` only to its requests with a cursor.
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
        suffix = "/events" if self.kind in {"wrong_count", "repeat_cursor"} else ""
        return possible and path.endswith(suffix) and path.endswith(self.path)


class Faults:
    """Which requests get a fault: first those given to `once`, then `always`, then `random`."""

    def __init__(self) -> None:
        self.given: Counter[str] = Counter()
        self._once: deque[Fault] = deque()
        self._always: list[Fault] = []
        self._random: list[tuple[Fault, float, Random]] = []
        self._lock = threading.Lock()

    def once(self, *faults: Fault) -> None:
        """Apply these to the next requests, one each and in order. A fault waits for a request that it fits."""
        with self._lock:
            self._once.extend(faults)

    def always(self, *faults: Fault) -> None:
        """Apply to every request the first of these that fits."""
        with self._lock:
            self._always.extend(faults)

    def random(self, fault: Fault, probability: float, seed: int = 1) -> None:
        """Apply this fault to a request with this probability (0 to 1)."""
        with self._lock:
            self._random.append((fault, probability, Random(seed)))

    def clear(self) -> None:
        """Remove every fault. The counts in `given` stay."""
        with self._lock:
            self._once.clear()
            self._always.clear()
            self._random.clear()

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
        for fault in self._always:
            if fault.fits(path, paging=paging):
                return fault
        for fault, probability, random in self._random:
            if fault.fits(path, paging=paging) and random.random() < probability:
                return fault
        return None
