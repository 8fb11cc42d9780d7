"""What our sender does in the recordings: one scenario each, with the receiver that it is made for."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgpack
from conformance.exchange import Line, ingested, load
from support.senders import TAG, TIME_NS

from in_jumpcloud.config.types import Secret
from in_jumpcloud.errors import HandshakeRejected, ReceiverDown
from in_jumpcloud.forward.wire import Chunk, build_chunk, build_probe, pack_entry

SALT = "0123456789abcdef"
CLIENT = "client.test"
LIMIT = 6_144_000
"""Bytes of a message: the default of in_forward's buffer_max_size."""
ENVELOPE = 61
"""Bytes of a message of LIMIT bytes besides its entries."""


def entry(event_id: str, **more: object) -> bytes:
    """An entry whose record has this id, at the top: the recordings have it there."""
    return pack_entry(TIME_NS, {"id": event_id, **more})


def padded_entry(event_id: str, size: int) -> bytes:
    """An entry of exactly `size` bytes."""
    head = b"\x92" + msgpack.packb(msgpack.ExtType(0, struct.pack(">II", *divmod(TIME_NS, 10**9))))
    head += b"\x82" + b"".join(map(msgpack.packb, ("id", event_id, "x"))) + b"\xdb"
    count = size - len(head) - 4
    packed: bytes = head + struct.pack(">I", count) + b"x" * count
    return packed


TWO = entry("a") + entry("b")
KEY = {"shared_key": "s3cr3t", "self_hostname": "receiver.test"}
EMPTY_KEY = {"empty_shared_key": True, "self_hostname": "receiver.test"}
USERS = KEY | {"security.users": ["alice pass word", "bob pw2"]}
WITH_KEY = {"shared_key": Secret("s3cr3t")}
ALICE = WITH_KEY | {"username": "alice", "password": Secret("pass word")}


@dataclass(frozen=True, eq=False)
class Scenario:
    """One recording; `entries` are those of each chunk, and none of it is a probe."""

    name: str
    entries: tuple[tuple[bytes, int], ...] = ((TWO, 2),)
    receiver: Mapping[str, Any] = field(default_factory=dict)  # options of in_forward
    sender: Mapping[str, Any] = field(default_factory=dict)  # settings of forward
    welcome: Mapping[str, Any] | None = None  # settings that the receiver accepts, if not those
    tls: bool = False
    error: type[ReceiverDown] | None = None
    reached: bool = False  # the error says that the chunk may have reached the receiver

    @property
    def chunks(self) -> list[Chunk]:
        """The chunks to deliver."""
        compress = self.sender.get("compress", "none")
        built = [build_chunk(TAG, entries, count, compress=compress) for entries, count in self.entries]
        return built or [build_probe(TAG)]

    @cached_property
    def lines(self) -> list[Line]:
        """The recording."""
        return load(self.name)

    @property
    def records(self) -> list[Line]:
        """The records that came out, sorted."""
        return sorted(line for line in self.lines if line.what == "ingested")


SCENARIOS = (
    Scenario("sender_delivers"),
    Scenario("sender_stays", ((TWO, 2), (entry("c"), 1))),
    Scenario("sender_compresses", sender={"compress": "gzip"}),
    Scenario("sender_probes", ()),
    Scenario("sender_at_the_limit", ((padded_entry("a", LIMIT - ENVELOPE), 1),)),
    Scenario(
        "sender_above_the_limit", ((padded_entry("a", LIMIT - ENVELOPE + 1), 1),), error=ReceiverDown, reached=True
    ),
    Scenario("sender_with_key", receiver=KEY, sender=WITH_KEY),
    Scenario("sender_with_empty_key", receiver=EMPTY_KEY, sender={"shared_key": Secret("")}),
    Scenario(
        "sender_with_wrong_key",
        receiver=KEY,
        sender={"shared_key": Secret("other")},
        welcome=WITH_KEY,
        error=ReceiverDown,
    ),
    Scenario("sender_with_user", receiver=USERS, sender=ALICE),
    Scenario(
        "sender_with_wrong_password",
        receiver=USERS,
        sender=ALICE | {"password": Secret("x")},
        welcome=ALICE,
        error=HandshakeRejected,
    ),
    Scenario("sender_over_tls", tls=True),
    Scenario("sender_over_tls_with_key", receiver=KEY, sender=WITH_KEY, tls=True),
)

LAST = "last"
"""The id of a record that is sent after a scenario: when it is out, everything before it is."""
LAST_LINE = ingested(LAST, TAG, TIME_NS)
