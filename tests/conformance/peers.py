"""The receivers of a scenario: a recording, a simulated receiver, a real Fluent Bit."""

from __future__ import annotations

import contextlib
import gzip
import re
import signal
import socket
import subprocess
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import msgpack
from conformance.exchange import Line, ingested
from conformance.scenarios import LAST_LINE, Scenario, entry
from support.certificates import Certificates
from support.command import wait_until
from support.fluent_bit import BINARY, FluentBit
from support.senders import NEVER, SOON, TAG, sender_to

from in_jumpcloud.config.schema import TlsSettings
from in_jumpcloud.forward.wire import build_chunk
from in_jumpcloud.simulator.receiver import SimulatedReceiver

_PRINTED = re.compile(r'(?P<tag>.*?): \[(?P<seconds>\d+)\.(?P<nanoseconds>\d{9}), \{.*"id":"(?P<id>[^"]*)".*\}\]')


class Recorded:
    """A socket that plays the receiver of a recording: it expects the same bytes, and gives the same answers."""

    def __init__(self, scenario: Scenario, certificates: Certificates) -> None:
        self.failures: list[str] = []
        self._lines = scenario.lines
        self._tls = certificates.server_context("127.0.0.1") if scenario.tls else None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(SOON)
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._play, name="recorded", daemon=True)
        self.port: int = self._listener.getsockname()[1]

    def ingested(self) -> list[Line]:
        """The records that came out when it was recorded, sorted."""
        return sorted(line for line in self._lines if line.what == "ingested")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._thread.join(SOON)
        for each in (self._listener, *self._connections):
            each.close()

    def _play(self) -> None:
        try:
            for line in self._lines:
                self._do(line)
        except (OSError, AssertionError) as error:
            self.failures.append(f"{type(error).__name__}: {error}")

    def _do(self, line: Line) -> None:
        if line.what == "connect":
            connection, _ = self._listener.accept()
            connection.settimeout(SOON)
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            self._connections.append(connection)
        elif line.what == ">":
            data = self._read(line.data)
            assert data == line.data or unpacked(data) == unpacked(line.data), (
                f"{data[:200].hex()} came where {line.data[:200].hex()} was expected"
            )
        elif line.what == "<":
            self._connections[-1].sendall(line.data)
        elif line.what == "closed":
            self._connections[-1].close()

    def _read(self, expected: bytes) -> bytes:
        """As many bytes as expected, or one whole message: compressed bytes depend on the library."""
        data = bytearray()
        message = msgpack.Unpacker(raw=True, max_buffer_size=2 * len(expected) + 64)
        while len(data) < len(expected) and (more := self._connections[-1].recv(len(expected) - len(data))):
            data += more
            if b"compressed" in expected:
                message.feed(more)
                if next(message, None) is not None:
                    break
        return bytes(data)


def unpacked(message: bytes) -> Any:
    """A message with its entries decompressed."""
    try:
        tag, payload, options = msgpack.unpackb(message, raw=True)
        return tag, gzip.decompress(payload), options
    except (ValueError, TypeError, OSError, EOFError, zlib.error):
        return message


class Simulated:
    """A simulated receiver with the options of a real one."""

    def __init__(self, scenario: Scenario, certificates: Certificates) -> None:
        options = dict(scenario.receiver)
        users = dict(each.split(" ", 1) for each in options.pop("security.users", ()))
        if options.pop("empty_shared_key", False):
            options["shared_key"] = ""
        tls = certificates.server_context("127.0.0.1") if scenario.tls else None
        self.receiver = SimulatedReceiver(users=users, tls=tls, **options)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.receiver.port

    def ingested(self) -> list[Line]:
        """The records that it kept, sorted."""
        return sorted(ingested(each.record["id"], each.tag, each.time_ns) for each in self.receiver.records)

    def __enter__(self) -> Self:
        self.receiver.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.receiver.stop()


class Real:
    """A real Fluent Bit with these options of in_forward; `welcome` are settings that it accepts."""

    def __init__(
        self,
        directory: Path,
        options: Mapping[str, Any],
        welcome: Mapping[str, Any],
        certificates: Certificates | None = None,
    ) -> None:
        self._out = directory / "out"
        self._welcome = dict(welcome)
        options = dict(options)
        if certificates:
            pair = certificates.issue("127.0.0.1")
            files = {"tls.crt_file": str(pair.certificate), "tls.key_file": str(pair.key)}
            options |= {"tls": True, "tls.verify": False, **files}
            self._welcome["tls"] = TlsSettings(enabled=True, ca_file=certificates.trusted)
        printing = {"name": "file", "match": "*", "path": str(directory), "file": "out"}
        self._bit = FluentBit.with_input(directory, options, service={"flush": 0.05}, output=printing)

    @staticmethod
    def version() -> str:
        """The first line of `fluent-bit --version`."""
        assert BINARY is not None
        command = [BINARY, "--version"]
        result = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - given to the tests
        return result.stdout.splitlines()[0]

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._bit.port

    def ingested(self) -> list[Line]:
        """The records that came out, sorted. A last record, sent now, shows that all before it are out."""
        with contextlib.closing(sender_to(self.port, **self._welcome)) as sender:
            sender.deliver(build_chunk(TAG, entry("last"), 1), NEVER)
        wait_until(lambda: LAST_LINE in self._printed(), SOON)
        return sorted(line for line in self._printed() if line != LAST_LINE)

    def __enter__(self) -> Self:
        self._bit.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bit.stop(signal.SIGKILL)

    def _printed(self) -> list[Line]:
        return list(self._parsed()) if self._out.exists() else []

    def _parsed(self) -> Iterator[Line]:
        for line in self._out.read_text(encoding="utf-8", errors="replace").splitlines():
            if match := _PRINTED.fullmatch(line):
                yield ingested(match["id"], match["tag"], int(match["seconds"] + match["nanoseconds"]))


Peer = Recorded | Simulated | Real
