"""What the integration tests share: clients, canned responses, a simulated API, a clock that the test moves."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from support.insights import KEY, NOW, Client, Serve, clients, servers, ten_minutes
from support.streams import Clock

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


@pytest.fixture
def clock() -> Clock:
    """The clock of both the plugin and JumpCloud."""
    return Clock()


@pytest.fixture
def stop() -> threading.Event:
    """Set by a test that stops the stream."""
    return threading.Event()
