"""The receiver of the demo: Fluent Bit, or a simulated one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from in_jumpcloud.errors import Fatal, Stopped
from in_jumpcloud.simulator.receiver import SimulatedReceiver

_TIMEOUT_SECONDS = 15
ReadRecords = Callable[[], list[dict[str, Any]]]
_FLUENT_BIT = """
service: {{flush: 0.2, grace: 1, log_level: error, storage.path: {directory}/storage}}
pipeline:
  inputs:
    - {{name: forward, listen: 127.0.0.1, port: {port}, empty_shared_key: on, storage.type: filesystem}}
  outputs:
    - {{name: file, match: '*', path: {directory}, file: records, format: plain, retry_limit: no_limits}}
"""


def receiver(
    directory: Path, stop: threading.Event | None = None
) -> tuple[str, AbstractContextManager[tuple[int, ReadRecords]]]:
    """What it is, for people, and its port with what it has received; it needs the shared key "".

    It is the Fluent Bit of FLUENT_BIT or PATH, if there is one; what it needs is in `directory`. `stop` ends the wait
    for it, as in `wait_for`.
    """
    binary = os.environ.get("FLUENT_BIT") or shutil.which("fluent-bit")
    if binary:
        return f"Fluent Bit ({binary})", _fluent_bit(binary, directory, stop)
    return "a simulated receiver (no fluent-bit on PATH)", _simulated()


def wait_for(
    condition: Callable[[], bool],
    describe_failure: Callable[[], str],
    seconds: float = _TIMEOUT_SECONDS,
    stop: threading.Event | None = None,
) -> float:
    """Wait until the condition holds. Returns the seconds that took.

    Raises:
        Fatal: it does not hold in time; with the description.
        Stopped: `stop` was set.
    """
    stop = stop or threading.Event()
    began = time.monotonic()
    while not condition():
        if time.monotonic() > began + seconds:
            raise Fatal(describe_failure())
        if stop.wait(0.05):
            raise Stopped
    return time.monotonic() - began


@contextmanager
def _simulated() -> Iterator[tuple[int, ReadRecords]]:
    with SimulatedReceiver(shared_key="") as simulated:
        yield simulated.port, lambda: [each.record for each in simulated.records]


@contextmanager
def _fluent_bit(binary: str, directory: Path, stop: threading.Event | None) -> Iterator[tuple[int, ReadRecords]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings, log, output = (directory / name for name in ("fluent-bit.yaml", "fluent-bit.log", "records"))
    settings.write_text(_FLUENT_BIT.format(directory=directory, port=port))
    output.touch()
    with log.open("wb") as file:
        process = subprocess.Popen([binary, "-c", str(settings)], stdout=file, stderr=file)  # noqa: S603 - the user's own

    def is_listening() -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", port)) == 0

    def read_records() -> list[dict[str, Any]]:
        lines = output.read_bytes().splitlines(keepends=True)
        return [msgspec.json.decode(line) for line in lines if line.endswith(b"\n")]

    try:
        wait_for(
            is_listening,
            lambda: f"{binary} does not accept connections; its log ends with: {log.read_text()[-300:].strip()}",
            stop=stop,
        )
        yield port, read_records
    finally:
        process.send_signal(signal.SIGQUIT)  # not one that stop_on_signals blocks: a child inherits that
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
