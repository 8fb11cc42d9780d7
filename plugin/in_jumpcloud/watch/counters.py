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
    late: int = 0
    """Events that appeared only after their time had been asked for."""
    latest_seconds: float = 0.0
    """By how much the latest of them came after its timestamp."""
    foreign: int = 0
    """Events of another organization than the one asked for; delivered all the same."""
    with_problems: int = 0
    looked_up: int = 0
    sent: int = 0
    """Records in chunks that were sent, each sending counted."""
    acknowledged: int = 0
    """Records whose chunk was acknowledged and committed."""
    dead_lettered: int = 0
    """Events that the receiver refuses for good, kept on disk."""

    def found_late(self, seconds: float) -> None:
        """Count one late event, so many seconds after its timestamp."""
        self.late += 1
        self.latest_seconds = max(self.latest_seconds, seconds)
