"""A short fuzz of the mapping; tests/tools/ecs_fuzz.py runs a long one."""

from __future__ import annotations

import random
from pathlib import Path

from support.fluent_bit import needs_fluent_bit
from tools.ecs_fuzz import Fuzz

EVENTS = 3000


@needs_fluent_bit
def test_hostile_events_come_out_of_fluent_bit(tmp_path: Path, dice: random.Random) -> None:
    """A real Fluent Bit writes every record once, as strict JSON, with the same values and types."""
    figures = Fuzz(tmp_path, events=EVENTS, seed=dice.randrange(2**32), deliver=True).run()

    assert figures.defects == [], str(figures)
    assert figures.lines == figures.events == EVENTS
    assert figures.leaves_out == figures.leaves
