"""A receiver process that is frozen for several times forward.ack_timeout, again and again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter

import pytest
from support.command import COMMAND, ROOT, Command, wait_until
from support.fluent_bit import free_port

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.timestamps import HOUR_MS, MINUTE_MS, now_ms

ACK_TIMEOUT = 1.0
FROZEN = 5.0
TIMES = 3
CHUNK_RECORDS = 25
"""More than fit into 20,000 bytes."""


class ReceiverProcess:
    """`in-jumpcloud simulate receiver`, which writes what it takes to a file before it acknowledges it."""

    def __init__(self, command: Command, name: str, *options: str) -> None:
        self.port = free_port()
        self._file = command.directory / name
        with self._file.open("wb") as output:
            self.process = subprocess.Popen(  # noqa: S603 - our own command
                [COMMAND, "simulate", "receiver", "--port", str(self.port), *options],
                stdout=output,
                stderr=subprocess.PIPE,
                cwd=ROOT,
            )
        command.processes.append(self.process)
        assert self.process.stderr is not None
        assert self.process.stderr.readline().startswith(b"receiving")
        self.process.stderr.close()

    def ids(self) -> Counter[str]:
        """How often each event has come."""
        lines = self._file.read_bytes().splitlines(keepends=True)
        return Counter(json.loads(line)["event"]["id"] for line in lines if line.endswith(b"}\n"))

    def freeze(self, seconds: float) -> None:
        """Stop it, and let it continue `seconds` later."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)
        time.sleep(seconds)  # the length of the freeze is the point
        self.process.send_signal(signal.SIGCONT)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("shared_key", ["", None])
def test_a_frozen_receiver_is_sent_each_chunk_once(command: Command, shared_key: str | None, count: int) -> None:
    """It has taken the chunk under way and acknowledges it when it continues: nothing is sent to it again.

    That holds with a handshake, and without one, where messages without records take its place. Another receiver, if
    there is one, gets that chunk at once: it arrives twice in all, one chunk for each freeze.
    """
    now = now_ms()
    source = EventSource(start_ms=now - HOUR_MS, end_ms=now - 5 * MINUTE_MS, per_minute=100)
    expected = source.count(0, now, now_ms=now)
    options = ["--shared-key", shared_key] if shared_key is not None else []
    receivers = [ReceiverProcess(command, f"records-{number}", *options) for number in range(count)]

    def ids() -> Counter[str]:
        return sum((each.ids() for each in receivers), Counter())

    with SimulatedApi(source) as api:
        settings = command.settings(
            api,
            receivers[0].port,
            forward__servers=[{"host": "127.0.0.1", "port": each.port} for each in receivers],
            forward__shared_key=shared_key,
            forward__ack_timeout=f"{ACK_TIMEOUT:g}s",
            forward__chunk_bytes=20_000,
            jumpcloud__start="2h",
            jumpcloud__page_limit=100,
            jumpcloud__requests_per_second=20 if count == 1 else 4,
        )
        running = command.start("run", "--once", *settings)
        for number in range(1, TIMES + 1):
            wait_until(lambda number=number: len(ids()) >= number * expected // (TIMES + 1))  # type: ignore[misc]
            receivers[0].freeze(FROZEN)
        assert running.wait(100) == 0, command.log.read_text()

    arrived = ids()
    assert len(arrived) == expected
    twice = sum(arrived.values()) - expected
    print(f"{twice} of {expected} arrived twice")  # noqa: T201 - the figure is the point
    assert twice <= (0 if count == 1 else TIMES * CHUNK_RECORDS)
    assert sum(sum(each.ids().values()) - len(each.ids()) for each in receivers) == 0
    assert "no ack within 1 s" in command.log.read_text()
