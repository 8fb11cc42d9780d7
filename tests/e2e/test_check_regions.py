"""A key of another region: JumpCloud's own hosts, stood in for by a proxy that leads each to a simulated one."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from support.command import KEY, Command

from in_jumpcloud.config.schema import HOSTS
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver

NAMES = {region: host.removeprefix("https://") for region, host in HOSTS.items()}


class Proxy(socketserver.ThreadingTCPServer):
    """An HTTP proxy for CONNECT that ends TLS itself, with certificates of an authority of its own."""

    daemon_threads = True

    def __init__(self, hosts: dict[str, SimulatedApi]) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.hosts = hosts
        self.asked: list[str] = []
        authority = trustme.CA()
        self.authority = authority.cert_pem.bytes()
        self.contexts = {}
        for name in hosts:
            self.contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(name).configure_cert(self.contexts[name])


class _Tunnel(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        name = self.rfile.readline().split()[1].decode().partition(":")[0]
        while self.rfile.readline().strip():
            pass
        self.server.asked.append(name)
        if name not in self.server.hosts:
            self.wfile.write(b"HTTP/1.1 502 no such host\r\n\r\n")
            return
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        api = self.server.hosts[name]
        with (
            contextlib.suppress(OSError),  # such as a client that does not trust us
            socket.create_connection((api.host, api.port)) as inner,
            self.server.contexts[name].wrap_socket(self.connection, server_side=True) as outer,
        ):
            back = threading.Thread(target=_pump, args=(inner, outer), daemon=True)
            back.start()
            _pump(outer, inner)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(65_536):
            target.sendall(part)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def regions() -> Iterator[dict[str, SimulatedApi]]:
    """JumpCloud's hosts by region; only eu knows the key of the tests."""
    now_ms = time.time_ns() // 1_000_000
    with contextlib.ExitStack() as stack:
        yield {
            region: stack.enter_context(
                SimulatedApi(
                    EventSource(start_ms=now_ms - 600_000, end_ms=now_ms - 60_000),
                    api_key=KEY if region == "eu" else "another",
                )
            )
            for region in NAMES
        }


@pytest.fixture
def proxy(regions: dict[str, SimulatedApi], tmp_path: Path) -> Iterator[Proxy]:
    """The way to them."""
    with Proxy({NAMES[region]: api for region, api in regions.items()}) as proxy:
        (tmp_path / "authority.pem").write_bytes(proxy.authority)
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        yield proxy
        proxy.shutdown()


def _settings(command: Command, receiver: SimulatedReceiver, proxy: Proxy, region: str, key: str = KEY) -> list[str]:
    through = f"http://127.0.0.1:{proxy.server_address[1]}"
    api = next(iter(proxy.hosts.values()))
    authority = str(command.directory / "authority.pem")
    return command.settings(
        api,
        receiver,
        jumpcloud__url=None,
        jumpcloud__region=region,
        jumpcloud__proxy=through,
        jumpcloud__ca_file=authority,
        jumpcloud__api_key=key,
    )


def test_2_a_wrong_region(command: Command, receiver: SimulatedReceiver, proxy: Proxy) -> None:
    """The key of another region is told from a wrong one, and the right region is named; exit code 3."""
    done = command("check", *_settings(command, receiver, proxy, "us"))

    (line,) = [line for line in done.stdout.decode().splitlines() if line.startswith("FAILED")]
    assert "JumpCloud answered 401" in line
    assert "it is let in at region eu: set jumpcloud.region to eu" in line
    assert done.returncode == 3
    assert KEY not in line


def test_the_right_region(command: Command, receiver: SimulatedReceiver, proxy: Proxy) -> None:
    """Where the key is let in, no other host is asked."""
    done = command("check", *_settings(command, receiver, proxy, "eu"))

    assert done.returncode == 0, done.stdout
    assert set(proxy.asked) == {NAMES["eu"]}


def test_a_key_of_no_region(command: Command, receiver: SimulatedReceiver, proxy: Proxy) -> None:
    """A key that nobody lets in is wrong in itself, and is shown to JumpCloud's own hosts alone."""
    done = command("check", *_settings(command, receiver, proxy, "in", key="a-key-of-nobody"))

    assert "no other region (us, eu) lets it in either" in done.stdout.decode()
    assert done.returncode == 3
    assert set(proxy.asked) == set(NAMES.values())
    assert "a-key-of-nobody" not in done.stdout.decode()


def test_a_key_for_a_url_of_its_own_stays_there(
    command: Command, receiver: SimulatedReceiver, proxy: Proxy, regions: dict[str, SimulatedApi]
) -> None:
    """Who names a url is not helped by other regions: the key is none of their business."""
    settings = _settings(command, receiver, proxy, "us")

    done = command("check", *settings, "-o", "jumpcloud.url=https://api.jumpcloud.com")

    assert done.returncode == 3
    assert set(proxy.asked) == {NAMES["us"]}
    assert not regions["eu"].requests


def test_a_proxy_that_knows_no_way(command: Command, receiver: SimulatedReceiver, proxy: Proxy) -> None:
    """A proxy that refuses is named as the cause."""
    del proxy.hosts[NAMES["us"]]

    done = command("check", *_settings(command, receiver, proxy, "us"))

    (line,) = [line for line in done.stdout.decode().splitlines() if line.startswith("FAILED")]
    assert "cannot connect through the proxy" in line
    assert done.returncode == 1


def test_an_authority_that_nobody_knows(command: Command, receiver: SimulatedReceiver, proxy: Proxy) -> None:
    """A certificate that is not trusted, such as an intercepting proxy's, is named with the setting that helps."""
    settings = _settings(command, receiver, proxy, "us")

    done = command("check", *settings, "-o", "jumpcloud.ca_file=null", REQUESTS_CA_BUNDLE="", CURL_CA_BUNDLE="")

    (line,) = [line for line in done.stdout.decode().splitlines() if line.startswith("FAILED")]
    assert "the certificate is not trusted" in line
    assert "set jumpcloud.ca_file" in line
