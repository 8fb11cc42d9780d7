"""Finds out what a receiver speaks that answers otherwise than the settings expect. No message is delivered to it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import Literal

from in_jumpcloud.config.schema import ServerSettings
from in_jumpcloud.errors import InJumpCloudError, ReceiverDown
from in_jumpcloud.forward import connection
from in_jumpcloud.forward.connection import IoDeadline
from in_jumpcloud.forward.protocols import WITH_TLS, WITHOUT_TLS, recognize_without_tls

BEGINNING = b"\x93\xd9\xffin_jumpcloud.check / HTTP/1.0\r\n\r\n"
"""The beginning of a message of the forward protocol, never finished: a receiver waits for the rest, and forgets it.
TLS refuses it at once. It is a wrong request too, so that an HTTP server answers."""
_HELO_SECONDS = 0.5
"""How long a receiver may take to begin a handshake."""
_ANSWER_SECONDS = 1.5
"""How long it may take to answer: a Fluent Bit with TLS looks every half second for what has arrived."""
_CONNECT_SECONDS = 5.0
_TLS_RECORD_TYPES = {b"\x15", b"\x16"}

Answer = bytes | Literal["closed", "silent"]


class _NothingReceived(InJumpCloudError):
    """The receiver sent nothing in time."""


def listen(connected: socket.socket, stop: threading.Event, seconds: float = _HELO_SECONDS) -> Answer:
    """What the receiver sends within `seconds`.

    Raises:
        Stopped: `stop` was set.
    """
    try:
        return connection.receive(connected, IoDeadline(seconds, stop, _NothingReceived())) or "closed"
    except _NothingReceived:
        return "silent"
    except OSError:
        return "closed"


def begin_message(connected: socket.socket, stop: threading.Event) -> Answer:
    """What the receiver answers to the beginning of a message.

    Raises:
        Stopped: `stop` was set.
    """
    try:
        connection.send(connected, BEGINNING, IoDeadline(_ANSWER_SECONDS, stop, _NothingReceived()))
    except (OSError, _NothingReceived):
        return "closed"
    return listen(connected, stop, _ANSWER_SECONDS)


def identify(server: ServerSettings, stop: threading.Event, *, uses_tls: bool) -> ReceiverDown | None:
    """What is wrong, if the receiver speaks another protocol than the settings say; None if that is not certain.

    Raises:
        Stopped: `stop` was set.
    """
    answer = _ask(server, BEGINNING, stop)
    if isinstance(answer, bytes):
        return recognize_without_tls(answer) if uses_tls else _not_helo(recognize_without_tls(answer))
    if answer == "closed" and not uses_tls:
        hello = _ask(server, _client_hello(), stop)
        if isinstance(hello, bytes) and hello[:1] in _TLS_RECORD_TYPES:
            return ReceiverDown("it expects TLS", advice=WITH_TLS)
    if answer == "silent" and uses_tls and _ask(server, _client_hello(), stop) == "closed":
        return ReceiverDown("it takes connections without TLS, and refuses those with it", advice=WITHOUT_TLS)
    return None


def _not_helo(error: ReceiverDown | None) -> ReceiverDown | None:
    """A HELO is no surprise without TLS."""
    return None if error and error.advice == WITHOUT_TLS else error


def _ask(server: ServerSettings, data: bytes, stop: threading.Event) -> Answer:
    """What the receiver answers to `data` on a connection of its own, without TLS."""
    try:
        addresses = connection.resolve(server)
        connected, _ = connection.connect(addresses, IoDeadline(_CONNECT_SECONDS, stop, _NothingReceived()))
    except (OSError, UnicodeError, _NothingReceived):
        return "silent"
    try:
        with contextlib.suppress(OSError, _NothingReceived):
            connection.send(connected, data, IoDeadline(_ANSWER_SECONDS, stop, _NothingReceived()))
        return listen(connected, stop, _ANSWER_SECONDS)
    finally:
        connection.close(connected)


def _client_hello() -> bytes:
    """The first message of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()
