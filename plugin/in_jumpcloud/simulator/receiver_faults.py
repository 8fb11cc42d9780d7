"""A script of faults for the simulated receiver."""

from __future__ import annotations

import itertools
import threading
from collections import Counter, deque
from collections.abc import Iterator
from typing import Literal

Step = Literal["drop_ack", "wrong_ack", "reset_before_ack", "stall", "close_after_ack", "reset_after_bytes"]


class ReceiverFaults:
    """The faults to come, in the order of the calls; each is used for one message. `given` counts those done."""

    def __init__(self) -> None:
        self.given: Counter[str] = Counter()
        self.max_bytes: int | None = None
        self.splits_acks = False
        self._takes: Iterator[bool] | None = None
        self._script: deque[tuple[Step, float]] = deque()
        self._lock = threading.Lock()

    def drop_ack(self, count: int = 1) -> None:
        """Take the next `count` messages and send no ack."""
        self._add("drop_ack", count)

    def wrong_ack(self, count: int = 1) -> None:
        """Take the next `count` messages and acknowledge a chunk that was never sent."""
        self._add("wrong_ack", count)

    def reset_before_ack(self, count: int = 1) -> None:
        """Take the next `count` messages and reset the connection instead of sending the ack."""
        self._add("reset_before_ack", count)

    def close_after_ack(self, count: int = 1) -> None:
        """Acknowledge the next `count` messages, then close the connection."""
        self._add("close_after_ack", count)

    def stall(self, seconds: float) -> None:
        """Take the next message and send its ack `seconds` later; read nothing more on its connection until then."""
        self._add("stall", 1, seconds)

    def reset_after_bytes(self, count: int) -> None:
        """Reset the connection after `count` bytes (at least 1), counted from when this is the next fault."""
        self._add("reset_after_bytes", 1, count)

    def refuse_above(self, max_bytes: int | None) -> None:
        """From now on refuse every message of more than `max_bytes` bytes; None ends that."""
        self.max_bytes = max_bytes

    def full(self, one_in: int | None = None) -> None:
        """From now on behave like a Fluentd whose buffer is full: refuse every message with records.

        With `one_in` it takes one of so many, as when its output is slow. Messages without records are acknowledged.
        """
        with self._lock:
            self._takes = itertools.cycle([*[False] * (one_in - 1), True] if one_in else [False])

    def takes(self) -> bool:
        """Whether a message with records, which has come in, is taken."""
        with self._lock:
            return self._takes is None or next(self._takes)

    def split_acks(self, on: bool = True) -> None:
        """From now on send every ack byte by byte."""
        self.splits_acks = on

    def clear(self) -> None:
        """Cancel all faults to come."""
        with self._lock:
            self._script.clear()
            self.max_bytes, self.splits_acks, self._takes = None, False, None

    def _add(self, step: Step, count: int, value: float = 0) -> None:
        with self._lock:
            self._script.extend([(step, value)] * count)

    def next_step(self) -> tuple[Step | None, float]:
        """The fault for a message that has come in, and its seconds."""
        with self._lock:
            if not self._script or self._script[0][0] == "reset_after_bytes":
                return None, 0
            step, value = self._script.popleft()
            self.given[step] += 1
            return step, value

    def readable(self, size: int) -> tuple[int, bool]:
        """How many of `size` bytes to read, and whether to reset the connection after them."""
        with self._lock:
            if not self._script or self._script[0][0] != "reset_after_bytes":
                return size, False
            left = int(self._script[0][1])
            if size < left:
                self._script[0] = ("reset_after_bytes", left - size)
                return size, False
            self._script.popleft()
            self.given["reset_after_bytes"] += 1
            return left, True
