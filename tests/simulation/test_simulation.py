"""200 seeds of the simulation, in shares that run in parallel; and that a seed decides everything."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from simulation.mutations import MUTATIONS, PACKAGE
from simulation.run import run_seed

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""A process that is killed closes nothing; the garbage collector closes its files, and says so."""

SEEDS = 200
SHARES = 8


@pytest.mark.parametrize("share", range(SHARES))
def test_seeds(share: int) -> None:
    """No event is lost, none arrives twice without a reason, and all recovers, whatever the faults do."""
    landmarks: Counter[str] = Counter()
    failures = []
    for seed in range(share, SEEDS, SHARES):
        result = run_seed(seed)
        landmarks += result.landmarks
        if result.failure:
            failures.append(f"make simulation SEED={seed}: {result.failure} ({', '.join(result.faults)})")
    assert not failures, "\n".join(failures)
    assert len(landmarks) > 40, "a share of the seeds reaches nearly every fault; `make simulation` demands all"


def test_mutations_apply() -> None:
    """Each mistake of `make simulation-mutations` can still be made in the package."""
    texts = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
    stale = [
        mutation.name
        for mutation in MUTATIONS
        for file, old, _ in mutation.changes
        if texts[PACKAGE / file].count(old) != 1
    ]
    assert stale == []


def test_a_seed_decides_everything() -> None:
    """The same seed does the same again, in another process too, whose sets and hashes have another order."""
    script = "from simulation.run import run_seed; print([run_seed(each).hash for each in range(8)])"
    folder = Path(__file__).parents[1]
    command = [sys.executable, "-c", script]
    texts = {
        subprocess.run(  # noqa: S603 - our own interpreter
            command, cwd=folder, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True, text=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert texts == {str([run_seed(each).hash for each in range(8)])}
