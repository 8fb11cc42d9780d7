"""Play a case against a receiver, and note what happened."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgpack
from conformance.case import Case, Ping
from conformance.exchange import Line
from conformance.handshake import Helo, lines_of, ping_bytes

PATIENCE = 20.0
"""Seconds after which a receiver that says nothing has nothing to say."""

Connect = Callable[[bool], socket.socket]
"""Makes a connection; True asks for TLS where the receiver has it."""


class Client:
    """A connection to a receiver."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._unread = b""

    def next(self, seconds: float = PATIENCE) -> Line:
        """The next thing that the receiver does within so many seconds: an answer, the end, or nothing."""
        deadline = time.monotonic() + seconds
        while not (answer := self._answer()):
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self.socket.recv(65_536)
            except TimeoutError:
                return Line("silent", text=str(seconds))
            except OSError:
                data = b""
            if not data:
                return Line("closed")
            self._unread += data
        return Line("<", answer)

    def send(self, data: bytes) -> None:
        """Send as much of it as the receiver takes."""
        self.socket.settimeout(PATIENCE)
        try:
            self.socket.sendall(data)
        except TimeoutError:
            raise
        except OSError:
            pass  # the receiver has closed the connection, as the next line shows

    def until_read(self) -> None:
        """Wait until the receiver has read all that was sent: only then is what follows another read of it."""
        deadline = time.monotonic() + PATIENCE
        while _unread_by_peer(self.socket):
            assert time.monotonic() < deadline, "the receiver does not read"
            select.select([], [], [], 0.002)

    def _answer(self) -> bytes:
        unpacker = msgpack.Unpacker(raw=True)
        unpacker.feed(self._unread)
        try:
            unpacker.skip()
        except msgpack.OutOfData:
            return b""
        answer, self._unread = self._unread[: unpacker.tell()], self._unread[unpacker.tell() :]
        return answer


def play(case: Case, connect: Connect, resume: Callable[[], None]) -> list[Line]:
    """All that happens when a client does its part of the case. Records that come out are not in it."""
    clients: list[Client] = []
    happened: list[Line] = []
    helo = Helo()
    try:
        for step in case.steps:
            for line in lines_of([step], "", helo) if isinstance(step, Ping) else [step]:
                happened += _done(line, clients, connect, resume)
                if happened and happened[-1].data.startswith(b"\x92\xa4HELO"):
                    helo = Helo.of(happened[-1].data)
    finally:
        for client in clients:
            client.socket.close()
    return happened


def _done(step: object, clients: list[Client], connect: Connect, resume: Callable[[], None]) -> list[Line]:
    if not isinstance(step, Line):
        return [clients[-1].next()]
    if step.what == "connect":
        clients.append(Client(connect(not step.text)))
    elif step.what == ">":
        clients[-1].send(step.data)
    elif step.what == "gap":
        clients[-1].until_read()
    elif step.what == "hang up":
        clients[-1].socket.close()
    elif step.what == "resume":
        resume()
    elif step.what == "ingested":
        return []
    else:
        return [clients[-1].next(float(step.text) if step.what == "silent" else PATIENCE)]
    return [step]


def _unread_by_peer(connection: socket.socket) -> int:
    """Bytes that lie at the other end of this loopback connection, as the kernel tells."""
    here, there = (_proc_address(address) for address in (connection.getsockname(), connection.getpeername()))
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if fields[1:3] == [there, here]:
            return int(fields[4].partition(":")[2], 16)
    return 0


def _proc_address(address: tuple[str, int]) -> str:
    return socket.inet_aton(address[0])[::-1].hex().upper() + f":{address[1]:04X}"


def shake_hands(client: Client, ping: Ping) -> None:
    """Come through the handshake."""
    client.send(ping_bytes(ping, Helo.of(client.next().data)))
    assert client.next().data.startswith(b"\x95\xa4PONG\xc3")
