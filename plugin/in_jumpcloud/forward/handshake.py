"""The handshake of the forward protocol: HELO, PING, PONG. Pure functions of bytes, no I/O.

Both sides prove that they know the shared key, and the sender its password, without sending either.
https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1#handshake-messages
"""

from __future__ import annotations

import hashlib
import hmac
import reprlib
import secrets
from typing import Any, NamedTuple

import msgpack

from in_jumpcloud.errors import HandshakeRejected, ReceiverDown

MAX_PING_BYTES = 1023
"""Bytes that Fluent Bit reads of a PING; a longer one is refused."""


class Credentials(NamedTuple):
    """What the sender is known by: its name, the shared key, and a user where the receiver has users."""

    hostname: str
    shared_key: str
    username: str = ""
    password: str = ""


class ClientHandshake:
    """One handshake, from the sender's side: first `ping`, then `verify`."""

    def __init__(self, credentials: Credentials, *, salt: str | None = None) -> None:
        """Make ready. `salt` is ASCII text, for Fluent Bit takes no other; None makes a new one."""
        self._credentials = credentials
        self._salt = salt or secrets.token_hex(16)
        self._nonce = b""

    def ping(self, helo: Any) -> bytes:
        """The answer to a HELO, `["HELO", {"nonce": bytes, "auth": bytes, …}]`, its text as bytes.

        Raises:
            ReceiverDown: it is none.
        """
        options = helo[1] if isinstance(helo, list) and len(helo) > 1 and helo[0] == b"HELO" else None
        if not isinstance(options, dict):
            raise ReceiverDown(f"it sent {reprlib.repr(helo):.80} where a HELO was due")
        # Fluent Bit sends both as str, Fluentd as bin; whatever their bytes, they are read as they are.
        self._nonce, auth = options.get(b"nonce", b""), options.get(b"auth", b"")
        if not isinstance(self._nonce, bytes) or not isinstance(auth, bytes):
            raise ReceiverDown("its HELO holds no nonce")
        hostname, shared_key, username, password = self._credentials
        signed = _digest(self._salt, hostname, self._nonce, shared_key)
        user = (username, _digest(auth, username, password)) if auth else ("", "")
        packed: bytes = msgpack.packb(("PING", hostname, self._salt, signed, *user))
        return packed

    def verify(self, pong: Any) -> None:
        """Check a PONG, `["PONG", bool, reason, hostname, digest]`, its text as bytes.

        Raises:
            Unwelcome: the receiver refuses the sender, or does not know the key itself.
            ReceiverDown: it is no PONG.
        """
        if not isinstance(pong, list) or len(pong) != 5 or pong[0] != b"PONG":  # noqa: PLR2004
            raise ReceiverDown(f"it sent {reprlib.repr(pong):.80} where a PONG was due")
        _, welcome, reason, hostname, signed = pong
        if welcome is not True:
            told = reason.decode(errors="replace") if isinstance(reason, bytes) else repr(reason)
            raise HandshakeRejected(
                f"it refuses us: {told:.200}; check forward.username and forward.password, or forward.shared_key"
            )
        if not isinstance(hostname, bytes) or not isinstance(signed, bytes):
            raise ReceiverDown("its PONG holds no digest")
        expected = _digest(self._salt, hostname, self._nonce, self._credentials.shared_key)
        if not hmac.compare_digest(signed, expected.encode()):
            raise HandshakeRejected(
                "it does not know forward.shared_key itself: it may be another than the one that is meant"
            )


def _digest(*parts: str | bytes) -> str:
    joined = b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)
    return hashlib.sha512(joined).hexdigest()
