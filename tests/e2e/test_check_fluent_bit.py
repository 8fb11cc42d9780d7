"""What `check` reads from a real Fluent Bit's HTTP server: settings that lose data, as far as it shows them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from support.command import Command
from support.fluent_bit import FluentBit, free_port, needs_fluent_bit
from support.receivers import Peer, packed

from in_jumpcloud.checks.fluent_bit import check_fluent_bit
from in_jumpcloud.checks.result import CheckResult
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource

pytestmark = needs_fluent_bit


class Monitored:
    """A real Fluent Bit with its HTTP server on; messages go to its first input."""

    def __init__(self, directory: Path, forward: dict[str, Any], output: dict[str, Any], **service: Any) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        document = {
            "service": {
                "flush": 0.2,
                "grace": 1,
                "log_level": "info",
                "http_server": "on",
                "http_listen": "127.0.0.1",
                "http_port": port,
                "storage.path": "state/storage",
                "storage.metrics": "on",
                "scheduler.base": 1,
                "scheduler.cap": 1,
                **service,
            },
            "pipeline": {
                "inputs": [{"name": "forward", "listen": "127.0.0.1", "port": 24224, **forward}],
                "outputs": [{"match": "*", **output}],
            },
        }
        self.bit = FluentBit(directory, json.dumps(document, indent=1))

    def __enter__(self) -> Self:
        self.bit.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bit.__exit__()

    def take(self, *names: str) -> None:
        """Have it take these records."""
        peer = Peer(("127.0.0.1", self.bit.port))
        peer.exchange(packed(*names, chunk="c"))
        peer.close()

    def tells(self, words: str) -> CheckResult:
        """The finding with these words, once it is there: Fluent Bit counts every few seconds."""
        return self.waits_for(lambda finding: words in finding.found)

    def waits_for(self, condition: Callable[[CheckResult], bool]) -> CheckResult:
        """The first finding of that kind."""
        deadline = time.monotonic() + 60
        while True:
            findings = list(check_fluent_bit(self.url))
            for finding in findings:
                if condition(finding):
                    return finding
            assert time.monotonic() < deadline, findings
            time.sleep(0.1)


STDOUT = {"name": "stdout", "retry_limit": "no_limits"}
NOWHERE = {"name": "http", "host": "127.0.0.1", "port": 1}


def test_good_settings(tmp_path: Path) -> None:
    """Nothing to warn of; the version is told, and what no endpoint shows."""
    with Monitored(tmp_path, {"storage.type": "filesystem"}, STDOUT) as monitored:
        monitored.take("one")
        version, *_, unseen = check_fluent_bit(monitored.url)
        findings = list(check_fluent_bit(monitored.url))

    assert {finding.mark for finding in findings} == {"ok"}
    assert version.found.startswith(f"{monitored.url}: version ")
    assert "cannot be seen there: workers, storage.checksum, retry_limit" in unseen.found
    assert "conf/delivery.md" in unseen.found


def test_chunks_on_disk_are_seen(tmp_path: Path) -> None:
    """While chunks wait their kind shows: all on disk is well."""
    output = {**NOWHERE, "retry_limit": "no_limits"}
    with Monitored(tmp_path, {"storage.type": "filesystem"}, output) as monitored:
        monitored.take("one")

        assert monitored.tells("waiting chunks, all of them on disk").mark == "ok"


def test_chunks_in_memory_are_seen(tmp_path: Path) -> None:
    """Chunks that a kill would lose are a warning."""
    with Monitored(tmp_path, {}, {**NOWHERE, "retry_limit": "no_limits"}) as monitored:
        monitored.take("one")
        finding = monitored.tells("waiting chunks are in memory only")

    assert finding.mark == "warning"
    assert "storage.type: filesystem" in finding.advice


def test_a_threaded_input_is_seen(tmp_path: Path) -> None:
    """It shows by its ring buffer, once a record went through it."""
    with Monitored(tmp_path, {"threaded": True, "alias": "jc", "storage.type": "filesystem"}, STDOUT) as monitored:
        monitored.take("one")

        assert monitored.tells("input jc is threaded: it acknowledges before a record is safe").mark == "warning"


def test_memrb_is_seen(tmp_path: Path) -> None:
    """It has a counter that no other type has."""
    with Monitored(tmp_path, {"storage.type": "memrb", "mem_buf_limit": "2M"}, STDOUT) as monitored:
        assert monitored.tells("input forward.0 has storage.type: memrb").mark == "warning"


def test_records_without_an_output_are_seen(tmp_path: Path) -> None:
    """A tag that no output matches."""
    with Monitored(tmp_path, {"storage.type": "filesystem"}, {**STDOUT, "match": "other.*"}) as monitored:
        monitored.take("one", "two")
        finding = monitored.tells("2 records of input forward.0 were dropped")

    assert "no output matches their tag" in finding.found
    assert finding.advice == "give an output a match for forward.tag"


def test_records_that_an_output_gave_up_are_seen(tmp_path: Path) -> None:
    """With a retry limit an output drops what it cannot deliver."""
    with Monitored(tmp_path, {"storage.type": "filesystem"}, {**NOWHERE, "retry_limit": 1}) as monitored:
        monitored.take("one", "two", "three")
        finding = monitored.tells("output http.0 has given up 3 records")

    assert "retry_limit: no_limits" in finding.advice


def test_a_paused_input_is_seen(tmp_path: Path) -> None:
    """It took more than it may keep in memory."""
    with Monitored(tmp_path, {"mem_buf_limit": "1"}, {**NOWHERE, "retry_limit": "no_limits"}) as monitored:
        monitored.take("one")

        assert monitored.tells("input forward.0 is paused").mark == "warning"


def test_without_storage_metrics(tmp_path: Path) -> None:
    """What is not switched on cannot be seen, and that is said."""
    with Monitored(tmp_path, {}, STDOUT, **{"storage.metrics": "off"}) as monitored:
        assert monitored.tells("storage.type (storage.metrics: on shows more)").mark == "ok"


def test_as_a_command(command: Command, tmp_path: Path) -> None:
    """`monitor` at a server makes `check` ask; with --probe the real receiver acknowledges and keeps nothing."""
    now_ms = time.time_ns() // 1_000_000
    source = EventSource(start_ms=now_ms - 600_000, end_ms=now_ms - 60_000)
    forward = {"storage.type": "filesystem", "empty_shared_key": "on"}
    with Monitored(tmp_path / "bit", forward, STDOUT) as monitored, SimulatedApi(source) as api:
        servers = [{"host": "127.0.0.1", "port": monitored.bit.port, "monitor": monitored.url}]
        settings = command.settings(api, 1, forward__servers=servers, forward__shared_key="")
        done = command("check", "--probe", *settings)

    text = done.stdout.decode()
    assert done.returncode == 0, text
    assert "connected, handshake held, a message without records acknowledged" in text
    assert f"ok       Fluent Bit     {monitored.url}: version " in text
    assert not list(monitored.bit.records())


@pytest.mark.parametrize("switch", ["off", "elsewhere"])
def test_a_monitor_that_is_none(tmp_path: Path, switch: str) -> None:
    """Nobody there, or no HTTP: a warning with what to set, and no failure."""
    with Monitored(tmp_path, {}, STDOUT) as monitored:
        url = "http://127.0.0.1:1" if switch == "off" else f"http://127.0.0.1:{monitored.bit.port}"
        (finding,) = check_fluent_bit(url)

    assert finding.mark == "warning"
    assert "http_server: on" in finding.advice
