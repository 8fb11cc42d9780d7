"""What the tests of delivery share: chunks, senders to any receiver, a delivery in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from in_jumpcloud.config.schema import ForwardSettings, ServerSettings
from in_jumpcloud.config.types import Duration
from in_jumpcloud.errors import ReceiverDown, Stopped
from in_jumpcloud.forward.sender import AckSender
from in_jumpcloud.forward.wire import Chunk, Compression, build_chunk, pack_entry
from in_jumpcloud.simulator.receiver import SimulatedReceiver

SOON = 20.0
"""Seconds after which a test gives up waiting for what must come at once."""
NEVER = threading.Event()
TAG = "jumpcloud.events"
TIME_NS = 1_767_225_600_123_456_789

Target = SimulatedReceiver | socket.socket | tuple[str, int] | str | int
"""A receiver, a listening socket, an address, or a port of 127.0.0.1."""
SenderTo = Callable[..., AckSender]


def some_chunk(*ids: str, padding: int = 0, compress: Compression = "none") -> Chunk:
    """A chunk of records with these event ids; `padding` is the length of a text in each of them."""
    text = {"text": "x" * padding} if padding else {}
    entries = b"".join(pack_entry(TIME_NS, {"event": {"id": each}, **text}) for each in ids)
    return build_chunk(TAG, entries, len(ids), compress=compress)


def server_of(target: Target) -> ServerSettings:
    """The setting for this receiver."""
    if isinstance(target, SimulatedReceiver):
        return server_of(target.address)
    if isinstance(target, socket.socket):
        return server_of(target.getsockname())
    if isinstance(target, int):
        return ServerSettings(host="127.0.0.1", port=target)
    if isinstance(target, str):
        return ServerSettings(unix=Path(target))
    return ServerSettings(host=target[0], port=target[1])


def sender_to(target: Target, *, connect: float = SOON, ack: float = SOON, **settings: Any) -> AckSender:
    """A sender to this receiver; the timeouts are in seconds, the settings those of `forward`."""
    server = server_of(target)
    settings |= {"connect_timeout": Duration(connect), "ack_timeout": Duration(ack)}
    return AckSender(server, ForwardSettings(servers=(server,), **settings))


class Delivery:
    """A delivery in a thread, and how it ended."""

    def __init__(self, sender: AckSender, chunk: Chunk, stop: threading.Event = NEVER) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(sender, chunk, stop), daemon=True)
        self._thread.start()

    def _run(self, sender: AckSender, chunk: Chunk, stop: threading.Event) -> None:
        try:
            sender.deliver(chunk, stop)
        except (ReceiverDown, Stopped) as error:
            self._error = error

    def under_way(self, seconds: float) -> bool:
        """Whether it has not ended after so many seconds."""
        self._thread.join(seconds)
        return self._thread.is_alive()

    def outcome(self) -> BaseException | None:
        """Wait for the end; the error, if there was one."""
        assert not self.under_way(SOON), "the delivery does not end"
        return self._error
