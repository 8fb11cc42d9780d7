"""The sender's side of the handshake, byte for byte."""

from __future__ import annotations

import hashlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from in_jumpcloud.errors import HandshakeRejected, ReceiverDown
from in_jumpcloud.forward.handshake import MAX_PING_BYTES, ClientHandshake, Credentials

NONCE = bytes(range(240, 256))
AUTH = bytes(range(128, 144))
HELO = [b"HELO", {b"nonce": NONCE, b"auth": AUTH}]
US = Credentials("us", "key", "alice", "pässword")


def sha512(*parts: bytes) -> str:
    """The digest that the protocol requires."""
    return hashlib.sha512(b"".join(parts)).hexdigest()


def pong(*parts: Any) -> list[Any]:
    """A PONG."""
    return [b"PONG", *parts]


def verify(answer: Any) -> None:
    """Let a handshake with the salt `s`, whose PING was sent, verify the receiver's answer."""
    handshake = ClientHandshake(US, salt="s")
    handshake.ping(HELO)
    handshake.verify(answer)


def test_ping() -> None:
    """Name, salt, digest of the key, user, digest of the password: six strings. A receiver without users gets none."""
    sent = msgpack.unpackb(ClientHandshake(US, salt="5a17").ping(HELO))
    key = sha512(b"5a17", b"us", NONCE, b"key")
    assert sent == ["PING", "us", "5a17", key, "alice", sha512(AUTH, b"alice", "pässword".encode())]

    first, second = (
        msgpack.unpackb(ClientHandshake(US).ping([b"HELO", {b"nonce": NONCE, b"auth": b"", b"keepalive": True}]))
        for _ in range(2)
    )
    assert first[4:] == ["", ""]
    assert first[2] != second[2], "the same salt twice"

    names = Credentials("h" * 300, "k" * 5000, "u" * 300, "p" * 5000)  # as long as the configuration allows
    assert len(ClientHandshake(names).ping(HELO)) <= MAX_PING_BYTES


def test_other_messages() -> None:
    """Anything but a HELO, or then a PONG, is a ReceiverDown that says so."""
    helos: list[Any] = [None, [], [b"HELO"], [b"HELO", []], [b"PONG", {}], {b"ack": b"a"}, b"HELO"]
    for helo in [*helos, [b"HELO", {b"nonce": 1}]]:
        with pytest.raises(ReceiverDown, match="HELO"):
            ClientHandshake(US).ping(helo)
    pongs: list[Any] = [None, [], [b"PONG", True], [b"HELO", {}], pong(True, b"", None, b"x"), pong(True, b"", b"x", 1)]
    for answer in pongs:
        with pytest.raises(ReceiverDown, match="PONG"):
            verify(answer)


@given(st.binary(min_size=1, max_size=40), st.text(st.characters(codec="utf-8"), max_size=20))
def test_proven(nonce: bytes, hostname: str) -> None:
    """The receiver's own digest proves that it knows the key, for any bytes of its nonce."""
    handshake = ClientHandshake(US, salt="s")
    handshake.ping([b"HELO", {b"nonce": nonce, b"auth": b""}])
    digest = sha512(b"s", hostname.encode(), nonce, b"key")
    handshake.verify(pong(True, b"", hostname.encode(), digest.encode()))


def test_rejected() -> None:
    """A receiver that refuses, or cannot prove itself, is a HandshakeRejected with the reason and the setting."""
    table: list[tuple[list[Any], str]] = [
        (pong(True, b"", b"it", sha512(b"s", b"it", NONCE, b"another").encode()), "does not know forward.shared_key"),
        (pong(True, b"", b"it", b"\xff"), "does not know forward.shared_key"),
        (pong(False, b"username/password mismatch", b"", b""), "username/password mismatch; check forward.username"),
        (pong(False, b"\xff", b"", b""), "refuses us"),
        (pong(False, None, None, None), "refuses us"),
    ]
    for answer, reason in table:
        with pytest.raises(HandshakeRejected, match=reason):
            verify(answer)
