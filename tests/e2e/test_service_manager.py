"""What a service manager is told: that the plugin is ready, alive, reloading, ending."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import Command

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket at which systemd listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        yield manager


def told(manager: socket.socket, what: str) -> str:
    """Wait until it is told this."""
    while True:
        message = manager.recv(4096).decode()
        if what in message.splitlines():
            return message


def test_from_start_to_end(
    command: Command, receiver: SimulatedReceiver, manager: socket.socket, tmp_path: Path
) -> None:
    """READY once the rooms are open, WATCHDOG again and again, RELOADING and READY around a reload, STOPPING."""
    now_ms = time.time_ns() // 1_000_000
    source = EventSource(start_ms=now_ms - 3_600_000, end_ms=now_ms, per_minute=1)
    with SimulatedApi(source) as api:
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1500000"}
        process = command.start("run", *command.settings(api, receiver), **environ)
        assert "STATUS=1 streams" in told(manager, "READY=1")
        for _ in range(3):
            told(manager, "WATCHDOG=1")
        process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in told(manager, "RELOADING=1")
        told(manager, "READY=1")
        process.send_signal(signal.SIGTERM)
        told(manager, "STOPPING=1")
        assert process.wait(20) == 0
