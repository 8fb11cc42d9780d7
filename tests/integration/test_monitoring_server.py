"""The endpoints of a plugin between the simulators: what they show, and that no client can block them."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.command import KEY, wait_until
from support.monitoring import PAGES, Watched, catch_up, refusing, serve, settings_of, watched
from support.streams import open_app, step_now

from in_jumpcloud import app
from in_jumpcloud.config.schema import Config
from in_jumpcloud.config.types import Duration, ProxyUrl, Secret, Start
from in_jumpcloud.monitoring import health, server
from in_jumpcloud.monitoring.snapshot import take_snapshot
from in_jumpcloud.runtime import SYSTEM
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms, rfc3339

NEVER = threading.Event()
SECRETS = {
    "shared_key": "shared-key-fXq81LmZ0p",
    "password": "password-Gh27sKd9qW",
    "proxy": "proxy-word-Tz51Nc8vB",
    "client_secret": "client-secret-Ry63Mw4xP",
}


@pytest.fixture
def api() -> Iterator[SimulatedApi]:
    """JumpCloud with two hours of events, up to a minute ago."""
    end_ms = now_ms() - MINUTE_MS
    with SimulatedApi(EventSource(start_ms=end_ms - 119 * MINUTE_MS, end_ms=end_ms, per_minute=5)) as api:
        yield api


@pytest.fixture
def settings(api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> Config:
    """Settings for these two simulators."""
    return settings_of(api.url, tmp_path, receiver.port)


@pytest.fixture
def seen(settings: Config) -> Iterator[Watched]:
    """The plugin before its first step."""
    with watched(settings) as seen:
        yield seen


def stream_label(seen: Watched) -> str:
    """The label of the only stream."""
    return f'{{stream="{seen.plugin.collectors[0].stream.name}"}}'


def test_before_the_first_step(seen: Watched) -> None:
    """A plugin that has just started is alive and ready: its lag is expected, and no receiver is known to be down."""
    assert seen.get("/healthz")[::2] == (200, "alive\n")
    assert seen.get("/readyz")[::2] == (200, "ready\n")
    (stream,) = seen.get("/status.json").json["streams"]
    assert stream["state"] == "catching up"
    assert stream["lag_seconds"] > 10_000
    assert "in_jumpcloud_receiver_up" not in " ".join(seen.metrics())


def test_status_json(seen: Watched, receiver: SimulatedReceiver) -> None:
    """Streams, receivers, databases and sizes."""
    (collector,) = seen.plugin.collectors
    catch_up(collector)
    status = seen.get("/status.json").json
    (stream,) = status["streams"]
    assert stream["state"] == "up to date"
    assert stream["acknowledged"] == collector.counters.acknowledged == len(receiver.ids) > 500
    assert stream["events_per_minute"] > 0
    assert stream["lag_seconds"] < 60
    (shown,) = status["receivers"]
    assert (shown["name"], shown["up"]) == (f"127.0.0.1:{receiver.port}", True)
    assert shown["acks"] >= 1
    assert status["databases"][0]["setting"] == "geoip.city"
    assert status["state"]["bytes"] > 1000
    assert status["requests"]["200"] >= stream["acknowledged"] // 1000
    assert status["not_ready"] == status["not_alive"] == []


def test_metrics(seen: Watched, receiver: SimulatedReceiver) -> None:
    """They agree with the counters, and Prometheus' parser accepts them, each with a help text."""
    (collector,) = seen.plugin.collectors
    catch_up(collector)
    seen.plugin.resources.mapper.unknown_types.update({'odd"type': 3})
    for family in text_string_to_metric_families(seen.get("/metrics").body):
        assert family.name.startswith(("in_jumpcloud_", "process_"))
        assert family.documentation
    metrics, stream, counters = seen.metrics(), stream_label(seen), collector.counters
    for name, value in {
        "received": counters.received,
        "acknowledged": len(receiver.ids),
        "mapped": counters.mapped,
        "sent": counters.sent,
        "duplicate": counters.duplicates,
    }.items():
        assert metrics[f"in_jumpcloud_{name}_events_total{stream}"] == value
    assert metrics[f"in_jumpcloud_forward_bytes_total{stream}"] == counters.sent_bytes > 10_000
    assert metrics[f"in_jumpcloud_stream_lag_seconds{stream}"] < 60
    assert metrics[f"in_jumpcloud_stream_backfilling{stream}"] == 0
    assert metrics[f'in_jumpcloud_receiver_up{{receiver="127.0.0.1:{receiver.port}"}}'] == 1
    assert metrics['in_jumpcloud_api_requests_total{code="200"}'] >= counters.pages
    assert metrics["in_jumpcloud_api_request_duration_seconds_count"] >= counters.pages
    assert metrics[f'in_jumpcloud_ack_duration_seconds_count{{receiver="127.0.0.1:{receiver.port}"}}'] >= 1
    assert metrics['in_jumpcloud_geo_database_age_seconds{database="city"}'] > 86_400
    assert metrics["in_jumpcloud_geo_cache_hits_total"] > 100
    assert metrics["in_jumpcloud_geo_cache_misses_total"] > 0
    assert metrics['in_jumpcloud_unknown_type_events_total{event_type="odd\\"type"}'] == 3
    assert metrics["in_jumpcloud_state_file_bytes"] > 1000
    assert metrics["process_resident_memory_bytes"] > 1_000_000
    for name, codes in (("not_ready", health.REASONS), ("warning", health.WARNINGS)):
        found = {key: value for key, value in metrics.items() if key.startswith(f"in_jumpcloud_{name}{{")}
        wanted = codes.keys() - health.OF_GROUP  # it has its state for itself
        assert found == {f'in_jumpcloud_{name}{{reason="{code}"}}': 0 for code in wanted}
    assert any(name.startswith("in_jumpcloud_build_info{") and "version=" in name for name in metrics)


def test_openmetrics(seen: Watched) -> None:
    """A client that prefers OpenMetrics gets it."""
    response = seen.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.body.endswith("# EOF\n")


def test_requests_are_counted_by_status(seen: Watched, api: SimulatedApi) -> None:
    """A connection that breaks counts as none."""
    for fault in (Fault("status", status=503), Fault("status", status=403), Fault("drop")):
        api.faults.once(fault)
        step_now(seen.plugin.collectors[0])
    metrics = seen.metrics()
    assert [metrics[f'in_jumpcloud_api_requests_total{{code="{code}"}}'] for code in ("503", "403", "none")] == [1] * 3


def test_history(settings: Config) -> None:
    """The history gets a point per minute of the clock."""
    now = [1_790_000_000_000]
    with watched(settings, now_ms=lambda: now[0]) as seen:
        seen.plugin.collectors[0].counters.acknowledged = 7
        now[0] += MINUTE_MS
        wait_until(lambda: bool(seen.get("/status.json").json["history"]))
        (point,) = seen.get("/status.json").json["history"]
    assert point[:2] == [now[0] // MINUTE_MS * MINUTE_MS, 7]


def test_a_refused_stream(api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> None:
    """Not ready, with the reason, but alive; the other stream is up to date."""
    with watched(settings_of(api.url, tmp_path, receiver.port, **refusing(api))) as seen:
        good, bad = seen.plugin.collectors
        catch_up(good)
        bad.step(NEVER)
        ready = seen.get("/readyz")
        assert ready.status == 503
        (line,) = ready.body.splitlines()
        assert line.startswith("refused: organization missing: JumpCloud answered 403: ")
        assert seen.get("/healthz").status == 200
        metrics = seen.metrics()
        assert metrics['in_jumpcloud_not_ready{reason="refused"}'] == 1
        assert (
            'in_jumpcloud_failing_seconds{error="RequestRejected",kind="stream",name="organization missing"}' in metrics
        )
        assert metrics['in_jumpcloud_stream_refused{stream="organization missing"}'] == 1
        assert metrics[f'in_jumpcloud_stream_refused{{stream="{good.stream.name}"}}'] == 0
        assert [each["state"] for each in seen.get("/status.json").json["streams"]] == ["up to date", "refused"]


def test_a_receiver_that_is_down(settings: Config, receiver: SimulatedReceiver) -> None:
    """Not ready while it is down, with the age of the waiting events; ready again once it is back."""
    receiver.stop()
    with watched(settings) as seen:
        worker = threading.Thread(target=catch_up, args=seen.plugin.collectors)
        worker.start()
        wait_until(lambda: seen.get("/readyz").status == 503)
        name = f"127.0.0.1:{receiver.port}"
        assert re.fullmatch(
            rf"receivers: no receiver is up: {name}, for \d+s: Connection refused; .*\n", seen.get("/readyz").body
        )
        (shown,) = seen.get("/status.json").json["receivers"]
        assert shown["error"].startswith("Connection refused")
        assert shown["error_since"] < rfc3339(now_ms())
        failing = f'in_jumpcloud_failing_seconds{{error="ReceiverDown",kind="receiver",name="{name}"}}'
        assert 0 <= seen.metrics()[failing] < 60
        assert seen.get("/healthz").status == 200
        metrics, stream = seen.metrics(), stream_label(seen)
        assert metrics[f"in_jumpcloud_unacknowledged_age_seconds{stream}"] > 7000
        assert 0 < metrics[f"in_jumpcloud_unacknowledged_wait_seconds{stream}"] < 100
        receiver.start()
        wait_until(lambda: seen.get("/readyz").status == 200)
        worker.join(60)
        assert failing not in seen.metrics()
        assert seen.metrics()[f"in_jumpcloud_unacknowledged_age_seconds{stream}"] == 0


def test_lag(settings: Config) -> None:
    """Once a stream has caught up, a lag of more than http.max_lag makes the plugin not ready."""
    shift = [0]
    with watched(settings, now_ms=lambda: now_ms() + shift[0]) as seen:
        catch_up(*seen.plugin.collectors)
        assert seen.get("/readyz").status == 200
        shift[0] = 20 * MINUTE_MS
        assert re.search(r": 2[01]m .*behind now; .*\n", seen.get("/readyz").body)


def test_a_worker_that_hangs(seen: Watched) -> None:
    """/healthz reports a step without activity for hours."""
    liveness = seen.plugin.collectors[0].counters.liveness
    liveness.begin()
    liveness.touched_at -= 7200
    status, _, body = seen.get("/healthz")
    assert status == 503
    assert body.endswith(": no activity for 2h\n")


def test_a_longer_timeout_allows_a_longer_silence(tmp_path: Path) -> None:
    """Each timeout and each receiver adds to the time that a worker may be without activity: it is not restarted."""

    def max_silence(*ports: int, **changes: Duration) -> float:
        with app.open_app(settings_of("http://127.0.0.1:1", tmp_path, *ports, **changes)) as plugin:
            return take_snapshot(plugin, now_ms=now_ms(), began=0.0).max_silence

    usual = max_silence(1)
    assert usual < 2 * 3600
    assert max_silence(1, 2) > usual + 60
    for name in ("jumpcloud__connect", "jumpcloud__read", "forward__connect", "forward__ack"):
        assert max_silence(1, **{f"{name}_timeout": Duration(600)}) > usual + 500, name


def test_an_internal_error(settings: Config) -> None:
    """The answer is 500, and later requests are answered."""
    fail = threading.Event()

    def clock() -> int:
        if fail.is_set():
            raise RuntimeError
        return now_ms()

    with watched(settings, now_ms=clock) as seen:
        fail.set()
        assert seen.get("/healthz").status == 500
        fail.clear()
        assert seen.get("/healthz").status == 200


def test_methods_and_paths(seen: Watched) -> None:
    """GET and HEAD of the endpoints only; HEAD has the headers of GET and no body."""
    for path in PAGES:
        got, head = seen.get(path), seen.get(path, "HEAD")
        assert got.body
        assert head.body == ""
        assert head.status == got.status == 200
        assert head.headers["content-type"] == got.headers["content-type"]
        assert int(head.headers["content-length"]) > 0
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        response = seen.get("/", method)
        assert (response.status, response.headers["allow"]) == (405, "GET, HEAD")
    for path in ("/nothing", "/../etc/passwd", "/status.json/", "/%00"):
        response = seen.get(path)
        assert response.status == 404
        assert "/metrics" in response.body


def connected(url: str) -> socket.socket:
    """A client that has sent half a request."""
    where = urlsplit(url)
    client = socket.create_connection((where.hostname, where.port))
    client.settimeout(60)
    client.sendall(b"GET /healthz HT")
    return client


def test_slow_clients(settings: Config) -> None:
    """However many clients send half a request, or do not read an answer: others are answered at once.

    Only so many are kept. They are disconnected after a while.
    """
    began = time.monotonic()
    with watched(settings, max_request_seconds=2.0) as seen, contextlib.ExitStack() as stack:
        slow: list[socket.socket] = []
        for number in range(300):
            client = stack.enter_context(connected(seen.url))
            if number % 2:
                client.sendall(b"TP/1.1\r\nHost: localhost\r\n\r\nx")
            slow.append(client)
            if number % 30 == 29:
                assert seen.get("/healthz").status == 200
        assert len(list(Path("/proc/self/fd").iterdir())) < 2 * 300  # the ends of the server, of which most are closed
        for client in slow:
            with contextlib.suppress(ConnectionResetError):  # closed before it was read
                while client.recv(65_536):
                    pass
        assert seen.get("/healthz").status == 200
    assert time.monotonic() - began < 20


def test_host(settings: Config) -> None:
    """Only the names of this machine are answered at its loopback interface: another site must not read the page."""
    with watched(settings) as seen:
        port = urlsplit(seen.url).port
        for host in ("localhost", f"localhost:{port}", "LOCALHOST:1", f"127.0.0.1:{port}", "127.1.2.3", "[::1]:80"):
            assert seen.get("/status.json", Host=host).status == 200, host
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "192.0.2.1", "[::2", "a@b:x"):
            response = seen.get("/status.json", Host=host)
            assert (response.status, "Host header" in response.body) == (421, True), host
    with open_app(settings, SYSTEM) as plugin, serve("0.0.0.0:0", plugin) as url:
        assert url is not None
        reached = Watched(plugin, url.replace("0.0.0.0", "127.0.0.1"))  # noqa: S104
        assert reached.get("/healthz", Host="pod-1.example").status == 200


@pytest.mark.parametrize(
    "request_",
    [
        *(b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/2\r\n\r\n", b"GET http://a/ HTTP/1.1\r\n\r\n"),
        *(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        *(b"\x16\x03\x01" + 300 * b"\xff" + b"\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + 40_000 * b"x"),
    ],
)
def test_what_is_no_request(seen: Watched, request_: bytes) -> None:
    """It is answered with an error, and others are answered."""
    where = urlsplit(seen.url)
    with socket.create_connection((where.hostname, where.port), timeout=60) as client:
        client.sendall(request_)
        status = client.makefile("rb").readline().split()[1]
        assert status == (b"431" if len(request_) > 32_768 else b"400")
    assert seen.get("/healthz").status == 200


def test_the_end_does_not_wait_for_clients(settings: Config) -> None:
    """An open connection does not delay the end of the process."""
    with watched(settings) as seen:
        client = connected(seen.url)
        assert seen.get("/healthz").status == 200
        began = time.monotonic()
    assert time.monotonic() - began < server.MAX_REQUEST_SECONDS / 2
    client.close()
    with pytest.raises(ConnectionError):
        seen.get("/healthz")


def test_addresses_that_cannot_be_used(settings: Config) -> None:
    """A port in use and an address of another machine are a trouble that names the key; null serves nothing."""
    with socket.create_server(("127.0.0.1", 0)) as taken, app.open_app(settings) as plugin:
        for listen in (f"127.0.0.1:{taken.getsockname()[1]}", "192.0.2.1:2021"):
            with serve(listen, plugin) as url:
                assert url is None
                assert str(plugin.resources.troubles.current()[0]).startswith(f"http.listen: {listen}: ")
        with serve(None, plugin) as url:
            assert url is None


def test_no_secret_at_any_endpoint(api: SimulatedApi, tmp_path: Path) -> None:
    """Keys and passwords are not shown, even where JumpCloud, a proxy or a receiver repeats them."""
    texts = []
    api.faults.once(Fault("status", status=403, message=f"who has the key {KEY}?"))
    with SimulatedReceiver(shared_key="another", users={"us": "other"}) as receiver:
        forward = {
            "forward__shared_key": Secret(SECRETS["shared_key"]),
            "forward__username": "us",
            "forward__password": Secret(SECRETS["password"]),
            "forward__ack_timeout": Duration(20),
        }
        with watched(settings_of(api.url, tmp_path, receiver.port, **forward), once=True) as seen:
            (collector,) = seen.plugin.collectors
            for expected in ("who has the key ***?", "forward.shared_key"):
                before = collector.error
                while collector.error in (None, before):
                    step_now(collector)
                texts += [seen.get(path).body for path in (*PAGES, "/nothing")]
                assert expected in texts[-5], texts[-5]
    proxied = {
        "jumpcloud__proxy": ProxyUrl(f"http://us:{SECRETS['proxy']}@127.0.0.1:1"),
        "jumpcloud__api_key": None,
        "jumpcloud__client_id": "client",
        "jumpcloud__client_secret": Secret(SECRETS["client_secret"]),
        "jumpcloud__token_url": f"http://127.0.0.1:1/{SECRETS['proxy']}",
        "jumpcloud__start": Start("1h"),
    }
    with watched(settings_of(api.url, tmp_path / "proxied", **proxied)) as seen:
        seen.plugin.collectors[0].step(NEVER)
        texts += [seen.get(path).body for path in PAGES]
        assert "***" in texts[-4]
    for secret in (KEY, *SECRETS.values()):
        assert not [text for text in texts if secret in text], secret
