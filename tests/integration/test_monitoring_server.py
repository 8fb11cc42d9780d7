"""The pages of a plugin between the simulators: what they say, who may ask, and what they never hold up."""

from __future__ import annotations

import base64
import hashlib
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
from support.monitoring import PAGES, Watched, refusing, settings_of, watched

from in_jumpcloud import app
from in_jumpcloud.collector import Collector
from in_jumpcloud.config.schema import Config
from in_jumpcloud.config.types import Duration, Secret, Start
from in_jumpcloud.errors import ConfigError
from in_jumpcloud.monitoring import server
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import now_ms

MINUTE = 60_000
NEVER = threading.Event()


@pytest.fixture
def source() -> EventSource:
    """Two hours of events, up to a minute ago."""
    now_ms = time.time_ns() // 1_000_000
    return EventSource(start_ms=now_ms - 120 * MINUTE, end_ms=now_ms - MINUTE, per_minute=5)


@pytest.fixture
def api(source: EventSource) -> Iterator[SimulatedApi]:
    """JumpCloud with those events."""
    with SimulatedApi(source) as api:
        yield api


@pytest.fixture
def settings(api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> Config:
    """Between these two."""
    return settings_of(api.url, tmp_path, receiver.port)


@pytest.fixture
def seen(settings: Config) -> Iterator[Watched]:
    """The plugin, which has not begun yet."""
    with watched(settings) as seen:
        yield seen


def catch_up(one: Collector) -> None:
    """Step until there is nothing left to do."""
    while not one.caught_up:
        one.step(NEVER)
        assert one.error is None


class TestPages:
    """What each says."""

    def test_before_the_first_step(self, seen: Watched) -> None:
        """A plugin that has just begun is alive, and ready: it is behind by nature, and no receiver was tried."""
        assert seen.get("/healthz")[::2] == (200, "alive\n")
        assert seen.get("/readyz")[::2] == (200, "ready\n")
        (stream,) = seen.get("/status.json").json["streams"]
        assert stream["state"] == "catching up"
        assert stream["lag_seconds"] > 10_000
        assert "in_jumpcloud_receiver_up" not in " ".join(seen.metrics())

    def test_status(self, seen: Watched, receiver: SimulatedReceiver) -> None:
        """Streams, receivers, databases, sizes, as programs and the page read them."""
        (one,) = seen.plugin.collectors
        catch_up(one)
        said = seen.get("/status.json").json
        (stream,) = said["streams"]
        assert stream["state"] == "up to date"
        assert stream["acknowledged"] == one.counters.acknowledged == len(receiver.ids) > 500
        assert stream["events_per_minute"] > 0
        assert stream["lag_seconds"] < 60
        assert said["receivers"][0]["name"] == f"127.0.0.1:{receiver.port}"
        assert said["receivers"][0]["up"] is True
        assert said["receivers"][0]["acks"] >= 1
        assert said["databases"][0]["setting"] == "geoip.city"
        assert said["state"]["bytes"] > 1000
        assert said["requests"]["200"] >= stream["acknowledged"] // 1000
        assert said["not_ready"] == said["not_alive"] == []

    def test_metrics(self, seen: Watched, receiver: SimulatedReceiver) -> None:
        """The rooms' own counters, in a format that Prometheus' parser takes, with units and types as it wants them."""
        (one,) = seen.plugin.collectors
        catch_up(one)
        text = seen.get("/metrics").body
        families = {each.name: each for each in text_string_to_metric_families(text)}
        ours = {name: each for name, each in families.items() if not name.startswith("process_")}
        assert all(name.startswith("in_jumpcloud_") for name in ours)
        assert all(each.documentation for each in ours.values())
        found = seen.metrics()
        stream = '{stream="own organization"}'
        for name, value in {
            "received": one.counters.received,
            "acknowledged": one.counters.acknowledged,
            "mapped": one.counters.mapped,
            "sent": one.counters.sent,
            "duplicate": one.counters.duplicates,
        }.items():
            assert found[f"in_jumpcloud_{name}_events_total{stream}"] == value
        assert found[f"in_jumpcloud_acknowledged_events_total{stream}"] == len(receiver.ids)
        assert found[f"in_jumpcloud_forward_bytes_total{stream}"] == one.counters.sent_bytes > 10_000
        assert found[f"in_jumpcloud_stream_lag_seconds{stream}"] < 60
        assert found[f"in_jumpcloud_stream_backfilling{stream}"] == 0
        assert found[f'in_jumpcloud_receiver_up{{receiver="127.0.0.1:{receiver.port}"}}'] == 1
        assert found['in_jumpcloud_api_requests_total{code="200"}'] >= one.counters.pages
        assert found["in_jumpcloud_api_request_duration_seconds_count"] >= one.counters.pages
        assert found[f'in_jumpcloud_ack_duration_seconds_count{{receiver="127.0.0.1:{receiver.port}"}}'] >= 1
        assert found['in_jumpcloud_geo_database_age_seconds{database="city"}'] > 86_400
        assert found["in_jumpcloud_geo_cache_hits_total"] > 100
        assert found["in_jumpcloud_geo_cache_misses_total"] > 0
        assert found["in_jumpcloud_state_file_bytes"] > 1000
        assert found["process_resident_memory_bytes"] > 1_000_000
        assert any(name.startswith("in_jumpcloud_build_info{") and "version=" in name for name in found)

    def test_openmetrics(self, seen: Watched) -> None:
        """Who asks for OpenMetrics gets it."""
        answer = seen.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.body.endswith("# EOF\n")

    def test_what_the_api_answers_is_counted(self, seen: Watched, api: SimulatedApi) -> None:
        """By status; a connection that breaks off has none."""
        (one,) = seen.plugin.collectors
        for fault in (Fault("status", status=503), Fault("status", status=403), Fault("drop")):
            api.faults.once(fault)
            one.step(NEVER)
        found = seen.metrics()
        assert [found[f'in_jumpcloud_api_requests_total{{code="{code}"}}'] for code in ("503", "403", "none")] == [
            1
        ] * 3

    def test_unknown_types(self, seen: Watched) -> None:
        """The types that the mapper met and does not know are told by name."""
        seen.plugin.resources.mapper.unknown_types.update({'odd"type': 3})
        found = seen.metrics()
        assert found['in_jumpcloud_unknown_type_events_total{event_type="odd\\"type"}'] == 3

    def test_history(self, settings: Config) -> None:
        """A point a minute, by the clock."""
        now = [1_790_000_000_000]
        with watched(settings, now_ms=lambda: now[0]) as seen:
            seen.plugin.collectors[0].counters.acknowledged = 7
            now[0] += MINUTE
            wait_until(lambda: bool(seen.get("/status.json").json["history"]))
            (point,) = seen.get("/status.json").json["history"]
        assert point[:2] == [now[0] // MINUTE * MINUTE, 7]


class TestTrouble:
    """What stands there when something is wrong."""

    def test_a_refusal(self, api: SimulatedApi, receiver: SimulatedReceiver, tmp_path: Path) -> None:
        """Not ready, and why; the other stream is well, and nothing is dead."""
        with watched(settings_of(api.url, tmp_path, receiver.port, **refusing(api))) as seen:
            good, bad = seen.plugin.collectors
            catch_up(good)
            bad.step(NEVER)
            ready = seen.get("/readyz")
            assert ready.status == 503
            (line,) = ready.body.splitlines()
            assert line.startswith("organization missing: refused: JumpCloud answered 403: ")
            assert seen.get("/healthz").status == 200
            found = seen.metrics()
            assert found['in_jumpcloud_stream_refused{stream="organization missing"}'] == 1
            assert found[f'in_jumpcloud_stream_refused{{stream="{good.stream.name}"}}'] == 0
            assert [each["state"] for each in seen.get("/status.json").json["streams"]] == ["up to date", "refused"]

    def test_no_receiver(self, settings: Config, receiver: SimulatedReceiver) -> None:
        """Down while it is away, with the age of what waits for it; up again when it is back."""
        receiver.stop()
        with watched(settings) as seen:
            stop = threading.Event()
            worker = threading.Thread(target=lambda: _step(seen.plugin.collectors[0], stop))
            worker.start()
            wait_until(lambda: seen.get("/readyz").status == 503)
            assert seen.get("/readyz").body == f"no receiver is up: 127.0.0.1:{receiver.port}\n"
            assert seen.get("/healthz").status == 200
            found = seen.metrics()
            assert found['in_jumpcloud_unacknowledged_age_seconds{stream="own organization"}'] > 7000
            assert 0 < found['in_jumpcloud_unacknowledged_wait_seconds{stream="own organization"}'] < 100
            receiver.start()
            wait_until(lambda: seen.get("/readyz").status == 200)
            worker.join(60)
            assert seen.metrics()['in_jumpcloud_unacknowledged_age_seconds{stream="own organization"}'] == 0

    def test_a_lag(self, settings: Config) -> None:
        """Once a stream has come up to now, a lag of more than http.max_lag is a reason."""
        skew = [0]
        with watched(settings, now_ms=lambda: now_ms() + skew[0]) as seen:
            catch_up(seen.plugin.collectors[0])
            assert seen.get("/readyz").status == 200
            skew[0] = 20 * MINUTE
            assert re.match(r"own organization: lags 2[01]m .*behind now\n", seen.get("/readyz").body)

    def test_a_worker_that_is_stuck(self, seen: Watched) -> None:
        """A step without a sign of life for hours is told by /healthz."""
        liveness = seen.plugin.collectors[0].counters.liveness
        liveness.begin()
        liveness.touched_at -= 7200
        answer = seen.get("/healthz")
        assert answer[::2] == (503, "own organization: no sign of life for 2h\n")

    def test_an_error_of_ours(self, seen: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is answered with 500, and the next request is answered all the same."""
        monkeypatch.setattr(app.App, "alive", property(lambda _: 1 / 0))
        assert seen.get("/healthz").status == 500
        monkeypatch.undo()
        assert seen.get("/healthz").status == 200


def _step(one: Collector, stop: threading.Event) -> None:
    one.step(stop)


class TestRequests:
    """Who may ask, and what for."""

    @pytest.mark.parametrize("path", PAGES)
    def test_head(self, seen: Watched, path: str) -> None:
        """The same headers as GET, and no body."""
        got, head = seen.get(path), seen.get(path, "HEAD")
        assert got.body
        assert head.body == ""
        assert head.status == got.status == 200
        assert head.headers["content-type"] == got.headers["content-type"]
        assert int(head.headers["content-length"]) > 0

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
    def test_only_get_and_head(self, seen: Watched, method: str) -> None:
        """Nothing can be changed here."""
        answer = seen.get("/", method)
        assert answer.status == 405
        assert answer.headers["allow"] == "GET, HEAD"

    @pytest.mark.parametrize("path", ["/nothing", "/../etc/passwd", "/status.json/", "/%00"])
    def test_no_such_page(self, seen: Watched, path: str) -> None:
        """There are these few pages alone; the answer names them."""
        answer = seen.get(path)
        assert answer.status == 404
        assert "/metrics" in answer.body

    def test_policy(self, seen: Watched) -> None:
        """The page's own style and script are let in by their hashes; nothing inline besides, nothing from outside."""
        answer = seen.get("/")
        policy = answer.headers["content-security-policy"]
        for tag in ("style", "script"):
            (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.body, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        assert not re.search(r"\son\w+\s*=|javascript:|\sstyle=|\ssrc=|https?://(?!www\.w3\.org/2000/svg)", answer.body)
        assert "innerHTML" not in answer.body
        assert answer.headers["x-content-type-options"] == "nosniff"

    def test_a_silent_client_holds_up_nobody(self, seen: Watched) -> None:
        """While all places but one are taken by clients that say nothing, others are answered."""
        silent = [_connected(seen.url) for _ in range(server._PLACES - 1)]
        try:
            assert seen.get("/healthz").status == 200
        finally:
            for each in silent:
                each.close()

    def test_it_is_bounded(self, seen: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
        """One client too many is turned away; those that dawdle are hung up on, and then there is room again."""
        monkeypatch.setattr(server, "_LONGEST", 1.0)
        dawdling = [_connected(seen.url) for _ in range(server._PLACES)]
        further = _connected(seen.url)
        assert further.recv(1) == b""
        for each in dawdling:
            assert each.recv(1) == b""
        wait_until(lambda: _answers(seen))
        for each in (*dawdling, further):
            each.close()

    def test_its_end_waits_for_nobody(self, settings: Config) -> None:
        """A client that is still there does not keep the plugin from ending."""
        with watched(settings) as seen:
            client = _connected(seen.url)
            assert seen.get("/healthz").status == 200
            began = time.monotonic()
        assert time.monotonic() - began < server._LONGEST / 2
        client.close()
        with pytest.raises(ConnectionError):
            seen.get("/healthz")


def _connected(url: str) -> socket.socket:
    where = urlsplit(url)
    client = socket.create_connection((where.hostname, where.port))
    client.settimeout(60)
    client.sendall(b"GET /healthz HT")
    return client


def _answers(seen: Watched) -> bool:
    try:
        return seen.get("/healthz").status == 200
    except ConnectionError:
        return False


def test_a_port_in_use(settings: Config) -> None:
    """One clear line that names the setting; a name that is none gets one too."""
    with socket.socket() as taken, app.open_app(settings) as plugin:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for listen in (f"127.0.0.1:{taken.getsockname()[1]}", "192.0.2.1:2021"):
            with pytest.raises(ConfigError, match=rf"\Ahttp\.listen: {listen}: .*; name another address, or null"):
                server.serve(listen, plugin).__enter__()


def test_null_listens_nowhere(settings: Config) -> None:
    """Without http.listen there is no server."""
    threads = set(threading.enumerate())
    with app.open_app(settings) as plugin, server.serve(None, plugin) as url:
        assert url is None
        assert set(threading.enumerate()) <= threads  # those of a test before may end meanwhile


SECRETS = {
    "shared_key": "shared-key-fXq81LmZ0p",
    "password": "password-Gh27sKd9qW",
    "proxy": "proxy-word-Tz51Nc8vB",
    "client_secret": "client-secret-Ry63Mw4xP",
}


def test_no_secret_on_any_page(api: SimulatedApi, tmp_path: Path) -> None:
    """Neither a key nor a password is shown, whatever JumpCloud, a proxy and a receiver that refuses us may say."""
    texts = []
    api.faults.once(Fault("status", status=403, message=f"who has the key {KEY}?"))
    with SimulatedReceiver(shared_key="another", users={"us": "other"}) as receiver:
        forward = {
            "forward__shared_key": Secret(SECRETS["shared_key"]),
            "forward__username": "us",
            "forward__password": Secret(SECRETS["password"]),
            "forward__ack_timeout": Duration(20),
        }
        settings = settings_of(api.url, tmp_path, receiver.port, **forward)
        with watched(settings, once=True) as seen:
            (one,) = seen.plugin.collectors
            for expected in ("who has the key ***?", "its own"):
                one.step(NEVER)
                while one.error is None:
                    one.step(NEVER)
                texts += [seen.get(path).body for path in (*PAGES, "/nothing")]
                assert expected in texts[-5], texts[-5]
    proxied = {
        "jumpcloud__proxy": f"http://us:{SECRETS['proxy']}@127.0.0.1:1",
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
