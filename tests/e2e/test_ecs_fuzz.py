"""The short form of the fuzz of the mapping; tests/tools/ecs_fuzz.py by hand is the long one."""

from __future__ import annotations

import random
from pathlib import Path

from support.fluent_bit import needs_fluent_bit
from tools.ecs_fuzz import Fuzz

EVENTS = 3000


def test_hostile_events_leave_with_declared_types(tmp_path: Path, dice: random.Random) -> None:
    """Whatever an event holds, it is mapped, declared fields have their types, and the profiles agree."""
    figures = Fuzz(tmp_path, events=EVENTS, seed=dice.randrange(2**32), deliver=False).run()

    assert figures.defects == [], str(figures)
    assert figures.events == EVENTS
    assert 0 < figures.reported < EVENTS
    assert figures.leaves > 20 * EVENTS
    assert figures.compared >= EVENTS // 5


@needs_fluent_bit
def test_hostile_events_come_out_of_fluent_bit(tmp_path: Path, dice: random.Random) -> None:
    """Every record comes out of a real Fluent Bit, once, as strict JSON, with what it held and of the same types."""
    figures = Fuzz(tmp_path, events=EVENTS, seed=dice.randrange(2**32), deliver=True).run()

    assert figures.defects == [], str(figures)
    assert figures.lines == figures.events == EVENTS
    assert figures.leaves_out == figures.leaves
