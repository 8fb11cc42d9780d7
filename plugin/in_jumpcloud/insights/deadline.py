"""The time that one answer may take.

A read timeout is about each byte, so it never ends an answer that drips: a timer shuts the connection down.
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
    """Bounds the time of one answer, from the moment that it is waited for; on the thread that asks."""

    def __init__(self, seconds: float) -> None:
        self.over = False
        self.reason = f"the answer took longer than {seconds:g} s"
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._socket: Any = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        _here.deadline = self
        return self

    def __exit__(self, *_: object) -> None:
        _here.deadline = None
        self._timer.cancel()
        with self._lock:
            self._socket = None

    def guard(self, connected: Any) -> None:
        """End this connection when the time is over."""
        with self._lock:
            self._socket = connected
        if self.over:
            self._end()
        elif self._timer.ident is None:
            self._timer.start()

    def _end(self) -> None:
        with self._lock:
            self.over = True
            found = getattr(self._socket, "socket", self._socket)  # TLS within TLS holds it so
            if isinstance(found, socket.socket):
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(found, socket.SHUT_RDWR)  # that of an SSL socket would drop its TLS state


_here = threading.local()


def _guard(connected: Any) -> None:
    deadline = getattr(_here, "deadline", None)
    if deadline is not None:
        deadline.guard(connected)


class _HTTPConnection(HTTPConnection):
    def getresponse(self) -> Any:
        _guard(self.sock)
        return super().getresponse()


class _HTTPSConnection(HTTPSConnection):
    def _tunnel(self) -> None:
        _guard(self.sock)
        super()._tunnel()

    def getresponse(self) -> Any:
        _guard(self.sock)
        return super().getresponse()


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class Adapter(HTTPAdapter):
    """Makes connections that a deadline can end."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Guard the direct connections."""
        super().init_poolmanager(*arguments, **options)
        self._guarded(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Guard those through a proxy."""
        return self._guarded(super().proxy_manager_for(proxy, **options))

    @staticmethod
    def _guarded(manager: PoolManager) -> PoolManager:
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager
