"""A connection to a receiver: dialled, secured, written to and read from, none of it for longer than it may last."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from in_jumpcloud.config.schema import ServerSettings
from in_jumpcloud.errors import InJumpCloudError, Stopped

_TICK = 0.25
"""Seconds after which a wait looks whether the process was asked to end."""
_HEAD_START = 0.25
"""Seconds that an address has before the next one is tried beside it (RFC 8305, 5)."""
_FAREWELL = 0.2
"""Seconds that a receiver has to answer a TLS goodbye."""

SocketAddress = tuple[socket.AddressFamily, Any]


class IoDeadline:
    """The end of a wait for the receiver: raises `otherwise` after `seconds`, Stopped `grace` seconds after `stop`."""

    def __init__(self, seconds: float, stop: threading.Event, otherwise: InJumpCloudError, *, grace: float = 0) -> None:
        self._at = time.monotonic() + seconds
        self._stop = stop
        self._stopping = False
        self._grace = grace
        self._otherwise = otherwise

    def check(self) -> None:
        """Raise once it is over."""
        now = time.monotonic()
        if self._stop.is_set() and not self._stopping:
            self._stopping = True
            self._at = min(self._at, now + self._grace)
        if now >= self._at:
            raise Stopped if self._stopping else self._otherwise


def connect(server: ServerSettings, deadline: IoDeadline) -> socket.socket:
    """Connect to `server`, by IPv6 where that works; a dead address holds up the others only for a moment.

    Raises:
        OSError: no address takes the connection; this is the first one's reason.
        UnicodeError: a name that no host can have.
    """
    addresses: Iterator[SocketAddress] = iter([(socket.AF_UNIX, str(server.unix))])
    if server.unix is None:
        addresses = _in_turn(socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM))
    connection = _race(deque(addresses), deadline)
    connection.settimeout(_TICK)
    if server.unix is None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _in_turn(found: list[Any]) -> Iterator[SocketAddress]:
    """The families in turn, beginning with the one that the system prefers; within one, any order shares the load."""
    families: dict[socket.AddressFamily, list[SocketAddress]] = {}
    for family, _, _, _, address in found:
        families.setdefault(family, []).append((family, address))
    for each in families.values():
        random.shuffle(each)
    rounds = itertools.zip_longest(*families.values())
    return (address for each in rounds for address in each if address)


def _race(untried: deque[SocketAddress], deadline: IoDeadline) -> socket.socket:
    failure: OSError | None = None
    next_at = 0.0
    with selectors.DefaultSelector() as selector:
        try:
            while True:
                deadline.check()
                now = time.monotonic()
                under_way = bool(selector.get_map())
                if untried and (now >= next_at or not under_way):
                    next_at = now + _HEAD_START
                    begun = _begin(*untried.popleft())
                    if isinstance(begun, OSError):
                        failure = failure or begun
                    else:
                        selector.register(begun, selectors.EVENT_WRITE)
                elif not under_way:
                    raise failure or OSError(errno.EADDRNOTAVAIL, "the name has no address")
                for key, _ in selector.select(_HEAD_START if selector.get_map() else 0):
                    connection: Any = key.fileobj
                    selector.unregister(connection)
                    code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not code:
                        return connection  # type: ignore[no-any-return]
                    connection.close()
                    failure = failure or OSError(code, os.strerror(code))
                    next_at = 0.0
        finally:
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]


def _begin(family: socket.AddressFamily, address: Any) -> socket.socket | OSError:
    """A socket whose connection is under way, or made."""
    connection: socket.socket | None = None
    try:
        connection = socket.socket(family)
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            connection.connect(address)
    except OSError as error:
        if connection is not None:
            connection.close()
        return error
    return connection


def start_tls(
    connection: socket.socket, context: ssl.SSLContext, name: str | None, deadline: IoDeadline
) -> ssl.SSLSocket:
    """Put TLS around a connection to the receiver `name`.

    Raises:
        OSError: the handshake failed, most of the times an SSLError.
    """
    secured = context.wrap_socket(connection, server_hostname=name, do_handshake_on_connect=False)
    try:
        while True:
            deadline.check()
            with contextlib.suppress(TimeoutError):
                secured.do_handshake()
                return secured
    except BaseException:
        secured.close()  # `connection` has handed everything over to it
        raise


def send(connection: socket.socket, message: bytes, deadline: IoDeadline) -> None:
    """Send all of `message`, in as large writes as the connection takes."""
    unsent = memoryview(message)
    while unsent:
        deadline.check()
        try:
            unsent = unsent[connection.send(unsent) :]
        except TimeoutError:
            continue
        except (ConnectionError, ssl.SSLEOFError):
            if isinstance(connection, ssl.SSLSocket):  # who refuses our certificate says so before it closes
                connection.recv(1)
            raise


def receive(connection: socket.socket, deadline: IoDeadline) -> bytes:
    """What comes next; empty where the receiver has closed the connection, in whatever way."""
    while True:
        deadline.check()
        try:
            return connection.recv(4096)
        except TimeoutError:
            continue
        except (ConnectionError, ssl.SSLEOFError):
            return b""


def is_idle(connection: socket.socket) -> bool:
    """Whether an idle connection is still open, and nothing came on it that nobody asked for."""
    connection.setblocking(False)
    try:
        connection.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        connection.settimeout(_TICK)
        return True
    except OSError:
        return False
    return False


def close_tls(connection: socket.socket) -> None:
    """End a connection in good order: without its goodbye, the end of TLS looks to a receiver like an attack."""
    if isinstance(connection, ssl.SSLSocket):
        with contextlib.suppress(OSError, ValueError):
            connection.settimeout(_FAREWELL)
            connection.unwrap()
