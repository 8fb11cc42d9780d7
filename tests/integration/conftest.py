"""The fixtures of the tests of the client: clients, canned responses, a simulated API whose clock does not move."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.insights import KEY, NOW, Client, Serve, clients, servers, ten_minutes

from in_jumpcloud.simulator.api import SimulatedApi


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers of canned responses."""
    with servers() as serve:
        yield serve


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Makes clients."""
    with clients(monkeypatch) as client:
        yield client


@pytest.fixture
def api() -> Iterator[SimulatedApi]:
    """The simulated API, with a clock that does not move."""
    with SimulatedApi(ten_minutes(), api_key=KEY, clock=lambda: NOW) as api:
        yield api
