"""The real Fluent Bit as a receiver of cases; what comes out of it is read from a file, or held back by a gate."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import msgpack
from conformance.case import Ping, Receiver, ingested
from conformance.certificates import Certificates
from conformance.exchange import Line
from conformance.messages import message
from conformance.peers import Peer
from conformance.play import Client, shake_hands
from conformance.receivers import PASSWORDS
from support.command import wait_until
from support.fluent_bit import BINARY, FluentBit

_LINE = re.compile(r"(?P<tag>.*?): \[(?P<seconds>\d+)\.(?P<nanoseconds>\d{9}), (?P<record>\{.*\})\]")
_ID = re.compile(r'"id":"([^"]*)"')


class Gate:
    """An HTTP output that takes nothing until it is opened."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._open = threading.Event()
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                gate._open.wait()
                for record in map(json.loads, body.splitlines()):
                    seconds = f"{record['date']:.9f}".split(".")
                    gate.lines.append(ingested(record["id"], self.headers["tag"], *map(int, seconds)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def output(self) -> dict[str, Any]:
        """Fluent Bit's output that leads here."""
        return {
            "name": "http",
            "match": "*",
            "host": "127.0.0.1",
            "port": self._server.server_port,
            "format": "json_lines",
            "json_date_format": "double",
            "header_tag": "tag",
        }

    def open(self) -> None:
        """Take what waits and whatever comes."""
        self._open.set()

    def close(self) -> None:
        """Stop."""
        self._open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Real(Peer):
    """A Fluent Bit."""

    def __init__(self, receiver: Receiver, certificates: Certificates, directory: Path) -> None:
        super().__init__(receiver, certificates)
        self._gate = Gate() if receiver.held else None
        self._out = directory / "out"
        printing = {"name": "file", "match": receiver.match, "path": str(directory), "file": "out"}
        settings = dict(receiver.settings)
        if receiver.tls:
            files = {"tls.crt_file": str(certificates.receiver), "tls.key_file": str(certificates.receiver_key)}
            settings |= {"tls": True, "tls.verify": False, **files}
        self.fluent_bit = FluentBit.with_input(
            directory, settings, service={"flush": 0.05}, output=self._gate.output if self._gate else printing
        )
        self._taken = 0
        self._sentinels = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.fluent_bit.port

    def ingested(self, count: int) -> list[Line]:
        """The records that came out before a last one, which came in behind them all.

        A file gets them in order; by HTTP they may overtake each other, so that `count` of them are waited for.
        """
        self._sentinels += 1
        name = f"sentinel {self._sentinels}"
        client = Client(self.connect())
        if self.receiver.key is not None:
            user = ("bob", PASSWORDS["bob"]) if "security.users" in self.receiver.settings else ("", "")
            shake_hands(client, Ping(self.receiver.key, *user))
        client.send(message(name, tag=self.receiver.match.replace("*", "sentinel"), chunk=name))
        answer = client.next()
        assert answer.data == msgpack.packb({"ack": name}), (answer, self.fluent_bit.log)
        client.socket.close()
        overtaking = count + 1 if self._gate else 0
        wait_until(
            lambda: (
                any(line.text.startswith(name) for line in self._lines())
                and len(self._lines()) - self._taken >= overtaking
            )
        )
        lines = self._lines()[self._taken :]
        self._taken += len(lines)
        return [line for line in lines if not line.text.startswith("sentinel")]

    def resume(self) -> None:
        """Let its output go on."""
        assert self._gate is not None
        self._gate.open()

    def __enter__(self) -> Self:
        self.fluent_bit.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.fluent_bit.stop(signal.SIGKILL)
        if self._gate:
            self._gate.close()

    @staticmethod
    def version() -> str:
        """Which Fluent Bit it is."""
        assert BINARY is not None
        told = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True)  # noqa: S603 - the binary that the tests are given
        return told.stdout.splitlines()[0]

    def _lines(self) -> list[Line]:
        return self._gate.lines if self._gate else list(self._written())

    def _written(self) -> Iterator[Line]:
        if not self._out.exists():
            return
        for line in self._out.read_text(encoding="utf-8", errors="replace").splitlines():
            if found := _LINE.fullmatch(line):
                name = _ID.search(found["record"])
                yield ingested(name[1] if name else "?", found["tag"], int(found["seconds"]), int(found["nanoseconds"]))
