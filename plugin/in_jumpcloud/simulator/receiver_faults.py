"""What goes wrong at the simulated receiver, on demand."""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import Literal

Step = Literal["drop_ack", "wrong_ack", "reset_before_ack", "stall", "close_after_ack", "reset_after_bytes"]


class ReceiverFaults:
    """A script of faults. Each counts for one message that asks for an acknowledgement, in the order of the calls."""

    def __init__(self) -> None:
        self.given: Counter[str] = Counter()
        self.most_bytes: int | None = None
        self.pieces = False
        self.together = 1
        self._script: deque[tuple[Step, float]] = deque()
        self._lock = threading.Lock()

    def drop_ack(self, count: int = 1) -> None:
        """Take the next messages and do not answer."""
        self._plan("drop_ack", count)

    def wrong_ack(self, count: int = 1) -> None:
        """Take the next messages and acknowledge a chunk that nobody sent."""
        self._plan("wrong_ack", count)

    def reset_before_ack(self, count: int = 1) -> None:
        """Take the next messages and reset the connection instead of answering."""
        self._plan("reset_before_ack", count)

    def close_after_ack(self, count: int = 1) -> None:
        """Acknowledge the next messages, then close the connection."""
        self._plan("close_after_ack", count)

    def stall(self, seconds: float) -> None:
        """Take the next message and acknowledge it so much later, reading nothing more on its connection meanwhile."""
        self._plan("stall", 1, seconds)

    def reset_after_bytes(self, count: int) -> None:
        """Reset the connection on which so many bytes (at least 1) have been read since this came to the head."""
        self._plan("reset_after_bytes", 1, count)

    def refuse_above(self, most_bytes: int | None) -> None:
        """From now on close the connection at a message of more bytes, without taking it; None ends that."""
        self.most_bytes = most_bytes

    def split_acks(self, on: bool = True) -> None:
        """From now on send every acknowledgement byte by byte."""
        self.pieces = on

    def coalesce_acks(self, count: int) -> None:
        """From now on hold acknowledgements back until so many are due on a connection, and send them in one piece."""
        self.together = count

    def clear(self) -> None:
        """Forget everything that was ordered; the counts in `given` stay."""
        with self._lock:
            self._script.clear()
            self.most_bytes, self.pieces, self.together = None, False, 1

    def _plan(self, step: Step, count: int, value: float = 0) -> None:
        with self._lock:
            self._script.extend([(step, value)] * count)

    def take(self) -> tuple[Step | None, float]:
        """The fault of one message, and its seconds."""
        with self._lock:
            if not self._script or self._script[0][0] == "reset_after_bytes":
                return None, 0
            step, value = self._script.popleft()
            self.given[step] += 1
            return step, value

    def readable(self, size: int) -> tuple[int, bool]:
        """Of `size` bytes that came in, how many are read, and whether the connection is reset then."""
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
