"""The short form of the soak; tests/tools/soak.py by hand is the long one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tools.soak import Soak


@pytest.mark.timeout(300)
def test_faults_on_both_sides_and_kills_lose_nothing(tmp_path: Path, dice: random.Random) -> None:
    """Every event has arrived; doubled is at most a chunk for each kill or lost ack; the audit is clean."""
    soak = Soak(tmp_path, events=20_000, faults=60, kills=8, seed=dice.randrange(2**32), minutes=5)

    figures = soak.run()

    print(figures)  # noqa: T201 - the figures are the point
    assert figures.events >= 19_000
    assert figures.faults >= 60
    assert figures.lost == 0
    assert figures.doubled <= figures.bound
    assert "(exit 0)" in figures.audit
