"""What the service manager is told, and that the plugin is alive (sd_notify(3)); nothing where there is none."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping


class ServiceManager:
    """systemd, if it started this process and wants to hear of it."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        microseconds = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._every = int(microseconds) / 1e6 / 3 if microseconds.isdigit() and ours else None
        self._next_at = 0.0

    def ready(self, status: str) -> None:
        """The start, or a reload, is done."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload has begun; `ready` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The end has begun."""
        self._tell("STOPPING=1")

    def alive(self, works: Callable[[], bool]) -> None:
        """Tell it where `works` says so, as often as the watchdog wants it: it restarts a process that goes silent."""
        now = time.monotonic()
        if self._every is not None and now >= self._next_at and works():
            self._next_at = now + self._every
            self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        # Best effort: a manager that does not listen is no reason to end.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.sendto("\n".join(lines).encode(), self._address)
