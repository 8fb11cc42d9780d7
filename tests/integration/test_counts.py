"""Counts by minute: how many events JumpCloud has of a span, and when its answer is not accepted."""

from __future__ import annotations

import threading
from collections import Counter

import msgspec
import pytest
from support.insights import BEGIN, KEY, NOW, OWN, Client, Serve, answer, error_of

from in_jumpcloud.config.types import Size
from in_jumpcloud.errors import (
    CountsUnavailable,
    InJumpCloudError,
    KeyRefused,
    NotLicensed,
    RequestRejected,
    Retryable,
)
from in_jumpcloud.insights.api import DirectoryInsights, Scope
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.timestamps import MINUTE_MS

FIRST = BEGIN // MINUTE_MS


def counts(insights: DirectoryInsights, services: tuple[str, ...] = ("all",), scope: Scope = OWN) -> dict[int, int]:
    """The counts of the ten minutes before NOW."""
    return insights.counts(BEGIN, NOW, services, scope, threading.Event())


def failure(insights: DirectoryInsights) -> InJumpCloudError:
    """The error of a failed request for counts."""
    return error_of(lambda: counts(insights))


def test_counts_are_those_of_the_events(client: Client, api: SimulatedApi) -> None:
    """Each minute has the number of its events, also of some services only, and of a part of a minute.

    A minute without events has no entry, whether or not JumpCloud names it.
    """
    every = next(iter(api.sources.values())).between(BEGIN, NOW, now_ms=NOW)
    for services in (("all",), ("directory", "sso")):
        events = [event for event in every if services == ("all",) or event.service in services]
        assert counts(client(api.url), services) == Counter(event.timestamp_ms // MINUTE_MS for event in events)
        part = client(api.url).counts(BEGIN + 90_000, NOW - 90_500, services, OWN, threading.Event())
        inside = [event for event in events if BEGIN + 90_000 <= event.timestamp_ms < NOW - 90_500]
        assert part == Counter(event.timestamp_ms // MINUTE_MS for event in inside)

    source = EventSource(start_ms=BEGIN, per_minute=0)
    with SimulatedApi(source, api_key=KEY, clock=lambda: NOW) as empty:
        assert counts(client(empty.url)) == {}
        source.add({"id": "a"}, timestamp_ms=BEGIN)
        source.add({"id": "b"}, timestamp_ms=BEGIN + 5 * MINUTE_MS)
        assert counts(client(empty.url)) == {FIRST: 1, FIRST + 5: 1}


def test_request(client: Client, api: SimulatedApi) -> None:
    """One request of the documented form, for the scope."""
    organization = next(iter(api.sources))
    counts(client(api.url), ("sso", "ldap"), Scope(organization=organization))
    (request,) = api.requests
    assert request.path == "/insights/directory/v1/events/interval"
    assert request.headers["x-org-id"] == organization
    start, end = request.body.pop("start_time"), request.body.pop("end_time")
    assert start < end
    assert start.endswith("Z")
    interval = {"interval_unit": "m", "interval_value": "1", "timezone": "UTC"}
    assert request.body == {"service": ["sso", "ldap"], **interval}


def test_provider(client: Client) -> None:
    """`x-provider-id` selects the events of a managed service provider's own portal, and no organization's."""
    sources = {name: EventSource(start_ms=BEGIN, end_ms=NOW, organization=name) for name in ("a", "provider:p")}
    with SimulatedApi(sources, api_key=KEY, clock=lambda: NOW) as api:
        insights = client(api.url)
        total = sum(counts(insights, scope=Scope(provider="p")).values())
        assert total == sources["provider:p"].count(BEGIN, NOW, now_ms=NOW)
        assert "x-org-id" not in api.requests[-1].headers
        with pytest.raises(RequestRejected):
            counts(insights, scope=Scope(provider="q"))


def test_statuses(client: Client, api: SimulatedApi) -> None:
    """Where the endpoint is missing or does not understand there are no counts; other statuses are as for pages."""
    kinds: dict[int, type[InJumpCloudError]] = dict.fromkeys((400, 404, 405, 501), CountsUnavailable)
    kinds |= {401: KeyRefused, 402: NotLicensed, 403: RequestRejected, 429: Retryable, 500: Retryable, 503: Retryable}
    for status, kind in kinds.items():
        api.faults.once(Fault("status", status=status, message="these words", retry_after="7"))
        error = failure(client(api.url))
        assert type(error) is kind, status
        assert "these words" in str(error)
        assert getattr(error, "after", None) == (7 if status == 429 else None)


def buckets(*pairs: tuple[object, object]) -> bytes:
    """A histogram."""
    return msgspec.json.encode({"buckets": [{"key": key, "doc_count": count} for key, count in pairs]})


def test_invalid_answers(client: Client, serve: Serve) -> None:
    """An answer that does not have the documented form, or cannot be true, is not accepted as counts."""
    first_ms = FIRST * MINUTE_MS
    bodies = [b"", b"[]", b"{}", b"null", b'{"buckets":{}}', b'{"buckets":[5]}', b'{"buckets":[{"key":60000}]}']
    bodies += [b"[" * 5000, b'{"buckets":[{"key":\xff}]}', buckets((first_ms, 1), (first_ms, 1))]
    bodies += [buckets((first_ms, count)) for count in (-1, 1.5, "7", True, None)]
    bodies += [buckets((key, 1)) for key in (str(first_ms), first_ms + 1000, first_ms - MINUTE_MS, NOW + MINUTE_MS)]
    bodies += [buckets((first_ms, 1)).replace(b"1}", b"1" * 5000 + b"}")]
    for body in bodies:
        error = failure(client(serve(answer(body, {"X-Request-Id": "r7"})).url))
        assert type(error) is CountsUnavailable, body
        assert "no counts by minute" in str(error)
        assert "(request r7)" in str(error)
        assert len(str(error)) < 500
    too_large = failure(client(serve(answer(b" " * 5000)).url, page_bytes=Size(1000)))
    assert type(too_large) is CountsUnavailable  # PageTooLarge would reduce the pages of events
    assert KEY[:12] not in str(failure(client(serve(answer(KEY.encode())).url)))
