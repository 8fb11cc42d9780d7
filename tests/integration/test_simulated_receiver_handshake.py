"""The handshake of the simulated receiver, and of a real Fluent Bit beside it: who is let in, and who is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import pytest
from support.fluent_bit import FluentBit, needs_fluent_bit
from support.receivers import Address, Peer, digest, packed, ping

from in_jumpcloud.simulator.receiver import SimulatedReceiver

KEY = "s3crét"
USERS = {"alice": "pass: word", "bob": "pw"}
HOSTNAME = "flb.local"
SIDES = ["simulated", pytest.param("fluent_bit", marks=needs_fluent_bit)]


def _listening(side: str, directory: Path, settings: dict[str, Any], real: dict[str, Any]) -> Iterator[Address]:
    if side == "simulated":
        with SimulatedReceiver(**settings) as receiver:
            yield receiver.address
    else:
        with FluentBit.with_input(directory, real) as fluent_bit:
            yield "127.0.0.1", fluent_bit.port


@pytest.fixture(scope="module", params=SIDES)
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """One that asks for a key and a user."""
    settings = {"shared_key": KEY, "users": USERS, "self_hostname": HOSTNAME}
    real = {
        "shared_key": KEY,
        "self_hostname": HOSTNAME,
        "security.users": [f"{name} {password}" for name, password in USERS.items()],
    }
    yield from _listening(request.param, tmp_path_factory.mktemp("guarded"), settings, real)


@pytest.fixture(scope="module", params=SIDES)
def empty_key(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """One whose key is empty, and that knows no users."""
    directory = tmp_path_factory.mktemp("empty-key")
    yield from _listening(request.param, directory, {"shared_key": ""}, {"empty_shared_key": True})


@pytest.fixture
def peer(guarded: Address) -> Iterator[Peer]:
    """A client of the guarded one."""
    with closing(Peer(guarded)) as peer:
        yield peer


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class TestLetIn:
    """Who knows the key, and is a user."""

    def test_it_speaks_first_and_proves_itself(self, peer: Peer) -> None:
        """HELO has two strings of 16 random bytes; PONG has the digest that only the holder of the key can make."""
        helo = peer.answer()
        assert (helo[0], list(helo[1])) == ("HELO", ["nonce", "auth"])
        assert [(type(each), len(_bytes(each))) for each in helo[1].values()] == [(str, 16)] * 2
        assert helo[1]["nonce"] != helo[1]["auth"]

        peer.send(ping(helo, KEY, "alice", USERS["alice"]))

        assert peer.answer() == ["PONG", True, "", HOSTNAME, digest("0123", HOSTNAME, helo[1]["nonce"], KEY)]
        assert peer.exchange(packed("a", chunk="c")) == "c"

    def test_every_connection_has_its_own_numbers(self, guarded: Address) -> None:
        """What was heard on one is of no use on another."""
        with closing(Peer(guarded)) as first, closing(Peer(guarded)) as second:
            old, new = first.answer(), second.answer()
            assert old[1] != new[1]
            second.send(ping(old, KEY, "alice", USERS["alice"]))
            assert second.answer() is None

    def test_a_longer_digest_of_the_key_passes(self, peer: Peer) -> None:
        """No more of it is compared than the digest's length."""
        message = ping(peer.answer(), KEY, "bob", USERS["bob"])
        message[3] += "0"
        peer.send(message)
        assert peer.answer()[1] is True

    def test_what_comes_with_the_ping_is_dropped(self, peer: Peer) -> None:
        """Only what is sent after the PONG is taken."""
        message = msgpack.packb(ping(peer.answer(), KEY, "bob", USERS["bob"]))
        peer.send(message + msgpack.packb(packed("early", chunk="early")))
        assert peer.answer()[1] is True
        assert peer.exchange(packed("late", chunk="late")) == "late"

    @pytest.mark.parametrize("more", [0, 1])
    def test_the_longest_ping(self, peer: Peer, more: int) -> None:
        """It has 1,023 bytes."""
        helo = peer.answer()
        message = ping(helo, KEY, "bob", USERS["bob"])
        message[1] = "h" * (1023 + more - len(msgpack.packb([*message[:1], "h" * 600, *message[2:]])) + 600)
        message[3] = digest(message[2], message[1], helo[1]["nonce"], KEY)
        assert len(msgpack.packb(message)) == 1023 + more
        peer.send(message)
        assert (peer.answer() is None) == bool(more)

    def test_without_users_none_is_asked_for(self, empty_key: Address) -> None:
        """And an empty key is a key."""
        with closing(Peer(empty_key)) as peer:
            helo = peer.answer()
            assert len(_bytes(helo[1]["auth"])) == 16
            peer.send(ping(helo, "", "nobody", "nothing"))
            assert peer.answer() == ["PONG", True, "", "localhost", digest("0123", "localhost", helo[1]["nonce"])]
            assert peer.exchange(packed("a", chunk="c")) == "c"

    def test_a_wrong_key_is_not_an_empty_one(self, empty_key: Address) -> None:
        """The handshake is no formality."""
        with closing(Peer(empty_key)) as peer:
            peer.send(ping(peer.answer(), "something"))
            assert peer.answer() is None


Spoil = Callable[[list[Any]], object]
SPOILS: dict[str, Spoil] = {
    "no PING": lambda message: ["PANG", *message[1:]],
    "five elements": lambda message: message[:5],
    "seven elements": lambda message: [*message, ""],
    **{
        f"element {number} is bin": lambda message, number=number: [  # type: ignore[misc]  # bound at once
            each.encode() if place == number else each for place, each in enumerate(message)
        ]
        for number in range(6)
    },
    "no user": lambda message: [*message[:4], None, None],
    "short digest": lambda message: [*message[:3], message[3][:-1], *message[4:]],
    "capital digest": lambda message: [*message[:3], message[3].upper(), *message[4:]],
    "other hostname": lambda message: [message[0], "other", *message[2:]],
    "other salt": lambda message: [*message[:2], "other", *message[3:]],
    "a map": lambda _: {"PING": 1},
    "no msgpack": lambda _: b"\xc1",
    "in two pieces": lambda message: msgpack.packb(message)[:50],
    "data": lambda _: packed("a", chunk="c"),
}


class TestDenied:
    """Who is not."""

    @pytest.mark.parametrize("spoil", SPOILS)
    def test_closed_without_a_pong(self, peer: Peer, spoil: str) -> None:
        """Whatever is no PING of somebody who knows the key."""
        peer.send(SPOILS[spoil](ping(peer.answer(), KEY, "alice", USERS["alice"])))
        assert peer.answer() is None

    @pytest.mark.parametrize("user", [("alice", "pw"), ("eve", "pw"), ("", None), ("alice", None), ("bob", "")])
    def test_a_wrong_user_is_told(self, peer: Peer, user: tuple[str, str | None]) -> None:
        """PONG says no, with the reason and nothing else; then the connection ends."""
        peer.send(ping(peer.answer(), KEY, *user))
        assert peer.answer() == ["PONG", False, "username/password mismatch", "", ""]
        assert peer.answer() is None

    def test_a_wrong_key_comes_before_a_wrong_user(self, peer: Peer) -> None:
        """Who does not know the key learns nothing of users."""
        peer.send(ping(peer.answer(), "wrong", "eve", "pw"))
        assert peer.answer() is None


class TestCounts:
    """What the simulated receiver tells of it."""

    def test_let_in_denied_and_gone(self) -> None:
        """They are counted apart from messages; who leaves without a word is neither."""
        with SimulatedReceiver(shared_key=KEY) as receiver:
            with closing(Peer(receiver)) as peer:
                peer.answer()
            for key in (KEY, "wrong"):
                with closing(Peer(receiver)) as peer:
                    peer.send(ping(peer.answer(), key))
                    assert (peer.answer() is None) == (key == "wrong")
            assert receiver.wait_until(lambda: receiver.denied == 1, 30)
            assert (receiver.handshakes, receiver.connections, receiver.refused, receiver.bytes) == (1, 3, 0, 0)

    def test_paused_there_is_no_helo(self) -> None:
        """It comes once the receiver reads again."""
        with SimulatedReceiver(shared_key="") as receiver:
            receiver.pause()
            with closing(Peer(receiver)) as peer:
                peer.socket.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    peer.answer()
                receiver.resume()
                peer.socket.settimeout(30)
                peer.send(ping(peer.answer(), ""))
                assert peer.answer()[1] is True

    def test_users_need_a_key(self) -> None:
        """Without one there is no handshake in which they could be named."""
        with pytest.raises(ValueError, match="shared_key"):
            SimulatedReceiver(users=USERS)
        SimulatedReceiver(users=USERS, shared_key="")
