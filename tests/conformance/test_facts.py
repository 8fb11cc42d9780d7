"""What no other suite for the forward protocol tests, in receivers: what each fact means for our delivery."""

from __future__ import annotations

import json
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conformance.case import Receiver, ingested
from conformance.cases import recording
from conformance.cases_payloads import gzip_of
from conformance.cases_sender import TAG
from conformance.certificates import Certificates
from conformance.conftest import SenderTo
from conformance.exchange import Exchange
from conformance.messages import BLOCK, LIMIT, entry, padded_entry
from conformance.peers import Peer, Simulated, in_order
from conformance.real import Real
from conformance.receivers import IMPATIENT_TLS, PAUSING, PAUSING_WITH_KEY, ROUTED
from conformance.sending import sender_to
from support.command import wait_until
from support.fluent_bit import FluentBit, needs_fluent_bit

from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import EcsSettings, ForwardSettings
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.errors import ConfigError, ReceiverDown, ReceiverPaused
from in_jumpcloud.forward import sender as room
from in_jumpcloud.forward.sender import AckSender
from in_jumpcloud.forward.wire import Chunk, build_chunk, pack_entry
from in_jumpcloud.insights.event import parse_event

NEVER = threading.Event()
PLAIN = Receiver("plain, for facts")
SECONDS = 1_767_225_600
HEAVY = build_chunk(TAG, entry("a", SECONDS, x="x" * 150_000) + entry("b", SECONDS), 2)
LIGHT = build_chunk(TAG, entry("c", SECONDS), 1)
LiveFor = Callable[[Receiver], Peer]


@pytest.fixture(params=["simulator", pytest.param("fluent-bit", marks=needs_fluent_bit)])
def live(
    request: pytest.FixtureRequest, certificates: Certificates, fluent_bit: Callable[[Receiver], Real]
) -> Iterator[LiveFor]:
    """Receivers that think for themselves, simulated and real."""
    with ExitStack() as stack:

        def live(receiver: Receiver) -> Peer:
            if request.param == "fluent-bit":
                return fluent_bit(receiver)
            return stack.enter_context(Simulated(receiver, certificates))

        yield live


def names(peer: Peer, count: int) -> list[str]:
    """The ids that came out of it since last time."""
    return [line.text.split()[0] for line in in_order(peer.ingested(count))]


def refuses_and_keeps_nothing(name: str) -> bool:
    """Whether the recording of this case ends with a closed connection."""
    return Exchange.load(recording(name)).lines[-1].what == "closed"


def acknowledges_and_loses(name: str) -> bool:
    """Whether the recording of this case ends with an ack, and no record came out."""
    return Exchange.load(recording(name)).lines[-1].what == "<"


@needs_fluent_bit
def test_ack_after_sigkill_of_a_real_receiver(tmp_path: Path) -> None:
    """What Fluent Bit has acknowledged outlives SIGKILL, though nothing of it had come out yet: each record once."""
    printing = {"name": "file", "match": "*", "path": str(tmp_path), "file": "out"}
    numbers = [f"{number:02}" for number in range(50)]
    out = tmp_path / "out"
    with FluentBit.with_input(tmp_path, {}, service={"flush": 1000}, output=printing) as killed:
        sender = sender_to(killed.port)
        for number in numbers:
            sender.deliver(build_chunk(TAG, entry(number), 1), NEVER)
        killed.stop(signal.SIGKILL)
        sender.close()
    assert not out.exists()

    with FluentBit.with_input(tmp_path, {}, service={"flush": 0.1}, output=printing):
        wait_until(lambda: out.exists() and len(out.read_text().splitlines()) >= len(numbers))

    lines = out.read_text().splitlines()
    assert sorted(json.loads(line[line.index("{") : -1])["id"] for line in lines) == numbers


class TestPauseBacklogDuplicate:
    """A paused receiver accepts connections, and reads what was written into them when it goes on."""

    def test_without_a_key_a_resend_comes_out_twice(self, live: LiveFor, sender: SenderTo) -> None:
        """No ack comes in time, the sender sends again, both are kept: so a key, even an empty one, is better."""
        peer = live(PAUSING)
        first = sender(peer, ack_timeout=1)
        self.pause(sender(peer))

        with pytest.raises(ReceiverDown, match="no ack within 1 s") as doubt:
            first.deliver(LIGHT, NEVER)
        peer.resume()
        assert doubt.value.reached
        sender(peer).deliver(LIGHT, NEVER)

        assert names(peer, 4) == ["a", "b", "c", "c"]

    def test_with_a_key_nothing_is_written(self, live: LiveFor, sender: SenderTo) -> None:
        """No HELO comes, so the sender writes nothing, and says that the receiver is not ready: no doubles."""
        peer = live(PAUSING_WITH_KEY)
        first = sender(peer, shared_key="", ack_timeout=1)
        self.pause(sender(peer, shared_key=""))

        with pytest.raises(ReceiverPaused, match="no HELO within 1 s") as doubt:
            first.deliver(LIGHT, NEVER)
        peer.resume()
        assert not doubt.value.reached
        sender(peer, shared_key="").deliver(LIGHT, NEVER)

        assert names(peer, 3) == ["a", "b", "c"]

    @staticmethod
    def pause(sender: AckSender) -> None:
        """Bring the receiver over its limit; it pauses when it has closed the connection."""
        sender.deliver(HEAVY, NEVER)
        closed, _, _ = select.select([sender.socket], [], [], 20)
        assert closed
        sender.close()


class TestDecompressedLimit:
    """buffer_max_size counts the bytes of a message and once more what it unpacks to."""

    def test_the_receiver_refuses_what_unpacks_to_more(self) -> None:
        """Exactly the limit is taken; a byte more closes the connection, whatever the size on the wire."""
        assert len(gzip_of(LIMIT + 1)) < LIMIT / 100
        assert not refuses_and_keeps_nothing("gzip_at_the_limit")
        assert refuses_and_keeps_nothing("gzip_above_the_limit")

    @pytest.mark.parametrize("size", [900_000, 3_000_000, 5_900_000])
    def test_what_we_compress_is_always_taken(self, live: LiveFor, sender: SenderTo, size: int) -> None:
        """A chunk of any size that is configured as compressed comes out: a large one travels as it is."""
        peer = live(PLAIN)

        sender(peer).deliver(build_chunk(TAG, padded_entry("a", size), 1, compress="gzip"), NEVER)

        assert names(peer, 1) == ["a"]


class TestZstdBlockLimit:
    """A zstd frame that unpacks to more than buffer_chunk_size is acknowledged and lost."""

    def test_the_receiver_loses_it(self) -> None:
        """Below that size a frame comes out, above it nothing does, and both are acknowledged."""
        assert not acknowledges_and_loses("zstd_within_a_block")
        assert acknowledges_and_loses("zstd_above_a_block")

    def test_we_offer_no_zstd(self, tmp_path: Path) -> None:
        """The configuration refuses it, and names the setting."""
        settings = tmp_path / "jumpcloud.yaml"
        settings.write_text("jumpcloud: {api_key: a}\nforward: {compress: zstd}\n")

        with pytest.raises(ConfigError, match=r"forward\.compress"):
            load_config(settings)

    def test_what_we_compress_stays_below_that_size(self) -> None:
        """Older Fluent Bits tear gzip at the same size: what is larger is not compressed."""
        small = build_chunk(TAG, padded_entry("a", 1_000_000), 1, compress="gzip")
        large = build_chunk(TAG, padded_entry("a", BLOCK), 1, compress="gzip")

        assert len(small.message) < 100_000
        assert len(large.message) > BLOCK


MAPPER = Mapper(
    EcsSettings(preserve_original_event=True, preserve_duplicate_custom_fields=True),
    GeoIPLookup(None, None),
    agent_id="agent",
    ephemeral_id="process",
)


def mapped(*events: bytes) -> Chunk:
    """The chunk that these raw events become with our mapper and packer."""
    records = [MAPPER.map(parse_event(event), SECONDS * 10**9) for event in events]
    return build_chunk(TAG, b"".join(pack_entry(each.time_ns, each.body) for each in records), len(records))


def deep(depth: int, opening: bytes = b'{"n":', closing: bytes = b"}") -> bytes:
    """An event with a field so many levels deep."""
    return (
        b'{"id":"deep","timestamp":"2026-01-01T00:00:00Z","changes":' + opening * depth + b"1" + closing * depth + b"}"
    )


class TestDeepNesting:
    """A record of more than 63 levels is acknowledged, and lost with all behind it."""

    def test_the_receiver_loses_it(self) -> None:
        """63 maps come out, 64 do not, and both are acknowledged."""
        assert not acknowledges_and_loses("nested_63")
        assert acknowledges_and_loses("nested_64")

    @pytest.mark.parametrize("depth", [20, 31, 61, 62, 63, 64, 65, 500, 20_000])
    def test_no_event_becomes_so_deep(self, live: LiveFor, sender: SenderTo, depth: int) -> None:
        """However deep an event is, in maps or in lists, its record comes out, and so does the one behind it."""
        peer = live(PLAIN)
        parcel = mapped(deep(depth), deep(depth, b"[", b"]"), b'{"id":"behind"}')

        sender(peer).deliver(parcel, NEVER)

        assert came_out_whole(peer, sender(peer), parcel.records)


NASTY = (
    b"null",
    b"1",
    b'"text"',
    b"[]",
    b"{}",
    b"{",
    b"",
    b"\xff\xfe",
    b'{"id":1,"timestamp":2}',
    b'{"id":"","timestamp":""}',
    b'{"id":"nan","n":NaN,"i":Infinity,"m":-Infinity}',
    b'{"id":"numbers","a":18446744073709551616,"b":-9223372036854775809,"c":1e400,"d":1e-400}',
    b'{"id":"surrogate","s":"\\ud800"}',
    b'{"id":"zero \\u0000","s":"\\u0000"}',
    b'{"id":"bytes","s":"\xff"}',
    b'{"id":"keys","":"","\\ud800":1,"a.b":{"c":1},"@timestamp":"x"}',
    b'{"id":"types","client_ip":{"a":1},"initiated_by":[1],"geoip":"x","changes":7,"useragent":[]}',
    b'{"id":"early","timestamp":"0001-01-01T00:00:00Z"}',
    b'{"id":"before","timestamp":"1969-12-31T23:59:59.999Z"}',
    b'{"id":"mark","timestamp":"2106-02-07T06:28:15Z"}',
    b'{"id":"other mark","timestamp":"2106-02-07T06:28:14Z"}',
    b'{"id":"late","timestamp":"9999-12-31T23:59:59.999999999Z"}',
    b'{"id":"long","s":"' + b"x" * 300_000 + b'"}',
    b'{"id":"wide","l":[' + b"1," * 70_000 + b"1]}",
)
"""Events that no API should send."""


class TestChunkPoisoning:
    """A bad entry is acknowledged, and until the next flush what comes behind it with the same tag is lost."""

    def test_the_receiver_loses_what_is_behind(self) -> None:
        """The record before a bad entry comes out, the one behind it does not, and the chunk is acknowledged."""
        for name in ("poison_body_is_no_map", "poison_three_elements"):
            lines = Exchange.load(recording(name)).lines
            assert [line.what for line in lines] == ["connect", ">", "<", "ingested"]
        assert [line.text for line in Exchange.load(recording("poison_spreads")).lines if line.what == "ingested"] == [
            ingested("b", "other").text
        ]

    def test_no_event_poisons_a_chunk(self, live: LiveFor, sender: SenderTo) -> None:
        """Whatever an event is, it becomes an entry that is read, and so is every one behind it."""
        peer = live(PLAIN)
        parcel = mapped(*NASTY)

        sender(peer).deliver(parcel, NEVER)

        assert came_out_whole(peer, sender(peer), parcel.records)
        assert not isinstance(peer, Simulated) or peer.simulated.poisoned == 0


def came_out_whole(peer: Peer, sender: AckSender, count: int) -> bool:
    """Whether so many records came out, and one behind them in a chunk of its own."""
    sender.deliver(build_chunk(TAG, entry("last"), 1), NEVER)
    return len(peer.ingested(count + 1)) == count + 1


class TestUnroutableTag:
    """A record whose tag no output matches is acknowledged, and dropped."""

    def test_the_receiver_drops_it(self, live: LiveFor, sender: SenderTo) -> None:
        """No sender can see it: the tag and the output's match have to fit, which is for their owner to check."""
        peer = live(ROUTED)

        sender(peer).deliver(build_chunk("jumpcloud.events", entry("dropped"), 1), NEVER)
        sender(peer).deliver(build_chunk("routed.events", entry("kept"), 1), NEVER)

        assert names(peer, 1) == ["kept"]

    def test_we_send_no_empty_tag(self, tmp_path: Path) -> None:
        """An empty tag is never routed: the configuration refuses it."""
        settings = tmp_path / "jumpcloud.yaml"
        settings.write_text('jumpcloud: {api_key: a}\nforward: {tag: ""}\n')

        assert acknowledges_and_loses("tag_empty")
        with pytest.raises(ConfigError, match=r"forward\.tag"):
            load_config(settings)


class TestTlsHeadOfLine:
    """A client that is silent at the TLS port holds up all others until net.accept_timeout, 10 s by default."""

    def test_our_time_outs_outlast_it(self, live: LiveFor, sender: SenderTo) -> None:
        """The sender waits behind the silent one, and its first chunk is delivered without a second try."""
        peer = live(IMPATIENT_TLS)
        silent = peer.connect(secure=False)
        began = time.monotonic()

        sender(peer).deliver(LIGHT, NEVER)

        assert time.monotonic() - began > 0.3, "nothing held it up"
        assert names(peer, 1) == ["c"]
        silent.close()

    def test_by_default_they_are_longer_than_the_receivers(self) -> None:
        """The wait for TLS and the wait for an ack both exceed the 10 s of a receiver that is left as it is."""
        assert room.HANDSHAKE_SECONDS > 10
        assert ForwardSettings().ack_timeout > 10
