"""The fixtures that the tests share."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import Command

from in_jumpcloud.simulator.receiver import SimulatedReceiver


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """The installed command; what it started is ended with the test."""
    command = Command(tmp_path)
    yield command
    for process in command.processes:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def receiver() -> Iterator[SimulatedReceiver]:
    """A receiver that counts the ids of what arrives."""
    with SimulatedReceiver(keep=False) as receiver:
        yield receiver


@pytest.fixture
def dice() -> random.Random:
    """Randomness whose seed a failing test shows."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it with a failure
    return random.Random(seed)
