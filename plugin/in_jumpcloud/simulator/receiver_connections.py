"""How connections come to the simulated receiver: listening, accepting, TLS, a thread each, pauses, the end."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import selectors
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from pathlib import Path

_log = logging.getLogger(__name__)

BACKLOG = 128


class Connections:
    """The connections at one address that stays the same; each is given to `serve`, in a thread of its own.

    `changed` guards everything that more than one thread sees, here and at the receiver, and tells of its changes.
    """

    def __init__(
        self,
        serve: Callable[[socket.socket], None],
        changed: threading.Condition,
        *,
        host: str,
        port: int,
        unix_path: str | None,
        allow_remote: bool,
        tls: ssl.SSLContext | None,
        accept_timeout: float,
    ) -> None:
        if unix_path is None and not (allow_remote or ipaddress.ip_address(host).is_loopback):
            raise ValueError(f"{host} is not a loopback address")
        self.host = host
        self.port = port
        self.unix_path = unix_path
        self.accepted = 0
        self.insecure = 0  # accepted, but TLS did not come about
        self.paused = False
        self._serve = serve
        self._changed = changed
        self._tls = tls
        self._accept_timeout = accept_timeout
        self._stopping = False
        self._listener: socket.socket | None = None
        self._waker: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._live: set[socket.socket] = set()  # connections whose messages still count
        self._threads: dict[socket.socket, threading.Thread] = {}

    def start(self) -> None:
        """Listen, and serve in the background.

        Raises:
            OSError: the address cannot be listened at
        """
        if self._listener is None:
            self.paused = self._stopping = False
            self._listener = self._listen()
            self._waker, woken = socket.socketpair()
            arguments = (self._listener, woken)
            self._acceptor = threading.Thread(target=self._accept, args=arguments, name="receiver", daemon=True)
            self._acceptor.start()

    def stop(self) -> None:
        """Close the listener and every connection; a later `start` listens at the same address again."""
        if self._listener is None or self._waker is None or self._acceptor is None:
            return
        with self._changed:
            self._stopping = True
            # The acceptor may be waiting for TLS on a connection that has no thread yet.
            _shut(self._live - self._threads.keys())
            self._changed.notify_all()
        self._waker.close()
        self._acceptor.join()
        self._listener.close()
        self._listener = self._waker = self._acceptor = None
        if self.unix_path is not None:
            Path(self.unix_path).unlink(missing_ok=True)
        self.close_all()

    def pause(self) -> None:
        """Close every connection; new ones succeed, but wait in the backlog."""
        with self._changed:
            self.paused = True
        self.close_all()

    def resume(self) -> None:
        """Accept again, first what waits in the backlog, even where its sender has gone."""
        with self._changed:
            self.paused = False
            self._changed.notify_all()

    def close_all(self) -> None:
        """End every connection and wait, at most 5 s, for all threads but the caller's."""
        with self._changed:
            _shut(self._live)
            self._live.clear()
            self._changed.notify_all()
            mine = threading.current_thread()
            self._changed.wait_for(lambda: all(thread is mine for thread in self._threads.values()), timeout=5)

    def is_live(self, connection: socket.socket) -> bool:
        """Whether its messages still count; not after a pause or the end."""
        return connection in self._live

    def require_live(self, connection: socket.socket) -> None:
        """Go on only with a connection that still counts.

        Raises:
            ConnectionAbortedError: it was closed by a pause or the end
        """
        if connection not in self._live:
            raise ConnectionAbortedError("closed by a pause or the end")

    def _listen(self) -> socket.socket:
        if self.unix_path is None:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            listener = socket.create_server((self.host, self.port), family=family, backlog=BACKLOG)
            self.port = listener.getsockname()[1]
        else:
            path = Path(self.unix_path)
            if path.is_socket():
                path.unlink()
            listener = socket.socket(socket.AF_UNIX)
            try:
                listener.bind(self.unix_path)
                listener.listen(BACKLOG)
            except OSError:
                listener.close()
                raise
        listener.setblocking(False)
        return listener

    def _accept(self, listener: socket.socket, woken: socket.socket) -> None:
        with woken, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while True:
                selector.select()
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping or not self.paused)
                    if self._stopping:
                        return
                    try:
                        connection = self._welcome(listener.accept()[0])
                    except (BlockingIOError, ConnectionError):
                        continue  # the peer has gone, or a pause was the reason to be here
                if isinstance(connection, ssl.SSLSocket):
                    self._secure(connection)
                with self._changed:
                    self._admit(connection)

    def _welcome(self, connection: socket.socket) -> socket.socket:
        """The connection as messages come over it."""
        self.accepted += 1
        self._changed.notify_all()
        connection.setblocking(True)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            try:
                connection.getpeername()  # a socket whose peer has gone would get lost in `wrap_socket`
                connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            except OSError as error:
                connection.close()
                self.insecure += 1
                raise ConnectionAbortedError("gone before TLS") from error
        self._live.add(connection)
        return connection

    def _secure(self, connection: ssl.SSLSocket) -> None:
        """Hold the TLS handshake: as with a Fluent Bit of one worker, nobody else is accepted meanwhile."""
        try:
            connection.settimeout(self._accept_timeout)
            connection.do_handshake()
            connection.settimeout(None)
        except (OSError, ValueError) as error:
            _log.debug("no TLS: %s", error)
            with self._changed:
                self.insecure += 1
                self._live.discard(connection)
                self._changed.notify_all()

    def _admit(self, connection: socket.socket) -> None:
        if connection not in self._live:
            connection.close()
            return
        thread = threading.Thread(target=self._run, args=(connection,), name="receiver-connection", daemon=True)
        self._threads[connection] = thread
        thread.start()

    def _run(self, connection: socket.socket) -> None:
        try:
            self._serve(connection)
        finally:
            if isinstance(connection, ssl.SSLSocket):
                _say_goodbye(connection)
            with self._changed:
                connection.close()
                self._live.discard(connection)
                del self._threads[connection]
                self._changed.notify_all()


def reset(connection: socket.socket) -> None:
    """Close with a reset (on TCP) rather than an orderly end."""
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _shut(connections: set[socket.socket]) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):
            # An SSLSocket's own shutdown would take TLS away under the thread that reads from it.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _say_goodbye(connection: ssl.SSLSocket) -> None:
    """Send the end of TLS, and do not wait for the other side's."""
    with contextlib.suppress(OSError, ValueError):
        connection.setblocking(False)
        connection.unwrap()
