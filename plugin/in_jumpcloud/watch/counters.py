"""What was done, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Counts of one stream since the process began; written by its collector alone."""

    pages: int = 0
    page_bytes: int = 0
    received: int = 0
    duplicates: int = 0
    """Events that the ledger knew: read again by the overlap or after a restart, and not sent again."""
    foreign: int = 0
    """Events of another organization than the one asked for; delivered all the same."""
    with_problems: int = 0
    looked_up: int = 0
    sent: int = 0
    """Records in chunks that were sent, each sending counted."""
    acknowledged: int = 0
    """Records whose chunk was acknowledged and committed."""
