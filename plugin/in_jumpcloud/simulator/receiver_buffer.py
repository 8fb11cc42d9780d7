"""What stays in the simulated receiver until it is flushed to its outputs: room that is taken, and poison."""

from __future__ import annotations

import time


class InputBuffer:
    """The records since the last flush, counted, and the tags among them whose chunk has a bad entry.

    Fluent Bit reads a chunk up to its first bad entry, so what comes behind it with the same tag is lost as well.
    """

    def __init__(self, most_records: int | None, flush_seconds: float) -> None:
        self._most = most_records
        self._flush_seconds = flush_seconds
        self._records = 0
        self._poisoned: dict[str, float] = {}  # tag → when its chunk is flushed, on the monotonic clock

    def flush(self) -> None:
        """Begin anew."""
        self._records = 0
        self._poisoned.clear()

    def add(self, records: int) -> bool:
        """Take records in; whether there are now more than the input may hold."""
        self._records += records
        return self._most is not None and self._records > self._most

    def poison(self, tag: str) -> None:
        """Lose what comes with this tag from now to its next flush."""
        self._poisoned.setdefault(tag, time.monotonic() + self._flush_seconds)

    def is_poisoned(self, tag: str) -> bool:
        """Whether what comes with this tag is lost."""
        if tag in self._poisoned and time.monotonic() >= self._poisoned[tag]:
            del self._poisoned[tag]
        return tag in self._poisoned
