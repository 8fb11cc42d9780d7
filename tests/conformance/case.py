"""What a case of the forward protocol is: a receiver, and what a client and the receiver then do to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from conformance.exchange import Line
from conformance.messages import NANOSECONDS, SECONDS, message, pack

SALT = "0123456789abcdef"
SILENCE = 0.3
"""Seconds that a receiver has to say nothing: long for one that answers, short for a test."""


@dataclass(frozen=True, eq=False)
class Receiver:
    """A receiver as Fluent Bit's in_forward is configured, and the simulated one likewise."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)  # options of in_forward
    simulated: Mapping[str, Any] = field(default_factory=dict)  # the same, arguments of SimulatedReceiver
    match: str = "*"  # tags that have an output
    tls: bool = False
    held: bool = False  # its output takes nothing until it is told to

    @property
    def key(self) -> str | None:
        """The shared key; None for a receiver without handshake."""
        key: str | None = self.simulated.get("shared_key")
        return key


PLAIN = Receiver("plain")


@dataclass(frozen=True)
class Ping:
    """A PING that answers the HELO that came; salt and names are always the same."""

    key: str
    username: str = ""
    password: str = ""
    hostname: str = "client.test"
    salt: str | bytes = SALT
    behind: bytes = b""  # sent with it
    cut_at: int | None = None  # it goes out in two segments


@dataclass(frozen=True)
class Pong:
    """A PONG that is due."""

    accepted: bool = True
    reason: str = ""
    hostname: str = "receiver.test"


Step = Line | Ping | Pong | Literal["HELO"]


@dataclass(frozen=True)
class Case:
    """One exchange, and why it matters."""

    name: str
    why: str
    steps: tuple[Step, ...]
    receiver: Receiver = PLAIN
    not_simulated: str = ""  # why the simulated receiver need not do the same


def case(name: str, why: str, *steps: Step, receiver: Receiver = PLAIN, not_simulated: str = "") -> Case:
    """A case whose first connection is made without saying so."""
    first = () if isinstance(steps[0], Line) and steps[0].what == "connect" else (CONNECT,)
    return Case(name, why, (*first, *steps), receiver, not_simulated)


CONNECT = Line("connect")
CONNECT_PLAIN = Line("connect", text="without TLS")
GAP = Line("gap")
CLOSED = Line("closed")
SILENT = Line("silent", text=str(SILENCE))
HANG_UP = Line("hang up")
RESUME = Line("resume")
HELO: Literal["HELO"] = "HELO"


def send(*data: bytes) -> Line:
    """The client sends this at once."""
    return Line(">", data=b"".join(data))


def ack(chunk: str) -> Line:
    """The receiver acknowledges this chunk."""
    return Line("<", data=pack({"ack": chunk}))


def ingested(name: str, tag: str = "tag", seconds: int = SECONDS, nanoseconds: int = NANOSECONDS) -> Line:
    """A record with this id, tag and time comes out of the receiver."""
    return Line("ingested", text=f"{name} {seconds}.{nanoseconds:09} {shown_tag(tag)}")


def shown_tag(tag: str) -> str:
    """A tag, or of a long one how long it is."""
    return tag if len(tag) <= 40 else f"of {len(tag)} letters"


ALIVE = (send(message("alive", tag="alive", chunk="alive")), ack("alive"))
"""The connection still works: what came before was answered by nothing and closed nothing."""
ALIVE_INGESTED = ingested("alive", "alive")
