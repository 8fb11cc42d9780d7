"""A signal may arrive at any moment, also while the main thread begins or ends a wait."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# Most of this loop's time is spent inside the event, where a signal handler that sets it would wait for ever.
_MAIN = """
from in_jumpcloud.cli.signals import stop_on_signals
stop = stop_on_signals()
print("ready", flush=True)
while not stop.wait(0):
    pass
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_within_a_wait_stops_the_process(number: signal.Signals) -> None:
    """It stops, ten times of ten."""
    for _ in range(10):
        with subprocess.Popen(  # noqa: S603 - our own code
            [sys.executable, "-c", _MAIN], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            try:
                assert process.wait(10) == 0
            finally:
                process.kill()
