"""Many organizations in one process: polls keep their interval or overload is said, and late events are found."""

from __future__ import annotations

import pytest
from simulation.load import measure


@pytest.mark.parametrize(("organizations", "latency"), [(1, 0.05), (100, 1.0), (200, 0.3)])
def test_late_events_are_found_and_overload_is_said(organizations: int, latency: float) -> None:
    """`make simulation-load` measures more cells."""
    cell = measure(organizations, latency)
    assert cell.holds, cell
    assert cell.overload == (organizations == 200)
