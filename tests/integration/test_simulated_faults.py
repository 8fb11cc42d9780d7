"""What goes wrong at the simulated API on demand, and that the next request is right again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest
import requests
from support.api import NOW, START, WINDOW, Client

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault, FaultKind


@pytest.fixture
def client() -> Iterator[Client]:
    """A client of an API that serves one event a second."""
    with SimulatedApi(EventSource(start_ms=START), clock=lambda: NOW) as api, Client(api) as client:
        yield client


@pytest.mark.parametrize(
    ("kind", "error"),
    [("cut", requests.exceptions.ChunkedEncodingError), ("drop", requests.ConnectionError)],
)
def test_a_lost_answer(client: Client, kind: FaultKind, error: type[Exception]) -> None:
    """Half of the bytes, or none; the connection is closed and the next one works."""
    client.api.faults.once(Fault(kind))
    with pytest.raises(error):
        client.post()
    assert client.api.events_served == 0
    assert len(client.post().json()) == 1000
    assert client.api.faults.given == {kind: 1}


def test_statuses_come_in_order(client: Client) -> None:
    """Once each, with the header and the message that were ordered."""
    faults = client.api.faults
    faults.once(Fault("status", status=429, retry_after="7"), Fault("status", status=402, message="not enabled"))
    first, second, third = client.post(), client.post(), client.post()
    assert (first.status_code, first.headers["Retry-After"]) == (429, "7")
    assert (second.status_code, second.json()) == (402, {"message": "not enabled"})
    assert "Retry-After" not in second.headers
    assert third.status_code == 200
    assert faults.given == {"status": 2}


def test_a_redirect_leads_elsewhere(client: Client) -> None:
    """Who follows it is seen, with the key."""
    client.api.faults.once(Fault("redirect"))
    answer = client.post()
    assert (answer.status_code, answer.headers["Location"]) == (302, "/elsewhere")
    client.session.get(client.api.url + answer.headers["Location"], timeout=10)
    assert [request.path for request in client.api.requests][1:] == ["/elsewhere"]


def test_bodies_and_counts_are_spoilt(client: Client) -> None:
    """Bad JSON arrives whole; the count differs from the array."""
    client.api.faults.once(Fault("bad_json"), Fault("wrong_count"))
    with pytest.raises(requests.JSONDecodeError):
        client.post().json()
    answer = client.post(limit=5)
    assert answer.headers["X-Result-Count"] == "6"
    assert len(answer.json()) == 5


def test_a_fault_waits_for_a_request_that_it_fits(client: Client) -> None:
    """A cursor is repeated only where one was sent, a path's fault only on that path."""
    client.api.faults.once(Fault("repeat_cursor"), Fault("status", path="/interval"))
    assert client.post("events/count").status_code == 200
    cursor = json.loads(client.post(limit=5).headers["X-Search_after"])
    repeated = client.post(limit=5, search_after=cursor)
    assert json.loads(repeated.headers["X-Search_after"]) == cursor
    assert client.post(limit=5, search_after=cursor).headers["X-Search_after"] != json.dumps(cursor)
    assert client.post("events/interval", interval_unit="h").status_code == 503


def test_a_delay_outlasts_the_client_but_not_the_api(client: Client) -> None:
    """The answer comes late; stopping does not wait for it."""
    client.api.faults.once(Fault("delay", seconds=0.05), Fault("delay", seconds=600))
    assert client.post().elapsed.total_seconds() >= 0.05
    with pytest.raises(requests.ReadTimeout):
        client.session.post(f"{client.api.url}/insights/directory/v1/events", json=WINDOW, timeout=(5, 0.1))
    client.api.stop()
    assert client.api.faults.given == {"delay": 2}


def test_faults_by_chance_and_for_ever(client: Client) -> None:
    """Chance is a seed's; `always` lasts until it is cleared."""
    client.api.faults.random(Fault("status", status=500), 0.5, seed=3)
    statuses = Counter(client.post(limit=1).status_code for _ in range(60))
    assert 15 < statuses[500] < 45
    client.api.faults.always(Fault("status", status=502))
    assert {client.post(limit=1).status_code for _ in range(5)} == {502}
    client.api.faults.clear()
    assert {client.post(limit=1).status_code for _ in range(20)} == {200}
