"""What need not be on disk at once: a position that moved past nothing new, and how far comparisons have come.

A process that is killed forgets its notes. It then polls and compares some minutes again, and the ledger knows their
events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from in_jumpcloud.insights.window import Position
from in_jumpcloud.state.database import Transaction
from in_jumpcloud.timestamps import MINUTE_MS

WRITE_SECONDS = 1800.0
"""How long notes wait at most. All streams' notes are written together: each transaction costs the disk 20 kB."""


def as_of_ms(updated_ms: int | None, now_ms: int, *, is_held: bool) -> int:
    """The moment of which a position in the state is true, `updated_ms` the time of its commit; all epoch milliseconds.

    While a process holds the state (`is_held`), an idle stream may be further than its position: notes wait.
    """
    is_recent = is_held and updated_ms is not None and 0 <= now_ms - updated_ms < 1000 * WRITE_SECONDS + MINUTE_MS
    return updated_ms if is_recent and updated_ms is not None else now_ms


class Note(msgspec.Struct, frozen=True):
    """What changed of one stream since it was last written; None: nothing. As the columns of the table `stream`."""

    position: Position | None = None
    organization: str | None = None
    reconciliation: str | None = None
    kept_from_ms: int | None = None


_NOTHING = Note()


class Notes:
    """The notes of all streams. Its caller holds the lock of the database, but for `of`."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._notes: dict[str, Note] = {}
        self._write_at = monotonic() + WRITE_SECONDS

    @property
    def streams(self) -> list[str]:
        """The streams that have notes."""
        return list(self._notes)

    @property
    def are_due(self) -> bool:
        """Whether all notes are to be written now."""
        return bool(self._notes) and self._monotonic() >= self._write_at

    def of(self, stream: str) -> Note:
        """The note of a stream."""
        return self._notes.get(stream, _NOTHING)

    def change(self, stream: str, **changes: object) -> None:
        """Change the note of a stream."""
        self._notes[stream] = msgspec.structs.replace(self.of(stream), **changes)

    def write(self, transaction: Transaction, streams: Iterable[str], now_ms: int) -> None:
        """Write the notes of these streams in a transaction; call `forget` after it."""
        for stream in streams:
            note = self._notes.get(stream)
            if note is None:
                continue
            position = note.position and msgspec.json.encode(note.position).decode()
            transaction.execute(
                "UPDATE stream SET position = coalesce(?2, position), organization = coalesce(organization, ?3), "
                "reconciliation = coalesce(?4, reconciliation), kept_from_ms = coalesce(?5, kept_from_ms), "
                "updated_ms = ?6 WHERE name = ?1",
                (stream, position, note.organization, note.reconciliation, note.kept_from_ms, now_ms),
            )

    def forget(self, streams: Iterable[str]) -> None:
        """The notes of these streams are on disk."""
        for stream in streams:
            self._notes.pop(stream, None)
        if not self._notes:
            self._write_at = self._monotonic() + WRITE_SECONDS
