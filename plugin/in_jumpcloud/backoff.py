"""How long to wait before the next try."""

from __future__ import annotations

from random import Random

MAX_DELAY = 60.0
"""Seconds of the longest pause between two tries."""


def backoff_delay(failures: int, random: Random) -> float:
    """Seconds to wait after `failures` failures in a row: 1 s, twice as long each time up to 60 s, minus a jitter.

    The jitter of up to half of it keeps many streams, or many processes, from retrying at the same moment.
    """
    return min(MAX_DELAY, 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1)
