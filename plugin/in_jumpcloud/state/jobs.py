"""Backfills in the state: spans of time that are delivered next to the streams, each stream of one as a unit.

A unit has its own position and its own ledger, which is that of stream -unit while the unit is open. What it delivers
is also in the ledger of its stream, as far back as that is kept. Nothing else of the stream changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state.database import Database, Transaction
from in_jumpcloud.state.dead_letters import DeadLetter, DeadLetters, Refused, storable
from in_jumpcloud.state.ledger import Ledger, Span
from in_jumpcloud.timestamps import MINUTE_MS

JobCondition = Literal["open", "done", "failed", "cancelled"]
_KEPT = 100
"""So many units that have ended are kept, to be listed."""


class JobSpec(NamedTuple):
    """What is to be delivered: `[since_ms, until_ms)`; `again`: also what the ledger of the stream has."""

    since_ms: int
    until_ms: int
    services: tuple[str, ...]
    again: bool


class JobRow(NamedTuple):
    """One unit: one stream of backfill `number`.

    `expected` is JumpCloud's count of the span, None if it is not known; `read`, `acknowledged` and `dead_lettered`
    count different events. `error` is the last error, or why it failed. Times are epoch milliseconds.
    """

    unit: int
    number: int
    stream: str
    spec: JobSpec
    condition: JobCondition
    position: Position
    expected: int | None
    read: int
    acknowledged: int
    dead_lettered: int
    created_ms: int
    updated_ms: int
    error: str | None
    error_ms: int | None

    @property
    def name(self) -> str:
        """What the log calls it."""
        return job_name(self.number, self.stream)


def job_name(number: int, stream: str) -> str:
    """What the log calls a unit; its suspects have this in place of a stream."""
    return f"backfill {number} of {stream}"


_COLUMNS = (
    "unit, number, stream, since_ms, until_ms, services, again, condition, position, expected, read, acknowledged, "
    "dead_lettered, created_ms, updated_ms, error, error_ms"
)


class Jobs:
    """The backfills in a state. Each method can raise StateUnavailable and StateCorrupt."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger

    def rows(self, *, number: int | None = None, unit: int | None = None, only_open: bool = False) -> list[JobRow]:
        """The units, the oldest first: of one backfill, or of all; or one unit."""
        rows = self._database.read(
            f"SELECT {_COLUMNS} FROM job WHERE (CAST(?1 AS INTEGER) IS NULL OR number = ?1) "  # noqa: S608 - our own
            "AND (CAST(?2 AS INTEGER) IS NULL OR unit = ?2) AND (NOT ?3 OR condition = 'open') ORDER BY unit",
            (number, unit, only_open),
        )
        return [_row(self._database, row) for row in rows]

    def create(self, streams: Iterable[str], spec: JobSpec, now_ms: int) -> int:
        """Create a backfill and return its number; that of an open one, if it is the same."""
        wanted = sorted(streams)
        services = _json(sorted(spec.services))
        values = (spec.since_ms, spec.until_ms, services, spec.again)
        with self._database.transaction() as transaction:
            same = transaction.execute(
                "SELECT number, stream, condition FROM job "
                "WHERE since_ms = ?1 AND until_ms = ?2 AND services = ?3 AND again = ?4 ORDER BY number, stream",
                values,
            ).fetchall()
            for number, units in groupby(same, key=itemgetter(0)):
                _, names, conditions = zip(*units, strict=True)
                if list(names) == wanted and "open" in conditions:
                    return int(number)
            number = transaction.execute("SELECT coalesce(max(number), 0) + 1 FROM job").fetchone()[0]
            position = _json(Position.starting_at(spec.since_ms))
            transaction.executemany(
                "INSERT INTO job (number, stream, since_ms, until_ms, services, again, created_ms, updated_ms, "
                "position, condition) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'open')",
                [(number, stream, *values, now_ms, now_ms, position) for stream in wanted],
            )
            transaction.execute("DELETE FROM job WHERE condition != 'open' AND number < ?1 - ?2", (number, _KEPT))
        return int(number)

    def cancel(self, number: int | None, now_ms: int) -> list[int]:
        """Cancel the open units of a backfill, or of all; returns the numbers of those that had any."""
        with self._database.transaction() as transaction:
            rows = transaction.execute(
                "SELECT unit, number FROM job "
                "WHERE condition = 'open' AND (CAST(?1 AS INTEGER) IS NULL OR number = ?1)",
                (number,),
            ).fetchall()
            for unit, _ in rows:
                _end(transaction, self._ledger, unit, "cancelled", None, now_ms)
        return sorted({number for _, number in rows})

    def end(self, unit: int, condition: JobCondition, reason: str | None, now_ms: int) -> None:
        """End a unit that is open; its own ledger goes, and its suspects become those of its stream."""
        with self._database.transaction() as transaction:
            _end(transaction, self._ledger, unit, condition, reason, now_ms)

    def is_open(self, unit: int) -> bool:
        """Whether a unit is neither done, failed nor cancelled."""
        return bool(self._database.read("SELECT 1 FROM job WHERE unit = ? AND condition = 'open'", (unit,)))

    def expect(self, unit: int, expected: int | None) -> None:
        """Store how many events JumpCloud counts in the span."""
        with self._database.transaction() as transaction:
            transaction.execute("UPDATE job SET expected = ?2 WHERE unit = ?1", (unit, expected))

    def record_error(self, unit: int, error: str | None, now_ms: int) -> None:
        """Store the last error of an open unit; None: the last step succeeded."""
        with self._database.transaction() as transaction:
            transaction.execute(
                "UPDATE job SET error = ?2, error_ms = ?3 WHERE unit = ?1 AND condition = 'open'",
                (unit, error and storable(error), None if error is None else now_ms),
            )


class Deliveries(Protocol):
    """What a pipeline asks of the state: StateStore for a stream, JobState for a unit of a backfill."""

    @property
    def where(self) -> str:
        """Where the state is, for people."""

    def organization(self, stream: str) -> str | None:
        """The organization that the events of `stream` name."""

    def delivered(self, stream: str, keys: Sequence[EventKey], ids: Sequence[str] = ()) -> set[EventKey]:
        """Those of `keys` that must not be sent."""

    def may_send(self, stream: str) -> None:
        """Check, right before something is sent, that no other process may send it."""

    def commit(
        self,
        stream: str,
        keys: Collection[EventKey],
        position: Position,
        *,
        span: Span | None = None,
        seen: Collection[EventKey] = (),
        late: int = 0,
        dead_letters: Sequence[Refused] = (),
        suspects: Sequence[Refused] = (),
        organization: str | None = None,
    ) -> None:
        """Write what was acknowledged or refused, and the position."""

    def advance(
        self,
        stream: str,
        position: Position,
        *,
        span: Span | None = None,
        seen: Collection[EventKey] = (),
        organization: str | None = None,
    ) -> None:
        """Set the position where nothing new was delivered."""

    def parked(self, stream: str) -> list[DeadLetter]:
        """The suspects, oldest first."""

    def settle(self, suspect: DeadLetter, refusal: str | None) -> None:
        """End a suspect."""


class OpenState(NamedTuple):
    """The parts of an open state that a unit writes to. `verify` and `may_send` check that the process has a stream."""

    database: Database
    ledger: Ledger
    dead_letters: DeadLetters
    verify: Callable[[str], None]
    may_send: Callable[[str], None]
    now_ms: Callable[[], int]


class JobState:
    """The deliveries of one unit. The names of streams that its methods are given are not used."""

    def __init__(self, state: OpenState, row: JobRow, *, shares_ledger: bool) -> None:
        """`shares_ledger`: the stream polls all services of the unit, so what is delivered is in its ledger too."""
        self._database, self._ledger, self._dead_letters, self._verify, self._may_send, self._now_ms = state
        self._row = row
        self._shares_ledger = shares_ledger
        self.read = row.read
        """How many different events the unit has read."""
        self._reread: set[EventKey] = set()  # of the page: what this unit has delivered before
        self._tried: tuple[object, object] | None = None
        """The last commit, if it is not known whether it was written: what, and the row before it."""

    @property
    def where(self) -> str:
        """Where the state is, for people."""
        return self._database.where

    def organization(self, stream: str) -> str | None:  # noqa: ARG002
        """That of the stream."""
        rows = self._database.read("SELECT organization FROM stream WHERE name = ?", (self._row.stream,))
        return rows[0][0] if rows else None

    def delivered(self, stream: str, keys: Sequence[EventKey], ids: Sequence[str] = ()) -> set[EventKey]:  # noqa: ARG002
        """Those of `keys` that the unit has delivered; unless it is to deliver them again, also those of the stream."""
        self._verify(self._row.stream)
        own = self._ledger.find(-self._row.unit, keys)
        self._reread |= own
        return own if self._row.spec.again else own | self._ledger.delivered(self._row.stream, keys, ids)

    def may_send(self, stream: str) -> None:  # noqa: ARG002
        """As StateStore.may_send, of the stream."""
        self._may_send(self._row.stream)

    def commit(
        self,
        stream: str,  # noqa: ARG002
        keys: Collection[EventKey],
        position: Position,
        *,
        span: Span | None = None,
        seen: Collection[EventKey] = (),
        late: int = 0,  # noqa: ARG002 - it says nothing of a span in the past
        dead_letters: Sequence[Refused] = (),
        suspects: Sequence[Refused] = (),
        organization: str | None = None,
    ) -> None:
        """As StateStore.commit, but the position and the totals are those of the unit.

        It may be repeated after an error: what was written counts once.
        """
        row = self._row
        read = len(keys) + sum(key not in self._reread for key in seen)
        acknowledged = len(keys) - len(dead_letters) - len(suspects)
        attempt = (list(keys), list(seen), position, span)
        with self._database.transaction(row.stream) as transaction:
            if not self._is_written(transaction, attempt):
                transaction.execute(
                    "UPDATE job SET position = ?, read = read + ?, acknowledged = acknowledged + ?, "
                    "dead_lettered = dead_lettered + ?, updated_ms = ? WHERE unit = ?",
                    (_json(position), read, acknowledged, len(dead_letters), self._now_ms(), row.unit),
                )
                is_open = self._add(transaction, keys, seen, span, position)
                transaction.execute(
                    "UPDATE stream SET organization = ?2 WHERE name = ?1 AND organization IS NULL",
                    (row.stream, organization),
                )
                self._dead_letters.add(transaction, row.stream, "dead", dead_letters)
                self._dead_letters.add(transaction, row.name if is_open else row.stream, "suspect", suspects)
        self._tried = None
        self.read += read
        self._reread.difference_update(seen)
        if dead_letters or suspects:
            self._dead_letters.refresh()

    def _is_written(self, transaction: Transaction, attempt: object) -> bool:
        """Whether this commit was tried before, and was written: only its own row can have changed since."""
        query = "SELECT position, read, acknowledged, dead_lettered FROM job WHERE unit = ?"
        found = transaction.execute(query, (self._row.unit,)).fetchone()
        if self._tried and self._tried[0] == attempt:
            return bool(self._tried[1] != found)
        self._tried = (attempt, found)
        return False

    def _add(
        self,
        transaction: Transaction,
        keys: Collection[EventKey],
        seen: Collection[EventKey],
        span: Span | None,
        position: Position,
    ) -> bool:
        """Add to the ledgers. Returns whether the unit is open: another process may have cancelled it."""
        unit, read_ms = self._row.unit, span[1] if span else position.watermark_ms
        condition = transaction.execute("SELECT condition FROM job WHERE unit = ?", (unit,)).fetchone()[0]
        if condition == "open":
            self._ledger.add(transaction, -unit, keys, seen, span, read_ms)
            # Windows do not overlap, so these are not read again.
            self._ledger.forget_before(transaction, -unit, position.watermark_ms // MINUTE_MS)
        if self._shares_ledger:
            self._share(transaction, keys, seen, span, read_ms)
        return bool(condition == "open")

    def advance(
        self,
        stream: str,
        position: Position,
        *,
        span: Span | None = None,
        seen: Collection[EventKey] = (),
        organization: str | None = None,
    ) -> None:
        """Write the position at once: what was read is counted with it."""
        self.commit(stream, [], position, span=span, seen=seen, organization=organization)

    def _share(
        self,
        transaction: Transaction,
        keys: Collection[EventKey],
        seen: Collection[EventKey],
        span: Span | None,
        read_ms: int,
    ) -> None:
        """Add to the ledger of the stream what it keeps: what is older than it would soon be removed."""
        rows = transaction.execute("SELECT number, kept_from_ms FROM stream WHERE name = ?", (self._row.stream,))
        number, kept_ms = rows.fetchone() or (None, None)
        if number is None or read_ms <= (kept_ms or 0):
            return
        from_minute = (kept_ms or 0) // MINUTE_MS
        start, end = (span[0] // MINUTE_MS, -(-span[1] // MINUTE_MS)) if span else (0, from_minute)
        kept = [key for key in keys if key.minute >= from_minute or not start <= key.minute < end]
        self._ledger.add(transaction, number, kept, seen, span, read_ms)

    def parked(self, stream: str) -> list[DeadLetter]:  # noqa: ARG002
        """The suspects of the unit, oldest first."""
        return self._dead_letters.suspects(self._row.name)

    def settle(self, suspect: DeadLetter, refusal: str | None) -> None:
        """As StateStore.settle. A dead letter is one of the stream."""
        column = "acknowledged" if refusal is None else "dead_lettered"
        with self._database.transaction(self._row.stream) as transaction:
            settled = self._dead_letters.settle_in(
                transaction, suspect, refusal, stream=self._row.stream, now_ms=self._now_ms()
            )
            transaction.execute(
                f"UPDATE job SET {column} = {column} + ? WHERE unit = ?",  # noqa: S608 - our own
                (settled, self._row.unit),
            )
        self._dead_letters.refresh()


def _end(
    transaction: Transaction, ledger: Ledger, unit: int, condition: JobCondition, reason: str | None, now_ms: int
) -> None:
    number, stream = transaction.execute("SELECT number, stream FROM job WHERE unit = ?", (unit,)).fetchone()
    transaction.execute(
        "UPDATE job SET condition = ?2, updated_ms = ?3, error = ?4, error_ms = ?5 "
        "WHERE unit = ?1 AND condition = 'open'",
        (unit, condition, now_ms, reason and storable(reason), None if reason is None else now_ms),
    )
    transaction.execute(
        "UPDATE dead_letter SET stream = ?2 WHERE stream = ?1 AND state = 'suspect'", (job_name(number, stream), stream)
    )
    ledger.drop(transaction, -unit)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _row(database: Database, values: tuple[Any, ...]) -> JobRow:
    unit, number, stream, since_ms, until_ms, services, again, condition, position, *rest = values
    try:
        spec = JobSpec(since_ms, until_ms, msgspec.json.decode(services, type=tuple[str, ...]), bool(again))
        return JobRow(unit, number, stream, spec, condition, msgspec.json.decode(position, type=Position), *rest)
    except msgspec.DecodeError as error:
        raise database.corrupt(f"a backfill is not what in-jumpcloud writes: {error}") from None
