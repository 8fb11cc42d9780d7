"""TLS against plain, a wrong key, a wrong port: one clear line in `check` without `--probe`, in the log and status."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import socketserver
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from support.checks import check, jumpcloud
from support.command import Command, has_started, wait_until
from support.fluent_bit import FluentBit, needs_fluent_bit

from in_jumpcloud.simulator.receiver import SimulatedReceiver

AUTHORITY = trustme.CA()


class _Page(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def serving(server: socketserver.ThreadingTCPServer | http.server.ThreadingHTTPServer) -> Iterator[int]:
    """Run this server; yields its port."""
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@contextmanager
def http_server(context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A web server, with TLS if there is a context; yields its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with serving(server) as port:
        yield port


class _Greeting(socketserver.BaseRequestHandler):
    greeting = b""

    def handle(self) -> None:
        """Send it, and wait for the end."""
        with contextlib.suppress(OSError):
            self.request.sendall(self.greeting)
            self.request.shutdown(socket.SHUT_WR)
            while self.request.recv(100_000):
                pass


@contextmanager
def greeting(data: bytes) -> Iterator[int]:
    """A server that sends this to each connection; yields its port."""
    handler = type("Greeting", (_Greeting,), {"greeting": data})
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)) as port:
        yield port


def server_tls() -> ssl.SSLContext:
    """The TLS of a server at 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    return context


@contextmanager
def simulated(_: Path, key: str | None = None, *, tls: bool = False) -> Iterator[int]:
    """A simulated receiver with this shared key, and with TLS or not; yields its port."""
    with SimulatedReceiver(shared_key=key, tls=server_tls() if tls else None) as started:
        yield started.port


@contextmanager
def real(directory: Path, key: str | None = None, *, tls: bool = False) -> Iterator[int]:
    """A real Fluent Bit of this kind."""
    options: dict[str, Any] = {"shared_key": key} if key else {}
    if tls:
        issued = AUTHORITY.issue_cert("127.0.0.1")
        options |= {"tls": True, "tls.verify": False}
        for name, pem in (("crt", issued.cert_chain_pems[0]), ("key", issued.private_key_pem)):
            pem.write_to_path(directory / name)
            options[f"tls.{name}_file"] = str(directory / name)
    with FluentBit.with_input(directory / "fluent-bit", options) as started:
        yield started.port


TO_PLAIN = "set forward.tls.enabled to false"
TO_TLS = "set forward.tls.enabled to true"
PORT = "correct the port in forward.servers"
TLS, KEYED = {"tls": True}, {"shared_key": "right-key", "ack_timeout": "2s"}
KEY, OTHER_KEY = "right-key", "other-key"

RECEIVERS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    # the receiver, the settings of forward, and what `check` and `run` say
    "TLS to plain": ({}, TLS, TO_PLAIN, TO_PLAIN),
    "TLS to plain with a key": ({"key": KEY}, TLS | KEYED, TO_PLAIN, TO_PLAIN),
    "plain to TLS": ({"tls": True}, {}, TO_TLS, TO_TLS),
    "plain to TLS with a key": ({"tls": True, "key": KEY}, KEYED, TO_TLS, "forward.tls.enabled"),
    "wrong key": ({"key": OTHER_KEY}, KEYED, "forward.shared_key", "forward.shared_key"),
    "no key": ({"key": KEY}, {}, "set forward.shared_key", "set forward.shared_key"),
    "key to a receiver without": ({}, KEYED, "forward.shared_key", "forward.shared_key"),
}
SERVERS: dict[str, tuple[Callable[[], Any], dict[str, Any], str, str]] = {  # the same for other servers
    "HTTP": (http_server, {}, PORT, PORT),
    "HTTP with a key": (http_server, KEYED, PORT, "port in forward.servers"),
    "HTTPS": (lambda: http_server(server_tls()), TLS, PORT, PORT),
    "TLS to HTTP": (http_server, TLS, PORT, PORT),
    "SSH": (lambda: greeting(b"SSH-2.0-OpenSSH_9.9\r\n"), {}, PORT, PORT),
}


def assert_said(command: Command, port: int, forward: dict[str, Any], checked: str, expected: str) -> None:
    """`check` says `checked`; the log, the status page and `status` say `expected`."""
    authority = command.directory / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(authority)
    if "tls" in forward:
        forward = {**forward, "tls": {"enabled": True, "ca_file": str(authority)}}
    with jumpcloud() as api:
        settings = command.settings(api, port, **{f"forward__{key}": value for key, value in forward.items()})
        report = check(*settings)
        assert report.code == 4
        assert checked in report.failure
        process = command.start("run", *settings, "-o", "http.listen=127.0.0.1:0")
        wait_until(lambda: bool(re.search(r"status page at ", command.log.read_text())))
        (address,) = re.findall(r"status page at http://(\S+)/", command.log.read_text())
        wait_until(lambda: has_started(address))

        def error() -> str:
            with urllib.request.urlopen(f"http://{address}/status.json", timeout=30) as response:
                return json.loads(response.read())["receivers"][0]["error"] or ""

        wait_until(lambda: expected in error())  # a try may fail before the other side has answered
        status = command("status", *settings, "-o", f"http.listen={address}").stdout.decode()
        (line,) = [line for line in status.splitlines() if line.startswith("receiver ")]
        assert expected in line
        assert expected in command.log.read_text()
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize("start", [simulated, pytest.param(real, marks=needs_fluent_bit)])
@pytest.mark.parametrize("case", RECEIVERS)
def test_receivers(command: Command, start: Callable[..., Any], case: str) -> None:
    """The line names the setting to change."""
    options, forward, checked, expected = RECEIVERS[case]
    with start(command.directory, **options) as port:
        assert_said(command, port, forward, checked, expected)


@pytest.mark.parametrize("case", SERVERS)
def test_other_servers(command: Command, case: str) -> None:
    """The line names the setting to change."""
    listen, forward, checked, expected = SERVERS[case]
    with listen() as port:
        assert_said(command, port, forward, checked, expected)


@needs_fluent_bit
def test_check_leaves_no_trace(command: Command) -> None:
    """A Fluent Bit that is configured right logs no error, and receives nothing."""
    with jumpcloud() as api, FluentBit.with_input(command.directory / "fluent-bit", {}) as fluent_bit:
        assert check(*command.settings(api, fluent_bit.port)).code == 0
        fluent_bit.stop()
        assert fluent_bit.log_count("error") == 0
        assert not list(fluent_bit.records())


HTTPS_URL, HTTP_URL, API_PORT = (
    "check jumpcloud.url: https:// or http://",
    "https://",
    "check the port in jumpcloud.url",
)
APIS: dict[str, tuple[Callable[[], Any], str, str]] = {  # what listens, the scheme, and what is said
    "https to http": (http_server, "https", HTTPS_URL),
    "http to https": (lambda: http_server(server_tls()), "http", HTTP_URL),
    "https to SSH": (lambda: greeting(b"SSH-2.0-OpenSSH_9.9\r\n"), "https", HTTPS_URL),
    "http to SSH": (lambda: greeting(b"SSH-2.0-OpenSSH_9.9\r\n"), "http", API_PORT),
    "http to a TLS alert": (lambda: greeting(b"\x15\x03\x03\x00\x02\x02\x46"), "http", "set jumpcloud.url to https://"),
    "https to a receiver": (SimulatedReceiver, "https", HTTPS_URL),
    "http to a receiver": (SimulatedReceiver, "http", HTTP_URL),
}


@pytest.mark.parametrize("case", APIS)
def test_apis(command: Command, case: str) -> None:
    """The line names the setting to change, in `check` and in the log."""
    listen, scheme, expected = APIS[case]
    with jumpcloud() as api, SimulatedReceiver() as fluent_bit, listen() as listening:
        port = listening if isinstance(listening, int) else listening.port
        settings = [*command.settings(api, fluent_bit), "-o", f"jumpcloud.url={scheme}://127.0.0.1:{port}"]
        report = check(*settings)
        assert report.code == 1
        assert expected in report.failure
        process = command.start("run", *settings)
        wait_until(lambda: "retrying in" in command.log.read_text())
        process.terminate()
        assert process.wait(20) == 0
    (line, *_) = [line for line in command.log.read_text().splitlines() if "retrying in" in line]
    assert expected in line
    assert expected in command("status", *settings).stdout.decode()
