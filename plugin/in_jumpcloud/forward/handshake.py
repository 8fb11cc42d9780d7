"""The handshake of the forward protocol, as a sender: HELO, PING, PONG. Pure functions of bytes, no I/O.

Sender and receiver prove to each other that they know the shared key, and the sender proves that it knows the password.
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
"""The longest PING that Fluent Bit reads."""


class Credentials(NamedTuple):
    """Our host name, the shared key, and a user with its password if the receiver has users."""

    hostname: str
    shared_key: str
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"Credentials({self.hostname!r}, …)"


class ClientHandshake:
    """One handshake: call `ping` with the HELO, then `verify` with the PONG."""

    def __init__(self, credentials: Credentials, *, salt: str | None = None) -> None:
        """`salt` is ASCII text, the only kind that Fluent Bit accepts; None creates a random one."""
        self._credentials = credentials
        self._salt = salt or secrets.token_hex(16)
        self._nonce = b""

    def ping(self, helo: Any) -> bytes:
        """The PING that answers a HELO, `["HELO", {"nonce": bytes, "auth": bytes, …}]`; strings in it are bytes.

        Raises:
            ReceiverDown: it is not a HELO.
        """
        options = helo[1] if isinstance(helo, list) and len(helo) > 1 and helo[0] == b"HELO" else None
        if not isinstance(options, dict):
            raise ReceiverDown(f"it sent {reprlib.repr(helo):.80} instead of a HELO")
        # Random bytes. Fluent Bit packs them as str, Fluentd as bin.
        self._nonce, auth = options.get(b"nonce", b""), options.get(b"auth", b"")
        if not isinstance(self._nonce, bytes) or not isinstance(auth, bytes):
            raise ReceiverDown("its HELO has no nonce")
        hostname, shared_key, username, password = self._credentials
        key_digest = _hex_digest(self._salt, hostname, self._nonce, shared_key)
        user = (username, _hex_digest(auth, username, password)) if auth else ("", "")
        packed: bytes = msgpack.packb(("PING", hostname, self._salt, key_digest, *user))
        return packed

    def verify(self, pong: Any) -> None:
        """Check a PONG, `["PONG", accepted, reason, hostname, digest]`; strings in it are bytes.

        Raises:
            HandshakeRejected: the receiver refuses the sender, or does not know the shared key.
            ReceiverDown: it is not a PONG.
        """
        if not isinstance(pong, list) or len(pong) != 5 or pong[0] != b"PONG":  # noqa: PLR2004
            raise ReceiverDown(f"it sent {reprlib.repr(pong):.80} instead of a PONG")
        _, accepted, reason, hostname, digest = pong
        if accepted is not True:
            text = reason.decode(errors="replace") if isinstance(reason, bytes) else repr(reason)
            raise HandshakeRejected(
                f"it refuses us: {text:.200}",
                advice="check forward.username and forward.password, or forward.shared_key",
            )
        if not isinstance(hostname, bytes) or not isinstance(digest, bytes):
            raise ReceiverDown("its PONG has no digest")
        expected = _hex_digest(self._salt, hostname, self._nonce, self._credentials.shared_key)
        if not hmac.compare_digest(digest, expected.encode()):
            raise HandshakeRejected("it does not know forward.shared_key: this may be the wrong receiver")


def _hex_digest(*parts: str | bytes) -> str:
    joined = b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)
    return hashlib.sha512(joined).hexdigest()
