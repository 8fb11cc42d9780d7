"""Connections that are kept for an ack that did not come in time.

A receiver that is frozen has often taken the chunk, and acknowledges it when it continues. To send the chunk again at
once would duplicate it.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from in_jumpcloud.errors import ReceiverDown, Stopped
from in_jumpcloud.forward.connection import Network
from in_jumpcloud.forward.wire import AckReader
from in_jumpcloud.runtime import Runtime

_MAX_GRACE_SECONDS = 5.0
_LOOK_SECONDS = 0.05
_MAX_CONNECTIONS = 8
"""So many are kept; more workers than that do not wait for acks."""


class _Waiting(NamedTuple):
    chunk_id: str
    connection: Any
    acks: AckReader
    since: float


class LateAcks:
    """The connections of one sender that wait for a late ack. Its lock is held by the caller."""

    def __init__(self, network: Network, runtime: Runtime, *, ack_timeout: float) -> None:
        """`ack_timeout` is in seconds."""
        self._network = network
        self._runtime = runtime
        self.grace = min(_MAX_GRACE_SECONDS, ack_timeout / 4)
        """How long after a sign of life, in seconds, a receiver may take to send a late ack: it answers its
        connections in turn."""
        self._waiting: list[_Waiting] = []

    def keep(self, chunk_id: str, connection: Any, acks: AckReader) -> None:
        """Keep `connection`, whose answers `acks` reads, for the ack of a chunk."""
        self._waiting.append(_Waiting(chunk_id, connection, acks, self._runtime.monotonic()))
        for each in self._waiting[:-_MAX_CONNECTIONS]:
            self._drop(each)

    def waits_since(self, chunk_id: str) -> float | None:
        """When the last ack of the chunk did not come, on the monotonic clock; None if no connection waits for it.

        It needs no lock.
        """
        return max((each.since for each in tuple(self._waiting) if each.chunk_id == chunk_id), default=None)

    def arrived(self, chunk_id: str) -> bool:
        """Whether the ack of the chunk has come; does not wait. A connection that was closed waits no longer."""
        for each in [each for each in self._waiting if each.chunk_id == chunk_id]:
            acks = self._received(each)
            if acks == [chunk_id]:
                self.forget(chunk_id)
                return True
            if acks != []:
                self._drop(each)
        return False

    def arrives(self, chunk_id: str, stop: threading.Event) -> bool:
        """Whether the ack of the chunk comes within a short grace.

        Raises:
            Stopped: `stop` was set.
        """
        until = self._runtime.monotonic() + self.grace
        while not self.arrived(chunk_id):
            if self.waits_since(chunk_id) is None or self._runtime.monotonic() >= until:
                return False
            if stop.wait(_LOOK_SECONDS):
                raise Stopped
        return True

    def forget(self, chunk_id: str) -> None:
        """Close the connections that wait for the ack of the chunk: it has come, here or elsewhere."""
        for each in [each for each in self._waiting if each.chunk_id == chunk_id]:
            self._drop(each)

    def close(self) -> None:
        """Close all connections."""
        for each in list(self._waiting):
            self._drop(each)

    def _received(self, waiting: _Waiting) -> list[str] | None:
        """The chunk ids that were acknowledged since the last look; None if no more can come."""
        data = self._network.received(waiting.connection)
        if data is None:
            return []
        try:
            return waiting.acks.feed(data) if data else None
        except ReceiverDown:
            return None

    def _drop(self, waiting: _Waiting) -> None:
        self._waiting.remove(waiting)
        self._network.close(waiting.connection)
