"""Record what our sender and a real Fluent Bit send each other in every scenario of the conformance tests.

    FLUENT_BIT=/path/to/fluent-bit PYTHONPATH=tests .venv/bin/python -m tools.record_exchanges [NAME…]

Writes tests/data/exchanges/. Only nonces, and what follows from them, differ from one recording to the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import msgpack
from conformance.exchange import RECORDINGS, Line
from conformance.peers import Real
from conformance.scenarios import CLIENT, SALT, SCENARIOS, Scenario
from support.certificates import Certificates
from support.fluent_bit import BINARY
from support.senders import NEVER, SOON, sender_to

from in_jumpcloud.config.schema import TlsSettings
from in_jumpcloud.errors import ReceiverDown
from in_jumpcloud.forward import sender as sender_module
from in_jumpcloud.forward.handshake import ClientHandshake

_MIN_SAVED_BYTES = 48
_MAX_SHOWN_CHARACTERS = 160


class Recorder:
    """Passes one connection on to a real receiver, and notes what goes over it; decrypts TLS on both sides."""

    def __init__(self, port: int, certificates: Certificates | None) -> None:
        self.lines: list[Line] = []
        self._target = port
        self._certificates = certificates
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(SOON)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()
        self.port: int = self._listener.getsockname()[1]

    def finish(self) -> None:
        """Wait for the end of the connection."""
        self._thread.join(SOON)
        self._listener.close()

    def _pass_on(self) -> None:
        client, _ = self._listener.accept()
        receiver = socket.create_connection(("127.0.0.1", self._target), SOON)
        if self._certificates:
            client = self._certificates.server_context("127.0.0.1").wrap_socket(client, server_side=True)
            context = ssl.create_default_context(cafile=self._certificates.ca_file)
            receiver = context.wrap_socket(receiver, server_hostname="127.0.0.1")
        self.lines.append(Line("connect"))
        answers = threading.Thread(target=self._copy, args=(receiver, client, "<"), daemon=True)
        answers.start()
        with client, receiver:
            self._copy(client, receiver, ">")
            answers.join(SOON)

    def _copy(self, source: socket.socket, sink: socket.socket, what: Literal["<", ">"]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                with self._lock:
                    earlier = self.lines.pop().data if self.lines[-1].what == what else b""
                    self.lines.append(Line(what, earlier + data))
                sink.sendall(data)
        if what == "<" and self.lines[-1].what == ">":
            self.lines.append(Line("closed"))
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


def record(scenario: Scenario, directory: Path) -> None:
    """Play one scenario, and write its file."""
    certificates = Certificates(directory / "certificates") if scenario.tls else None
    welcome = scenario.sender if scenario.welcome is None else scenario.welcome
    settings: dict[str, Any] = {"self_hostname": CLIENT, **scenario.sender}
    if certificates:
        settings["tls"] = TlsSettings(enabled=True, ca_file=certificates.trusted)
    with Real(directory, scenario.receiver, welcome, certificates) as real:
        recorder = Recorder(real.port, certificates)
        with contextlib.closing(sender_to(recorder.port, **settings)) as sender, contextlib.suppress(ReceiverDown):
            with patch.object(os, "urandom", bytes):  # the id of a probe
                chunks = scenario.chunks
            for chunk in chunks:
                sender.deliver(chunk, NEVER)
        recorder.finish()
        lines = [*recorder.lines, *real.ingested()]
    options = json.dumps(dict(scenario.receiver)) if scenario.receiver else "no options"
    header = {
        "case": scenario.name,
        "receiver": f"{Real.version()}, its in_forward with {options}",
        "made by": "tests/tools/record_exchanges.py",
        "lines": "> what the sender sent, < what was answered, in hexadecimal; ingested: id, time and tag of a record",
    }
    text = [f"# {name}: {value}" for name, value in header.items()] + ["", *map(_format, lines), ""]
    (RECORDINGS / f"{scenario.name}.txt").write_text("\n".join(text), encoding="utf-8")


def _format(line: Line) -> str:
    if line.what in {">", "<"}:
        return f"{line.what} {_shorten(line.data)}  # {_describe(line.data)}"
    return f"{line.what} {line.text}".rstrip()


def _shorten(data: bytes) -> str:
    """Hexadecimal; a byte that is repeated often as `78*1000`."""
    return " ".join(f"{piece[:1].hex()}*{len(piece)}" if repeated else piece.hex() for piece, repeated in _pieces(data))


def _pieces(data: bytes) -> Iterator[tuple[bytes, bool]]:
    start = at = 0
    while at < len(data):
        rest = data[at:].lstrip(data[at : at + 1])
        run = len(data) - at - len(rest)
        if run > _MIN_SAVED_BYTES:
            if start < at:
                yield data[start:at], False
            yield data[at : at + run], True
            start = at + run
        at += run
    if start < len(data):
        yield data[start:], False


def _describe(data: bytes) -> str:
    """The MessagePack objects in the bytes, shortened."""
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=2 * len(data) + 64)
    unpacker.feed(data)
    text = ", ".join(map(_show, unpacker))
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}…"


def _show(value: object) -> str:
    if isinstance(value, bytes):
        return f'"{value.decode()}"' if value.isascii() and len(value) <= 40 else f"{len(value)} bytes"
    if isinstance(value, list):
        return f"[{', '.join(map(_show, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_show(key)}: {_show(item)}' for key, item in value.items())}}}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def main(names: list[str]) -> None:
    """Record the scenarios of these names, or all."""
    if BINARY is None:
        sys.exit("no Fluent Bit to record: set FLUENT_BIT, or put fluent-bit on PATH")
    handshake = partial(ClientHandshake, salt=SALT)
    with tempfile.TemporaryDirectory() as directory, patch.object(sender_module, "ClientHandshake", handshake):
        for scenario in SCENARIOS:
            if not names or scenario.name in names:
                record(scenario, Path(directory) / scenario.name)


if __name__ == "__main__":
    main(sys.argv[1:])
