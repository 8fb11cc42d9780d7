"""Killed between any two steps, the plugin loses nothing and duplicates at most one chunk."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.command import KEY, ROOT, Command

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import rfc3339

NOW = time.time_ns() // 1_000_000
CHUNK_RECORDS = 60
KILLS = int(os.environ.get("TEST_KILLS", "3"))
"""Of a backfill, at random instants."""


@pytest.fixture(scope="module")
def source() -> EventSource:
    """Two pages of events; one event is too large for any message."""
    source = EventSource(start_ms=NOW - 600_000, end_ms=NOW - 180_000, per_minute=20)
    event = {"id": "large", "timestamp": rfc3339(NOW - 400_000), "payload": "x" * 60_000}
    source.add(event, timestamp_ms=NOW - 400_000)
    return source


def _options(command: Command, api: SimulatedApi, receiver: SimulatedReceiver) -> list[str]:
    limits = {"jumpcloud__page_limit": 90, "forward__chunk_bytes": 50_000, "forward__message_max_bytes": 50_000}
    return command.settings(api, receiver, jumpcloud__start="1h", **limits)


def _killed_at(instant: int, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, ROOT / "tests" / "support" / "kill_at.py", str(instant), *arguments],
        env=os.environ | {"JUMPCLOUD_API_KEY": KEY},
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.timeout(300)
def test_a_kill_between_every_two_steps_loses_nothing(tmp_path: Path, source: EventSource) -> None:
    """For each instant of a run: killed there, then run again, every event arrives and the dead letter is kept."""
    total = source.count(0, NOW, now_ms=NOW)
    with SimulatedApi(source) as api:
        (tmp_path / "whole").mkdir()
        with SimulatedReceiver(keep=False) as receiver:
            whole = _killed_at(0, "run", "--once", *_options(Command(tmp_path / "whole"), api, receiver))
            assert whole.returncode == 1, whole.stderr  # it made a dead letter
            assert len(receiver.ids) == total - 1
        instants = int(re.findall(rb"(\d+) instants", whole.stderr)[0])
        assert instants > 25
        duplicates = 0
        for instant in range(1, instants + 1):
            directory = tmp_path / str(instant)
            directory.mkdir()
            command = Command(directory)
            with SimulatedReceiver(keep=False) as receiver:
                options = _options(command, api, receiver)
                killed = _killed_at(instant, "run", "--once", *options)
                # Threads take turns, so the number of instants can differ by a few.
                assert killed.returncode == -9 or instant > instants - 5, killed.stderr
                done = command("run", "--once", *options)
                assert done.returncode in {0, 1}, done.stderr
                assert len(receiver.ids) == total - 1, f"lost after a kill at instant {instant}"
                resent = sum(receiver.ids.values()) - len(receiver.ids)
                assert resent <= CHUNK_RECORDS, f"duplicates after a kill at instant {instant}"
                duplicates += resent
            assert command.dead_letters() == ["large"], f"after a kill at instant {instant}"
    print(f"{instants} instants, {duplicates} events sent twice, 0 lost")  # noqa: T201 - shown with -s


@pytest.mark.timeout(60 + 20 * KILLS)
def test_a_killed_backfill_loses_nothing(tmp_path: Path, source: EventSource, dice: random.Random) -> None:
    """For some instants of a backfill: killed there, then begun again, every event arrives, and the dead letter too."""
    total, span = source.count(0, NOW, now_ms=NOW), ("--since", rfc3339(NOW - 700_000), "--until", rfc3339(NOW))
    kills, duplicates, passed = 0, 0, 0
    with SimulatedApi(source) as api:
        while kills < KILLS:
            command = Command(tmp_path / str(kills))
            command.directory.mkdir(exist_ok=True)
            with SimulatedReceiver(keep=False) as receiver:
                backfill = ["backfill", *_options(command, api, receiver), *span]
                # The first one is whole. It tells how many instants there are.
                instant = dice.randint(1, passed) if passed else 0
                killed = _killed_at(instant, *backfill)
                if killed.returncode != -9:  # threads take turns, so the number of instants differs
                    passed = int(re.findall(rb"(\d+) instants", killed.stderr)[0])
                    shutil.rmtree(command.directory)
                    continue
                done = command(*backfill)
                assert done.returncode in {0, 1}, done.stderr  # 1 for the dead letter, unless the killed one had ended
                assert len(receiver.ids) == total - 1, f"lost after a kill at instant {instant}"
                resent = sum(receiver.ids.values()) - len(receiver.ids)
                assert resent <= CHUNK_RECORDS, f"duplicates after a kill at instant {instant}"
                assert command.dead_letters() == ["large"], f"after a kill at instant {instant}"
                kills, duplicates = kills + 1, duplicates + resent
    print(f"{kills} kills at {passed} instants, {duplicates} events sent twice, 0 lost")  # noqa: T201 - shown with -s
