"""What systemd is notified of: ready, alive, reloading, stopping."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

from support.command import Command

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import MINUTE_MS, now_ms


def wait_for(manager: socket.socket, line: str) -> str:
    """The next notification with this line."""
    while True:
        message = manager.recv(4096).decode()
        if line in message.splitlines():
            return message


def test_from_start_to_end(
    command: Command, receiver: SimulatedReceiver, manager: socket.socket, tmp_path: Path
) -> None:
    """READY after the start, WATCHDOG repeatedly, RELOADING and READY around a reload, STOPPING at the end."""
    end_ms = now_ms()
    with SimulatedApi(EventSource(start_ms=end_ms - 60 * MINUTE_MS, end_ms=end_ms, per_minute=1)) as api:
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1500000"}
        process = command.start("run", *command.settings(api, receiver), **environ)
        assert "STATUS=1 stream" in wait_for(manager, "READY=1")
        for _ in range(3):
            wait_for(manager, "WATCHDOG=1")
        process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in wait_for(manager, "RELOADING=1")
        wait_for(manager, "READY=1")
        process.send_signal(signal.SIGTERM)
        wait_for(manager, "STOPPING=1")
        assert process.wait(20) == 0
