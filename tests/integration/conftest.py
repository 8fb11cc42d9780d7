"""The fixtures of the tests that ask: clients, canned answers, an API at a time that stands still."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.insights import KEY, NOW, Client, Serve, clients, servers, ten_minutes

from in_jumpcloud.simulator.api import SimulatedApi


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers of canned answers."""
    with servers() as serve:
        yield serve


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Make clients."""
    with clients(monkeypatch) as client:
        yield client


@pytest.fixture
def api() -> Iterator[SimulatedApi]:
    """The simulated API, at a time that stands still."""
    with SimulatedApi(ten_minutes(), api_key=KEY, clock=lambda: NOW) as api:
        yield api
