"""How JumpCloud is reached: proxies, names, certificates, slow and huge answers. Real sockets, one clear line each."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from urllib.request import ProxyHandler, build_opener
from urllib.request import Request as Forwarded

import pytest
import trustme
from support.insights import (
    BEGIN,
    CURSOR,
    KEY,
    NOW,
    WINDOW,
    Canned,
    Client,
    Request,
    Serve,
    answer,
    failure,
    fetch,
    fetch_all,
)

from in_jumpcloud.config.types import Duration, Size
from in_jumpcloud.errors import KeyRefused, PageTooLarge, RequestRejected, Retryable
from in_jumpcloud.insights.window import Window
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource


@pytest.fixture
def closed_port() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


# Proxies


def forward(request: Request) -> None:
    """Do what a proxy does with an http URL: ask its server, and hand the answer on."""
    headers = {name: value for name, value in request.headers.items() if name.lower() != "accept-encoding"}
    asked = Forwarded(request.path, request.server.bodies[-1], headers)  # noqa: S310 - the test's own URL
    with build_opener(ProxyHandler({})).open(asked, timeout=10) as found:
        request.wfile.write(answer(found.read(), {"X-Search_after": found.headers["X-Search_after"]}))


def test_through_a_proxy(client: Client, api: SimulatedApi, serve: Serve) -> None:
    """All pages come through the proxy, with the key, and nothing goes past it."""
    proxy = serve(forward)
    direct = fetch_all(client(api.url))
    asked = len(api.requests)
    assert fetch_all(client(api.url, proxy=proxy.url)) == direct
    assert len(proxy.paths) == asked
    assert set(proxy.paths) == {f"{api.url}/insights/directory/v1/events"}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_is_down(client: Client, closed_port: int, scheme: str) -> None:
    """It is the proxy that does not connect, and its password is not shown."""
    proxy = f"http://somebody:hunter2hunter2@127.0.0.1:{closed_port}"
    error = failure(client(f"{scheme}://api.invalid", proxy=proxy))
    assert type(error) is Retryable
    assert str(error) == (
        f"{scheme}://api.invalid/insights/directory/v1/events: the proxy (jumpcloud.proxy, or that of the environment) "
        "does not connect: Connection refused"
    )


def test_proxy_that_wants_a_password(client: Client, serve: Serve) -> None:
    """A proxy that answers 407 is told from JumpCloud: the setting is named."""
    proxy = serve(answer(b"", status="407 Proxy Authentication Required"))
    error = failure(client("http://api.invalid", proxy=proxy.url))
    assert type(error) is RequestRejected
    assert "jumpcloud.proxy lacks a name and a password" in str(error)


def test_proxy_that_echoes_its_password(client: Client, serve: Serve) -> None:
    """The proxy's password is as secret as the key."""
    proxy = serve(answer(b'{"message":"no hunter2hunter2"}', status="403 No")).url
    error = failure(client("http://api.invalid", proxy=proxy.replace("//", "//somebody:hunter2hunter2@")))
    assert "hunter2" not in str(error)


# Names


def test_name_that_nobody_knows(client: Client) -> None:
    """A host that no name server knows is named, with the resolver's own words."""
    error = failure(client("http://no-such-host.invalid"))
    assert type(error) is Retryable
    assert str(error).startswith(
        "http://no-such-host.invalid/insights/directory/v1/events: Failed to resolve 'no-such-host.invalid' ("
    )


# Certificates


class Secure(Canned):
    """A server of canned answers behind a certificate."""

    def __init__(self, certificate: trustme.LeafCert) -> None:
        super().__init__(answer(b"[{}]"))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)

    def finish_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        """Shake hands on the connection's own thread."""
        try:
            with self._context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)
        except OSError:  # a client that does not trust us hangs up
            return


@pytest.fixture
def authority() -> trustme.CA:
    """Who signs the server's certificate."""
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    """That authority's own certificate."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def secured(certificate: trustme.LeafCert) -> Iterator[str]:
    """An https server with this certificate; its base."""
    server = Secure(certificate)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def https(authority: trustme.CA) -> Iterator[str]:
    """An https server whose certificate is right."""
    yield from secured(authority.issue_cert("127.0.0.1"))


@pytest.fixture
def elsewhere(authority: trustme.CA) -> Iterator[str]:
    """An https server with another host's certificate."""
    yield from secured(authority.issue_cert("api.example.com"))


def test_ca_file(client: Client, https: str, ca_file: Path) -> None:
    """A server whose authority only `ca_file` knows is trusted with it."""
    assert len(fetch(client(https, ca_file=ca_file)).events) == 1


def test_certificate_that_nobody_signed(client: Client, https: str) -> None:
    """Without `ca_file` the same server is refused in one line that names the setting."""
    error = failure(client(https))
    assert type(error) is Retryable
    assert ": its certificate is not trusted: " in str(error)
    assert "unable to get local issuer certificate; jumpcloud.ca_file may name other authorities" in str(error)
    assert "_ssl.c" not in str(error)


def test_certificate_of_another_host(client: Client, elsewhere: str, ca_file: Path) -> None:
    """A trusted certificate of another host is refused, and that is said."""
    error = failure(client(elsewhere, ca_file=ca_file))
    assert "not valid for '127.0.0.1'" in str(error)
    assert str(error).count("\n") == 0


def test_no_tls_behind_the_port(client: Client, serve: Serve) -> None:
    """A plain server where https was expected is one clear line."""
    error = failure(client(serve(answer()).url.replace("http:", "https:")))
    assert type(error) is Retryable
    assert "_ssl.c" not in str(error)
    assert "SSL" in str(error)


# Time


def drip(request: Request, begin: bytes, byte: bytes) -> None:
    """Answer without end, a byte at a time."""
    request.wfile.write(begin)
    try:
        while not request.server.ended.wait(0.005):
            request.wfile.write(byte)
    except OSError:
        request.server.ended.set()


HEAD = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "status line": (b"HTTP/1.1 20", b"0"),
    "header": (HEAD + b"X-Long: ", b"x"),
    "body": (answer(b"[", {"Content-Length": "100000"}), b" "),
    "body without a length": (HEAD + b"\r\n[", b" "),
    "chunk size": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "packed body": (answer(gzip.compress(b"[]")[:10], {"Content-Encoding": "gzip", "Content-Length": "9999"}), b"\0"),
    "kept connection": (answer(b"[", {"Content-Length": "100000", "Connection": "keep-alive"}), b" "),
}


@pytest.mark.parametrize("where", DRIPS)
def test_answer_that_drips_byte_by_byte(client: Client, serve: Serve, where: str) -> None:
    """An answer that never pauses for `read_timeout` ends after five times that, wherever in it the bytes drip."""
    server = serve(lambda request: drip(request, *DRIPS[where]))
    began = time.monotonic()
    error = failure(client(server.url, read_timeout=Duration(0.08)))
    assert time.monotonic() - began < 5
    assert type(error) is Retryable
    assert "the answer took longer than 0.4 s" in str(error)
    assert server.ended.wait(10), "the connection is still open"


def test_error_that_drips(client: Client, serve: Serve) -> None:
    """The status of an error has arrived before its body: what it says to do is not lost."""
    begin = answer(b"", {"Content-Length": "100000"}, "401 Unauthorized")
    error = failure(client(serve(lambda request: drip(request, begin, b"x")).url, read_timeout=Duration(0.08)))
    assert type(error) is KeyRefused


def test_no_thread_is_left(client: Client, api: SimulatedApi) -> None:
    """The timers of answers that came in time end with them."""
    one = client(api.url)
    for _ in range(5):
        fetch(one)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(10)
            assert not thread.is_alive()


# Size


def unbounded(request: Request, head: bytes, part: bytes, count: int) -> None:
    """Send `part` so often, as long as somebody takes it."""
    try:
        request.wfile.write(head)
        for _ in range(count):
            request.wfile.write(part)
    except OSError:
        request.server.ended.set()


MB = 1_000_000


@pytest.mark.parametrize("form", ["plain", "without a length", "packed", "packed twice"])
def test_answer_of_200_mb(client: Client, serve: Serve, form: str) -> None:
    """An answer of 200 MB is given up before it fills the memory, also one that arrives small and unpacks."""
    part = b"[" + b" " * (MB - 1)
    headers = {"Content-Length": str(200 * MB)} if form == "plain" else {}
    count = 200
    if form.startswith("packed"):
        part, count = gzip.compress(part * 200), 1
        part = gzip.compress(part) if form == "packed twice" else part
        encoding = "gzip, gzip" if form == "packed twice" else "gzip"
        headers = {"Content-Encoding": encoding, "Content-Length": str(len(part))}
    head = HEAD + "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode() + b"\r\n"
    one = client(serve(lambda request: unbounded(request, head, part, count)).url, page_bytes=Size(2 * MB))
    tracemalloc.start()
    try:
        error = failure(one)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert type(error) is PageTooLarge
    assert peak < 25 * MB, f"{peak / MB:.0f} MB"


_PROGRAM = """
import resource, sys, threading
from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.errors import PageTooLarge
from in_jumpcloud.insights import auth
from in_jumpcloud.insights.api import DirectoryInsights, Scope
from in_jumpcloud.insights.rate_limit import RateLimiter
from in_jumpcloud.insights.window import Window
from in_jumpcloud.config.types import Secret

settings, rate_limiter = JumpCloudSettings(url=sys.argv[1], api_key=Secret("k")), RateLimiter(10)
api = DirectoryInsights(settings, auth.auth_for(settings, rate_limiter), rate_limiter)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    api.fetch(Window(start_ms=0, end_ms=1, services=("all",), limit=1), Scope(), threading.Event())
except PageTooLarge:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_process_that_gets_an_answer_of_200_mb(serve: Serve) -> None:
    """With the default bound of 64 MiB the whole process grows by little more than that, though 200 MB are packed."""
    bomb = answer(gzip.compress(b"[" + b" " * 200 * MB, 1), {"Content-Encoding": "gzip"})
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", _PROGRAM, serve(bomb).url], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) < 90_000, done.stdout  # kB


def test_pages_of_large_events(client: Client) -> None:
    """A page of a hundred mdm events of 100 kB each passes whole."""
    source = EventSource(start_ms=BEGIN, per_minute=0)
    payload = "PD94bWwgdmVyc2lvbj0i" * 5000
    for number in range(150):
        event = {"id": f"mdm-{number}", "service": "mdm", "command": {"payload": payload}}
        source.add(event, timestamp_ms=BEGIN + number)
    with SimulatedApi(source, api_key=KEY, clock=lambda: NOW) as api:
        one = client(api.url)
        page = fetch(one)
        assert len(page.events) == 100
        assert page.size > 10 * MB
        assert [json.loads(raw)["id"] for raw in fetch_all(one)] == [f"mdm-{number}" for number in range(150)]


# Headers


@pytest.mark.parametrize("name", ["X-Result-Count", "X-Limit"])
@pytest.mark.parametrize("value", ["9" * 5000, "9" * 18, "-1", "1e5", "٣", "", "x" * 60_000])
def test_numbers_that_are_absurd(client: Client, serve: Serve, name: str, value: str) -> None:
    """Absurd numbers in the headers raise nothing strange, and never end a window that goes on."""
    head = [("X-Search_after", CURSOR), ("X-Limit", "2"), (name, value)]
    lines = "".join(f"{key}: {text}\r\n" for key, text in dict(head).items()).encode()
    one = client(serve(HEAD + lines + b"Content-Length: 7\r\nConnection: close\r\n\r\n[{},{}]").url)
    window = Window(start_ms=BEGIN, end_ms=NOW, services=("all",), limit=2)
    if name == "X-Result-Count" and value == "9" * 18:
        assert "announced 999999999999999999 events and sent 2" in str(failure(one, window))
    else:
        assert fetch(one, window).cursor == CURSOR


def test_headers_that_are_too_long(client: Client, serve: Serve) -> None:
    """Header lines above what HTTP libraries take, and long ones within an error's text, are one short line."""
    for headers in ({"X-Long": "x" * 70_000}, {f"X-{number}": "x" for number in range(200)}):
        assert type(failure(client(serve(answer(headers=headers)).url))) is Retryable
    long = {"X-Request-Id": "r" * 60_000, "X-Sort": "s" * 60_000}
    assert len(str(failure(client(serve(answer(headers=long)).url)))) < 500
    full = {"X-Limit": "1", "X-Search_after": "[" + "9" * 60_000, "X-Result-Count": "1"}
    assert len(str(failure(client(serve(answer(b"[{}]", full)).url)))) < 500


def test_error_of_many_bytes(client: Client, serve: Serve) -> None:
    """An error with a huge body is still that error, and not a page that is too large."""
    error = failure(client(serve(answer(b"x" * 5 * MB, status="401 No")).url, page_bytes=Size(1000)))
    assert type(error) is KeyRefused
    assert len(str(error)) < 500


def test_error_that_breaks_off(client: Client, serve: Serve) -> None:
    """An error whose body breaks off is still that error."""
    error = failure(client(serve(answer(b"x", {"Content-Length": "900"}, "401 No")).url), WINDOW)
    assert type(error) is KeyRefused
