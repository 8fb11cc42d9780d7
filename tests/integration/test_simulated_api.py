"""The simulated API keeps to what the real one documents, as far as the plugin relies on it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from support.api import HOUR_END, NOW, START, WINDOW, Client, ids
from support.command import ROOT

from in_jumpcloud.insights.repeated_headers import Repeated, RepeatingAdapter
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.timestamps import MINUTE_MS

MINUTES: dict[str, Any] = {"interval_unit": "m", "interval_value": "1", "timezone": "UTC"}


@pytest.fixture
def source() -> EventSource:
    """A day with one event a second."""
    return EventSource(start_ms=START)


@pytest.fixture
def client(source: EventSource) -> Iterator[Client]:
    """A client of an API that serves that day, at its end."""
    with SimulatedApi(source, clock=lambda: NOW) as api, Client(api) as client:
        yield client


def test_pages_have_every_event_once_and_in_order(source: EventSource, client: Client) -> None:
    """Paging to the end returns the source's own bytes in ascending order; the last page has a cursor too."""
    pages = client.pages(limit=1000)
    assert [len(page) for page in pages] == [1000, 1000, 1000, 600]
    expected = source.between(START, HOUR_END, now_ms=NOW)
    assert ids([event for page in pages for event in page]) == [item.event_id for item in expected]
    assert client.api.events_served == 3600
    assert client.post(limit=3).content == b"[" + b",".join(item.raw for item in expected[:3]) + b"]"

    last = client.post(limit=10_000)
    names = ("X-Result-Count", "X-Limit", "X-Sort")
    assert [last.headers[name] for name in names] == ["3600", "10000", "ASC"]
    beyond = client.post(limit=10_000, search_after=json.loads(last.headers["X-Search_after"]))
    assert (beyond.json(), beyond.headers["X-Search_after"]) == ([], last.headers["X-Search_after"])
    assert {"X-Request-Id", "Date"} <= set(beyond.headers)

    tie = EventSource(start_ms=START, per_minute=0)
    for number in range(2300):
        tie.add({"id": str(number)}, timestamp_ms=START + 1)
    with SimulatedApi(tie, clock=lambda: NOW) as api, Client(api) as other:
        found = [event["id"] for page in other.pages(limit=500) for event in page]
    assert len(found) == len(set(found)) == 2300


def test_the_window_includes_its_start_and_excludes_its_end(source: EventSource, client: Client) -> None:
    """Times may have milliseconds. Without an end the window ends now.

    An added event is served byte for byte, from the moment that it is visible.
    """
    for second in (5, 6):
        source.add({"id": f"at {second}"}, timestamp_ms=START + second * 1000)
    found = ids(client.post(start_time="2026-01-01T00:00:05Z", end_time="2026-01-01T00:00:06Z").json())
    assert ("at 5" in found, "at 6" in found) == (True, False)
    source.add({"id": "edge"}, timestamp_ms=START + 123)
    fractions = {".1": True, ".123": True, ".124": False}
    for fraction, included in fractions.items():
        events = client.post(start_time=f"2026-01-01T00:00:00{fraction}Z", limit=10_000).json()
        assert ("edge" in ids(events)) is included, fraction
    assert client.post("events/count", end_time=None).json() == {"count": 24 * 3600 + 3}

    raw = b'{"id" : "A",  "service":"sso","n":1.50}'
    source.add(raw, timestamp_ms=START + 1500, visible_ms=NOW)
    source.add({"id": "B", "service": "unknown"}, timestamp_ms=START - 5000, visible_ms=NOW + 1)
    window: dict[str, Any] = {"start_time": "2026-01-01T00:00:01.500Z", "end_time": "2026-01-01T00:00:01.501Z"}
    for services in (["all"], ["sso"]):
        assert raw in client.post(service=services, **window).content
    assert not source.between(START - MINUTE_MS, START, now_ms=NOW)
    assert [item.event_id for item in source.between(START - MINUTE_MS, START, now_ms=NOW + 1)] == ["B"]


def test_every_service_of_the_page_is_known(client: Client) -> None:
    """JumpCloud's services, as conf/mapping.md lists them, may be asked for, also those that no event here has."""
    text = (ROOT / "conf" / "mapping.md").read_text(encoding="utf-8").partition("## Services")[2]
    services = re.findall(r"`([a-z_]+)`[,.]", text)
    assert len(services) == len(set(services)) == 25
    assert client.post(service=services).status_code == 200
    refused = client.post(service=["quantum_badges"]).json()["message"]
    supported = set(refused.partition("supported: ")[2].split(", "))
    assert supported == {*services, "all", "alert"}


def test_limits_services_and_cursors(client: Client) -> None:
    """`alert` means `alerts`. A cursor of another query is refused."""
    for limit, used in ((None, 1000), (7, 7)):
        answer = client.post(limit=limit)
        assert (answer.headers["X-Limit"], len(answer.json())) == (str(used), used), limit

    found = [event["service"] for page in client.pages(service=["radius", "alert"]) for event in page]
    assert set(found) == {"radius", "alerts"}
    assert client.post("events/count", service=["radius", "alerts"]).json()["count"] == len(found)
    assert client.post(service=["workflows"]).json() == []

    cursor = json.loads(client.post(limit=10).headers["X-Search_after"])
    second = client.post(limit=10, search_after=cursor).content
    assert client.post(limit=10, search_after=[str(cursor[0]), cursor[1]]).content == second
    for change in ({"limit": 11}, {"limit": 10, "service": ["sso"]}, {"limit": 10, "end_time": None}):
        assert client.post(search_after=cursor, **change).status_code == 400, change
    for wrong in ([cursor[0]], [cursor[0], 5], ["x", cursor[1]], "x", [cursor[0], "DZrPyW8BNsa9iKWoOm7h"]):
        assert client.post(limit=10, search_after=wrong).status_code == 400, wrong


def test_a_wrong_query_is_refused(client: Client) -> None:
    """A query that the plugin never sends is refused, and the message names what is wrong."""
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("events", {"service": None}, "`service`"),
        ("events", {"service": "all"}, "`$.service`"),
        ("events", {"service": ["unknown"]}, "Unsupported service: unknown; supported: access_certification"),
        ("events", {"start_time": None}, "`start_time`"),
        ("events", {"start_time": "2026-13-01T00:00:00Z"}, "`$.start_time`"),
        ("events", {"end_time": 5}, "`$.end_time`"),
        ("events", {"start_time": "2027-01-01T00:00:00Z", "end_time": None}, "Start Time is in the future"),
        ("events", {"end_time": WINDOW["start_time"]}, "Start Time not after End Time 2026-01-01T00:00:00"),
        ("events", {"limit": 0}, "`$.limit`"),
        ("events", {"limit": 10_001}, "`$.limit`"),
        ("events", {"sort": "DESC"}, "`$.sort`"),
        ("events", {"skip": 5}, "`skip`"),
        ("events/interval", {}, "`interval_unit`"),
        ("events/interval", MINUTES | {"interval_unit": "h"}, "`$.interval_unit`"),
        ("events/interval", MINUTES | {"start_time": "2000-01-01T00:00:00Z"}, "Too many buckets"),
    ]
    for path, change, message in wrong:
        answer = client.post(path, **change)
        assert answer.status_code == 400, (path, change)
        assert message in answer.json()["message"], (path, change)
    assert client.post("events/nothing").status_code == 404
    assert client.session.get(f"{client.api.url}/insights/directory/v1/events", timeout=10).status_code == 405
    for data in (b"", b"{", b"[]", b"\xff"):
        assert client.send(data).status_code == 400, data
    headers: list[tuple[dict[str, str | None], int]] = [
        ({"x-api-key": "wrong"}, 401),
        ({"x-api-key": None}, 401),
        ({"x-org-id": "unknown"}, 403),
        ({"Content-Type": "text/plain"}, 400),
    ]
    for each, status in headers:
        answer = client.post(headers=each)
        assert (answer.status_code, bool(answer.json()["message"])) == (status, True), each
    request = client.api.requests[-2]
    assert (request.path, request.status) == ("/insights/directory/v1/events", 403)
    assert (request.body, request.time_ms, request.headers["x-org-id"]) == (WINDOW, NOW, "unknown")


def test_minutes_are_counted(source: EventSource, client: Client) -> None:
    """Each bucket has the count of its minute, cut to the window; empty minutes are counted only between others."""
    window: dict[str, Any] = {"start_time": "2026-01-01T00:07:30Z", "end_time": "2026-01-01T00:58:00Z"}
    buckets = client.post("events/interval", **MINUTES, **window).json()["buckets"]
    assert sum(bucket["doc_count"] for bucket in buckets) == client.post("events/count", **window).json()["count"]
    for bucket in buckets:
        low, high = max(bucket["key"], START + 450_000), bucket["key"] + MINUTE_MS
        assert bucket["key"] % MINUTE_MS == 0
        assert bucket["doc_count"] == len(source.between(low, high, now_ms=NOW))
    assert buckets[0]["key_as_string"].startswith("2026-01-01T00:07")

    sparse = EventSource(start_ms=START, per_minute=0)
    for minute in (3, 5):
        sparse.add({"id": str(minute)}, timestamp_ms=START + minute * MINUTE_MS)
    with SimulatedApi(sparse, clock=lambda: NOW) as api, Client(api) as other:
        buckets = other.post("events/interval", **MINUTES).json()["buckets"]
    assert [bucket["doc_count"] for bucket in buckets] == [1, 0, 1]


def test_organizations_have_their_own_events() -> None:
    """`x-org-id` selects one; without it the first answers."""
    sources = {name: EventSource(start_ms=START, organization=name) for name in ("one", "two")}
    with SimulatedApi(sources, clock=lambda: NOW) as api, Client(api) as client:
        answers = {name: client.post(headers={"x-org-id": name}).json() for name in sources}
        assert client.post().json() == answers["one"]
    assert {event["organization"] for event in answers["two"]} == {"two"}
    assert not set(ids(answers["one"])) & set(ids(answers["two"]))


def test_several_organizations_in_one_request() -> None:
    """By default all of their events, in order, page by page; else those of the first, or a refusal."""
    sources = {each: EventSource(start_ms=START, per_minute=20, organization=each) for each in ("a", "b", "c")}
    with SimulatedApi(sources, clock=lambda: NOW) as api, Client(api) as client:
        client.session.mount("http://", RepeatingAdapter())
        client.session.headers["x-org-id"] = Repeated(["c", "a"])
        found = [event for page in client.pages(limit=700) for event in page]
        items = [item for each in ("a", "c") for item in sources[each].between(START, HOUR_END, now_ms=NOW)]
        items.sort(key=lambda item: (item.timestamp_ms, item.doc_id))
        assert ids(found) == [item.event_id for item in items]
        assert client.post("events/count").json() == {"count": 2400}
        assert {each.organizations for each in api.requests} == {("c", "a")}
        api.several = "first"
        assert {event["organization"] for event in client.post(limit=100).json()} == {"c"}
        api.several = "refused"
        assert client.post().status_code == 400
        api.several = "together"
        client.session.headers["x-org-id"] = Repeated(["a", "unknown"])
        assert client.post().status_code == 403


def test_addresses(source: EventSource, client: Client) -> None:
    """Stopping closes open connections; the next start has the same port. An IPv6 host has brackets."""
    client.post()
    url = client.api.url
    client.api.stop()
    with pytest.raises(requests.ConnectionError):
        client.post()
    client.api.start()
    assert (client.api.url, client.post().status_code) == (url, 200)
    with SimulatedApi(source, host="::1", clock=lambda: NOW) as api, Client(api) as other:
        assert api.url.startswith("http://[::1]:")
        assert other.post(limit=2).headers["X-Result-Count"] == "2"
