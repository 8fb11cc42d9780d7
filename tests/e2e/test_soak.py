"""A short soak; run tests/tools/soak.py by hand for a long one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tools.soak import Soak


@pytest.mark.timeout(300)
def test_faults_on_both_sides_and_kills_lose_nothing(tmp_path: Path, dice: random.Random) -> None:
    """Every event arrives; each kill or lost ack duplicates at most a chunk; the audit finds no difference."""
    soak = Soak(tmp_path, events=20_000, faults=60, kills=8, seed=dice.randrange(2**32), minutes=5)

    figures = soak.run()

    print(figures)  # noqa: T201 - shown with -s
    assert figures.events >= 19_000
    assert figures.faults >= 60
    assert figures.lost == 0
    assert figures.duplicates <= figures.bound
    assert "(exit 0)" in figures.audit
