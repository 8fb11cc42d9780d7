"""The time limit of a whole response.

A read timeout limits the wait for the next byte only, so it never ends a response that arrives byte by byte. A timer
shuts the connection down instead.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, Self

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection


class RequestDeadline:
    """Limits the time of one response, from when the request was sent, on the thread that sends it."""

    def __init__(self, seconds: float) -> None:
        self.expired = False
        self.message = f"the response took longer than {seconds:g} s"
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True
        self._socket: Any = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        _current.deadline = self
        return self

    def __exit__(self, *_: object) -> None:
        _current.deadline = None
        self._timer.cancel()
        with self._lock:
            self._socket = None

    def watch(self, connection: Any) -> None:
        """Shut down this socket when the time is over. The first call starts the timer."""
        with self._lock:
            self._socket = connection
        if self.expired:
            self._expire()
        elif self._timer.ident is None:
            self._timer.start()

    def _expire(self) -> None:
        with self._lock:
            self.expired = True
            connection = getattr(self._socket, "socket", self._socket)  # TLS inside TLS wraps the socket
            if isinstance(connection, socket.socket):
                with contextlib.suppress(OSError):
                    # SSLSocket.shutdown would drop the TLS state, which the reading thread still uses.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)


_current = threading.local()


def _watch(connection: Any) -> None:
    deadline = getattr(_current, "deadline", None)
    if deadline is not None:
        deadline.watch(connection)


class _HTTPConnection(HTTPConnection):
    def getresponse(self) -> Any:
        _watch(self.sock)
        return super().getresponse()


class _HTTPSConnection(HTTPSConnection):
    def _tunnel(self) -> None:
        _watch(self.sock)
        super()._tunnel()

    def getresponse(self) -> Any:
        _watch(self.sock)
        return super().getresponse()


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class DeadlineAdapter(HTTPAdapter):
    """Makes connections that a RequestDeadline can shut down."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Prepare direct connections."""
        super().init_poolmanager(*arguments, **options)
        self._use_watched_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Prepare connections through a proxy."""
        return self._use_watched_pools(super().proxy_manager_for(proxy, **options))

    @staticmethod
    def _use_watched_pools(manager: PoolManager) -> PoolManager:
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager
