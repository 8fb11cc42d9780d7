"""One receiver: one or more connections to it, each with one chunk at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from in_jumpcloud.config.schema import ForwardSettings, ServerSettings
from in_jumpcloud.forward import connection
from in_jumpcloud.forward.connection import Network
from in_jumpcloud.forward.sender import AckSender, LastTry
from in_jumpcloud.forward.wire import PROBE_TAG, Chunk
from in_jumpcloud.runtime import SYSTEM, Runtime


class Receiver:
    """A receiver. Threads may share it: a chunk takes the connection that the fewest use, the first of them."""

    def __init__(
        self,
        server: ServerSettings,
        settings: ForwardSettings,
        *,
        connections: int = 1,
        network: Network = connection,
        runtime: Runtime = SYSTEM,
    ) -> None:
        """Prepare to send to `server`, one of those in `settings`, over up to so many connections.

        Raises:
            OSError: a certificate or key cannot be used.
        """
        self.server = server
        self.last_try = LastTry()
        self.doubts = 0
        """How often it refused what was not refused before, or took what was: it may have been full for a while."""
        self._senders = [
            AckSender(server, settings, last_try=self.last_try, network=network, runtime=runtime)
            for _ in range(connections)
        ]
        self._users = [0] * connections
        self._lock = threading.Lock()

    @property
    def max_delivery_seconds(self) -> float:
        """The longest that one `deliver` can take, without waiting for the `deliver` of another thread."""
        return self._senders[0].max_delivery_seconds

    @property
    def acknowledged(self) -> int:
        """Chunks with records that it has acknowledged."""
        return sum(each.acknowledged for each in self._senders)

    def deliver(self, chunk: Chunk, stop: threading.Event) -> None:
        """As AckSender.deliver. A chunk whose ack may still come is sent again by the same sender."""
        with self._sender(chunk.id) as sender:
            sender.deliver(chunk, stop)

    def probe(self, stop: threading.Event) -> bool:
        """Whether it acknowledges a message without records.

        Raises:
            Stopped: `stop` was set.
        """
        with self._sender("") as sender:
            return sender.probe(PROBE_TAG, stop)

    def connect(self, stop: threading.Event) -> None:
        """Connect and complete the handshakes, unless there is a connection already.

        Raises:
            ReceiverDown: it cannot connect, or a handshake failed.
            Stopped: `stop` was set.
        """
        self._senders[0].connect(stop)

    def close(self) -> None:
        """Close all connections for good."""
        for each in self._senders:
            each.close()

    @contextmanager
    def _sender(self, chunk_id: str) -> Iterator[AckSender]:
        with self._lock:
            numbers = range(len(self._senders))
            waiting = (number for number in numbers if self._senders[number].awaits(chunk_id))
            number = next(waiting, min(numbers, key=self._users.__getitem__))
            self._users[number] += 1
        try:
            yield self._senders[number]
        finally:
            with self._lock:
                self._users[number] -= 1
