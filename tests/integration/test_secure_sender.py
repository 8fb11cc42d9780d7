"""Shared key, users and certificates: who is let in, and what is said to who is not. Simulated and real receivers."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from support.command import wait_until
from support.fluent_bit import FluentBit, needs_fluent_bit

from in_jumpcloud.config.schema import ForwardSettings, ServerSettings, TlsSettings
from in_jumpcloud.config.types import Duration, Secret
from in_jumpcloud.errors import HandshakeRejected, ReceiverDown, ReceiverPaused
from in_jumpcloud.forward.sender import AckSender
from in_jumpcloud.forward.wire import Chunk, build_chunk, pack_entry
from in_jumpcloud.simulator.receiver import SimulatedReceiver

NEVER = threading.Event()


def some_chunk(name: str = "1") -> Chunk:
    """A chunk of one record."""
    return build_chunk("t", pack_entry(10**18, {"event": {"id": name}}), 1)


class Peer:
    """A receiver, simulated or real, with a shared key, users or TLS."""

    def __init__(self, port: int, ids: Callable[[], Any]) -> None:
        self.port = port
        self.ids = ids


class Certificates:
    """An authority, and what it issues, as files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = trustme.CA()
        self.ca = directory / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str, **options: Any) -> tuple[Path, Path]:
        """A certificate for this name, and its key."""
        made = self.authority.issue_cert(name, **options)
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        key.unlink(missing_ok=True)
        made.private_key_pem.write_to_path(str(key))
        certificate.unlink(missing_ok=True)
        for part in made.cert_chain_pems:
            part.write_to_path(str(certificate), append=True)
        return certificate, key


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """An authority of the test's own."""
    return Certificates(tmp_path)


Start = Callable[..., Peer]


@pytest.fixture(params=["simulated", pytest.param("real", marks=needs_fluent_bit)])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Start a receiver of each kind."""
    with contextlib.ExitStack() as stack:

        def simulated(
            shared_key: str | None = None,
            users: dict[str, str] | None = None,
            pair: tuple[Path, Path] | None = None,
            client_ca: Path | None = None,
        ) -> Peer:
            context = None
            if pair:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*pair)
                if client_ca:
                    context.load_verify_locations(client_ca)
                    context.verify_mode = ssl.CERT_REQUIRED
            receiver = SimulatedReceiver(shared_key=shared_key, users=users, self_hostname="it", tls=context)
            stack.enter_context(receiver)
            return Peer(receiver.port, lambda: receiver.ids)

        def real(
            shared_key: str | None = None,
            users: dict[str, str] | None = None,
            pair: tuple[Path, Path] | None = None,
            client_ca: Path | None = None,
        ) -> Peer:
            options: dict[str, Any] = {"self_hostname": "it"} if shared_key is not None else {}
            if shared_key:
                options["shared_key"] = shared_key
            elif shared_key == "":
                options["empty_shared_key"] = True
            if users:
                options["security.users"] = [f"{name} {password}" for name, password in users.items()]
            if pair:
                options |= {"tls": True, "tls.crt_file": str(pair[0]), "tls.key_file": str(pair[1])}
                options |= {"tls.verify": False}
            if client_ca:
                options |= {"tls.ca_file": str(client_ca), "tls.verify": True, "tls.verify_client_cert": True}
            fluent_bit = FluentBit.with_input(tmp_path / "real", options)
            stack.enter_context(fluent_bit)
            return Peer(fluent_bit.port, fluent_bit.ids)

        yield simulated if request.param == "simulated" else real


Make = Callable[..., AckSender]


@pytest.fixture
def sender_to() -> Iterator[Make]:
    """Make senders, and close them."""
    with contextlib.ExitStack() as stack:

        def make(port: int, *, host: str = "localhost", ack: float = 20, **settings: Any) -> AckSender:
            server = ServerSettings(host=host, port=port)
            sender = AckSender(server, ForwardSettings(servers=(server,), ack_timeout=Duration(ack), **settings))
            stack.callback(sender.close)
            return sender

        yield make


def arrived(peer: Peer, sender: AckSender, name: str = "1") -> None:
    """Deliver a record, and see it come out."""
    sender.deliver(some_chunk(name), NEVER)
    wait_until(lambda: name in peer.ids(), 20)


def unwelcome(sender: AckSender) -> str:
    """Try twice to deliver: the second error, which is one that waits for another configuration."""
    with pytest.raises(ReceiverDown):
        sender.deliver(some_chunk(), NEVER)
    with pytest.raises(HandshakeRejected) as caught:
        sender.deliver(some_chunk(), NEVER)
    assert not caught.value.reached
    return str(caught.value).removeprefix(f"receiver {sender.server}: ")


class TestSharedKey:
    """Handshakes."""

    def test_let_in(self, start: Start, sender_to: Make) -> None:
        """Who knows the key is let in; users are not asked for where there are none."""
        peer = start(shared_key="the key")
        arrived(peer, sender_to(peer.port, shared_key=Secret("the key")))

    def test_empty_key(self, start: Start, sender_to: Make) -> None:
        """The empty key is a key."""
        peer = start(shared_key="")
        arrived(peer, sender_to(peer.port, shared_key=Secret("")))
        assert "PING" in unwelcome(sender_to(peer.port, shared_key=Secret("not empty")))

    def test_wrong_key(self, start: Start, sender_to: Make) -> None:
        """Another key is refused without a word, which is told as what it most likely is; the right one still works."""
        peer = start(shared_key="the key")
        reason = unwelcome(sender_to(peer.port, shared_key=Secret("no key")))
        assert reason == "it closed the connection at our PING, as where forward.shared_key differs from its own"
        arrived(peer, sender_to(peer.port, shared_key=Secret("the key")))

    def test_users(self, start: Start, sender_to: Make) -> None:
        """With users, name and password are needed too, and a wrong one is told with the receiver's words."""
        peer = start(shared_key="key", users={"alice": "pass word", "bob": "b"})
        right = {"shared_key": Secret("key"), "username": "alice", "password": Secret("pass word")}
        arrived(peer, sender_to(peer.port, **right))
        for wrong in ({"password": Secret("other")}, {"username": "eve"}, {"username": None, "password": None}):
            with pytest.raises(HandshakeRejected, match=r"username/password mismatch; check forward\.username"):
                sender_to(peer.port, **(right | wrong)).deliver(some_chunk(), NEVER)

    def test_key_on_one_side_only(self, start: Start, sender_to: Make) -> None:
        """A receiver that asks for a key says so; one that has none is not ready for who has one."""
        peer = start(shared_key="key")
        with pytest.raises(HandshakeRejected, match=r"it asks for a shared key: set forward\.shared_key"):
            sender_to(peer.port).deliver(some_chunk(), NEVER)
        plain = start()
        with pytest.raises(
            ReceiverPaused, match=r"no HELO within 0\.5 s: it is paused, or has no shared key, or speaks TLS"
        ):
            sender_to(plain.port, ack=0.5, shared_key=Secret("key")).deliver(some_chunk(), NEVER)


class TestTls:
    """Certificates."""

    def test_delivered(self, start: Start, sender_to: Make, certificates: Certificates) -> None:
        """With the authority's certificate it is delivered, a chunk of many TLS records too, and with a key inside."""
        peer = start(pair=certificates.issue("localhost"), shared_key="key")
        tls = TlsSettings(enabled=True, ca_file=certificates.ca)
        sender = sender_to(peer.port, tls=tls, shared_key=Secret("key"))
        arrived(peer, sender)
        large = build_chunk("t", pack_entry(10**18, {"event": {"id": "large"}, "x": "y" * 5_000_000}), 1)
        sender.deliver(large, NEVER)
        wait_until(lambda: "large" in peer.ids(), 20)
        assert sender.socket.version() in {"TLSv1.2", "TLSv1.3"}

    def test_client_certificate(self, start: Start, sender_to: Make, certificates: Certificates) -> None:
        """Where the receiver asks for a certificate ours is shown; without one, or with another's, it is told."""
        pair = certificates.issue("localhost")
        peer = start(pair=pair, client_ca=certificates.ca)
        cert, key = certificates.issue("client.example")
        right = TlsSettings(enabled=True, ca_file=certificates.ca, cert_file=cert, key_file=key)
        arrived(peer, sender_to(peer.port, tls=right))

        (certificates.directory / "other").mkdir()
        cert, key = Certificates(certificates.directory / "other").issue("client.example")
        for wrong in (
            TlsSettings(enabled=True, ca_file=certificates.ca),
            TlsSettings(enabled=True, ca_file=certificates.ca, cert_file=cert, key_file=key),
        ):
            with pytest.raises(
                HandshakeRejected, match=r"it refuses our certificate \(.*\); check forward\.tls\.cert_file"
            ):
                sender_to(peer.port, tls=wrong).deliver(some_chunk(), NEVER)

    def test_which_check_failed(self, start: Start, sender_to: Make, certificates: Certificates) -> None:
        """An unknown authority and another name are told apart, each with what to do; server_name mends the latter."""
        peer = start(pair=certificates.issue("receiver.example"))
        trusted = TlsSettings(enabled=True, ca_file=certificates.ca)
        checks = {
            "authority": (
                TlsSettings(enabled=True),
                r"fails the check: .*; set forward\.tls\.ca_file to the authority",
            ),
            "name": (trusted, r"fails the check: Hostname mismatch.*'localhost'; set forward\.tls\.server_name"),
        }
        for tls, told in checks.values():
            with pytest.raises(HandshakeRejected, match=told):
                sender_to(peer.port, tls=tls).connect(NEVER)
        named = TlsSettings(enabled=True, ca_file=certificates.ca, server_name="receiver.example")
        arrived(peer, sender_to(peer.port, tls=named))
        arrived(peer, sender_to(peer.port, tls=TlsSettings(enabled=True, verify=False)), "2")

    def test_expired(self, start: Start, sender_to: Make, certificates: Certificates) -> None:
        """A certificate that is too old is told as that."""
        peer = start(pair=certificates.issue("localhost", not_after=datetime(2020, 1, 1, tzinfo=UTC)))
        with pytest.raises(HandshakeRejected, match="certificate has expired; renew it, or set this machine's clock"):
            sender_to(peer.port, tls=TlsSettings(enabled=True, ca_file=certificates.ca)).connect(NEVER)

    def test_tls_on_one_side_only(self, start: Start, sender_to: Make, certificates: Certificates) -> None:
        """A receiver that speaks none is told; one that does gets nothing from who does not, and no chunk is poison."""
        plain = start()
        with pytest.raises(ReceiverDown) as caught:
            sender_to(plain.port, tls=TlsSettings(enabled=True)).connect(NEVER)
        assert "does it speak TLS at this port?" in str(caught.value)
        peer = start(pair=certificates.issue("localhost"))
        sender = sender_to(peer.port, ack=2)
        with pytest.raises(ReceiverDown):
            sender.deliver(some_chunk(), NEVER)
        assert not sender.probe("t", NEVER)

    def test_the_end_is_announced(self, tmp_path: Path, sender_to: Make, certificates: Certificates) -> None:
        """A closed connection is no error to the receiver: the end of TLS is announced."""
        certificate, key = certificates.issue("localhost")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        ended: list[bytes | Exception] = []

        def serve(listener: socket.socket) -> None:
            with context.wrap_socket(listener.accept()[0], server_side=True, suppress_ragged_eofs=False) as connection:
                try:
                    ended.append(connection.recv(1))
                except OSError as error:
                    ended.append(error)

        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=serve, args=(listener,))
            thread.start()
            sender = sender_to(listener.getsockname()[1], tls=TlsSettings(enabled=True, ca_file=certificates.ca))
            sender.connect(NEVER)
            sender.close()
            thread.join(10)
        assert ended == [b""]
        assert tmp_path.exists()


@needs_fluent_bit
def test_a_stopped_receiver_costs_one_ack_timeout(tmp_path: Path, sender_to: Make) -> None:
    """A Fluent Bit that hangs takes connections and sends no HELO: it is not ready; when it goes on, all is well."""
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
        wait_until(lambda: "2" in fluent_bit.ids(), 20)
