"""Shared key, users and TLS: which receivers and senders accept each other. Simulated and real receivers."""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.certificates import Certificates, Pair
from support.command import wait_until
from support.fluent_bit import FluentBit, needs_fluent_bit
from support.senders import NEVER, SOON, SenderTo, some_chunk

from in_jumpcloud.config.schema import TlsSettings
from in_jumpcloud.config.types import NamedFile, Secret
from in_jumpcloud.errors import HandshakeRejected, ReceiverDown, ReceiverPaused
from in_jumpcloud.forward.sender import AckSender
from in_jumpcloud.simulator.receiver import SimulatedReceiver


class Running(NamedTuple):
    """A receiver: where it listens, and the event ids that came out of it."""

    address: tuple[str, int]
    ids: Callable[[], Any]


Start = Callable[..., Running]


@pytest.fixture(params=["simulated", pytest.param("real", marks=needs_fluent_bit)])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Starts a receiver of each kind, with a shared key, users, a certificate, an authority for clients."""
    with contextlib.ExitStack() as stack:

        def simulated(
            shared_key: str | None = None,
            users: dict[str, str] | None = None,
            pair: Pair | None = None,
            client_ca: Path | None = None,
        ) -> Running:
            context = None
            if pair:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*pair)
                if client_ca:
                    context.load_verify_locations(client_ca)
                    context.verify_mode = ssl.CERT_REQUIRED
            receiver = stack.enter_context(SimulatedReceiver(shared_key=shared_key, users=users, tls=context))
            return Running(("localhost", receiver.port), lambda: receiver.ids)

        def real(
            shared_key: str | None = None,
            users: dict[str, str] | None = None,
            pair: Pair | None = None,
            client_ca: Path | None = None,
        ) -> Running:
            options: dict[str, Any] = {}
            if shared_key is not None:
                options |= {"shared_key": shared_key} if shared_key else {"empty_shared_key": True}
            if users:
                options["security.users"] = [f"{name} {password}" for name, password in users.items()]
            if pair:
                files = {"tls.crt_file": str(pair.certificate), "tls.key_file": str(pair.key)}
                options |= {"tls": True, "tls.verify": False, **files}
            if client_ca:
                options |= {"tls.ca_file": str(client_ca), "tls.verify": True, "tls.verify_client_cert": True}
            fluent_bit = stack.enter_context(FluentBit.with_input(tmp_path / "real", options))
            return Running(("localhost", fluent_bit.port), fluent_bit.ids)

        yield simulated if request.param == "simulated" else real


def assert_delivers(running: Running, sender: AckSender, name: str = "1") -> None:
    """Deliver a record, and see it come out."""
    sender.deliver(some_chunk(name), NEVER)
    wait_until(lambda: name in running.ids(), SOON)


class TestSharedKey:
    """Handshakes."""

    def test_right_and_wrong(self, start: Start, sender_to: SenderTo) -> None:
        """The key that both know is accepted, also an empty one. For another one the error names the setting."""
        for name, key in (("1", "the key"), ("2", "")):
            running = start(shared_key=key)
            sender = sender_to(running.address, shared_key=Secret("wrong"))
            with pytest.raises(ReceiverDown) as first:  # once, it may also be a receiver that stops
                sender.deliver(some_chunk(), NEVER)
            with pytest.raises(HandshakeRejected, match=r"our PING; forward\.shared_key probably") as second:
                sender.deliver(some_chunk(), NEVER)
            assert [each.value.stage for each in (first, second)] == ["handshake"] * 2
            assert not first.value.reached | second.value.reached
            assert_delivers(running, sender_to(running.address, shared_key=Secret(key)), name)

    def test_users(self, start: Start, sender_to: SenderTo) -> None:
        """A receiver with users needs name and password too; the error has its reason and names the settings."""
        running = start(shared_key="key", users={"alice": "pass word", "bob": "b"})
        right: dict[str, Any] = {"shared_key": Secret("key"), "username": "alice", "password": Secret("pass word")}
        assert_delivers(running, sender_to(running.address, **right))
        for wrong in ({"password": Secret("other")}, {"username": "eve"}, {"username": None, "password": None}):
            with pytest.raises(HandshakeRejected, match=r"username/password mismatch; check forward\.username"):
                sender_to(running.address, **(right | wrong)).deliver(some_chunk(), NEVER)

    def test_key_on_one_side_only(self, start: Start, sender_to: SenderTo) -> None:
        """A receiver that asks for a key is reported as that; one without a key looks like one that is paused."""
        running = start(shared_key="key")
        with pytest.raises(HandshakeRejected, match=r"asks for a shared key: set forward\.shared_key") as refused:
            sender_to(running.address).deliver(some_chunk(), NEVER)
        assert (refused.value.stage, refused.value.reached) == ("handshake", frozenset())
        with pytest.raises(
            ReceiverPaused, match=r"no HELO within 0\.5 s: it is paused, or has no shared key"
        ) as silent:
            sender_to(start().address, ack=0.5, shared_key=Secret("key")).deliver(some_chunk(), NEVER)
        assert (silent.value.stage, silent.value.errno) == ("handshake", errno.ETIMEDOUT)


class TestTls:
    """Certificates."""

    def test_delivered(self, start: Start, sender_to: SenderTo, certificates: Certificates) -> None:
        """A trusted certificate is enough, with a handshake inside TLS and a chunk of many TLS records."""
        running = start(pair=certificates.issue("localhost"), shared_key="key")
        tls = TlsSettings(enabled=True, ca_file=certificates.trusted)
        sender = sender_to(running.address, tls=tls, shared_key=Secret("key"))
        assert_delivers(running, sender)
        sender.deliver(some_chunk("large", padding=5_000_000), NEVER)
        wait_until(lambda: "large" in running.ids(), SOON)
        assert sender.socket.version() in {"TLSv1.2", "TLSv1.3"}

    def test_client_certificate(
        self, start: Start, sender_to: SenderTo, certificates: Certificates, tmp_path: Path
    ) -> None:
        """A receiver that asks for a certificate gets ours; without one, or with an unknown one, the error says so."""
        running = start(pair=certificates.issue("localhost"), client_ca=certificates.ca_file)
        ours, unknown = (each.issue("client.example") for each in (certificates, Certificates(tmp_path / "other")))
        for pair in (None, unknown, ours):
            files: dict[str, Any] = (
                {} if pair is None else {"cert_file": NamedFile(pair.certificate), "key_file": NamedFile(pair.key)}
            )
            sender = sender_to(running.address, tls=TlsSettings(enabled=True, ca_file=certificates.trusted, **files))
            if pair is ours:
                assert_delivers(running, sender)
                continue
            with pytest.raises(
                HandshakeRejected, match=r"refuses our certificate .* forward\.tls\.cert_file"
            ) as caught:
                sender.deliver(some_chunk(), NEVER)
            assert (caught.value.stage, caught.value.reached) == ("tls", frozenset())

    def test_which_check_failed(self, start: Start, sender_to: SenderTo, certificates: Certificates) -> None:
        """The error tells an unknown authority from another name and names the setting; each setting helps."""
        running = start(pair=certificates.issue("receiver.example"))
        known: dict[str, Any] = {"enabled": True, "ca_file": certificates.trusted}
        for tls, advice in (
            (TlsSettings(enabled=True), r"certificate fails the check: .*; set forward\.tls\.ca_file"),
            (TlsSettings(**known), r"certificate fails the check: .*'localhost'; set forward\.tls\.server_name"),
        ):
            with pytest.raises(HandshakeRejected, match=advice) as caught:
                sender_to(running.address, tls=tls).connect(NEVER)
            assert caught.value.stage == "tls"
        assert_delivers(running, sender_to(running.address, tls=TlsSettings(**known, server_name="receiver.example")))
        assert_delivers(running, sender_to(running.address, tls=TlsSettings(enabled=True, verify=False)), "2")

    def test_expired(self, start: Start, sender_to: SenderTo, certificates: Certificates) -> None:
        """The error for an expired certificate names the two things that help."""
        running = start(pair=certificates.issue("localhost", not_after=datetime(2020, 1, 1, tzinfo=UTC)))
        tls = TlsSettings(enabled=True, ca_file=certificates.trusted)
        with pytest.raises(HandshakeRejected, match="renew it, or set this machine's clock"):
            sender_to(running.address, tls=tls).connect(NEVER)

    def test_receiver_without_tls(self, start: Start, sender_to: SenderTo) -> None:
        """The error says so, whether the receiver closes the connection or sends its HELO."""
        for key in (None, "key"):
            with pytest.raises(ReceiverDown, match=r"set forward\.tls\.enabled to false, or enable TLS") as caught:
                sender_to(start(shared_key=key).address, tls=TlsSettings(enabled=True)).connect(NEVER)
            assert caught.value.stage == "tls"

    def test_sender_without_tls(self, start: Start, sender_to: SenderTo, certificates: Certificates) -> None:
        """A receiver that expects TLS takes neither the chunk nor a probe, so no record counts as refused."""
        sender = sender_to(start(pair=certificates.issue("localhost")).address, ack=2)
        with pytest.raises(ReceiverDown):
            sender.deliver(some_chunk(), NEVER)
        assert not sender.probe("t", NEVER)


HELO = b"\x92\xa4HELO\x82\xa5nonce\xb0" + bytes(range(240, 256)) + b"\xa4auth\xb0" + bytes(range(128, 144))


def close(_: socket.socket) -> None:
    """Close the connection, with the ClientHello unread: that is a reset."""


def reset(connection: socket.socket) -> None:
    """Read the ClientHello, then reset the connection."""
    connection.recv(4096)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def end(connection: socket.socket) -> None:
    """Read the ClientHello, then close the connection in an orderly way."""
    connection.recv(4096)


def answer(data: bytes) -> Callable[[socket.socket], None]:
    """Send this, and wait for the end."""

    def send(connection: socket.socket) -> None:
        connection.sendall(data)
        with contextlib.suppress(OSError):
            while connection.recv(4096):
                pass

    return send


@contextlib.contextmanager
def plain_peer(behave: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """A peer that does this with its one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                behave(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()
        thread.join(SOON)


@pytest.mark.parametrize(
    ("behave", "code"),
    [
        pytest.param(close, errno.ECONNRESET, id="closes"),
        pytest.param(reset, errno.ECONNRESET, id="resets"),
        pytest.param(end, errno.ECONNRESET, id="ends"),
        pytest.param(answer(b"\x81\xa3ack\xa1x" * 1000), None, id="acks"),
    ],
)
def test_the_hint_for_a_plain_port(
    behave: Callable[[socket.socket], None], code: int | None, sender_to: SenderTo
) -> None:
    """A peer that does not speak TLS gets the same hint with every TLS library, whatever it sends."""
    with plain_peer(behave) as address:
        with pytest.raises(ReceiverDown, match=r"expected a TLS handshake.* speak TLS at this port\?") as caught:
            sender_to(address, tls=TlsSettings(enabled=True)).connect(NEVER)
        assert (caught.value.stage, caught.value.errno) == ("tls", code)


def test_the_hint_for_a_silent_port(sender_to: SenderTo) -> None:
    """A peer that sends nothing may be busy: it counts as paused."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(ReceiverPaused, match=r"no TLS within 0\.3 s: it is busy, or does not speak TLS") as caught:
            sender_to(silent, ack=0.3, tls=TlsSettings(enabled=True)).connect(NEVER)
        assert (caught.value.stage, caught.value.errno) == ("tls", errno.ETIMEDOUT)


def test_the_end_of_tls_is_sent(sender_to: SenderTo, certificates: Certificates) -> None:
    """Closing a connection is not an error for the receiver."""
    context = certificates.server_context("127.0.0.1")
    results: list[bytes | Exception] = []

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=False) as secured:
            try:
                results.append(secured.recv(1))
            except OSError as error:
                results.append(error)

    with plain_peer(serve) as address:
        sender = sender_to(address, tls=TlsSettings(enabled=True, ca_file=certificates.trusted))
        sender.connect(NEVER)
        sender.close()
    assert results == [b""]


@needs_fluent_bit
def test_a_stopped_receiver_costs_one_ack_timeout(tmp_path: Path, sender_to: SenderTo) -> None:
    """A Fluent Bit that hangs accepts connections and sends no HELO; when it continues, the chunk is delivered."""
    with FluentBit.with_input(tmp_path, {"shared_key": "k"}) as fluent_bit:
        sender = sender_to(fluent_bit.port, ack=1, shared_key=Secret("k"))
        sender.deliver(some_chunk("1"), NEVER)
        fluent_bit.signal(signal.SIGSTOP)
        with pytest.raises(ReceiverDown, match="no ack within 1 s"):
            sender.deliver(some_chunk("2"), NEVER)
        with pytest.raises(ReceiverPaused, match="no HELO within 1 s"):
            sender.deliver(some_chunk("2"), NEVER)
        fluent_bit.signal(signal.SIGCONT)
        sender.deliver(some_chunk("2"), NEVER)
        wait_until(lambda: "2" in fluent_bit.ids(), SOON)
