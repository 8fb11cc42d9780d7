"""The connections of the simulated receiver: listen, accept, TLS, a thread for each, pause, stop."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import select
import socket
import ssl
import struct
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

_log = logging.getLogger(__name__)

_BACKLOG = 128
_TLS_SECONDS = 10
_POLL_SECONDS = 0.02
_JOIN_SECONDS = 5


class Listener(ABC):
    """Listens from `start` to `stop`, or as a context manager, and runs `_serve` in a thread for each connection.

    `_changed` guards all that more than one thread uses, and is notified of every change.
    """

    def __init__(
        self, host: str, port: int, unix_path: str | None, *, allow_remote: bool, tls: ssl.SSLContext | None
    ) -> None:
        if unix_path is None and not (allow_remote or ipaddress.ip_address(host).is_loopback):
            raise ValueError(f"{host} is not a loopback address")
        self.host = host
        self.port = port  # 0 until the first start
        self.unix_path = unix_path
        self.connections = 0  # accepted
        self.refused = 0  # closed for a message that is refused, or because TLS failed
        self._tls = tls
        self._changed = threading.Condition()
        self._paused = False
        self._stopping = False
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._live: set[socket.socket] = set()  # connections whose messages count: closed by no pause or stop
        self._threads: dict[socket.socket, threading.Thread] = {}

    @abstractmethod
    def _serve(self, connection: socket.socket) -> None:
        """Read from a connection, and answer, until it ends."""

    @property
    def address(self) -> tuple[str, int] | str:
        """Host and port, or the path of the unix socket."""
        return self.unix_path if self.unix_path is not None else (self.host, self.port)

    def start(self) -> Self:
        """Listen, and serve in the background, at the same address each time.

        Raises:
            OSError: it cannot listen at the address.
        """
        if self._listener is None:
            self._paused = self._stopping = False
            self._listener = self._listen()
            self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), name="receiver", daemon=True)
            self._acceptor.start()
        return self

    def stop(self) -> None:
        """Close the listener and every connection."""
        if self._listener is None or self._acceptor is None:
            return
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._acceptor.join()
        self._listener.close()
        self._listener = self._acceptor = None
        if self.unix_path is not None:
            Path(self.unix_path).unlink(missing_ok=True)
        self._close_all()

    def pause(self) -> None:
        """Behave like a paused Fluent Bit: close every connection; connecting still works, but nothing is read."""
        with self._changed:
            self._paused = True
        self._close_all()

    def resume(self) -> None:
        """Serve again, first the connections that wait in the backlog, even if their sender has closed them."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _require_live(self, connection: socket.socket) -> None:
        if connection not in self._live:
            raise ConnectionAbortedError("closed by a pause or a stop")

    def _listen(self) -> socket.socket:
        if self.unix_path is None:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            listener = socket.create_server((self.host, self.port), family=family, backlog=_BACKLOG)
            self.port = listener.getsockname()[1]
        else:
            path = Path(self.unix_path)
            if path.is_socket():
                path.unlink()
            listener = socket.socket(socket.AF_UNIX)
            try:
                listener.bind(self.unix_path)
                listener.listen(_BACKLOG)
            except OSError:
                listener.close()
                raise
        listener.setblocking(False)
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            select.select([listener], [], [], _POLL_SECONDS)
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or not self._paused)
                if self._stopping:
                    return
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    self._begin(listener.accept()[0])

    def _begin(self, connection: socket.socket) -> None:
        self.connections += 1
        connection.setblocking(True)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            try:
                connection.getpeername()  # wrap_socket leaks a socket whose peer has gone
                connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            except OSError as error:
                connection.close()
                self.refused += 1
                raise ConnectionAbortedError("closed before TLS") from error
        thread = threading.Thread(target=self._run, args=(connection,), name="receiver-connection", daemon=True)
        self._live.add(connection)
        self._threads[connection] = thread
        self._changed.notify_all()
        thread.start()

    def _run(self, connection: socket.socket) -> None:
        try:
            if not isinstance(connection, ssl.SSLSocket) or self._secure(connection):
                self._serve(connection)
        finally:
            if isinstance(connection, ssl.SSLSocket):
                _send_close_notify(connection)
            with self._changed:
                connection.close()
                self._live.discard(connection)
                del self._threads[connection]
                self._changed.notify_all()

    def _secure(self, connection: ssl.SSLSocket) -> bool:
        try:
            connection.settimeout(_TLS_SECONDS)
            connection.do_handshake()
            connection.settimeout(None)
        except (OSError, ValueError) as error:
            _log.debug("no TLS: %s", error)
            with self._changed:
                self.refused += 1
            return False
        return True

    def _close_all(self) -> None:
        with self._changed:
            for connection in self._live:
                with contextlib.suppress(OSError):
                    # SSLSocket.shutdown would remove TLS while the other thread reads from it.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
            self._live.clear()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._threads, timeout=_JOIN_SECONDS)


def reset(connection: socket.socket) -> None:
    """Close the connection with a reset instead of an orderly end (TCP only)."""
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _send_close_notify(connection: ssl.SSLSocket) -> None:
    with contextlib.suppress(OSError, ValueError):
        connection.setblocking(False)
        connection.unwrap()
