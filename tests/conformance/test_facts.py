"""What a Fluent Bit does that a sender must respect (conf/forward.md), and that our delivery respects it."""

from __future__ import annotations

import json
import select
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conformance.peers import Real, Simulated
from conformance.scenarios import EMPTY_KEY, SCENARIOS, entry, padded_entry
from support.certificates import Certificates
from support.command import wait_until
from support.fluent_bit import FluentBit, needs_fluent_bit
from support.receivers import Peer
from support.senders import NEVER, SOON, TAG, TIME_NS, SenderTo

from in_jumpcloud.config.schema import EcsSettings, ForwardSettings, TlsSettings
from in_jumpcloud.config.types import Secret
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.errors import ReceiverDown, ReceiverPaused
from in_jumpcloud.forward import sender as sender_module
from in_jumpcloud.forward.wire import Chunk, build_chunk, pack_entry
from in_jumpcloud.insights.event import parse_event

LIGHT = build_chunk(TAG, entry("c"), 1)
HEAVY = build_chunk(TAG, entry("a", x="x" * 150_000) + entry("b"), 2)
PLAIN = SCENARIOS[0]


@pytest.fixture(params=["simulated", pytest.param("real", marks=needs_fluent_bit)])
def live(request: pytest.FixtureRequest, certificates: Certificates, tmp_path: Path) -> Iterator[Simulated | Real]:
    """A receiver without options, simulated and real."""
    peer = Simulated(PLAIN, certificates) if request.param == "simulated" else Real(tmp_path / "real", {}, {})
    with peer:
        yield peer


@needs_fluent_bit
def test_an_ack_survives_sigkill(tmp_path: Path, sender_to: SenderTo) -> None:
    """Fluent Bit keeps what it acknowledged, though nothing of it was flushed: each record comes out once."""
    printing = {"name": "file", "match": "*", "path": str(tmp_path), "file": "out"}
    names = [f"{number:02}" for number in range(50)]
    out = tmp_path / "out"
    with FluentBit.with_input(tmp_path, {}, service={"flush": 1000}, output=printing) as killed:
        sender = sender_to(killed.port)
        for name in names:
            sender.deliver(build_chunk(TAG, entry(name), 1), NEVER)
        killed.stop(signal.SIGKILL)
        sender.close()
    assert not out.exists()

    with FluentBit.with_input(tmp_path, {}, service={"flush": 0.1}, output=printing):
        wait_until(lambda: out.exists() and len(out.read_text().splitlines()) >= len(names))

    lines = out.read_text().splitlines()
    assert sorted(json.loads(line[line.index("{") : -1])["id"] for line in lines) == names


class Gate:
    """An HTTP server for Fluent Bit's output that answers only after it is opened."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._open = threading.Event()
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                gate._open.wait()
                gate.ids += [json.loads(line)["id"] for line in body.splitlines()]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def open(self) -> None:
        """Answer what waits, and all that comes."""
        self._open.set()

    def close(self) -> None:
        """Stop."""
        self.open()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A closed one."""
    gate = Gate()
    yield gate
    gate.close()


@needs_fluent_bit
@pytest.mark.parametrize("key", [None, ""], ids=["no key", "empty key"])
def test_pause(gate: Gate, tmp_path: Path, sender_to: SenderTo, key: str | None) -> None:
    """A paused Fluent Bit reads later what was sent meanwhile: a resend is a duplicate. With a key nothing is sent."""
    options: dict[str, Any] = {"storage.type": "memory", "mem_buf_limit": "100k"}
    settings: dict[str, Any] = {}
    if key is not None:
        options |= EMPTY_KEY
        settings["shared_key"] = Secret(key)
    output = {"name": "http", "match": "*", "host": "127.0.0.1", "port": gate.port, "format": "json_lines"}
    with FluentBit.with_input(tmp_path, options, service={"flush": 0.05}, output=output) as paused:
        sender = sender_to(paused.port, **settings)
        sender.deliver(HEAVY, NEVER)
        assert select.select([sender.socket], [], [], SOON)[0], "it did not close the connection"

        with pytest.raises(ReceiverDown) as caught:
            sender_to(paused.port, ack=1, **settings).deliver(LIGHT, NEVER)
        assert bool(caught.value.reached) == (key is None)
        assert isinstance(caught.value, ReceiverPaused) == (key is not None)
        gate.open()
        sender_to(paused.port, **settings).deliver(LIGHT, NEVER)

        expected = ["a", "b", "c"] + ["c"] * (key is None)
        wait_until(lambda: len(gate.ids) >= len(expected), SOON)
        assert sorted(gate.ids) == expected


@pytest.mark.parametrize("size", [900_000, 3_000_000, 5_900_000])
def test_what_we_compress_is_accepted(live: Simulated | Real, sender_to: SenderTo, size: int) -> None:
    """With `compress: gzip` a chunk of any size comes out: a large one is sent uncompressed."""
    chunk = build_chunk(TAG, padded_entry("a", size), 1, compress="gzip")
    assert len(chunk.message) < size / 10 or size > 1_000_000

    sender_to(live.port).deliver(chunk, NEVER)

    assert len(live.ingested()) == 1


MAPPER = Mapper(
    EcsSettings(preserve_original_event=True, preserve_duplicate_custom_fields=True),
    GeoIPLookup(None, None),
    agent_id="agent",
    ephemeral_id="process",
)


def mapped(*events: bytes) -> Chunk:
    """The chunk for these raw events; each record gets a top-level id, as those of the scenarios have."""
    records = [MAPPER.map(parse_event(event), TIME_NS) for event in events]
    entries = [pack_entry(each.time_ns, each.body | {"id": str(number)}) for number, each in enumerate(records)]
    return build_chunk(TAG, b"".join(entries), len(entries))


def deep(depth: int, opening: bytes = b'{"n":', closing: bytes = b"}") -> bytes:
    """An event with a field of this depth."""
    return (
        b'{"id":"deep","timestamp":"2026-01-01T00:00:00Z","changes":' + opening * depth + b"1" + closing * depth + b"}"
    )


UNUSUAL = (
    *(deep(depth) for depth in (20, 31, 61, 62, 63, 64, 65, 500, 20_000)),
    *(deep(depth, b"[", b"]") for depth in (20, 31, 61, 62, 63, 64, 65, 500, 20_000)),
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
"""Events that no API should send, some of them deeper than a Fluent Bit reads."""


def test_no_event_makes_a_bad_entry(live: Simulated | Real, sender_to: SenderTo) -> None:
    """Every event becomes an entry that the receiver reads, and so is every one after it."""
    chunk = mapped(*UNUSUAL)

    sender_to(live.port).deliver(chunk, NEVER)

    assert len(live.ingested()) == len(UNUSUAL)


@needs_fluent_bit
def test_a_silent_client_at_the_tls_port(tmp_path: Path, certificates: Certificates, sender_to: SenderTo) -> None:
    """Fluent Bit serves us only after its accept timeout, and our first try is still successful."""
    # It may notice the rest of a good client's handshake only after a second.
    with Real(tmp_path / "real", {"net.accept_timeout": "3s"}, {}, certificates) as real:
        silent = Peer(("127.0.0.1", real.port))
        started_at = time.monotonic()
        tls = TlsSettings(enabled=True, ca_file=certificates.trusted)
        sender_to(real.port, tls=tls).deliver(LIGHT, NEVER)

        assert time.monotonic() - started_at > 0.3, "nothing delayed it"
        assert len(real.ingested()) == 1
        silent.close()
    assert sender_module.HANDSHAKE_SECONDS > 10, "less than the default accept timeout"
    assert ForwardSettings().ack_timeout > 10
