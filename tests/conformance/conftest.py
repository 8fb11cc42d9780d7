"""The receivers that the cases are played against, one of each sort for the whole session."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conformance.case import Receiver
from conformance.cases import NAMED, recording
from conformance.certificates import Certificates
from conformance.exchange import Exchange
from conformance.peers import Peer, Recorded, Simulated
from conformance.real import Real
from conformance.sending import sender_to
from support.fluent_bit import needs_fluent_bit

from in_jumpcloud.forward.sender import AckSender

PEERS = ("simulator", "recording", pytest.param("fluent-bit", marks=needs_fluent_bit))
PeerFor = Callable[[str], Peer]
SenderTo = Callable[..., AckSender]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority and what it issued."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def fluent_bit(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Receiver], Real]]:
    """A real one for each set of options, started when it is first asked for; one that pauses is always a new one."""
    running: dict[Receiver, Real] = {}
    with contextlib.ExitStack() as stack:

        def running_with(receiver: Receiver) -> Real:
            peer = running.get(receiver)
            if peer is None or receiver.held:
                directory = tmp_path_factory.mktemp("fluent-bit")
                peer = running[receiver] = stack.enter_context(Real(receiver, certificates, directory))
            return peer

        yield running_with


@pytest.fixture(params=PEERS)
def peer_for(
    request: pytest.FixtureRequest, certificates: Certificates, fluent_bit: Callable[[Receiver], Real]
) -> Iterator[PeerFor]:
    """Each kind of receiver, ready to do its part of a case; a recording must have been followed to the letter."""
    recordings: list[Recorded] = []
    with contextlib.ExitStack() as stack:

        def peer_for(name: str) -> Peer:
            case = NAMED[name]
            if request.param == "fluent-bit":
                return fluent_bit(case.receiver)
            if request.param == "simulator":
                return stack.enter_context(Simulated(case.receiver, certificates))
            lines = Exchange.load(recording(name)).lines
            recordings.append(stack.enter_context(Recorded(case.receiver, certificates, lines)))
            return recordings[-1]

        yield peer_for
    assert [failure for peer in recordings for failure in peer.failures] == []


@pytest.fixture(name="sender")
def _sender() -> Iterator[SenderTo]:
    """Makes senders with the arguments of `sender_to`, and closes them."""
    with contextlib.ExitStack() as stack:

        def made(*arguments: Any, **settings: Any) -> AckSender:
            sender = sender_to(*arguments, **settings)
            stack.callback(sender.close)
            return sender

        yield made
