"""Short runs of the benchmark, to find gross regressions: ratios of medians of three runs, with a margin of two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.fluent_bit import unavailable
from support.command import ROOT

EVENTS = 3000

pytestmark = [pytest.mark.alone, pytest.mark.timeout(300)]


def run(module: str, directory: Path, *arguments: str) -> dict[str, Any]:
    """The raw figures of one short run."""
    path = directory / "figures.json"
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", module, "--json", str(path), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert path.exists(), done.stderr
    print(done.stdout)  # noqa: T201 - the figures are the point
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures


def bench(directory: Path, *only: str) -> dict[str, Any]:
    """The raw figures of the benchmark with these contenders."""
    return run("bench", directory, "--events", str(EVENTS), "--runs", "3", "--only", *only)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures that most tests check."""
    return bench(tmp_path_factory.mktemp("bench"), "plugin", "same-record", "mapping", "script", "floor")


def test_the_cost_of_an_event(figures: dict[str, Any]) -> None:
    """An event takes at most twice the processor time of the script that sends the same record, without acks."""
    medians = figures["medians"]

    assert 0 < medians["mapping"]["cpu_us"] < medians["plugin"]["cpu_us"] <= 2 * medians["same-record"]["cpu_us"]


def test_start_and_memory(figures: dict[str, Any]) -> None:
    """The start takes at most four times the script's processor time, and the memory is at most twice the script's."""
    plugin, script = figures["medians"]["plugin"], figures["medians"]["script"]

    assert 0 < plugin["start"] <= 4 * script["start"]
    assert 0 < plugin["peak"] <= 2 * script["peak"]


def test_every_stage_is_measured(figures: dict[str, Any]) -> None:
    """Every stage has a time, and together they are more than half of the time of an event."""
    stages = figures["stages_cpu_us"]

    assert stages.keys() == {"fetch", "decode", "map", "geo", "encode", "pack", "send and ack", "ledger", "else"}
    assert stages["else"] < sum(stages.values()) / 2


def test_fluent_bit_takes_part(tmp_path: Path) -> None:
    """With a real Fluent Bit, the cost of the plugin and of Fluent Bit are measured too."""
    if why := unavailable():
        pytest.skip(why)
    medians = bench(tmp_path, "fluent-bit", "tail")["medians"]

    assert medians["fluent-bit"]["cpu_us"] > 0
    assert medians["fluent-bit"]["other_us"] > 0
    assert medians["tail"]["cpu_us"] > 0


def test_growth_is_measured_over_the_whole_backfill(tmp_path: Path) -> None:
    """The tenths of a backfill add up to all of its events, and idle streams need little time."""
    parts = ["--only", "backfill", "streams", "--events", str(EVENTS), "--streams", "1", "3", "--seconds", "1"]
    found = run("bench.growth", tmp_path, *parts)

    assert sum(tenth["events"] for tenth in found["backfill"][0]["tenths"]) == EVENTS
    assert [each["streams"] for each in found["streams"]] == [1, 3]
    assert all(each["cpu_percent"] < 50 for each in found["streams"])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_many_organizations(tmp_path: Path) -> None:
    """A short run of `make bench-many`: every surface says which interval is kept."""
    figures = run("bench.many", tmp_path, "--organizations", "300", "--seconds", "1")

    assert all("instead of every 30 s" in text for name, text in figures["said"].items() if name != "metrics")
    assert 'kind="kept"' in figures["said"]["metrics"]
    assert figures["lifted"]["metrics_mb"] < 0.5
    assert figures["lifted"]["rss_mib"] < 75
