"""TLS around the connections of the simulated receiver."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from support.fluent_bit import FluentBit, needs_fluent_bit
from support.receivers import Address, Peer, packed, ping

from in_jumpcloud.simulator.receiver import SimulatedReceiver


class Contexts(NamedTuple):
    """Both ends of TLS."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="module", name="ca")
def _ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(name="tls")
def _tls(ca: trustme.CA) -> Contexts:
    contexts = Contexts(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context())
    ca.issue_cert("localhost").configure_cert(contexts.server)
    ca.configure_trust(contexts.client)
    return contexts


@pytest.fixture(name="receiver")
def _receiver(tls: Contexts) -> Iterator[SimulatedReceiver]:
    with SimulatedReceiver(tls=tls.server) as receiver:
        yield receiver


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("unix", [False, True])
def test_messages_go_through(tls: Contexts, tmp_path: Path, version: ssl.TLSVersion, unix: bool) -> None:
    """With either version, on TCP and on a unix socket, large ones too, and behind it the handshake."""
    tls.client.minimum_version = tls.client.maximum_version = version
    where: dict[str, Any] = {"unix_path": str(tmp_path / "tls.sock")} if unix else {}
    with (
        SimulatedReceiver(tls=tls.server, shared_key="key", **where) as receiver,
        closing(Peer(receiver, tls=tls.client)) as peer,
    ):
        peer.send(ping(peer.answer(), "key"))
        assert peer.answer()[1] is True
        assert peer.exchange(packed("a", chunk="c")) == "c"
        assert peer.exchange(["tag", 1, {"event": {"id": "b"}, "x": "x" * 2_000_000}, {"chunk": "d"}]) == "d"
        assert receiver.ids == {"a": 1, "b": 1}
        assert receiver.refused == 0


@pytest.mark.parametrize("side", ["simulated", pytest.param("fluent_bit", marks=needs_fluent_bit)])
def test_a_refusal_ends_tls_in_order(side: str, tls: Contexts, ca: trustme.CA, tmp_path: Path) -> None:
    """The end of TLS is told before the connection is closed."""
    certificate = ca.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    settings = {"tls": "on", "tls.crt_file": str(tmp_path / "server.pem"), "tls.key_file": str(tmp_path / "server.pem")}
    with contextlib.ExitStack() as stack:
        address: Address
        if side == "simulated":
            address = stack.enter_context(SimulatedReceiver(tls=tls.server)).address
        else:
            real = stack.enter_context(FluentBit.with_input(tmp_path / "fluent-bit", settings))
            address = ("127.0.0.1", real.port)
        peer = stack.enter_context(closing(Peer(address, tls=tls.client)))
        assert peer.exchange(packed("a", chunk="c")) == "c"
        peer.send({"no": "message"})
        assert peer.socket.recv(1) == b""


def test_a_reset_is_a_reset(receiver: SimulatedReceiver, tls: Contexts) -> None:
    """When it is ordered, TLS is not ended before."""
    receiver.faults.reset_before_ack()
    with closing(Peer(receiver, tls=tls.client)) as peer:
        peer.send(packed("a", chunk="c"))
        with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):  # which one depends on Python's version
            peer.socket.recv(1)


def test_a_client_certificate_may_be_asked_for(tls: Contexts, ca: trustme.CA) -> None:
    """Who has none, or one of a stranger, is refused; who has one is not."""
    ca.configure_trust(tls.server)
    tls.server.verify_mode = ssl.CERT_REQUIRED
    tls.client.maximum_version = ssl.TLSVersion.TLSv1_2  # so that the client is told before it sends
    with SimulatedReceiver(tls=tls.server) as receiver:
        with pytest.raises(OSError, match=r"(?i)alert|reset|EOF"):
            Peer(receiver, tls=tls.client)
        trustme.CA().issue_cert("stranger").configure_cert(tls.client)
        with pytest.raises(OSError, match=r"(?i)alert|reset|EOF"):
            Peer(receiver, tls=tls.client)
        assert receiver.wait_until(lambda: receiver.refused == 2, 30)
        ca.issue_cert("sender").configure_cert(tls.client)
        with closing(Peer(receiver, tls=tls.client)) as peer:
            assert peer.exchange(packed("a", chunk="c")) == "c"


def test_what_is_no_tls_is_refused(receiver: SimulatedReceiver, tls: Contexts) -> None:
    """It is counted, and the next one is served."""
    with closing(Peer(receiver)) as plain:
        plain.send(packed("a", chunk="c"))
        with contextlib.suppress(ConnectionError):
            while plain.socket.recv(100):  # an alert may come first
                pass
    assert receiver.wait_until(lambda: receiver.refused == 1, 30)
    with closing(Peer(receiver, tls=tls.client)) as peer:
        assert peer.exchange(packed("b", chunk="c")) == "c"
    assert (receiver.ids, receiver.connections) == ({"b": 1}, 2)


class TestHeadOfLine:
    """A silent one at the head of the line."""

    @pytest.mark.parametrize("side", ["simulated", pytest.param("fluent_bit", marks=needs_fluent_bit)])
    def test_others_wait_for_the_timeout(self, side: str, tls: Contexts, ca: trustme.CA, tmp_path: Path) -> None:
        """Nobody else is accepted until the silent one's time is over."""
        path = tmp_path / "server.pem"
        ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
        settings = {"tls": "on", "tls.crt_file": str(path), "tls.key_file": str(path), "net.accept_timeout": "2s"}
        with contextlib.ExitStack() as stack:
            address: Address
            if side == "simulated":
                receiver = stack.enter_context(SimulatedReceiver(tls=tls.server, accept_timeout=1))
                address = receiver.address
            else:
                real = stack.enter_context(FluentBit.with_input(tmp_path / "fluent-bit", settings))
                address = ("127.0.0.1", real.port)
            began = time.monotonic()
            stack.enter_context(closing(Peer(address)))
            peer = stack.enter_context(closing(Peer(address, tls=tls.client)))
            assert peer.exchange(packed("a", chunk="c")) == "c"
            assert time.monotonic() - began > 0.9

    @pytest.mark.parametrize("end", ["stop", "pause"])
    def test_it_does_not_hold_up_the_end(self, receiver: SimulatedReceiver, end: str) -> None:
        """A pause and a stop close it at once, long before its time is over."""
        with closing(Peer(receiver)) as silent:
            assert receiver.wait_until(lambda: receiver.connections == 1, 30)
            ending = threading.Thread(target=getattr(receiver, end))
            ending.start()
            silent.socket.settimeout(8)
            assert silent.socket.recv(100) == b""
            ending.join(8)
            assert not ending.is_alive()

    def test_one_that_has_gone_is_passed_over(self, receiver: SimulatedReceiver, tls: Contexts) -> None:
        """Whether it left in order or with a reset."""
        for linger in (False, True):
            gone = Peer(receiver)
            if linger:
                gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            gone.close()
        with closing(Peer(receiver, tls=tls.client)) as peer:
            assert peer.exchange(packed("a", chunk="c")) == "c"
