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
    """The digest that the protocol asks for."""
    return hashlib.sha512(b"".join(parts)).hexdigest()


def pong(*parts: Any) -> list[Any]:
    """A PONG."""
    return [b"PONG", *parts]


class TestPing:
    """The answer to a HELO."""

    def test_bytes(self) -> None:
        """Host name, salt, digest of the key, user, digest of the password: strings, with the nonces as they came."""
        sent = msgpack.unpackb(ClientHandshake(US, salt="5a17").ping(HELO))
        key = sha512(b"5a17", b"us", NONCE, b"key")
        assert sent == ["PING", "us", "5a17", key, "alice", sha512(AUTH, b"alice", "pässword".encode())]

    def test_no_user_asked_for(self) -> None:
        """A receiver with an empty `auth` has no users, and gets no name."""
        sent = msgpack.unpackb(ClientHandshake(US).ping([b"HELO", {b"nonce": NONCE, b"auth": b"", b"keepalive": True}]))
        assert sent[4:] == ["", ""]

    def test_new_salt_each_time(self) -> None:
        """Two handshakes never use the same salt."""
        first, second = (msgpack.unpackb(ClientHandshake(US).ping(HELO))[2] for _ in range(2))
        assert first != second

    def test_longest(self) -> None:
        """With names as long as the configuration allows, a PING still fits what Fluent Bit reads of it."""
        names = Credentials("h" * 300, "k" * 5000, "u" * 300, "p" * 5000)
        assert len(ClientHandshake(names).ping(HELO)) <= MAX_PING_BYTES

    @pytest.mark.parametrize(
        "helo",
        [None, [], [b"HELO"], [b"HELO", []], [b"PONG", {}], {b"ack": b"a"}, b"HELO", [b"HELO", {b"nonce": 1}]],
        ids=repr,
    )
    def test_no_helo(self, helo: Any) -> None:
        """Anything else raises ReceiverDown."""
        with pytest.raises(ReceiverDown, match="HELO"):
            ClientHandshake(US).ping(helo)


class TestPong:
    """The answer of the receiver."""

    @given(st.binary(min_size=1, max_size=40), st.text(st.characters(codec="utf-8"), max_size=20))
    def test_proven(self, nonce: bytes, hostname: str) -> None:
        """The receiver's own digest proves that it knows the key, whatever the bytes of its nonce."""
        handshake = ClientHandshake(US, salt="s")
        handshake.ping([b"HELO", {b"nonce": nonce, b"auth": b""}])
        digest = sha512(b"s", hostname.encode(), nonce, b"key")
        handshake.verify(pong(True, b"", hostname.encode(), digest.encode()))

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (pong(True, b"", b"it", sha512(b"s", b"it", NONCE, b"another").encode()), "does not know forward.shared_k"),
            (pong(True, b"", b"it", b"\xff"), "does not know forward.shared_key"),
            (pong(False, b"username/password mismatch", b"", b""), "username/password mismatch; check forward.userna"),
            (pong(False, b"\xff", b"", b""), "refuses us"),
            (pong(False, None, None, None), "refuses us"),
        ],
    )
    def test_rejected(self, answer: list[Any], reason: str) -> None:
        """A receiver that refuses us, or cannot prove itself, raises HandshakeRejected with advice."""
        handshake = ClientHandshake(US, salt="s")
        handshake.ping(HELO)
        with pytest.raises(HandshakeRejected, match=reason):
            handshake.verify(answer)

    @pytest.mark.parametrize(
        "answer", [None, [], [b"PONG", True], [b"HELO", {}], pong(True, b"", None, b"x"), pong(True, b"", b"x", 1)]
    )
    def test_no_pong(self, answer: Any) -> None:
        """Anything else raises ReceiverDown."""
        handshake = ClientHandshake(US)
        handshake.ping(HELO)
        with pytest.raises(ReceiverDown, match="PONG"):
            handshake.verify(answer)
