"""The handshake by which a Fluent Bit with a shared key lets senders in, held at the receiver's end.

    receiver   ["HELO", {"nonce": n, "auth": a}]
    sender     ["PING", hostname, salt, hex(SHA512(salt hostname n key)), username, hex(SHA512(a username password))]
    receiver   ["PONG", true, "", self_hostname, hex(SHA512(salt self_hostname n key))]

Nonce and auth are 16 random bytes, packed as strings although they are no UTF-8.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
from collections.abc import Mapping
from typing import Any

import msgpack

RANDOM_BYTES = 16
MOST_PING_BYTES = 1023
DIGEST_LENGTH = 128


class Denied(Exception):
    """The sender is not let in."""


class Handshake:
    """What a receiver asks of every sender; without `users` no name and password are checked."""

    def __init__(self, shared_key: str, users: Mapping[str, str], self_hostname: str) -> None:
        self._key = shared_key.encode()
        self._users = {name.encode(): password.encode() for name, password in users.items()}
        self._hostname = self_hostname

    def hold(self, connection: socket.socket) -> None:
        """Speak first, and return once the sender is let in.

        Raises:
            Denied: its PING is malformed, or names a wrong key, user or password
            ConnectionError: it has gone
        """
        nonce, auth = secrets.token_bytes(RANDOM_BYTES), secrets.token_bytes(RANDOM_BYTES)
        connection.sendall(_packed(["HELO", {"nonce": _text(nonce), "auth": _text(auth)}]))
        # One read, as Fluent Bit does it: a PING in pieces is none, and what came with it is dropped.
        data = connection.recv(MOST_PING_BYTES)
        if not data:
            raise ConnectionAbortedError("gone before its PING")
        hostname, salt, key_digest, name, password_digest = _ping(data)
        # It compares no more than these, so a longer digest passes.
        if key_digest[:DIGEST_LENGTH] != _digest(salt, hostname, nonce, self._key):
            raise Denied("shared_key mismatch")
        if self._users and not (name in self._users and password_digest == _digest(auth, name, self._users[name])):
            connection.sendall(_packed(["PONG", False, "username/password mismatch", "", ""]))
            raise Denied("username/password mismatch")
        proof = _digest(salt, self._hostname.encode(), nonce, self._key)
        connection.sendall(_packed(["PONG", True, "", self._hostname, proof.decode()]))


def _ping(data: bytes) -> list[bytes]:
    """The five elements behind the word PING."""
    unpacker = msgpack.Unpacker(unicode_errors="surrogateescape")
    unpacker.feed(data)
    try:
        message: Any = unpacker.unpack()
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Denied("PING in pieces, too long, or no PING") from error
    if type(message) is not list or len(message) != 6 or not all(type(each) is str for each in message):  # noqa: PLR2004
        raise Denied("a PING is six strings")
    if message[0] != "PING":
        raise Denied("not a PING")
    return [each.encode("utf-8", "surrogateescape") for each in message[1:]]


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha512(b"".join(parts)).hexdigest().encode()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _packed(message: list[Any]) -> bytes:
    packed: bytes = msgpack.packb(message, unicode_errors="surrogateescape")
    return packed
