"""A TCP proxy that a test can let change, swallow or cut what goes through it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self

_BYTES = 65_536


class Proxy:
    """Forwards connections to a port of this machine, until it is closed.

    `to_server` and `to_client` are called with each piece of bytes; what they return is forwarded instead. None ends
    the connection, both ways, without a word.
    """

    def __init__(self, port: int) -> None:
        self.to_server: Callable[[bytes], bytes | None] = lambda data: data
        self.to_client: Callable[[bytes], bytes | None] = lambda data: data
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        _end(self._listener)  # to close it alone would leave the thread in its accept

    def cut(self) -> None:
        """End all connections."""
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            _end(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            for source, target, change in (
                (client, server, lambda data: self.to_server(data)),  # noqa: PLW0108 - it may change meanwhile
                (server, client, lambda data: self.to_client(data)),  # noqa: PLW0108
            ):
                threading.Thread(target=self._forward, args=(source, target, change), daemon=True).start()

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes | None]) -> None:
        try:
            while data := source.recv(_BYTES):
                changed = change(data)
                if changed is None:
                    break
                target.sendall(changed)
        except OSError:
            pass
        finally:
            _end(source)
            _end(target)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
