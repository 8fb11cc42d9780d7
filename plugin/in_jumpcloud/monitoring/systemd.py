"""Notifies systemd of start, reload, stop and liveness, by the protocol of sd_notify(3)."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Mapping

from in_jumpcloud.text import shown_in_one

_EXTEND_SECONDS = 60.0
_MAX_STATUS_CHARS = 200
_RECHECK_SECONDS = 1.0
"""How soon a process that is not alive is looked at again."""


class ServiceManager:
    """The service manager that started this process. Without one, every method does nothing."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        watchdog_usec = environ.get("WATCHDOG_USEC", "")
        for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._interval = int(watchdog_usec) / 1e6 / 2 if watchdog_usec.isdigit() and for_us else None
        self._next_at = self._next_extension_at = 0.0
        self._socket: socket.socket | None = None
        self._notify()

    def ready(self, status: str) -> None:
        """The start or a reload is complete."""
        self._notify("READY=1", f"STATUS={status}")

    def starting(self, waits_for: str) -> None:
        """The start waits for something, named in one line. Call it often: it keeps the start from timing out."""
        now = time.monotonic()
        if now >= self._next_extension_at:
            self._next_extension_at = now + _EXTEND_SECONDS / 3
            status = shown_in_one(waits_for)[:_MAX_STATUS_CHARS]
            self._notify(f"EXTEND_TIMEOUT_USEC={int(_EXTEND_SECONDS * 1e6)}", f"STATUS=waiting: {status}")
        self.alive(lambda: True)

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The process begins to stop."""
        self._notify("STOPPING=1")

    def alive(self, is_alive: Callable[[], bool]) -> float:
        """Reset the watchdog if it is due and `is_alive` returns true. systemd restarts a process that stops doing so.

        Returns:
            Seconds until it is due again, twice per watchdog period; infinite without a watchdog.
        """
        if self._interval is None:
            return math.inf
        now = time.monotonic()
        if now >= self._next_at:
            is_well = is_alive()
            self._next_at = now + (self._interval if is_well else min(_RECHECK_SECONDS, self._interval))
            if is_well:
                self._notify("WATCHDOG=1")
        return self._next_at - now

    def _notify(self, *lines: str) -> None:
        if not self._address:
            return
        # Best effort: the plugin keeps working if the manager does not listen. The socket stays open: without a file
        # descriptor for another, the watchdog would kill a process that only waits for some to be closed.
        with contextlib.suppress(OSError):
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            if lines:
                self._socket.sendto("\n".join(lines).encode(), self._address)
