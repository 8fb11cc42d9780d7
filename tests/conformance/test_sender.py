"""Our sender against every kind of receiver: the same bytes go out, the same end comes of it."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest
from conformance.case import SALT, ingested
from conformance.cases import NAMED
from conformance.cases_sender import FIRST, LONGEST_ENTRY, SECOND, TAG
from conformance.conftest import PeerFor, SenderTo
from conformance.exchange import Line
from conformance.messages import entry, padded_entry
from conformance.peers import Peer, in_order

from in_jumpcloud.errors import HandshakeRejected, ReceiverDown
from in_jumpcloud.forward import sender as room
from in_jumpcloud.forward.handshake import ClientHandshake
from in_jumpcloud.forward.wire import build_chunk

NEVER = threading.Event()
TWO = build_chunk(TAG, entry("a") + entry("b"), 2)
ONE = build_chunk(TAG, entry("c"), 1)
A, B, C = (ingested(each, TAG) for each in "abc")


@pytest.fixture(autouse=True)
def _no_surprise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The salt and the probe's id are those of the recordings."""
    monkeypatch.setattr(room, "ClientHandshake", partial(ClientHandshake, salt=SALT))
    monkeypatch.setattr("os.urandom", bytes)


def came_out(peer: Peer, *records: Line) -> bool:
    """Whether exactly these records came out of it."""
    return in_order(peer.ingested(len(records))) == list(records)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sender_delivers", {}),
        ("sender_compresses", {"compress": "gzip"}),
        ("sender_with_key", {"shared_key": "s3cr3t"}),
        ("sender_with_empty_key", {"shared_key": ""}),
        ("sender_with_user", {"shared_key": "s3cr3t", "username": "alice", "password": "pass word"}),
        ("sender_over_tls", {}),
        ("sender_over_tls_with_key", {"shared_key": "s3cr3t"}),
    ],
)
def test_a_chunk_is_acknowledged_and_comes_out(
    peer_for: PeerFor, sender: SenderTo, name: str, settings: dict[str, Any]
) -> None:
    """Plain, compressed, with a key, as a user, inside TLS: each record comes out once."""
    peer = peer_for(name)
    compress = settings.get("compress", "none")
    parcel = build_chunk(TAG, entry("a") + entry("b"), 2, compress=compress)
    assert parcel.id == FIRST

    sender(peer, **settings).deliver(parcel, NEVER)

    assert came_out(peer, A, B)


def test_a_second_chunk_goes_over_the_same_connection(peer_for: PeerFor, sender: SenderTo) -> None:
    """No connection is made where there is one."""
    peer = peer_for("sender_stays")
    made = sender(peer)

    made.deliver(TWO, NEVER)
    first = made.socket
    made.deliver(ONE, NEVER)

    assert made.socket is first
    assert ONE.id == SECOND
    assert came_out(peer, A, B, C)


def test_a_probe_is_acknowledged_and_leaves_nothing(peer_for: PeerFor, sender: SenderTo) -> None:
    """A probe tells that the receiver takes messages, and no record comes of it."""
    peer = peer_for("sender_probes")

    assert sender(peer).probe(TAG, NEVER)

    assert came_out(peer)


def test_another_key_is_told_from_a_receiver_that_is_down(peer_for: PeerFor, sender: SenderTo) -> None:
    """A connection closed at our PING names the setting, and no chunk was sent."""
    peer = peer_for("sender_with_wrong_key")

    with pytest.raises(ReceiverDown, match=r"forward\.shared_key") as refusal:
        sender(peer, shared_key="other").deliver(TWO, NEVER)

    assert not refusal.value.reached
    assert came_out(peer)


def test_another_password_is_unwelcome(peer_for: PeerFor, sender: SenderTo) -> None:
    """A PONG that says no is passed on with the receiver's reason and the settings to look at."""
    peer = peer_for("sender_with_wrong_password")

    with pytest.raises(HandshakeRejected, match=r"username/password mismatch.*forward\.password"):
        sender(peer, shared_key="s3cr3t", username="alice", password="x").deliver(TWO, NEVER)

    assert came_out(peer)


def test_message_at_limit_and_one_above(peer_for: PeerFor, sender: SenderTo) -> None:
    """A message of buffer_max_size is delivered; of one byte more, the error says that it may be this one chunk."""
    fitting = build_chunk(TAG, padded_entry("a", LONGEST_ENTRY), 1)
    excessive = build_chunk(TAG, padded_entry("a", LONGEST_ENTRY + 1), 1)
    assert (len(fitting.message), len(excessive.message)) == (6_144_000, 6_144_001)

    peer = peer_for("sender_at_the_limit")
    sender(peer).deliver(fitting, NEVER)
    assert came_out(peer, A)

    peer = peer_for("sender_above_the_limit")
    with pytest.raises(ReceiverDown) as refusal:
        sender(peer).deliver(excessive, NEVER)
    assert refusal.value.reached
    assert came_out(peer)


def test_helo_with_non_utf8_bytes(peer_for: PeerFor, sender: SenderTo) -> None:
    """A nonce is bytes, packed as str, that are hardly ever UTF-8: whatever they are, the handshake succeeds."""
    for name in ("sender_with_key", "sender_with_user"):
        peer = peer_for(name)
        settings = {"username": "alice", "password": "pass word"} if "user" in name else {}

        sender(peer, shared_key=NAMED[name].receiver.key, **settings).deliver(TWO, NEVER)

        assert came_out(peer, A, B)
