"""What the rest of this package asks of a ledger: which events of a stream were delivered.

A ledger has the events of many streams, each under the number of its stream. Those of an open unit of a backfill are
under the number of the unit, below zero.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, Protocol

import msgspec

from in_jumpcloud.insights.event import UNDATED, EventKey
from in_jumpcloud.state.database import Database, Transaction
from in_jumpcloud.timestamps import MINUTE_MS

Span = tuple[int, int]
"""`[start, end)` of a window, in epoch milliseconds."""


class StreamNumbers:
    """The number of each stream, read once. It never changes while the stream is there."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, int] = {}

    def of(self, stream: str) -> int | None:
        """The number of `stream`; None if it is new."""
        if stream not in self._known:
            rows = self._database.read("SELECT number FROM stream WHERE name = ?", (stream,))
            if not rows:
                return None
            self._known[stream] = rows[0][0]
        return self._known[stream]

    def forget(self, stream: str) -> int | None:
        """Read it again the next time; returns what it was, None if it was not known."""
        return self._known.pop(stream, None)


class Part(NamedTuple):
    """Some keys of one number: of a minute, or, with minute None, outside of the windows that returned them.

    `read_ms` is the end of the newest window that returned the latter, in epoch milliseconds.
    """

    number: int
    minute: int | None
    digests: list[bytes]
    read_ms: int = 0


class Ledger(Protocol):
    """The keys of delivered events. Each method can raise StateUnavailable and StateCorrupt."""

    def counts(self, stream: str, start_minute: int, end_minute: int) -> dict[int, int]:
        """The number of keys of each minute in `[start_minute, end_minute)`, without empty minutes."""

    def delivered(self, stream: str, keys: Sequence[EventKey], ids: Sequence[str]) -> set[EventKey]:
        """As StateStore.delivered."""

    def find(self, number: int, keys: Sequence[EventKey], ids: Sequence[str] = ()) -> set[EventKey]:
        """The same for a number."""

    def add(
        self,
        transaction: Transaction,
        number: int,
        keys: Collection[EventKey],
        seen: Collection[EventKey],
        span: Span | None,
        read_ms: int,
    ) -> None:
        """Add `keys` under this number, in a transaction; keep those of `seen` outside `span`."""

    def must_keep(self, stream: str, seen: Collection[EventKey], span: Span | None, read_ms: int) -> bool:
        """Whether `add` has to write something for `seen`."""

    def has_before(self, stream: str, before_ms: int) -> bool:
        """Whether `prune` may have something to remove."""

    def prune(self, transaction: Transaction, stream: str, before_ms: int) -> int:
        """As StateStore.prune, in a transaction; `before_ms` is the start of a minute."""

    def forget_before(self, transaction: Transaction, number: int, minute: int) -> None:
        """Remove the keys of all minutes before `minute`, but not those outside of their windows."""

    def drop(self, transaction: Transaction, number: int) -> None:
        """Remove all keys of a number."""

    def parts(self) -> Iterator[Part]:
        """All of it, some keys at a time; those of one number and minute may come in several parts.

        Raises:
            Fatal: it has what no other ledger can hold.
        """

    def load(self, transaction: Transaction, part: Part) -> None:
        """Add what `parts` returned, in a transaction."""


def packed(keys: Collection[EventKey]) -> tuple[str, bytes]:
    """Their minutes as a JSON array, and their digests one after the other."""
    minutes = msgspec.json.encode([minute for minute, _ in keys]).decode()
    return minutes, b"".join([digest for _, digest in keys])


def split(keys: Collection[EventKey], span: Span | None) -> tuple[Collection[EventKey], list[EventKey]]:
    """The keys whose minute is in the span, and the others. UNDATED is in no span."""
    if not keys:
        return [], []
    start, end = (span[0] // MINUTE_MS, -(-span[1] // MINUTE_MS)) if span else (0, sys.maxsize)
    start = max(start, UNDATED + 1)
    minutes = [minute for minute, _ in keys]
    if start <= min(minutes) and max(minutes) < end:  # nearly always
        return keys, []
    inside = [key for key in keys if start <= key.minute < end]
    outside = [key for key in keys if not start <= key.minute < end]
    return inside, outside
