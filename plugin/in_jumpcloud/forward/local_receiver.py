"""A receiver within this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from in_jumpcloud.counters import LatencyHistogram
from in_jumpcloud.forward.failover import Outcomes, ReceiverStatistics
from in_jumpcloud.forward.wire import Chunk


class LocalReceiver:
    """Passes each chunk to `take`, one at a time. What that returns from is acknowledged."""

    max_delivery_seconds = 0.0

    def __init__(self, name: str, take: Callable[[Chunk], None]) -> None:
        self._name = name
        self._take = take
        self._lock = threading.Lock()
        self._acknowledged = 0
        self._latencies = LatencyHistogram()

    def statistics(self) -> tuple[ReceiverStatistics, ...]:
        """It is always there."""
        return (ReceiverStatistics(self._name, True, self._latencies),)

    def outcomes(self, names: Collection[str] | None) -> Outcomes:  # noqa: ARG002 - there is only one
        """How many chunks it has taken."""
        return Outcomes(self._acknowledged, 0)

    def doubt(self, names: Collection[str] | None) -> None:
        """There is nothing to doubt."""

    def deliver(self, chunk: Chunk, stop: threading.Event) -> None:  # noqa: ARG002 - it does not wait
        """Pass the chunk on. Raises what `take` raises."""
        with self._lock:
            self._take(chunk)
            self._acknowledged += 1

    def probe(self, names: Collection[str], stop: threading.Event) -> bool:  # noqa: ARG002 - it does not wait
        """It is always there."""
        return True

    def check_if_down(self, stop: threading.Event) -> None:
        """It is always there."""

    def connect(self, stop: threading.Event) -> None:
        """There is nothing to connect to."""

    def close(self) -> None:
        """There is nothing to close."""
