"""`in-jumpcloud check` and TLS towards the receiver: what is wrong with it is named, and when it will be."""

from __future__ import annotations

import ssl
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from support.command import Command

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver


@pytest.fixture
def api() -> Iterator[SimulatedApi]:
    """JumpCloud with a few events."""
    now_ms = time.time_ns() // 1_000_000
    with SimulatedApi(EventSource(start_ms=now_ms - 600_000, end_ms=now_ms - 60_000)) as api:
        yield api


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """An authority that nobody else knows; its certificate is `authority.pem`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    return authority


def _server(authority: trustme.CA, days: float = 90) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    until = datetime.now(UTC) + timedelta(days=days)
    authority.issue_cert("127.0.0.1", not_after=until).configure_cert(context)
    return context


def _check(
    command: Command, api: SimulatedApi, receiver: SimulatedReceiver, *options: str, **tls: object
) -> subprocess.CompletedProcess[bytes]:
    settings = {"enabled": True, "ca_file": str(command.directory / "authority.pem"), **tls}
    return command("check", *options, *command.settings(api, receiver, forward__tls=settings))


def _failure(done: subprocess.CompletedProcess[bytes]) -> str:
    (line,) = [line for line in done.stdout.decode().splitlines() if line.startswith("FAILED")]
    assert done.returncode == 4
    return line


def test_a_certificate_that_is_trusted(command: Command, api: SimulatedApi, authority: trustme.CA) -> None:
    """The version of TLS and the certificate's end are told."""
    with SimulatedReceiver(tls=_server(authority)) as receiver:
        done = _check(command, api, receiver, "--probe")

    text = done.stdout.decode()
    assert "its certificate is trusted, until " in text
    assert "connected, TLSv1.3, a message without records acknowledged" in text
    assert done.returncode == 0


def test_a_certificate_that_ends_soon(command: Command, api: SimulatedApi, authority: trustme.CA) -> None:
    """Within two weeks of its end it is a warning."""
    with SimulatedReceiver(tls=_server(authority, days=3.1)) as receiver:
        done = _check(command, api, receiver)

    assert "its certificate expires in 3 days" in done.stdout.decode()
    assert done.returncode == 0


def test_6_a_wrong_authority(command: Command, api: SimulatedApi, authority: trustme.CA) -> None:
    """A certificate of somebody else's is refused, with the setting that helps; exit code 4."""
    del authority
    with SimulatedReceiver(tls=_server(trustme.CA())) as receiver:
        line = _failure(_check(command, api, receiver))

    assert "its certificate fails the check: " in line
    assert "set forward.tls.ca_file to the authority that signed it" in line


def test_6_a_receiver_without_tls(command: Command, api: SimulatedApi, authority: trustme.CA) -> None:
    """Who speaks none at this port is found out."""
    del authority
    with SimulatedReceiver() as receiver:
        line = _failure(_check(command, api, receiver))

    assert "TLS" in line


def test_6_a_receiver_with_tls_that_is_spoken_to_without(
    command: Command, api: SimulatedApi, authority: trustme.CA
) -> None:
    """A message without TLS to one that has it brings no ack, and the line asks about TLS."""
    with SimulatedReceiver(tls=_server(authority)) as receiver:
        line = _failure(command("check", "--probe", *command.settings(api, receiver)))

    assert "does it speak TLS at this port? see forward.tls.enabled" in line


def test_a_certificate_that_nobody_looks_at(command: Command, api: SimulatedApi, authority: trustme.CA) -> None:
    """With verify: false anybody could be the receiver, which is a warning."""
    with SimulatedReceiver(tls=_server(authority)) as receiver:
        done = _check(command, api, receiver, verify=False)

    assert "its certificate is not looked at" in done.stdout.decode()
    assert done.returncode == 0
