"""Short trials; run tests/tools/receiver_trials.py by hand for long ones."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.fluent_bit import needs_fluent_bit
from tools import receiver_trials


@needs_fluent_bit
@pytest.mark.timeout(200)
def test_killed_again_and_again(tmp_path: Path) -> None:
    """A Fluent Bit that is killed and restarted loses nothing that it acknowledged."""
    figures = receiver_trials.kills(tmp_path, events=20_000, times=3)
    print(figures)  # noqa: T201 - the figures are the point
    assert figures.lost == 0


@needs_fluent_bit
@pytest.mark.timeout(200)
def test_paused_and_resumed(tmp_path: Path) -> None:
    """A Fluent Bit that pauses at its memory limit loses nothing, and with the handshake nothing is a duplicate."""
    figures = receiver_trials.pauses(tmp_path, events=20_000, times=2)
    print(figures)  # noqa: T201 - the figures are the point
    assert (figures.lost, figures.duplicates) == (0, 0)
    assert figures.times >= 2


@needs_fluent_bit
@pytest.mark.timeout(200)
def test_frozen_again_and_again(tmp_path: Path) -> None:
    """A Fluent Bit that is frozen for longer than ack_timeout gets nothing twice."""
    figures = receiver_trials.freezes(tmp_path, events=20_000, times=2, seconds=2.5 * receiver_trials.ACK_TIMEOUT)
    print(figures)  # noqa: T201 - the figures are the point
    assert (figures.lost, figures.duplicates) == (0, 0)


@pytest.mark.timeout(200)
def test_full_for_a_while(tmp_path: Path) -> None:
    """A receiver that refuses all records, and then most: nothing is lost or sent twice, and nothing a dead letter."""
    figures = receiver_trials.full(tmp_path, events=10_000, seconds=12)
    print(figures)  # noqa: T201 - the figures are the point
    assert figures.times > 0
    assert (figures.lost, figures.duplicates) == (0, 0)


@pytest.mark.timeout(200)
def test_one_of_two_is_always_there(tmp_path: Path, dice: random.Random) -> None:
    """With two receivers, of which one is killed every second, nothing is lost and delivery hardly pauses."""
    figures = receiver_trials.failover(tmp_path, seconds=8, dice=dice)
    print(figures)  # noqa: T201 - the figures are the point
    assert figures.times >= 5
    assert figures.lost == 0
    assert figures.gap < receiver_trials.ACK_TIMEOUT + 2
