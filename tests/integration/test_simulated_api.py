"""The simulated Directory Insights API, asked over HTTP."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from support.api import HOUR_END, NOW, START, WINDOW, Client, ids

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import MINUTE, EventSource


@pytest.fixture
def source() -> EventSource:
    """A day of one event a second."""
    return EventSource(start_ms=START)


@pytest.fixture
def client(source: EventSource) -> Iterator[Client]:
    """A client of an API that serves that day, at its end."""
    with SimulatedApi(source, clock=lambda: NOW) as api, Client(api) as client:
        yield client


class TestPages:
    """POST /events."""

    def test_pages_hold_everything_once_and_in_order(self, source: EventSource, client: Client) -> None:
        """Paging to the end gives the source's own bytes, ascending."""
        pages = client.pages(limit=1000)
        assert [len(page) for page in pages] == [1000, 1000, 1000, 600]
        expected = source.between(START, HOUR_END, now_ms=NOW)
        assert ids([event for page in pages for event in page]) == [item.event_id for item in expected]
        assert client.api.events_served == 3600
        body = client.post(limit=3).content
        assert body == b"[" + b",".join(item.raw for item in expected[:3]) + b"]"

    def test_descending_is_the_reverse(self, client: Client) -> None:
        """Newest first, page after page."""
        down = [event for page in client.pages(limit=900, sort="desc") for event in page]
        up = [event for page in client.pages(limit=700, sort="nonsense") for event in page]
        assert ids(down) == ids(up)[::-1]
        assert client.post(sort="dEsC").headers["X-Sort"] == "DESC"
        assert client.post(sort=7).headers["X-Sort"] == "ASC"

    def test_a_tie_of_more_than_a_page_is_paged(self) -> None:
        """Thousands of events on one millisecond are told apart by the document id."""
        source = EventSource(start_ms=START, per_minute=0, bursts={START + 1: 2300})
        with SimulatedApi(source, clock=lambda: NOW) as api, Client(api) as client:
            for sort in ("ASC", "DESC"):
                found = [event["id"] for page in client.pages(limit=500, sort=sort) for event in page]
                assert len(found) == len(set(found)) == 2300

    def test_start_is_inclusive_and_end_exclusive(self, source: EventSource, client: Client) -> None:
        """An event on the start belongs to the window; one on the end does not."""
        for second in (0, 5, 6):
            source.add({"id": f"at {second}"}, timestamp_ms=START + second * 1000)
        found = ids(client.post(start_time="2026-01-01T00:00:05Z", end_time="2026-01-01T00:00:06Z").json())
        assert "at 5" in found
        assert not {"at 0", "at 6"} & set(found)

    def test_the_end_is_now_by_default(self, client: Client) -> None:
        """Without end_time everything up to now is found."""
        assert client.post("events/count", end_time=None).json() == {"count": 24 * 3600}

    @pytest.mark.parametrize(
        ("limit", "used"), [(None, 1000), (0, 1000), ("7", 1000), (True, 1000), (-1, 1000), (7, 7)]
    )
    def test_a_nonsense_limit_is_the_default(self, client: Client, limit: object, used: int) -> None:
        """Only a positive integer counts."""
        answer = client.post(limit=limit)
        assert (answer.headers["X-Limit"], len(answer.json())) == (str(used), used)

    def test_services_are_filtered(self, client: Client) -> None:
        """Only what was asked for comes, and `alert` means `alerts`."""
        found = [event["service"] for page in client.pages(service=["radius", "alert"]) for event in page]
        assert set(found) == {"radius", "alerts"}
        assert client.post("events/count", service=["radius", "alerts"]).json()["count"] == len(found)
        assert client.post(service=["workflows"]).json() == []

    def test_a_cursor_belongs_to_its_query(self, client: Client) -> None:
        """The milliseconds may be text; another query, or another's cursor, is refused."""
        cursor = json.loads(client.post(limit=10).headers["X-Search_after"])
        assert len(cursor[1]) == 20
        second = client.post(limit=10, search_after=cursor).content
        assert client.post(limit=10, search_after=[str(cursor[0]), cursor[1]]).content == second
        for change in ({"limit": 11}, {"limit": 10, "service": ["sso"]}, {"limit": 10, "sort": "DESC"}):
            assert client.post(search_after=cursor, **change).status_code == 400
        for wrong in ([cursor[0]], [cursor[0], 5], ["x", cursor[1]], "x", [cursor[0], "DZrPyW8BNsa9iKWoOm7h"]):
            assert client.post(limit=10, search_after=wrong).status_code == 400

    def test_the_cursor_is_always_there(self, client: Client) -> None:
        """Also on the last page, and on an empty one."""
        last = client.post(limit=10_000)
        assert (last.headers["X-Result-Count"], last.headers["X-Limit"]) == ("3600", "10000")
        cursor = json.loads(last.headers["X-Search_after"])
        beyond = client.post(limit=10_000, search_after=cursor)
        assert beyond.json() == []
        assert json.loads(beyond.headers["X-Search_after"]) == cursor
        assert {"X-Request-Id", "Date", "X-Sort"} <= set(beyond.headers)

    def test_fields_and_skip(self, client: Client) -> None:
        """A projection keeps what was named; an offset passes over events."""
        whole = client.post(limit=5).json()
        assert client.post(limit=3, skip=2, fields=["id", "zzz"]).json() == [{"id": event["id"]} for event in whole[2:]]

    def test_gzip_only_where_it_is_accepted(self, client: Client) -> None:
        """The content is the same either way."""
        packed, plain = client.post(), client.post(headers={"Accept-Encoding": "identity"})
        assert packed.headers["Content-Encoding"] == "gzip"
        assert "Content-Encoding" not in plain.headers
        assert int(packed.headers["Content-Length"]) < int(plain.headers["Content-Length"]) / 2
        assert packed.content == plain.content

    def test_an_added_event_is_found_byte_for_byte(self, source: EventSource, client: Client) -> None:
        """Injected bytes are served as they are, in their place, from the moment that they are visible."""
        raw = b'{"id" : "A",  "service":"sso","n":1.50}'
        doc_id = source.add(raw, timestamp_ms=START + 1500, visible_ms=NOW)
        source.add({"id": "B", "service": "nosuch"}, timestamp_ms=START - 5000, visible_ms=NOW + 1)
        assert len(doc_id) == 20
        span: dict[str, Any] = {"start_time": "2026-01-01T00:00:01.500Z", "end_time": "2026-01-01T00:00:01.501Z"}
        assert raw in client.post(**span).content
        assert raw in client.post(service=["sso"], **span).content
        assert client.post("events/count", start_time="2025-12-31T23:59:55Z").json()["count"] == 3601
        assert not source.between(START - MINUTE, START, now_ms=NOW)
        assert [item.event_id for item in source.between(START - MINUTE, START, now_ms=NOW + 1)] == ["B"]


class TestRefusals:
    """Every error, with its message."""

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"service": None}, "service is required"),
            ({"service": []}, "service is required"),
            ({"service": "all"}, "service is required"),
            ({"service": ["nosuch"]}, "Unsupported service: nosuch; supported: access_management"),
            ({"start_time": None}, "start_time is required"),
            ({"start_time": "2026-01-01T00:00:00Z\n"}, "Invalid start_time"),
            ({"start_time": "2026-01-01"}, "Invalid start_time"),
            ({"start_time": "2026-13-01T00:00:00Z"}, "Invalid start_time"),
            ({"start_time": "2026-01-01T00:00:00.0123456789Z"}, "Invalid start_time"),
            ({"start_time": 5}, "Invalid start_time"),
            ({"end_time": "soon"}, "Invalid end_time"),
            ({"start_time": "2027-01-01T00:00:00Z", "end_time": None}, "Start Time is in the future"),
            (
                {"end_time": "2026-01-01T00:00:00Z"},
                "Start Time not after End Time 2026-01-01T00:00:00Z > 2026-01-01T00:00:00Z",
            ),
            ({"limit": 10_001}, "Invalid limit"),
            ({"fields": []}, "Invalid fields"),
            ({"fields": ["nosuch"]}, "Invalid fields"),
            ({"search_term": {"and": [{"success": True}]}}, "Invalid search_term"),
        ],
    )
    def test_a_wrong_query_is_a_400(self, client: Client, change: dict[str, Any], words: str) -> None:
        """The message says what is wrong."""
        answer = client.post(**change)
        assert answer.status_code == 400
        assert answer.json()["message"].startswith(words)

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"x"', b"\xff"])
    def test_a_body_that_is_no_object(self, client: Client, data: bytes) -> None:
        """Bad JSON has the real API's message."""
        answer = client.send(data)
        assert (answer.status_code, answer.json()) == (400, {"message": "Invalid/unknown query JSON body"})

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"x-api-key": "wrong"}, 401),
            ({"x-api-key": None}, 401),
            ({"x-org-id": "nosuch"}, 403),
            ({"Content-Type": "text/plain"}, 400),
            ({"Content-Type": None}, 400),
        ],
    )
    def test_headers_are_checked(self, client: Client, headers: dict[str, str | None], status: int) -> None:
        """Without the key, with a foreign organization or without the type there is no answer."""
        answer = client.post(headers=headers)
        assert answer.status_code == status
        assert answer.json()["message"]

    def test_elsewhere_is_nothing(self, client: Client) -> None:
        """Another path, another method, and a search that is not simulated."""
        assert client.post("nosuch").status_code == 404
        assert client.session.get(f"{client.api.url}/insights/directory/v1/events", timeout=10).status_code == 405
        assert client.post(q="ada").status_code == 501
        assert client.post(whatever={"x": True}).status_code == 200

    def test_only_loopback_by_default(self, source: EventSource) -> None:
        """A public address has to be asked for."""
        with pytest.raises(ValueError, match="loopback"):
            SimulatedApi(source, host="0.0.0.0")  # noqa: S104
        SimulatedApi(source, host="0.0.0.0", allow_remote=True)  # noqa: S104

    @pytest.mark.parametrize(
        ("text", "milliseconds"),
        [
            ("", 0),
            (".1", 100),
            (".123", 123),
            (".1239", 123),
            (".123999", 123),
            (".12345678", 123),
            (".123456789", 123),
        ],
    )
    def test_fractions_of_a_second(self, source: EventSource, client: Client, text: str, milliseconds: int) -> None:
        """0 to 9 digits are read, with an offset or without."""
        source.add({"id": "edge"}, timestamp_ms=START + milliseconds)
        for start in (f"2026-01-01T00:00:00{text}Z", f"2026-01-01T00:00:00{text}", f"2026-01-01T05:30:00{text}+05:30"):
            events = client.post(start_time=start, end_time="2026-01-01T00:00:01Z", limit=10_000).json()
            assert "edge" in ids(events)
        after = f"2026-01-01T00:00:00.{milliseconds + 1:03d}Z"
        assert "edge" not in ids(client.post(start_time=after, limit=10_000).json())


class TestCounts:
    """The other endpoints agree with the pages."""

    @pytest.mark.parametrize(
        ("unit", "value", "step"), [("m", "10", 600_000), ("h", None, 3_600_000), ("s", "30", 30_000)]
    )
    def test_intervals_add_up(
        self, source: EventSource, client: Client, unit: str, value: str | None, step: int
    ) -> None:
        """Every bucket holds the count of its span, cut to the window."""
        window: dict[str, Any] = {"start_time": "2026-01-01T00:07:30Z", "end_time": "2026-01-01T00:58:00Z"}
        answer = client.post("events/interval", interval_unit=unit, interval_value=value, **window).json()
        buckets = answer["buckets"]
        assert sum(bucket["doc_count"] for bucket in buckets) == client.post("events/count", **window).json()["count"]
        for bucket in buckets:
            low, high = max(bucket["key"], START + 450_000), min(bucket["key"] + step, START + 3_480_000)
            assert bucket["key"] % step == 0
            assert bucket["doc_count"] == len(source.between(low, high, now_ms=NOW))
        assert buckets[0]["key_as_string"].startswith("2026-01-01T00:0")

    def test_empty_buckets_lie_only_between_others(self) -> None:
        """As in a histogram."""
        source = EventSource(start_ms=START, per_minute=0)
        for minute in (3, 5):
            source.add({"id": str(minute)}, timestamp_ms=START + minute * MINUTE)
        with SimulatedApi(source, clock=lambda: NOW) as api, Client(api) as client:
            buckets = client.post("events/interval", interval_unit="m").json()["buckets"]
            assert [bucket["doc_count"] for bucket in buckets] == [1, 0, 1]
            assert client.post("events/interval").status_code == 400
            assert client.post("events/interval", interval_unit="m", interval_value="0").status_code == 400
            shifted = client.post("events/interval", interval_unit="d", timezone="-0500").json()["buckets"]
            assert shifted[0]["key"] == START - 19 * 60 * MINUTE

    def test_distinct_values(self, client: Client) -> None:
        """Each value with its count, most frequent first."""
        events = [event for page in client.pages() for event in page]
        answer = client.post("events/distinct", field="initiated_by.type").json()
        actors = [event["initiated_by"] for event in events if isinstance(event.get("initiated_by"), dict)]
        expected = Counter(actor["type"] for actor in actors)
        assert {bucket["key"]: bucket["doc_count"] for bucket in answer["buckets"]} == expected
        counts = [bucket["doc_count"] for bucket in answer["buckets"]]
        assert counts == sorted(counts, reverse=True)
        assert client.post("events/distinct").status_code == 400


class TestServer:
    """Organizations, connections, records of requests."""

    def test_organizations_have_their_own_events(self) -> None:
        """`x-org-id` chooses; without it the first answers."""
        sources = {name: EventSource(start_ms=START, organization=name) for name in ("one", "two")}
        with SimulatedApi(sources, clock=lambda: NOW) as api, Client(api) as client:
            answers = {name: client.post(headers={"x-org-id": name}).json() for name in sources}
            assert client.post().json() == answers["one"]
        assert {event["organization"] for event in answers["two"]} == {"two"}
        assert not set(ids(answers["one"])) & set(ids(answers["two"]))

    def test_requests_are_kept(self, client: Client) -> None:
        """Path, body, headers, status and time of each."""
        client.post("events/count", headers={"x-org-id": "nosuch"})
        (request,) = client.api.requests
        assert (request.path, request.status) == ("/insights/directory/v1/events/count", 403)
        assert (request.body, request.time_ms) == (WINDOW, NOW)
        assert request.headers["x-org-id"] == "nosuch"

    def test_it_stops_and_starts_on_the_same_port(self, client: Client) -> None:
        """Open connections end with it, and nothing answers in between."""
        client.post()
        url = client.api.url
        client.api.stop()
        with pytest.raises(requests.ConnectionError):
            client.post()
        client.api.start()
        assert client.api.url == url
        assert client.post().status_code == 200

    def test_ipv6(self, source: EventSource) -> None:
        """The URL has its brackets."""
        with SimulatedApi(source, host="::1", clock=lambda: NOW) as api:
            assert api.url.startswith("http://[::1]:")
            client = Client(api)
            assert client.post(limit=2).headers["X-Result-Count"] == "2"
