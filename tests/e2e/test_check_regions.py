"""A key of another region: a proxy leads JumpCloud's real hosts to simulated ones."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest
import trustme
from support.checks import Report, check, recent_events
from support.command import KEY, Command

from in_jumpcloud.config.schema import HOSTS
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.receiver import SimulatedReceiver

NAMES = {region: host.removeprefix("https://") for region, host in HOSTS.items()}
AUTHORITY = trustme.CA()


class Proxy(socketserver.ThreadingTCPServer):
    """An HTTP proxy for CONNECT that terminates TLS with certificates of AUTHORITY."""

    daemon_threads = True

    def __init__(self, hosts: dict[str, SimulatedApi]) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.hosts = hosts
        self.requested: list[str] = []
        self.contexts = {name: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for name in hosts}
        for name, context in self.contexts.items():
            AUTHORITY.issue_cert(name).configure_cert(context)


class _Tunnel(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        name = self.rfile.readline().split()[1].decode().partition(":")[0]
        while self.rfile.readline().strip():
            pass
        self.server.requested.append(name)
        if name not in self.server.hosts:
            self.wfile.write(b"HTTP/1.1 502 no such host\r\n\r\n")
            return
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        api = self.server.hosts[name]
        with (
            contextlib.suppress(OSError),  # a client that does not trust AUTHORITY
            socket.create_connection((api.host, api.port)) as inner,
            self.server.contexts[name].wrap_socket(self.connection, server_side=True) as outer,
        ):
            back = threading.Thread(target=_copy, args=(inner, outer), daemon=True)
            back.start()
            _copy(outer, inner)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(65_536):
            target.sendall(part)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """The proxy to JumpCloud's regions, of which only eu knows the key of the tests."""
    with contextlib.ExitStack() as stack:
        keys = {region: KEY if region == "eu" else "another" for region in NAMES}
        hosts = {
            NAMES[region]: stack.enter_context(SimulatedApi(recent_events(), api_key=key))
            for region, key in keys.items()
        }
        proxy = stack.enter_context(Proxy(hosts))
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        yield proxy
        proxy.shutdown()


CheckRegion = Callable[..., Report]


@pytest.fixture
def check_region(command: Command, receiver: SimulatedReceiver, proxy: Proxy) -> CheckRegion:
    """Check a region through the proxy."""
    AUTHORITY.cert_pem.write_to_path(command.directory / "authority.pem")

    def run(region: str, *options: str, key: str = KEY, environ: dict[str, str] | None = None) -> Report:
        settings = {
            "jumpcloud__url": None,
            "jumpcloud__region": region,
            "jumpcloud__proxy": f"http://127.0.0.1:{proxy.server_address[1]}",
            "jumpcloud__ca_file": str(command.directory / "authority.pem"),
            "jumpcloud__api_key": key,
        }
        api = next(iter(proxy.hosts.values()))
        return check(*command.settings(api, receiver, **settings), *options, environ=environ)

    return run


def test_a_wrong_region(check_region: CheckRegion) -> None:
    """For a key of another region the advice names that region; exit code 3."""
    report = check_region("us")
    assert "JumpCloud answered 401" in report.failure
    assert "set jumpcloud.region to eu" in report.failure
    assert report.code == 3


def test_the_right_region(check_region: CheckRegion, proxy: Proxy) -> None:
    """If the key is accepted, no other host is asked."""
    report = check_region("eu")
    assert report.code == 0, report.text
    assert set(proxy.requested) == {NAMES["eu"]}


def test_a_wrong_key(check_region: CheckRegion, proxy: Proxy) -> None:
    """A key that no region accepts is sent to JumpCloud's own hosts only."""
    report = check_region("in", key="a-wrong-key")
    assert "no other region (us, eu) accepts it" in report.failure
    assert report.code == 3
    assert set(proxy.requested) == set(NAMES.values())
    assert "a-wrong-key" not in report.text


def test_a_url_keeps_the_key_from_other_hosts(check_region: CheckRegion, proxy: Proxy) -> None:
    """With jumpcloud.url, the key is not tried in other regions."""
    report = check_region("us", "-o", "jumpcloud.url=https://api.jumpcloud.com")
    assert report.code == 3
    assert set(proxy.requested) == {NAMES["us"]}
    assert not proxy.hosts[NAMES["eu"]].requests


def test_a_proxy_that_refuses(check_region: CheckRegion, proxy: Proxy) -> None:
    """The proxy is named as the cause."""
    del proxy.hosts[NAMES["us"]]
    report = check_region("us")
    assert "jumpcloud.proxy" in report.failure
    assert report.code == 1


def test_an_unknown_authority(check_region: CheckRegion) -> None:
    """An untrusted certificate, such as that of an intercepting proxy, is named with the setting that helps."""
    environ = {"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": ""}
    report = check_region("us", "-o", "jumpcloud.ca_file=null", environ=environ)
    assert "certificate is not trusted" in report.failure
    assert "jumpcloud.ca_file" in report.failure
