"""A stop or a reload while the receiver takes seconds to acknowledge: nothing is sent twice."""

from __future__ import annotations

import signal
import time

import msgspec
import pytest
from support.command import ROOT, Command, wait_until

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import HOUR_MS, MINUTE_MS, now_ms

STALL = 5.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_no_ordinary_stop_or_reload_sends_a_chunk_twice(
    command: Command, receiver: SimulatedReceiver, number: signal.Signals
) -> None:
    """The ack under way is waited for. After SIGTERM the process ends, and the next one continues behind that chunk."""
    now = now_ms()
    source = EventSource(start_ms=now - HOUR_MS, end_ms=now - 5 * MINUTE_MS, per_minute=20)
    file = command.directory / "settings.json"
    receiver.faults.stall(STALL)
    with SimulatedApi(source) as api:
        settings = {
            "jumpcloud": {"api_key": "${JUMPCLOUD_API_KEY}", "url": api.url, "requests_per_second": 100, "start": "2h"},
            "forward": {"servers": [{"host": "127.0.0.1", "port": receiver.port}]},
            "geoip": {"city": str(ROOT / "geoip" / "demo-city.mmdb")},
            "state": {"path": str(command.state)},
            "http": {"listen": None},
        }
        file.write_bytes(msgspec.json.encode(settings))
        process = command.start("run", "-c", file)
        assert receiver.wait_until(lambda: len(receiver.chunks) == 1, 30)
        settings["forward"]["compress"] = "gzip"  # type: ignore[index]  # the receivers are replaced
        file.write_bytes(msgspec.json.encode(settings))
        sent_at = time.monotonic()
        process.send_signal(number)
        if number == signal.SIGTERM:
            assert process.wait(30) == 0
            assert time.monotonic() - sent_at > STALL - 1
            process = command.start("run", "-c", file)
        expected = source.count(0, now, now_ms=now)
        wait_until(lambda: len(receiver.ids) == expected)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0

    assert sum(receiver.ids.values()) == expected


def test_a_second_signal_cuts_the_wait(command: Command, receiver: SimulatedReceiver) -> None:
    """Who does not want to wait for the ack sends the signal again."""
    now = now_ms()
    source = EventSource(start_ms=now - HOUR_MS, end_ms=now - 5 * MINUTE_MS, per_minute=20)
    receiver.faults.drop_ack()
    with SimulatedApi(source) as api:
        process = command.start("run", *command.settings(api, receiver, jumpcloud__start="2h"))
        assert receiver.wait_until(lambda: len(receiver.chunks) == 1, 30)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)  # two signals at once are one
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 128 + signal.SIGTERM
