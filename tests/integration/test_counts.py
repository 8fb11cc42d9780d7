"""Counts by minute: what JumpCloud tells of a span without its events, and when that is not to be believed."""

from __future__ import annotations

import threading
from collections import Counter

import msgspec
import pytest
from support.insights import BEGIN, KEY, NOW, OWN, Client, Serve, answer

from in_jumpcloud.config.types import Size
from in_jumpcloud.errors import (
    CountsUnavailable,
    InJumpCloudError,
    KeyRefused,
    NotLicensed,
    RequestRejected,
    Retryable,
    Stopped,
)
from in_jumpcloud.insights.api import DirectoryInsights, Scope
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.timestamps import MINUTE_MS as MINUTE

FIRST = BEGIN // MINUTE


def counts(one: DirectoryInsights, services: tuple[str, ...] = ("all",), scope: Scope = OWN) -> dict[int, int]:
    """The counts of the ten minutes."""
    return one.counts(BEGIN, NOW, services, scope, threading.Event())


def failure(one: DirectoryInsights) -> InJumpCloudError:
    """The error that asking for counts ends in: one line, with nothing of the library's behind it."""
    with pytest.raises(InJumpCloudError) as raised:
        counts(one)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    assert "\n" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize("services", [("all",), ("directory", "sso")])
def test_counts_are_those_of_the_events(client: Client, api: SimulatedApi, services: tuple[str, ...]) -> None:
    """Every minute has the number of its events, also of some services only, and also where a minute is cut."""
    items = next(iter(api.sources.values())).between(BEGIN, NOW, now_ms=NOW)
    kept = [item for item in items if services == ("all",) or item.service in services]
    assert counts(client(api.url), services) == Counter(item.timestamp_ms // MINUTE for item in kept)
    part = client(api.url).counts(BEGIN + 90_000, NOW - 90_500, services, OWN, threading.Event())
    inside = [item for item in kept if BEGIN + 90_000 <= item.timestamp_ms < NOW - 90_500]
    assert part == Counter(item.timestamp_ms // MINUTE for item in inside)


def test_empty_minutes_are_left_out(client: Client) -> None:
    """A minute without events has no entry, whether JumpCloud names it or not."""
    source = EventSource(start_ms=BEGIN, per_minute=0)
    source.add({"id": "a"}, timestamp_ms=BEGIN)
    source.add({"id": "b"}, timestamp_ms=BEGIN + 5 * MINUTE)
    with SimulatedApi(source, api_key=KEY, clock=lambda: NOW) as api:
        assert counts(client(api.url)) == {FIRST: 1, FIRST + 5: 1}
    with SimulatedApi(EventSource(start_ms=BEGIN, per_minute=0), api_key=KEY, clock=lambda: NOW) as api:
        assert counts(client(api.url)) == {}


def test_what_is_asked(client: Client, api: SimulatedApi) -> None:
    """One request of the documented form, in the scope's name."""
    counts(client(api.url), ("sso", "ldap"), Scope(organization=next(iter(api.sources))))
    (request,) = api.requests
    assert request.path == "/insights/directory/v1/events/interval"
    assert request.headers["x-org-id"] == next(iter(api.sources))
    assert {name: request.body[name] for name in ("interval_unit", "interval_value", "timezone", "service")} == {
        "interval_unit": "m",
        "interval_value": "1",
        "timezone": "UTC",
        "service": ["sso", "ldap"],
    }
    assert request.body["start_time"].endswith("Z")
    assert request.body["start_time"] < request.body["end_time"]


def test_a_providers_events(client: Client) -> None:
    """`x-provider-id` asks for the events of a managed service provider's own portal, and for no organization's."""
    sources = {name: EventSource(start_ms=BEGIN, end_ms=NOW, organization=name) for name in ("a", "provider:p")}
    with SimulatedApi(sources, api_key=KEY, clock=lambda: NOW) as api:
        one = client(api.url)
        found = counts(one, scope=Scope(provider="p"))
        assert sum(found.values()) == sources["provider:p"].count(BEGIN, NOW, now_ms=NOW)
        assert "x-org-id" not in api.requests[-1].headers
        with pytest.raises(RequestRejected):
            counts(one, scope=Scope(provider="q"))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, CountsUnavailable),
        (404, CountsUnavailable),
        (405, CountsUnavailable),
        (501, CountsUnavailable),
        (401, KeyRefused),
        (402, NotLicensed),
        (403, RequestRejected),
        (429, Retryable),
        (500, Retryable),
        (503, Retryable),
    ],
)
def test_statuses(client: Client, api: SimulatedApi, status: int, kind: type[InJumpCloudError]) -> None:
    """An endpoint that is not there, or does not understand, has no counts; all else is an error as for pages."""
    api.faults.once(Fault("status", status=status, message="these words", retry_after="7"))
    error = failure(client(api.url))
    assert type(error) is kind
    assert "these words" in str(error)
    assert getattr(error, "after", None) == (7 if status == 429 else None)


def buckets(*pairs: tuple[object, object]) -> bytes:
    """A histogram."""
    return msgspec.json.encode({"buckets": [{"key": key, "doc_count": count} for key, count in pairs]})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'{"buckets":{}}',
        b'{"buckets":[5]}',
        b'{"buckets":[{"key":60000}]}',
        b"[" * 5000,
        b'{"buckets":[{"key":\xff}]}',
        buckets((FIRST * MINUTE, -1)),
        buckets((FIRST * MINUTE, 1.5)),
        buckets((FIRST * MINUTE, "7")),
        buckets((FIRST * MINUTE, True)),
        buckets((FIRST * MINUTE, None)),
        buckets((str(FIRST * MINUTE), 1)),
        buckets((FIRST * MINUTE + 1000, 1)),
        buckets((FIRST * MINUTE - MINUTE, 1)),
        buckets((NOW + MINUTE, 1)),
        buckets((FIRST * MINUTE, 1), (FIRST * MINUTE, 1)),
        buckets((FIRST * MINUTE, 1)).replace(b"1}", b"1" * 5000 + b"}"),
    ],
)
def test_odd_answers(client: Client, serve: Serve, body: bytes) -> None:
    """Whatever is not the documented shape, or cannot be true, is no count, and nothing else than that is raised."""
    error = failure(client(serve(answer(body, {"X-Request-Id": "r7"})).url))
    assert type(error) is CountsUnavailable
    assert "answered no counts by minute" in str(error)
    assert "(request r7)" in str(error)
    assert len(str(error)) < 500


def test_a_huge_answer_is_no_count(client: Client, serve: Serve) -> None:
    """An answer above the bound does not make the pages of events smaller."""
    error = failure(client(serve(answer(b" " * 5000)).url, page_bytes=Size(1000)))
    assert type(error) is CountsUnavailable


def test_the_key_is_not_shown(client: Client, serve: Serve) -> None:
    """An odd answer that repeats the key is quoted without it."""
    error = failure(client(serve(answer(KEY.encode())).url))
    assert KEY[:12] not in str(error)


def test_stopped(client: Client, api: SimulatedApi) -> None:
    """Once the process is to end, no request goes out."""
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        client(api.url).counts(BEGIN, NOW, ("all",), OWN, stop)
    assert not api.requests
