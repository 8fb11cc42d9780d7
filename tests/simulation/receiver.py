"""A model of a forward receiver: bytes in, acks out. It keeps what it took."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack
from simulation.faults import Faults

CLOSE = None
"""In place of bytes: the receiver closes the connection."""


@dataclass(eq=False)
class Delivery:
    """A chunk that the receiver took: the uids of its events, and what became of its ack."""

    uids: list[str]
    at: float
    chunk: str
    ack_arrived: bool = False
    settled: bool = False
    """The ids were committed after the ack."""


class Connection:
    """One connection to the receiver. What it sends back is in `outbox`."""

    def __init__(self, receiver: Receiver) -> None:
        self.open = True
        self.outbox: list[bytes | None] = []
        self.on_output: Callable[[], None] = lambda: None
        self.event: Any = None
        """Of the process: set when there is output."""
        self._receiver = receiver
        self._unpacker = msgpack.Unpacker(raw=False, max_buffer_size=2**31)
        self.acks: dict[bytes, Delivery] = {}

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self._unpacker.feed(data)
        for message in self._unpacker:
            self._receiver.take(self, message)

    def output(self, data: bytes | None) -> None:
        """Send bytes back, or close."""
        if self.open or data is CLOSE:
            self.outbox.append(data)
            self.open = self.open and data is not CLOSE
            self.on_output()


class Receiver:
    """A receiver without a handshake."""

    def __init__(self, name: str, faults: Faults, at: Callable[[float, Callable[[], None]], None]) -> None:
        self.name = name
        self.kept: Counter[str] = Counter()
        self.deliveries: list[Delivery] = []
        self.poison: set[str] = set()
        self.connections: list[Connection] = []
        self.on_take: Callable[[Delivery], None] = lambda _: None
        self._faults = faults
        self._at = at

    def connect(self) -> Connection | None:
        """A new connection; None: it refuses."""
        if self._faults.hits("receiver is down", self._faults.now):
            return None
        self.connections = [each for each in self.connections if each.open]
        self.connections.append(Connection(self))
        return self.connections[-1]

    def take(self, connection: Connection, message: list[Any]) -> None:
        """Take one message, now or when the receiver thaws."""
        now = self._faults.now
        frozen = [end for begin, end in self._faults.episodes("receiver is frozen") if begin <= now < end]
        if frozen and self._faults.hits("receiver is frozen", now):
            self._at(max(frozen) - now, lambda: self._process(connection, message))
        else:
            self._process(connection, message)

    def _process(self, connection: Connection, message: list[Any]) -> None:
        now, faults = self._faults.now, self._faults
        _, payload, option = message
        if option.get("compressed") == "gzip":
            payload = gzip.decompress(payload)
        uids = _uids(payload)
        ack = msgpack.packb({"ack": option["chunk"]})
        if faults.hits("receiver is down", now):
            connection.output(CLOSE)
        elif not uids:
            connection.output(ack)
        elif faults.hits("takes no records", now) or faults.hits("closes after reading", now):
            connection.output(CLOSE)
        elif self.poison.intersection(uids) and faults.acts("refuses one record", now):
            faults.landmarks["refuses one record"] += 1
            connection.output(CLOSE)
        elif faults.hits("restarts and forgets", now):
            for each in self.connections:
                each.output(CLOSE)
        else:
            self._keep(connection, uids, ack, option["chunk"])

    def _keep(self, connection: Connection, uids: list[str], ack: bytes, chunk: str) -> None:
        now, faults = self._faults.now, self._faults
        delivery = Delivery(uids, now, chunk)
        if any(each.chunk == chunk for each in self.deliveries):
            faults.landmarks["a chunk arrived again"] += 1
        self.deliveries.append(delivery)
        self.kept.update(uids)
        self.on_take(delivery)
        if faults.hits("ack is lost", now):
            return
        if faults.hits("ack is of another chunk", now):
            connection.output(msgpack.packb({"ack": "x" * 24}))
            return
        connection.acks[ack] = delivery
        if random := faults.hits("ack is late", now):
            self._at(random.choice((1, 20, 70, 400)) * random.random(), lambda: connection.output(ack))
            return
        connection.output(ack)
        if faults.hits("ack comes twice", now):
            connection.output(ack)


def _uids(payload: bytes | list[Any]) -> list[str]:
    if isinstance(payload, list):
        return [_uid(record) for _, record in payload]
    unpacker = msgpack.Unpacker(raw=False, strict_map_key=False)
    unpacker.feed(payload)
    return [_uid(record) for _, record in unpacker]


def _uid(record: dict[str, Any]) -> str:
    return str(json.loads(record["event"]["original"])["uid"])
