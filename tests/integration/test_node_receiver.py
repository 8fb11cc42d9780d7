"""Delivery to the official Node implementation of the forward protocol: another reading of it than Fluent Bit's."""

from __future__ import annotations

import contextlib
import gzip
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from support.command import Command
from support.node import HOSTNAME, Certificates, Entry, NodeReceiver, installed, needs_node, security
from support.receivers import TIME, TIME_NS, record

from in_jumpcloud.config.schema import ForwardSettings, ServerSettings, TlsSettings
from in_jumpcloud.config.types import Secret
from in_jumpcloud.errors import HandshakeRejected, ReceiverDown, ReceiverPaused
from in_jumpcloud.forward import wire
from in_jumpcloud.forward.sender import AckSender
from in_jumpcloud.forward.wire import Chunk, pack_entry
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource

pytestmark = needs_node

SOON = 20.0
"""Seconds after which a test gives up waiting for what must come at once."""
NEVER = threading.Event()
SECONDS, NANOSECONDS = divmod(TIME_NS, 10**9)

ReceiverWith = Callable[..., NodeReceiver]
SenderTo = Callable[..., AckSender]


@pytest.fixture(scope="session", name="modules")
def _modules(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed packages; pytest's cache keeps them for the next run."""
    cache: pytest.Cache | None = getattr(request.config, "cache", None)
    return installed(cache.mkdir("node-receiver") if cache else tmp_path_factory.mktemp("node-receiver"))


@pytest.fixture(name="receiver_with")
def _receiver_with(modules: Path) -> Iterator[ReceiverWith]:
    """Starts receivers with the options of FluentServer, and ends them."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(NodeReceiver(modules, options))


@pytest.fixture(name="receiver")
def _receiver(receiver_with: ReceiverWith) -> NodeReceiver:
    """A running one without security."""
    return receiver_with()


@pytest.fixture(name="sender_to")
def _sender_to() -> Iterator[SenderTo]:
    """Makes senders with these settings, and closes them."""
    with contextlib.ExitStack() as stack:

        def make(receiver: NodeReceiver, **settings: Any) -> AckSender:
            server = ServerSettings(host="127.0.0.1", port=receiver.port)
            waits = {"connect_timeout": SOON, "ack_timeout": SOON}
            sender = AckSender(server, ForwardSettings(servers=(server,), **(waits | settings)))
            stack.callback(sender.close)
            return sender

        yield make


def some_chunk(*names: str, compress: wire.Compression = "none") -> Chunk:
    """A chunk of a record with each of these ids."""
    payload = b"".join(pack_entry(TIME_NS, record(name)) for name in names)
    return wire.build_chunk("tag", payload, len(names), compress=compress)


def entry(name: str) -> Entry:
    """What the receiver makes of such a record."""
    return Entry("tag", (SECONDS, NANOSECONDS), record(name))


def ids(entries: list[Entry]) -> list[str]:
    """Their event ids, in order."""
    return [entry.record["event"]["id"] for entry in entries]


def exchange(receiver: NodeReceiver, message: bytes) -> Any:
    """Send a message on a connection of its own; the whole answer, or None when it is closed without one."""
    answers = msgpack.Unpacker()
    with socket.create_connection(("127.0.0.1", receiver.port), SOON) as connection:
        connection.sendall(message)
        while data := connection.recv(4096):
            answers.feed(data)
            for answer in answers:
                return answer
    return None


ENTRIES = [[TIME, record("a")], [TIME, record("b")]]
PAYLOAD = b"".join(msgpack.packb(each) for each in ENTRIES)


@pytest.mark.parametrize(
    ("body", "options"),
    [
        pytest.param([TIME, record("a")], {}, id="Message"),
        pytest.param([ENTRIES], {}, id="Forward"),
        pytest.param([PAYLOAD], {"size": 2}, id="PackedForward"),
        pytest.param([gzip.compress(PAYLOAD)], {"size": 2, "compressed": "gzip"}, id="CompressedPackedForward"),
    ],
)
def test_every_mode_is_acknowledged(receiver: NodeReceiver, body: list[Any], options: dict[str, Any]) -> None:
    """In each of the four modes the answer is the chunk that was sent, and the entries are the ones that were sent."""
    answer = exchange(receiver, msgpack.packb(["tag", *body, {"chunk": "an id", **options}]))

    assert answer == {"ack": "an id"}
    assert receiver.stop() == [entry(name) for name in ("a", "b")[: 1 if len(body) == 2 else 2]]


def test_our_chunk_is_such_a_message(receiver: NodeReceiver) -> None:
    """The bytes of a chunk, sent as they are, are acknowledged with the chunk's id."""
    chunk = some_chunk("a", "b")

    assert exchange(receiver, chunk.message) == {"ack": chunk.id}
    assert receiver.stop() == [entry("a"), entry("b")]


def test_times_keep_every_nanosecond(receiver: NodeReceiver, sender_to: SenderTo) -> None:
    """It sees the very seconds and nanoseconds that were packed, from 1970 to the last second that has room."""
    times = [(0, 0), (0, 1), (SECONDS, 0), (SECONDS, NANOSECONDS), (SECONDS, 999_999_999), (2**32 - 3, 999_999_999)]
    payload = b"".join(pack_entry(seconds * 10**9 + nanoseconds, {}) for seconds, nanoseconds in times)

    sender_to(receiver).deliver(wire.build_chunk("tag", payload, len(times)), NEVER)

    assert [entry.time for entry in receiver.stop()] == times


def test_a_message_without_records_is_acknowledged(receiver: NodeReceiver, sender_to: SenderTo) -> None:
    """It does acknowledge our probe, like Fluent Bit, and makes no entry of it; the connection stays usable."""
    probe = wire.build_probe("tag")
    assert exchange(receiver, probe.message) == {"ack": probe.id}

    sender = sender_to(receiver)
    assert sender.probe("tag", NEVER)
    sender.deliver(some_chunk("a"), NEVER)

    assert receiver.stop() == [entry("a")]


def test_unreadable_entries_are_not_acknowledged(receiver: NodeReceiver, sender_to: SenderTo) -> None:
    """Unlike Fluent Bit it reads packed entries before the ack: a bad one costs the connection, not the records."""
    sender = sender_to(receiver)
    bad = wire.build_chunk("tag", b"\xc1" + PAYLOAD, 3)

    with pytest.raises(ReceiverDown) as raised:
        sender.deliver(bad, NEVER)
    sender.deliver(some_chunk("a"), NEVER)

    assert raised.value.reached
    assert receiver.stop() == [entry("a")]


@pytest.mark.parametrize(("compress", "most"), [("none", 1_000_000), ("gzip", 300_000)])
def test_chunk_after_chunk(receiver: NodeReceiver, sender_to: SenderTo, compress: wire.Compression, most: int) -> None:
    """Plain and compressed, a few records and as many as a chunk holds, all on one connection, in order."""
    names = [str(number) for number in range(25_000)]
    chunks = [some_chunk(*part, compress=compress) for part in (["first"], names, ["next", "last"])]
    assert 0.1 * most < len(chunks[1].message) < most
    sender = sender_to(receiver)

    for chunk in chunks:
        sender.deliver(chunk, NEVER)

    assert ids(receiver.stop()) == ["first", *names, "next", "last"]


@pytest.mark.parametrize("key", ["the key", "", "Schlüssel"])
def test_the_right_shared_key(receiver_with: ReceiverWith, sender_to: SenderTo, key: str) -> None:
    """Both sides prove that they know the key, also an empty one and one beyond ASCII."""
    receiver = receiver_with(**security(key))

    sender_to(receiver, shared_key=Secret(key)).deliver(some_chunk("a"), NEVER)

    assert receiver.stop() == [entry("a")]


USERS = {"somebody": "pass wörd", "else": "other"}


def test_the_right_user_and_password(receiver_with: ReceiverWith, sender_to: SenderTo) -> None:
    """Besides the key it takes a name with its password."""
    receiver = receiver_with(**security("the key", USERS))
    sender = sender_to(receiver, shared_key=Secret("the key"), username="somebody", password=Secret("pass wörd"))

    sender.deliver(some_chunk("a"), NEVER)

    assert receiver.stop() == [entry("a")]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        pytest.param({"shared_key": Secret("another")}, "shared key mismatch", id="key"),
        pytest.param({"username": "somebody", "password": Secret("no")}, "username/password mismatch", id="password"),
        pytest.param({"username": "nobody", "password": Secret("other")}, "username/password mismatch", id="user"),
        pytest.param({}, "missing authentication information", id="no user"),
        pytest.param({"self_hostname": HOSTNAME}, "Same hostname between input and output", id="its own name"),
    ],
)
def test_who_is_not_welcome_is_told_why(
    receiver_with: ReceiverWith, sender_to: SenderTo, settings: dict[str, Any], reason: str
) -> None:
    """Whatever is wrong in the handshake, its own reason is in our error, and no record reaches it."""
    receiver = receiver_with(**security("the key", USERS))
    sender = sender_to(receiver, **({"shared_key": Secret("the key")} | settings))

    with pytest.raises(HandshakeRejected, match=reason):
        sender.deliver(some_chunk("a"), NEVER)

    assert receiver.stop() == []


def test_a_key_where_none_is_asked_for(receiver: NodeReceiver, sender_to: SenderTo) -> None:
    """It waits for a greeting that does not come, and says so; no record is sent."""
    sender = sender_to(receiver, shared_key=Secret("the key"), ack_timeout=0.5)

    with pytest.raises(ReceiverPaused, match="no HELO"):
        sender.deliver(some_chunk("a"), NEVER)

    assert receiver.stop() == []


def test_no_key_where_one_is_asked_for(receiver_with: ReceiverWith, sender_to: SenderTo) -> None:
    """Its greeting is taken for what it is: the error names the missing setting, and no record is taken."""
    receiver = receiver_with(**security("the key"))

    with pytest.raises(HandshakeRejected, match=r"set forward\.shared_key"):
        sender_to(receiver).deliver(some_chunk("a"), NEVER)

    assert receiver.stop() == []


@pytest.fixture(name="certificates", scope="session")
def _certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_tls(receiver_with: ReceiverWith, sender_to: SenderTo, certificates: Certificates) -> None:
    """Encrypted, with the receiver's certificate checked against the authority and the name."""
    receiver = receiver_with(tlsOptions=certificates.options)
    tls = TlsSettings(enabled=True, ca_file=certificates.ca_file, server_name="receiver.example")

    sender_to(receiver, tls=tls).deliver(some_chunk("a"), NEVER)

    assert receiver.stop() == [entry("a")]


def test_everything_at_once(receiver_with: ReceiverWith, sender_to: SenderTo, certificates: Certificates) -> None:
    """A certificate of our own, the key, name and password, compression, a large chunk: as strict as it can be."""
    strict = certificates.options | {"requestCert": True, "rejectUnauthorized": True}
    receiver = receiver_with(**security("the key", USERS), tlsOptions=strict)
    tls = TlsSettings(
        enabled=True,
        ca_file=certificates.ca_file,
        cert_file=certificates.cert_file,
        key_file=certificates.key_file,
        server_name="receiver.example",
    )
    sender = sender_to(
        receiver,
        tls=tls,
        shared_key=Secret("the key"),
        username="somebody",
        password=Secret("pass wörd"),
    )
    names = [str(number) for number in range(20_000)]

    sender.deliver(some_chunk(*names, compress="gzip"), NEVER)
    sender.deliver(some_chunk("last", compress="gzip"), NEVER)

    assert ids(receiver.stop()) == [*names, "last"]


@pytest.mark.parametrize(
    ("theirs", "ours", "kind", "told"),
    [
        pytest.param(
            {}, {"server_name": "elsewhere.example"}, HandshakeRejected, "forward.tls.server_name", id="its name"
        ),
        pytest.param({}, {"ca_file": None}, HandshakeRejected, "forward.tls.ca_file", id="its authority"),
        pytest.param({"requestCert": True}, {}, HandshakeRejected, "forward.tls.cert_file", id="our certificate"),
        pytest.param({}, {"enabled": False}, ReceiverDown, "closed the connection", id="TLS on its side alone"),
        pytest.param(None, {}, ReceiverDown, "does it speak TLS at this port?", id="TLS on our side alone"),
    ],
)
def test_tls_that_does_not_match(
    receiver_with: ReceiverWith,
    sender_to: SenderTo,
    certificates: Certificates,
    theirs: dict[str, Any] | None,
    ours: dict[str, Any],
    kind: type[ReceiverDown],
    told: str,
) -> None:
    """Where one side does not accept the other, no record is taken, and the error tells what to look at."""
    receiver = receiver_with(**({} if theirs is None else {"tlsOptions": certificates.options | theirs}))
    right: dict[str, Any] = {"enabled": True, "ca_file": certificates.ca_file, "server_name": "receiver.example"}
    sender = sender_to(receiver, tls=TlsSettings(**(right | ours)))

    with pytest.raises(kind, match=re.escape(told)):
        sender.deliver(some_chunk("a"), NEVER)

    assert receiver.stop() == []


def test_a_refusal_in_the_middle_of_a_large_chunk(
    receiver_with: ReceiverWith, sender_to: SenderTo, certificates: Certificates
) -> None:
    """It asks for our certificate while the chunk is already on its way: the error still tells so."""
    receiver = receiver_with(tlsOptions=certificates.options | {"requestCert": True})
    tls = TlsSettings(enabled=True, ca_file=certificates.ca_file, server_name="receiver.example")

    with pytest.raises(HandshakeRejected, match=r"forward\.tls\.cert_file"):
        sender_to(receiver, tls=tls).deliver(some_chunk(*map(str, range(25_000))), NEVER)

    assert receiver.stop() == []


def test_a_receiver_that_was_away_gets_the_same_chunk(receiver_with: ReceiverWith, sender_to: SenderTo) -> None:
    """While it is down the chunk is not done; once it is back the same one is delivered, after a new handshake."""
    receiver = receiver_with(**security("the key"))
    sender = sender_to(receiver, shared_key=Secret("the key"))
    chunk = some_chunk("b")

    sender.deliver(some_chunk("a"), NEVER)
    receiver.stop()
    with pytest.raises(ReceiverDown):
        sender.deliver(chunk, NEVER)
    receiver.start()
    sender.deliver(chunk, NEVER)

    assert receiver.stop() == [entry("a"), entry("b")]


def test_a_receiver_that_was_restarted_unnoticed_gets_the_next_chunk(
    receiver: NodeReceiver, sender_to: SenderTo
) -> None:
    """A connection that it closed while nothing was under way costs no try."""
    sender = sender_to(receiver)
    sender.deliver(some_chunk("a"), NEVER)
    receiver.stop()
    receiver.start()

    sender.deliver(some_chunk("b"), NEVER)

    assert receiver.stop() == [entry("a"), entry("b")]


def test_a_receiver_that_died_before_the_ack_gets_the_same_chunk(receiver: NodeReceiver, sender_to: SenderTo) -> None:
    """It stood still with the chunk unread, and was killed: the chunk arrives once, when it is back."""
    chunk = some_chunk("a")
    impatient = sender_to(receiver, ack_timeout=0.5)
    impatient.connect(NEVER)

    receiver.signal(signal.SIGSTOP)
    with pytest.raises(ReceiverDown, match="no ack"):
        impatient.deliver(chunk, NEVER)
    receiver.stop(signal.SIGKILL)
    receiver.start()
    sender_to(receiver).deliver(chunk, NEVER)

    assert receiver.stop() == [entry("a")]


def test_thousands_of_events_arrive_each_once(receiver_with: ReceiverWith, command: Command) -> None:
    """The installed command, with the shared key: every event that the API has, each id once."""
    now_ms = time.time_ns() // 1_000_000
    source = EventSource(start_ms=now_ms - 3_600_000, end_ms=now_ms - 60_000, per_minute=100)
    receiver = receiver_with(**security("the key"))
    with SimulatedApi(source) as api:
        settings = command.settings(api, receiver.port, forward__shared_key="the key")
        done = command("run", "--once", *settings)
    assert done.returncode == 0, done.stderr

    arrived = ids(receiver.stop())
    assert len(arrived) == len(set(arrived)) == source.count(0, now_ms, now_ms=now_ms) > 5000
