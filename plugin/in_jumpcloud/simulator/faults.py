"""What goes wrong with requests to the simulated API, on demand."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass
from random import Random
from typing import Literal

FaultKind = Literal["status", "delay", "cut", "bad_json", "wrong_count", "repeat_cursor", "drop", "redirect"]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong with one request.

    `wrong_count` happens only to pages, and `repeat_cursor` only to pages that were asked for with a cursor.
    """

    kind: FaultKind
    status: int = 503  # of kind "status"
    retry_after: str | None = None  # of kind "status": the header's text
    seconds: float = 0.0  # of kind "delay": the answer is right, but comes later
    message: str = ""  # of kind "status": the body's message
    path: str = ""  # only requests whose path ends with this

    def fits(self, path: str, *, paging: bool) -> bool:
        """Whether it can happen to a request of this path, with a cursor or not."""
        tampers = self.kind in {"wrong_count", "repeat_cursor"}
        possible = path.endswith("/events") and (paging or self.kind == "wrong_count") if tampers else True
        return possible and path.endswith(self.path)


class Faults:
    """What goes wrong, and when: first what was ordered once, then what happens always, then what chance brings."""

    def __init__(self) -> None:
        self.given: Counter[str] = Counter()
        self._once: deque[Fault] = deque()
        self._always: list[Fault] = []
        self._random: list[tuple[Fault, float, Random]] = []
        self._lock = threading.Lock()

    def once(self, *faults: Fault) -> None:
        """Give the next requests these, one each and in order; one that does not fit waits for a request that does."""
        with self._lock:
            self._once.extend(faults)

    def always(self, *faults: Fault) -> None:
        """Give every request the first of these that fits."""
        with self._lock:
            self._always.extend(faults)

    def random(self, fault: Fault, probability: float, seed: int = 1) -> None:
        """Give a request this fault with that probability (0 to 1)."""
        with self._lock:
            self._random.append((fault, probability, Random(seed)))

    def clear(self) -> None:
        """Nothing goes wrong any more; the counts in `given` stay."""
        with self._lock:
            self._once.clear()
            self._always.clear()
            self._random.clear()

    def take(self, path: str, *, paging: bool) -> Fault | None:
        """The fault of one request, counted in `given` by its kind."""
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
