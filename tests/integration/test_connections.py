"""Connections to JumpCloud over real sockets: proxies, names, certificates, slow and huge responses."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
import tracemalloc

import pytest
from support.certificates import Certificates
from support.fluent_bit import free_port
from support.insights import (
    BEGIN,
    CURSOR,
    KEY,
    NOW,
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

# Proxies


def test_proxy(client: Client, serve: Serve) -> None:
    """An error names the proxy as the cause; a 407 the setting to change. Its password is not shown."""
    down = f"http://somebody:hunter2hunter2@127.0.0.1:{free_port()}"
    for scheme in ("http", "https"):
        error = failure(client(f"{scheme}://api.invalid", proxy=down))
        assert type(error) is Retryable
        assert str(error).startswith(f"{scheme}://api.invalid/insights/directory/v1/events: ")
        assert "through the proxy (jumpcloud.proxy or the environment): Connection refused" in str(error)
        assert "hunter2" not in str(error)
    proxy = serve(answer(b"", status="407 Proxy Authentication Required"))
    error = failure(client("http://api.invalid", proxy=proxy.url))
    assert type(error) is RequestRejected
    assert "set jumpcloud.proxy to" in str(error)
    proxy = serve(answer(b'{"message":"no hunter2hunter2"}', status="403 No"))
    error = failure(client("http://api.invalid", proxy=proxy.url.replace("//", "//somebody:hunter2hunter2@")))
    assert "hunter2" not in str(error)


# Addresses


def test_unknown_name(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the host that cannot be resolved, the proxy's or JumpCloud's, and the resolver's reason."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for host, proxy in [("api.invalid", None), ("proxy.invalid", "http://proxy.invalid:3128")]:
        error = failure(client("http://api.invalid", proxy=proxy))
        assert type(error) is Retryable
        assert f"cannot resolve '{host}': Name or service not known" in str(error)


def test_refused_connection(client: Client) -> None:
    """A port that nothing listens on is named with the cause, also while another error is handled."""
    url = f"http://127.0.0.1:{free_port()}"
    error = failure(client(url))
    assert type(error) is Retryable
    assert str(error) == (
        f"{url}/insights/directory/v1/events: Connection refused; "
        "is there a firewall or a proxy in between? check jumpcloud.url"
    )
    try:
        int("something else")
    except ValueError:
        with pytest.raises(Retryable, match="Connection refused"):
            fetch(client(url))


def test_invalid_url(client: Client) -> None:
    """A base URL that no connection can be made to is an error like any other, whichever library detects it."""
    for url in ("http://a..b", f"http://{'a' * 70}.invalid", "http://[x", "http://127.0.0.1:99999"):
        error = failure(client(url))
        assert type(error) is Retryable
        assert str(error).startswith(f"{url}/insights/directory/v1/events: ")


# Certificates


def test_certificates(client: Client, serve: Serve, certificates: Certificates) -> None:
    """A certificate of an unknown authority is trusted with `ca_file`, and refused without; the error names it.

    So is a trusted certificate of another host, and a server without TLS.
    """
    url = serve(answer(b"[{}]"), certificates.server_context("127.0.0.1")).url
    assert len(fetch(client(url, ca_file=certificates.trusted)).events) == 1
    other = serve(answer(b"[{}]"), certificates.server_context("api.example.com")).url
    plain = serve(answer()).url.replace("http:", "https:")
    refused = [
        (failure(client(url)), (": the certificate is not trusted: ", "jumpcloud.ca_file")),
        (failure(client(other, ca_file=certificates.trusted)), ("not valid for '127.0.0.1'",)),
        (failure(client(plain)), ("SSL", "check jumpcloud.url: https:// or http://")),
    ]
    for error, words in refused:
        assert type(error) is Retryable
        assert [each for each in words if each not in str(error)] == []
        assert "_ssl.c" not in str(error)


# Time


def drip(request: Request, begin: bytes, byte: bytes) -> None:
    """Send an endless response, byte by byte."""
    request.wfile.write(begin)
    try:
        while not request.server.ended.wait(0.005):
            request.wfile.write(byte)
    except OSError:
        request.server.ended.set()


MB = 1_000_000
HEAD = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "status line": (b"HTTP/1.1 20", b"0"),
    "header": (HEAD + b"X-Long: ", b"x"),
    "body": (answer(b"[", {"Content-Length": "100000"}), b" "),
    "body without a length": (HEAD + b"\r\n[", b" "),
    "chunk size": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "compressed body": (
        answer(gzip.compress(b"[]")[:10], {"Content-Encoding": "gzip", "Content-Length": "9999"}),
        b"\0",
    ),
    "kept connection": (answer(b"[", {"Content-Length": "100000", "Connection": "keep-alive"}), b" "),
}


@pytest.mark.parametrize("where", DRIPS)
def test_slow_response(client: Client, serve: Serve, where: str) -> None:
    """A response that arrives byte by byte ends after five times `read_timeout`, in whatever part of it."""
    server = serve(lambda request: drip(request, *DRIPS[where]))
    began = time.monotonic()
    error = failure(client(server.url, read_timeout=Duration(0.08)))
    assert time.monotonic() - began < 5
    assert type(error) is Retryable
    assert "the response took longer than 0.4 s" in str(error)
    assert server.ended.wait(10), "the connection is still open"


def test_body_of_an_error(client: Client, serve: Serve) -> None:
    """An error whose body is slow, huge or incomplete is still the error of its status."""
    begin = answer(b"", {"Content-Length": "100000"}, "401 Unauthorized")
    error = failure(client(serve(lambda request: drip(request, begin, b"x")).url, read_timeout=Duration(0.08)))
    assert type(error) is KeyRefused
    for body, headers in ((b"x" * 5 * MB, {}), (b"x", {"Content-Length": "900"})):
        error = failure(client(serve(answer(body, headers, "401 No")).url, page_bytes=Size(1000)))
        assert type(error) is KeyRefused
        assert len(str(error)) < 500


def test_no_thread_is_left(client: Client, api: SimulatedApi) -> None:
    """The timer of a response ends with the response."""
    insights = client(api.url)
    for _ in range(5):
        fetch(insights)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(10)
            assert not thread.is_alive()


# Size


def unbounded(request: Request, head: bytes, part: bytes, count: int) -> None:
    """Send `part` `count` times, until the client closes the connection."""
    try:
        request.wfile.write(head)
        for _ in range(count):
            request.wfile.write(part)
    except OSError:
        request.server.ended.set()


@pytest.mark.parametrize("form", ["plain", "without a length", "compressed", "compressed twice"])
def test_response_of_200_mb(client: Client, serve: Serve, form: str) -> None:
    """A response of 200 MB is given up before it fills the memory, also one that is small while compressed."""
    part = b"[" + b" " * (MB - 1)
    headers = {"Content-Length": str(200 * MB)} if form == "plain" else {}
    count = 200
    if form.startswith("compressed"):
        part, count = gzip.compress(part * 200), 1
        part = gzip.compress(part) if form == "compressed twice" else part
        encoding = "gzip, gzip" if form == "compressed twice" else "gzip"
        headers = {"Content-Encoding": encoding, "Content-Length": str(len(part))}
    head = HEAD + "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode() + b"\r\n"
    insights = client(
        serve(lambda request: unbounded(request, head, part, count)).url,
        page_bytes=Size(2 * MB),
        event_max_bytes=Size(4 * MB),
    )
    tracemalloc.start()
    try:
        error = failure(insights)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert type(error) is PageTooLarge
    assert peak < 25 * MB, f"{peak / MB:.0f} MB"


def test_pages_of_large_events(client: Client) -> None:
    """A page of a hundred mdm events of 100 kB each is complete."""
    source = EventSource(start_ms=BEGIN, per_minute=0)
    payload = "PD94bWwgdmVyc2lvbj0i" * 5000
    for number in range(150):
        event = {"id": f"mdm-{number}", "service": "mdm", "command": {"payload": payload}}
        source.add(event, timestamp_ms=BEGIN + number)
    with SimulatedApi(source, api_key=KEY, clock=lambda: NOW) as api:
        insights = client(api.url)
        page = fetch(insights)
        assert len(page.events) == 100
        assert page.size > 10 * MB
        assert [json.loads(raw)["id"] for raw in fetch_all(insights)] == [f"mdm-{number}" for number in range(150)]


# Headers


def test_invalid_numbers(client: Client, serve: Serve) -> None:
    """Invalid numbers in the headers are ignored: they never end a window too early."""
    window = Window(start_ms=BEGIN, end_ms=NOW, services=("all",), limit=2)
    for name in ("X-Result-Count", "X-Limit"):
        for value in ("9" * 5000, "9" * 18, "-1", "1e5", "٣", "", "x" * 60_000):
            headers = {"X-Search_after": CURSOR, "X-Limit": "2", name: value, "Content-Length": "7"}
            lines = "".join(f"{key}: {text}\r\n" for key, text in headers.items()).encode()
            insights = client(serve(HEAD + lines + b"Connection: close\r\n\r\n[{},{}]").url)
            if name == "X-Result-Count" and value == "9" * 18:
                assert f"announced {value} events and sent 2" in str(failure(insights, window))
            else:
                assert fetch(insights, window).cursor == CURSOR, (name, value)


def test_long_headers(client: Client, serve: Serve) -> None:
    """Headers beyond the limits of HTTP libraries are a Retryable, and long headers are cut in an error."""
    for headers in ({"X-Long": "x" * 70_000}, {f"X-{number}": "x" for number in range(200)}):
        assert type(failure(client(serve(answer(headers=headers)).url))) is Retryable
    long = {"X-Request-Id": "r" * 60_000, "X-Sort": "s" * 60_000}
    assert len(str(failure(client(serve(answer(headers=long)).url)))) < 500
    full = {"X-Limit": "1", "X-Search_after": "[" + "9" * 60_000, "X-Result-Count": "1"}
    assert len(str(failure(client(serve(answer(b"[{}]", full)).url)))) < 500
