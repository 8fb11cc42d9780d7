"""Scripted faults of the simulated API."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest
import requests
from support.api import NOW, START, WINDOW, Client

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault


@pytest.fixture
def client() -> Iterator[Client]:
    """A client of an API that serves one event a second."""
    with SimulatedApi(EventSource(start_ms=START), clock=lambda: NOW) as api, Client(api) as client:
        yield client


def test_each_fault_happens_once_and_in_order(client: Client) -> None:
    """What the client sees of each kind; then the next request succeeds."""
    faults = [
        Fault("status", status=429, retry_after="7"),
        Fault("status", status=402, message="not enabled"),
        Fault("redirect"),
        *(Fault("bad_json"), Fault("wrong_count"), Fault("cut"), Fault("drop")),
    ]
    client.api.faults.once(*faults)
    limited, unlicensed, redirect = client.post(), client.post(), client.post()
    assert (limited.status_code, limited.headers["Retry-After"]) == (429, "7")
    assert (unlicensed.status_code, unlicensed.json()) == (402, {"message": "not enabled"})
    assert "Retry-After" not in unlicensed.headers
    assert (redirect.status_code, redirect.headers["Location"]) == (302, "/elsewhere")
    with pytest.raises(requests.JSONDecodeError):
        client.post().json()
    miscounted = client.post(limit=5)
    assert (miscounted.headers["X-Result-Count"], len(miscounted.json())) == ("6", 5)
    for error in (requests.exceptions.ChunkedEncodingError, requests.ConnectionError):
        with pytest.raises(error):
            client.post()
    assert client.api.events_served == 5
    assert len(client.post().json()) == 1000
    assert client.api.faults.given == Counter(fault.kind for fault in faults)


def test_a_fault_waits_for_a_request_that_it_fits(client: Client) -> None:
    """A cursor is repeated only if one was sent, and the fault of a path applies only to that path."""
    client.api.faults.once(Fault("repeat_cursor"), Fault("status", path="/interval"))
    assert client.post("events/count").status_code == 200
    cursor = json.loads(client.post(limit=5).headers["X-Search_after"])
    assert json.loads(client.post(limit=5, search_after=cursor).headers["X-Search_after"]) == cursor
    assert json.loads(client.post(limit=5, search_after=cursor).headers["X-Search_after"]) != cursor
    assert client.post("events/interval").status_code == 503


def test_stop_does_not_wait_for_a_delayed_answer(client: Client) -> None:
    """The answer comes late, or never if the API stops."""
    client.api.faults.once(Fault("delay", seconds=0.05), Fault("delay", seconds=600))
    assert client.post().elapsed.total_seconds() >= 0.05
    with pytest.raises(requests.ReadTimeout):
        client.session.post(f"{client.api.url}/insights/directory/v1/events", json=WINDOW, timeout=(5, 0.1))
    client.api.stop()


def test_random_and_permanent_faults(client: Client) -> None:
    """The seed decides random faults; a permanent one lasts until `clear`."""
    client.api.faults.random(Fault("status", status=500), 0.5, seed=3)
    client.api.faults.always(Fault("status", status=502))
    statuses = Counter(client.post(limit=1).status_code for _ in range(60))
    assert set(statuses) == {500, 502}
    assert 15 < statuses[500] < 45
    client.api.faults.clear()
    assert {client.post(limit=1).status_code for _ in range(20)} == {200}
