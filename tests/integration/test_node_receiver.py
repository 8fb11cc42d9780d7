"""Delivery to the official Node implementation of the forward protocol, which reads the protocol unlike Fluent Bit."""

from __future__ import annotations

import contextlib
import gzip
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from support.certificates import Certificates
from support.command import Command
from support.node import HOSTNAME, Entry, NodeReceiver, installed, needs_node, security
from support.receivers import TIME, Peer, record
from support.senders import NEVER, TAG, TIME_NS, SenderTo, some_chunk

from in_jumpcloud.config.schema import TlsSettings
from in_jumpcloud.config.types import NamedFile, Secret
from in_jumpcloud.errors import HandshakeRejected, ReceiverDown, ReceiverPaused
from in_jumpcloud.forward import wire
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource

pytestmark = needs_node

SECONDS, NANOSECONDS = divmod(TIME_NS, 10**9)
USERS = {"somebody": "pass wörd", "else": "other"}
KEY = {"shared_key": Secret("the key")}
SOMEBODY = KEY | {"username": "somebody", "password": Secret("pass wörd")}

ReceiverWith = Callable[..., NodeReceiver]


@pytest.fixture(scope="session", name="modules")
def _modules(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed packages; pytest's cache keeps them for the next run."""
    cache: pytest.Cache | None = getattr(request.config, "cache", None)
    return installed(cache.mkdir("node-receiver") if cache else tmp_path_factory.mktemp("node-receiver"))


@pytest.fixture(name="receiver_with")
def _receiver_with(modules: Path) -> Iterator[ReceiverWith]:
    """Starts receivers with the options of FluentServer, and stops them."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(NodeReceiver(modules, options))


@pytest.fixture(name="receiver")
def _receiver(receiver_with: ReceiverWith) -> NodeReceiver:
    """A running one without security."""
    return receiver_with()


def ids(entries: list[Entry]) -> list[str]:
    """Their event ids, in order."""
    return [entry.record["event"]["id"] for entry in entries]


def exchange(receiver: NodeReceiver, message: object) -> Any:
    """Send a message on a new connection; the chunk of the ack."""
    with contextlib.closing(Peer(("127.0.0.1", receiver.port))) as peer:
        return peer.exchange(message)


ENTRIES = [[TIME, record("a")], [TIME, record("b")]]
PAYLOAD = b"".join(msgpack.packb(each) for each in ENTRIES)


def test_messages(receiver: NodeReceiver) -> None:
    """It acknowledges and reads the packed modes of the protocol; the bytes of our chunks are such messages."""
    messages = [
        ["t", PAYLOAD, {"chunk": "1", "size": 2}],
        ["t", gzip.compress(PAYLOAD), {"chunk": "2", "size": 2, "compressed": "gzip"}],
    ]
    assert [exchange(receiver, message) for message in messages] == ["1", "2"]
    chunk, probe = some_chunk("c"), wire.build_probe(TAG)
    assert [exchange(receiver, each.message) for each in (chunk, probe)] == [chunk.id, probe.id]

    assert receiver.stop() == [
        *(Entry("t", (SECONDS, NANOSECONDS), record(name)) for name in "abab"),
        Entry(TAG, (SECONDS, NANOSECONDS), {"event": {"id": "c"}}),
    ]


def test_times_keep_every_nanosecond(receiver: NodeReceiver, sender_to: SenderTo) -> None:
    """It reads the seconds and nanoseconds that were packed, from 1970 to the last second that fits."""
    times = [(0, 0), (0, 1), (SECONDS, 0), (SECONDS, NANOSECONDS), (SECONDS, 999_999_999), (2**32 - 3, 999_999_999)]
    payload = b"".join(wire.pack_entry(seconds * 10**9 + nanoseconds, {}) for seconds, nanoseconds in times)

    sender_to(receiver.port).deliver(wire.build_chunk(TAG, payload, len(times)), NEVER)

    assert [entry.time for entry in receiver.stop()] == times


def test_unreadable_entries_are_not_acknowledged(receiver: NodeReceiver, sender_to: SenderTo) -> None:
    """Unlike Fluent Bit it reads the entries before the ack: a bad one costs the connection, not the records."""
    sender = sender_to(receiver.port)

    with pytest.raises(ReceiverDown) as caught:
        sender.deliver(wire.build_chunk(TAG, b"\xc1" + PAYLOAD, 3), NEVER)
    assert caught.value.reached
    assert sender.probe(TAG, NEVER)
    sender.deliver(some_chunk("a"), NEVER)

    assert ids(receiver.stop()) == ["a"]


@pytest.mark.parametrize("compress", ["none", "gzip"])
def test_chunk_after_chunk(receiver: NodeReceiver, sender_to: SenderTo, compress: wire.Compression) -> None:
    """A few records and as many as a chunk holds arrive in order over one connection, plain and compressed."""
    names = [str(number) for number in range(20_000)]
    sender = sender_to(receiver.port)

    for part in (["first"], names, ["next", "last"]):
        sender.deliver(some_chunk(*part, compress=compress), NEVER)

    assert ids(receiver.stop()) == ["first", *names, "next", "last"]


@pytest.mark.parametrize("key", ["the key", "", "Schlüssel"])
def test_the_right_shared_key(receiver_with: ReceiverWith, sender_to: SenderTo, key: str) -> None:
    """Both sides prove that they know the key, also an empty one and one that is not ASCII."""
    receiver = receiver_with(**security(key))

    sender_to(receiver.port, shared_key=Secret(key)).deliver(some_chunk("a"), NEVER)

    assert ids(receiver.stop()) == ["a"]


def test_refusals_have_its_reason(receiver_with: ReceiverWith, sender_to: SenderTo) -> None:
    """With users it accepts a right name and password only; our error has its reason, and no record arrives."""
    receiver = receiver_with(**security("the key", USERS))
    sender_to(receiver.port, **SOMEBODY).deliver(some_chunk("a"), NEVER)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"shared_key": Secret("another")}, "shared key mismatch"),
        (SOMEBODY | {"password": Secret("no")}, "username/password mismatch"),
        (SOMEBODY | {"username": "unknown"}, "username/password mismatch"),
        (KEY, "missing authentication information"),
        (KEY | {"self_hostname": HOSTNAME}, "Same hostname between input and output"),
    ]
    for settings, reason in wrong:
        with pytest.raises(HandshakeRejected, match=reason):
            sender_to(receiver.port, **settings).deliver(some_chunk("b"), NEVER)

    assert ids(receiver.stop()) == ["a"]


def test_a_key_on_one_side_only(receiver_with: ReceiverWith, sender_to: SenderTo) -> None:
    """A receiver without a key sends no HELO; one with a key is reported as that. No record is accepted."""
    plain, guarded = receiver_with(), receiver_with(**security("the key"))

    with pytest.raises(ReceiverPaused, match="no HELO"):
        sender_to(plain.port, **KEY, ack=0.5).deliver(some_chunk("a"), NEVER)
    with pytest.raises(HandshakeRejected, match=r"set forward\.shared_key"):
        sender_to(guarded.port).deliver(some_chunk("a"), NEVER)

    assert plain.stop() == guarded.stop() == []


def tls_options(certificates: Certificates, **more: object) -> dict[str, Any]:
    """The TLS options of a receiver that is called receiver.example."""
    pair = certificates.issue("receiver.example")
    return {
        "key": pair.key.read_text(),
        "cert": pair.certificate.read_text(),
        "ca": certificates.ca_file.read_text(),
        **more,
    }


def tls_settings(certificates: Certificates, **more: Any) -> TlsSettings:
    """Our settings that fit it."""
    fitting: dict[str, Any] = {"enabled": True, "ca_file": certificates.trusted, "server_name": "receiver.example"}
    return TlsSettings(**(fitting | more))


def test_everything_at_once(receiver_with: ReceiverWith, sender_to: SenderTo, certificates: Certificates) -> None:
    """A client certificate, the key, name and password, compression, a large chunk."""
    strict = tls_options(certificates, requestCert=True, rejectUnauthorized=True)
    receiver = receiver_with(**security("the key", USERS), tlsOptions=strict)
    ours = certificates.issue("in-jumpcloud.example")
    tls = tls_settings(certificates, cert_file=NamedFile(ours.certificate), key_file=NamedFile(ours.key))
    sender = sender_to(receiver.port, tls=tls, **SOMEBODY)
    names = [str(number) for number in range(20_000)]

    sender.deliver(some_chunk(*names, compress="gzip"), NEVER)
    sender.deliver(some_chunk("last", compress="gzip"), NEVER)

    assert ids(receiver.stop()) == [*names, "last"]


@pytest.mark.parametrize(
    ("theirs", "ours", "kind", "advice"),
    [
        pytest.param({}, {"server_name": "elsewhere.example"}, HandshakeRejected, "forward.tls.server_name", id="name"),
        pytest.param({}, {"ca_file": None}, HandshakeRejected, "forward.tls.ca_file", id="authority"),
        pytest.param({"requestCert": True}, {}, HandshakeRejected, "forward.tls.cert_file", id="our certificate"),
        pytest.param({}, {"enabled": False}, ReceiverDown, "closed the connection", id="TLS on its side only"),
        pytest.param(None, {}, ReceiverDown, "does it speak TLS at this port?", id="TLS on our side only"),
    ],
)
def test_tls_that_does_not_match(
    receiver_with: ReceiverWith,
    sender_to: SenderTo,
    certificates: Certificates,
    theirs: dict[str, Any] | None,
    ours: dict[str, Any],
    kind: type[ReceiverDown],
    advice: str,
) -> None:
    """If one side does not accept the other, no record arrives, also of a large chunk, and the error has advice."""
    receiver = receiver_with(**({} if theirs is None else {"tlsOptions": tls_options(certificates, **theirs)}))
    for chunk in (some_chunk("a"), some_chunk(*map(str, range(20_000)))):
        with pytest.raises(kind, match=re.escape(advice)):
            sender_to(receiver.port, tls=tls_settings(certificates, **ours)).deliver(chunk, NEVER)

    assert receiver.stop() == []


def test_a_receiver_that_restarts(receiver_with: ReceiverWith, sender_to: SenderTo) -> None:
    """While it is down a chunk is not delivered; when it is back, the same chunk is, after a new handshake."""
    receiver = receiver_with(**security("the key"))
    sender = sender_to(receiver.port, **KEY)
    sender.deliver(some_chunk("a"), NEVER)
    receiver.stop()
    with pytest.raises(ReceiverDown):
        sender.deliver(some_chunk("b"), NEVER)
    receiver.start()
    sender.deliver(some_chunk("b"), NEVER)

    receiver.stop()
    receiver.start()
    sender.deliver(some_chunk("c"), NEVER)  # the restart in between costs no error

    assert ids(receiver.stop()) == ["a", "b", "c"]


def test_a_receiver_that_died_before_the_ack(receiver: NodeReceiver, sender_to: SenderTo) -> None:
    """It was stopped with the chunk unread, and killed: the chunk arrives once, when it is back."""
    sender = sender_to(receiver.port, ack=0.5)
    sender.connect(NEVER)

    receiver.signal(signal.SIGSTOP)
    with pytest.raises(ReceiverDown, match="no ack"):
        sender.deliver(some_chunk("a"), NEVER)
    receiver.stop(signal.SIGKILL)
    receiver.start()
    sender_to(receiver.port).deliver(some_chunk("a"), NEVER)

    assert ids(receiver.stop()) == ["a"]


def test_thousands_of_events_arrive_each_once(receiver_with: ReceiverWith, command: Command) -> None:
    """The installed command, with a shared key: every event of the API arrives, each id once."""
    now_ms = time.time_ns() // 1_000_000
    source = EventSource(start_ms=now_ms - 3_600_000, end_ms=now_ms - 60_000, per_minute=100)
    receiver = receiver_with(**security("the key"))
    with SimulatedApi(source) as api:
        settings = command.settings(api, receiver.port, forward__shared_key="the key")
        result = command("run", "--once", *settings)
    assert result.returncode == 0, result.stderr

    arrived = ids(receiver.stop())
    assert len(arrived) == len(set(arrived)) == source.count(0, now_ms, now_ms=now_ms) > 5000
