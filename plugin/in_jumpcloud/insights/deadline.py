"""The time limit of a whole response.

A read timeout limits the wait for the next byte only, so it never ends a response that arrives byte by byte. A thread
shuts the connection down instead: one for all requests, since one for each would cost as much as an empty poll.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from typing import Any, Self

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection


class _Timers:
    """Expires deadlines, on one thread. It wakes once in a while for a deadline that ended, not for each request."""

    def __init__(self) -> None:
        self._due: dict[RequestDeadline, float] = {}  # on the monotonic clock
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wakes_at = math.inf

    def start(self, deadline: RequestDeadline, seconds: float) -> None:
        """Expire `deadline` in `seconds`.

        Raises:
            RuntimeError: the system has no more threads.
        """
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                thread.start()
                self._thread = thread
            at = self._due[deadline] = time.monotonic() + seconds
            if at < self._wakes_at:
                self._changed.notify()

    def cancel(self, deadline: RequestDeadline) -> None:
        """Do not expire it."""
        with self._changed:
            self._due.pop(deadline, None)

    def _run(self) -> None:
        while True:
            for each in self._wait():
                each.expire()

    def _wait(self) -> list[RequestDeadline]:
        """The deadlines that are over."""
        with self._changed:
            now = time.monotonic()
            over = [each for each, at in self._due.items() if at <= now]
            if not over:
                self._wakes_at = min(self._due.values(), default=math.inf)
                self._changed.wait(self._wakes_at - now if self._due else None)
            for each in over:
                del self._due[each]
            return over


_timers = _Timers()


class RequestDeadline:
    """Limits the time of one response, from when the request was sent, on the thread that sends it."""

    def __init__(self, seconds: float) -> None:
        self.expired = False
        self.message = f"the response took longer than {seconds:g} s"
        self._seconds = seconds
        self._started = False
        self._socket: Any = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        _current.deadline = self
        return self

    def __exit__(self, *_: object) -> None:
        _current.deadline = None
        _timers.cancel(self)
        with self._lock:
            self._socket = None

    def watch(self, connection: Any) -> None:
        """Shut down this socket when the time is over. The first call starts the time."""
        with self._lock:
            self._socket = connection
        if self.expired:
            self.expire()
        elif not self._started:
            self._started = True
            _timers.start(self, self._seconds)

    def expire(self) -> None:
        """The time is over."""
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
