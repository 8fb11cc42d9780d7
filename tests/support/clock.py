"""The moment that the tests take for now.

`TEST_NOW=2028-02-29T23:59:00Z` shifts the wall clock of the tests and of the processes that they start, so that the
tests can run as on any day. The clock keeps running from there. Without the variable nothing is patched.

The plugin reads the wall clock only through `time.time` and `time.time_ns`, so these two are replaced. File times, the
certificate checks of OpenSSL, and other programs keep the real time.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

OFFSET = "TEST_CLOCK_OFFSET_NS"
"""What child processes read: by how much to shift the clock."""
SITE = Path(__file__).with_name("site")
"""The directory with the `sitecustomize` that shifts the clock of a child process."""


def install() -> None:
    """Shift the clock of this process and of those it starts, if TEST_NOW asks for it. A second call changes nothing.

    Raises:
        ValueError: TEST_NOW is not an ISO 8601 time with a zone.
    """
    if OFFSET not in os.environ and (now := os.environ.get("TEST_NOW")):
        moment = datetime.fromisoformat(now)
        if moment.tzinfo is None:
            raise ValueError(f"TEST_NOW needs a zone, such as Z: {now}")
        os.environ[OFFSET] = str(int(moment.timestamp()) * 10**9 - time.time_ns())
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SITE), os.environ.get("PYTHONPATH")]))
    if OFFSET in os.environ:
        shift(int(os.environ[OFFSET]))


def shift(offset_ns: int) -> None:
    """Replace the wall clock of this process with one that is ahead by `offset_ns`."""
    real_ns = time.time_ns
    if real_ns.__module__ == __name__:
        return

    def time_ns() -> int:
        return real_ns() + offset_ns

    def seconds() -> float:
        return time_ns() / 1e9

    time.time_ns = time_ns
    time.time = seconds
