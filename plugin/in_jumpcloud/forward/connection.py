"""Socket operations towards a receiver: resolve, connect, send, receive. Each has a deadline.

This module is the production Network: a sender reaches its receiver through nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

from in_jumpcloud.config.schema import ServerSettings
from in_jumpcloud.errors import InJumpCloudError, Stopped
from in_jumpcloud.runtime import SYSTEM, Runtime

TICK_SECONDS = 0.25
"""How often a wait checks its deadline and the stop event."""
_CLOSE_NOTIFY_SECONDS = 0.2
"""How long a receiver may take to answer the end of TLS."""
_READ_BYTES = 4096
_PENDING = {errno.EINPROGRESS, errno.EALREADY}

SocketAddress = tuple[socket.AddressFamily, Any]


class IoDeadline:
    """The end of a wait: `check` raises `error` after `seconds`, or Stopped `grace` seconds after `stop` is set."""

    def __init__(
        self,
        seconds: float,
        stop: threading.Event,
        error: InJumpCloudError,
        *,
        grace: float = 0,
        runtime: Runtime = SYSTEM,
    ) -> None:
        self._monotonic = runtime.monotonic
        self._at = self._monotonic() + seconds
        self._stop = stop
        self._stopping = False
        self._grace = grace
        self._error = error

    def check(self) -> None:
        """Raise if the time is over."""
        now = self._monotonic()
        if self._stop.is_set() and not self._stopping:
            self._stopping = True
            self._at = min(self._at, now + self._grace)
        if now >= self._at:
            raise Stopped if self._stopping else self._error

    def share(self, parts: int) -> float:
        """The moment, on the monotonic clock, when one of `parts` equal parts of the remaining time is over."""
        now = self._monotonic()
        return now + (self._at - now) / parts


class Network(Protocol):
    """How a sender reaches a receiver: the functions of this module. Connections are whatever `connect` returns."""

    def resolve(self, server: ServerSettings) -> list[SocketAddress]:
        """The addresses of a receiver."""

    def connect(self, addresses: Sequence[SocketAddress], deadline: IoDeadline) -> tuple[Any, SocketAddress]:
        """A new connection, and its address."""

    def send(self, connection: Any, message: bytes, deadline: IoDeadline) -> None:
        """Send all of a message."""

    def receive(self, connection: Any, deadline: IoDeadline) -> bytes:
        """Wait for the next bytes; empty if the receiver has closed."""

    def received(self, connection: Any) -> bytes | None:
        """The bytes that are there; None for nothing, empty if the receiver has closed."""

    def close(self, connection: Any, *, abruptly: bool = False) -> None:
        """Close a connection; `abruptly` while another thread is using it."""


def resolve(server: ServerSettings) -> list[SocketAddress]:
    """The addresses of `server`, in the order of the system's preference.

    Raises:
        OSError: the name has no address.
        UnicodeError: no host can have this name.
    """
    if server.unix is not None:
        return [(socket.AF_UNIX, str(server.unix))]
    results = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in results]


def connect(addresses: Sequence[SocketAddress], deadline: IoDeadline) -> tuple[socket.socket, SocketAddress]:
    """Try `addresses` in turn; return the first connection, and its address.

    Each address gets an equal part of the time that remains, so an address that never answers does not use up
    the time of the others.

    Raises:
        OSError: no address accepts the connection; the error of the first one.
    """
    failure: OSError | None = None
    for number, address in enumerate(addresses):
        try:
            connection = _connect_to(address, deadline.share(len(addresses) - number), deadline)
        except OSError as error:
            failure = failure or error
        else:
            return connection, address
    raise failure or OSError(errno.EADDRNOTAVAIL, "the name has no address")


def _connect_to(address: SocketAddress, give_up_at: float, deadline: IoDeadline) -> socket.socket:
    family, socket_address = address
    connection = socket.socket(family)
    try:
        connection.setblocking(False)
        _wait_until_connected(connection, socket_address, give_up_at, deadline)
        connection.settimeout(TICK_SECONDS)
        if family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connection.close()
        raise
    return connection


def _wait_until_connected(connection: socket.socket, address: Any, give_up_at: float, deadline: IoDeadline) -> None:
    poller = select.poll()
    poller.register(connection, select.POLLOUT)
    while (code := connection.connect_ex(address)) not in {0, errno.EISCONN}:
        deadline.check()
        if time.monotonic() >= give_up_at:
            code = errno.ETIMEDOUT
        if code in _PENDING:
            poller.poll(TICK_SECONDS * 1000)
        elif code == errno.EAGAIN:  # the backlog of a unix socket is full, and poll does not wait for it
            time.sleep(TICK_SECONDS)
        else:
            raise OSError(code, os.strerror(code))


def send(connection: socket.socket, message: bytes, deadline: IoDeadline) -> None:
    """Send all of `message`, in writes as large as the connection takes."""
    unsent = memoryview(message)
    while unsent:
        deadline.check()
        try:
            unsent = unsent[connection.send(unsent) :]
        except TimeoutError:
            continue
        except (ConnectionError, ssl.SSLEOFError):
            if isinstance(connection, ssl.SSLSocket):
                connection.recv(1)  # raises the alert of a receiver that refuses our certificate
            raise


def receive(connection: socket.socket, deadline: IoDeadline) -> bytes:
    """The next bytes; empty if the receiver has closed or reset the connection."""
    while True:
        deadline.check()
        try:
            return connection.recv(_READ_BYTES)
        except TimeoutError:
            continue
        except (ConnectionError, ssl.SSLEOFError):
            return b""


def received(connection: socket.socket) -> bytes | None:
    """What the receiver has sent since the last read, without waiting: None for nothing, empty if it has closed."""
    connection.setblocking(False)
    try:
        return connection.recv(_READ_BYTES)
    except (BlockingIOError, ssl.SSLWantReadError):
        return None
    except OSError:
        return b""
    finally:
        connection.settimeout(TICK_SECONDS)


def close(connection: socket.socket, *, abruptly: bool = False) -> None:
    """Close the connection, with the end of TLS: without it the receiver reports a truncated stream.

    `abruptly`: another thread is using it, and must not be waited for.
    """
    with contextlib.suppress(OSError, ValueError):
        if isinstance(connection, ssl.SSLSocket) and not abruptly:
            connection.settimeout(_CLOSE_NOTIFY_SECONDS)
            connection.unwrap()
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
