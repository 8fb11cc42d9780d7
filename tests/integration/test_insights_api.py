"""The client against the simulated API over HTTP: what it sends, and the pages it returns."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest
from support.insights import (
    BEGIN,
    CURSOR,
    KEY,
    NOW,
    OWN,
    PATH,
    SECOND_PAGE,
    WINDOW,
    Client,
    Serve,
    answer,
    failure,
    fetch,
    fetch_all,
    ten_minutes,
)

from in_jumpcloud import __version__
from in_jumpcloud.config.types import Duration, Secret
from in_jumpcloud.errors import RequestRejected, Retryable, Stopped
from in_jumpcloud.insights.api import Scope
from in_jumpcloud.insights.event import decode_event, parse_event
from in_jumpcloud.insights.window import Window
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault


@pytest.fixture
def source() -> EventSource:
    """The events of the simulated API."""
    return ten_minutes()


@pytest.fixture
def api(source: EventSource) -> Iterator[SimulatedApi]:
    """The simulated API, with a clock that does not move."""
    with SimulatedApi(source, api_key=KEY, clock=lambda: NOW) as api:
        yield api


# Pages


@pytest.mark.parametrize("limit", [3, 7, 250, 10_000])
def test_every_event_once(client: Client, api: SimulatedApi, source: EventSource, limit: int) -> None:
    """All pages together have every event once, in order and byte for byte, even where a page ends inside a tie."""
    end = BEGIN + 120_000
    window = Window(start_ms=BEGIN, end_ms=end, services=("all",), limit=limit)
    expected = [item.raw for item in source.between(BEGIN, end, now_ms=NOW)]
    assert fetch_all(client(api.url), window) == expected
    assert len(api.requests) == len(expected) // limit + 1


def test_page(client: Client, api: SimulatedApi) -> None:
    """A page has its events, the cursor to the next page, its size before compression, and the time it arrived."""
    before = time.time_ns()
    page = fetch(client(api.url))
    assert len(page.events) == 100
    assert page.size == sum(len(bytes(raw)) for raw in page.events) + 101
    assert page.cursor is not None
    assert json.loads(page.cursor)[0] * 1_000_000 <= (parse_event(page.events[-1]).time_ns or 0) + 999_999
    assert before <= page.received_ns <= time.time_ns()


def test_with_and_without_compression(client: Client, api: SimulatedApi, serve: Serve) -> None:
    """An answer that is not compressed is the same page as one that is."""
    compressed = fetch(client(api.url))
    assert "gzip" in api.requests[-1].headers["accept-encoding"]
    headers = {"X-Result-Count": "100", "X-Limit": "100", "X-Search_after": str(compressed.cursor)}
    plain = serve(answer(b"[" + b",".join(map(bytes, compressed.events)) + b"]", headers))
    assert fetch(client(plain.url))[:3] == compressed[:3]


def test_limit_of_jumpcloud(client: Client, serve: Serve) -> None:
    """A page is full when it reaches the limit that JumpCloud names, or else the limit of the request."""
    full = answer(b"[{},{}]", {"X-Result-Count": "2", "X-Limit": "2", "X-Search_after": CURSOR})
    assert fetch(client(serve(full).url)).cursor == CURSOR
    assert fetch(client(serve(answer(b"[{},{}]", {"X-Search_after": CURSOR})).url)).cursor is None
    window = Window(start_ms=BEGIN, end_ms=NOW, services=("all",), limit=2)
    assert fetch(client(serve(answer(b"[{},{}]", {"X-Search_after": CURSOR})).url), window).cursor == CURSOR
    assert fetch(client(serve(answer(b"[]", {"X-Limit": "0", "X-Search_after": CURSOR})).url)).cursor is None


def test_unusual_event_on_a_page(client: Client, api: SimulatedApi, source: EventSource) -> None:
    """An event that is not valid JSON is returned with the others of its page."""
    source.add(b'{"id":"odd","x":NaN,"y":"\\ud800"}', timestamp_ms=BEGIN)
    assert b'{"id":"odd","x":NaN,"y":"\\ud800"}' in fetch_all(client(api.url))


def test_several_threads(client: Client, api: SimulatedApi) -> None:
    """Streams on several threads share one client."""
    shared = client(api.url)
    pages: list[list[bytes]] = []
    threads = [threading.Thread(target=lambda: pages.append(fetch_all(shared))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pages) == 4
    assert all(page == pages[0] for page in pages)


def test_idle_connection_that_was_closed(client: Client, api: SimulatedApi) -> None:
    """An idle connection that JumpCloud closed between two polls is not an error."""
    insights = client(api.url)
    first = fetch(insights)
    api.stop()
    api.start()
    assert fetch(insights)[:3] == first[:3]


# Requests


def test_organizations(client: Client) -> None:
    """`x-org-id` selects an organization; without one the header is not sent."""
    sources = {name: EventSource(start_ms=BEGIN, end_ms=NOW, per_minute=1, organization=name) for name in ("a", "b")}
    with SimulatedApi(sources, api_key=KEY, clock=lambda: NOW) as api:
        for requested, received in [("a", "a"), ("b", "b"), (None, "a")]:
            page = fetch(client(api.url), scope=Scope(organization=requested))
            assert {(decode_event(raw).data or {})["organization"] for raw in page.events} == {received}
        assert [request.headers.get("x-org-id") for request in api.requests] == ["a", "b", None]
        assert isinstance(failure(client(api.url), scope=Scope(organization="c")), RequestRejected)


def test_headers(client: Client, serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The key and the content type are sent. Cookies are not returned, and a netrc file adds no credentials."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server = serve(answer(headers={"Set-Cookie": "session=1; Path=/"}))
    insights = client(f"{server.url}/base/")
    fetch(insights)
    fetch(insights, SECOND_PAGE)
    assert server.paths == [f"/base{PATH}"] * 2
    for headers in server.headers:
        assert headers["x-api-key"] == KEY
        assert headers["content-type"] == headers["accept"] == "application/json"
        assert headers["accept-encoding"] == "gzip"
        assert headers["user-agent"] == f"in_jumpcloud/{__version__}"
        assert not {"cookie", "authorization", "x-org-id"} & set(headers)
    assert [json.loads(body) for body in server.bodies] == [WINDOW.query(), SECOND_PAGE.query()]


def test_proxy(client: Client, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """`proxy` overrides the environment; without it the environment's proxy is used."""
    proxy, other = serve(answer()), serve(answer())
    monkeypatch.setenv("HTTP_PROXY", other.url)
    fetch(client("http://api.invalid", proxy=proxy.url))
    assert (proxy.paths, other.paths) == ([f"http://api.invalid{PATH}"], [])
    fetch(client("http://api.invalid", allow_plain_http=True))
    assert other.paths == [f"http://api.invalid{PATH}"]
    assert proxy.headers[0]["x-api-key"] == other.headers[0]["x-api-key"] == KEY


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_no_key_to_a_proxy_of_the_environment(
    client: Client, api: SimulatedApi, serve: Serve, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A plain URL, which is this machine's, is not asked for over a proxy of the environment."""
    proxy = serve(answer())
    monkeypatch.setenv(name, proxy.url)
    assert fetch(client(api.url)).events
    assert proxy.paths == []


def test_the_environment_stays_as_it_is(client: Client, api: SimulatedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request sets no variable, not even for a moment: other threads read them at the same time."""
    changed: list[object] = []
    monkeypatch.setattr(type(os.environ), "__setitem__", lambda *arguments: changed.append(arguments[1:]))
    assert fetch(client(api.url)).events
    assert changed == []


def test_ca_file(client: Client, serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`ca_file` overrides the environment; a file that is missing is an error like any other."""
    url = serve(answer()).url.replace("http:", "https:")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    for settings, names_file in [({}, True), ({"ca_file": Path(certifi.where())}, False)]:
        error = failure(client(url, **settings))
        assert isinstance(error, Retryable)
        assert ("missing.pem" in str(error)) == names_file


def test_redirects(client: Client, serve: Serve) -> None:
    """A redirect is refused: the key is not sent on, not even to the same host."""
    other = serve(answer())
    for status in ("301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect", "308 x"):
        error = failure(client(serve(answer(b"", {"Location": other.url}, status)).url))
        assert isinstance(error, RequestRejected)
        assert f"answered {status[:3]}: " in str(error)
        assert "check jumpcloud.url" in str(error)
    assert not other.paths


def test_stopped(client: Client, api: SimulatedApi) -> None:
    """Once the process stops, no request is sent."""
    stop = threading.Event()
    stop.set()
    for call in (
        lambda: client(api.url).fetch(WINDOW, OWN, stop),
        lambda: client(api.url).counts(BEGIN, NOW, ("all",), OWN, stop),
    ):
        with pytest.raises(Stopped):
            call()
    assert not api.requests


# Monitoring


def test_statistics(client: Client, api: SimulatedApi) -> None:
    """Requests are counted by status, and their latencies recorded."""
    insights = client(api.url)
    fetch(insights)
    for fault in (Fault("status", status=503), Fault("drop")):
        api.faults.once(fault)
        failure(insights)
    statistics = insights.statistics()
    assert statistics.codes == {"200": 1, "503": 1, "none": 1}
    assert sum(statistics.latencies.read()[0]) == 3


def test_longest_request(client: Client) -> None:
    """A call may take the slowest request after the longest pause, twice; with a service account, six of them."""
    timeouts = {"connect_timeout": Duration(10), "read_timeout": Duration(60)}
    assert client("http://api.invalid", **timeouts).max_request_seconds == 2 * (10 + 5 * 60 + 300)
    account = {"client_id": "a", "client_secret": Secret(KEY)}
    assert client("http://api.invalid", **timeouts, **account).max_request_seconds == 6 * (10 + 5 * 60 + 300)
