"""The ledger in PostgreSQL: partitions by the day of the commit, ids as their 16 bytes.

An event outside of the window that returned it is under minute OUTSIDE, whatever its date, and once more on each later
day on which a window returned it. No row is in a partition that is older than its minute, whatever the clock says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.state.database import Transaction
from in_jumpcloud.state.ledger import Part, Span, StreamNumbers, packed, split
from in_jumpcloud.state.postgresql.database import PostgresDatabase
from in_jumpcloud.state.postgresql.days import create_days
from in_jumpcloud.timestamps import DAY_MS

OUTSIDE = -2
DAY_MINUTES = 1440
_MOST_MINUTE = 2**31 - 1
_PART = 1000


def keys_in(parameter: str) -> str:
    """SQL for the rows of an array of minutes: `k.m` the minute, `k.o` its place from 1 on."""
    return f"unnest({parameter}::int[]) WITH ORDINALITY AS k (m, o)"


def id_at(parameter: str) -> str:
    """SQL for the id at place `k.o` of digests that are one after the other: a fifth of the time of an array."""
    return f"encode(substr({parameter}::bytea, ((k.o - 1) * 16 + 1)::int, 16), 'hex')::uuid"


_ADD = (
    f"INSERT INTO ledger (stream, minute, id, day) SELECT ?1::int, k.m, {id_at('?3')}, ?4::int "  # noqa: S608 - our own
    f"FROM {keys_in('?2')} ON CONFLICT DO NOTHING"
)
_FIND = (  # LATERAL and LIMIT: else a server without statistics may read all of the stream
    f"SELECT k.o FROM {keys_in('?2')} CROSS JOIN LATERAL (SELECT 1 FROM ledger WHERE stream = ?1::int "  # noqa: S608 - our own
    f"AND minute = k.m AND id = {id_at('?3')} AND day >= greatest(k.m / {DAY_MINUTES}, ?4::int) LIMIT 1) AS found"
)


@dataclass(slots=True)
class _Contents:
    """What the ledger has of a number: the newest minute (-1: none), and whether anything is outside its window."""

    newest: int
    has_outside: bool


class PostgresLedger:
    """The keys of delivered events. For the methods see state.ledger.Ledger."""

    def __init__(self, database: PostgresDatabase, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._now_ms = now_ms
        self._numbers = StreamNumbers(database)
        self._contents: dict[int, _Contents] = {}
        """Known while this process owns the stream: no other process adds to it."""

    def counts(self, stream: str, start_minute: int, end_minute: int) -> dict[int, int]:
        """The number of keys of each minute in `[start_minute, end_minute)`, without empty minutes."""
        # A commit that was repeated after midnight may have written an id on both days.
        query = (
            "SELECT minute, count(DISTINCT id) FROM ledger WHERE stream = (SELECT number FROM stream WHERE name = ?) "
            "AND minute >= ? AND minute < ? AND day >= ? GROUP BY minute"
        )
        start, end = max(start_minute, 0), min(end_minute, _MOST_MINUTE)
        return dict(self._database.read(query, (stream, start, end, start // DAY_MINUTES)))

    def delivered(self, stream: str, keys: Sequence[EventKey], ids: Sequence[str]) -> set[EventKey]:
        """As StateStore.delivered."""
        del ids
        number = self.number(stream)
        return set() if number is None else self.find(number, keys)

    def find(self, number: int, keys: Sequence[EventKey], ids: Sequence[str] = ()) -> set[EventKey]:
        """The same for a number."""
        del ids
        contents = self._contents_of(number)
        # Most events of a backlog are newer than all of the ledger.
        inside = [key for key in keys if 0 <= key.minute <= contents.newest]
        found = self._find(number, inside, [minute for minute, _ in inside])
        return found | self._find_outside(number, keys) if contents.has_outside else found

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
        minutes, digests, day = self.rows(keys, seen, span, read_ms)
        if minutes:
            if day not in self._database.days:
                create_days(self._database, transaction, [day])
            transaction.execute(_ADD, (number, array(minutes), digests, day))
            self.note(number, minutes)

    def rows(
        self, keys: Collection[EventKey], seen: Collection[EventKey], span: Span | None, read_ms: int
    ) -> tuple[list[int], bytes, int]:
        """The minutes, the digests one after the other, and the day of what is to be written."""
        inside, outside = split(keys, span)
        outside += split(seen, span)[1]
        if not inside and not outside:
            return [], b"", 0
        inside = [key for key in inside if key.minute <= _MOST_MINUTE]
        minutes = [minute for minute, _ in inside]
        day = max(self._now_ms() // DAY_MS, read_ms // DAY_MS if outside else 0, max(minutes, default=0) // DAY_MINUTES)
        return minutes + [OUTSIDE] * len(outside), packed(inside)[1] + packed(outside)[1], day

    def require_day(self, day: int) -> None:
        """Make the partition of a day, unless it is there."""
        if day not in self._database.days:
            with self._database.transaction() as transaction:
                create_days(self._database, transaction, [day])
            self._database.days.add(day)

    def note(self, number: int | None, minutes: Collection[int]) -> None:
        """These minutes are about to be written: too new a minute costs only a query."""
        contents = None if number is None else self._contents.get(number)
        if contents and minutes:
            contents.newest = max(contents.newest, *minutes)
            contents.has_outside |= OUTSIDE in minutes

    def must_keep(self, stream: str, seen: Collection[EventKey], span: Span | None, read_ms: int) -> bool:
        """Whether `add` has to write something for `seen`: what is outside and not written today."""
        outside = list({key.digest: key for key in split(seen, span)[1]}.values())
        number = self.number(stream)
        if not outside or number is None:
            return bool(outside)
        day = max(self._now_ms(), read_ms) // DAY_MS
        return len(self._find_outside(number, outside, day)) < len(outside)

    def has_before(self, stream: str, before_ms: int) -> bool:  # noqa: ARG002
        """No: old days go with their partitions."""
        return False

    def prune(self, transaction: Transaction, stream: str, before_ms: int) -> int:  # noqa: ARG002
        """Nothing."""
        return 0

    def forget_before(self, transaction: Transaction, number: int, minute: int) -> None:
        """Remove the keys of all minutes before `minute`, but not those outside of their windows."""
        transaction.execute("DELETE FROM ledger WHERE stream = ? AND minute >= 0 AND minute < ?", (number, minute))

    def drop(self, transaction: Transaction, number: int) -> None:
        """Remove all keys of a number."""
        transaction.execute("DELETE FROM ledger WHERE stream = ?", (number,))

    def parts(self) -> Iterator[Part]:
        """All of it."""
        for (number,) in self._database.read("SELECT number FROM stream UNION SELECT -unit FROM job ORDER BY 1"):
            after: tuple[int, Any] = (-1, "00000000-0000-0000-0000-000000000000")
            while rows := self._page(number, after):
                by_minute: dict[int, list[bytes]] = {}
                for minute, digest in rows:
                    by_minute.setdefault(minute, []).append(digest.bytes)
                for minute, digests in by_minute.items():
                    yield Part(number, minute, digests)
                after = rows[-1]
            days: dict[int, list[bytes]] = {}
            query = "SELECT id, max(day) FROM ledger WHERE stream = ? AND minute = ? GROUP BY id"
            for digest, day in self._database.read(query, (number, OUTSIDE)):
                days.setdefault(day, []).append(digest.bytes)
            for day, digests in sorted(days.items()):
                yield Part(number, None, digests, (day + 1) * DAY_MS - 1)

    def load(self, transaction: Transaction, part: Part) -> None:
        """Add a part. Its day is that of its minute, as it would be if it had been written then."""
        number, minute, digests, read_ms = part
        today = self._now_ms() // DAY_MS
        day = today
        if number > 0:
            day = read_ms // DAY_MS if minute is None else min(minute // DAY_MINUTES, _MOST_MINUTE)
        create_days(self._database, transaction, [day])
        minutes = [OUTSIDE if minute is None else minute] * len(digests)
        transaction.execute(_ADD, (number, array(minutes), b"".join(digests), day))

    def number(self, stream: str) -> int | None:
        """The number of `stream`; None if it is new."""
        return self._numbers.of(stream)

    def forget(self, stream: str) -> None:
        """The stream has another owner, or had one: what this process knows of it, and of its units, may be wrong."""
        number = self._numbers.forget(stream)
        for each in [each for each in list(self._contents) if each < 0 or each == number]:
            self._contents.pop(each, None)

    def _contents_of(self, number: int) -> _Contents:
        contents = self._contents.get(number)
        if contents is None:
            query = "SELECT max(minute), min(minute) FROM ledger WHERE stream = ?"
            ((newest, oldest),) = self._database.read(query, (number,))
            contents = _Contents(max(-1, -1 if newest is None else newest), oldest == OUTSIDE)
            self._contents[number] = contents
        return contents

    def _find(self, number: int, keys: Sequence[EventKey], minutes: Sequence[int], day: int = 0) -> set[EventKey]:
        """Those of `keys` that are under these minutes, in partitions from `day` on."""
        if not keys:
            return set()
        parameters = (number, array(minutes), b"".join([digest for _, digest in keys]), day)
        return {keys[place - 1] for (place,) in self._database.read(_FIND, parameters)}

    def _find_outside(self, number: int, keys: Sequence[EventKey], day: int = 0) -> set[EventKey]:
        return self._find(number, keys, [OUTSIDE] * len(keys), day)

    def _page(self, number: int, after: tuple[int, Any]) -> list[tuple[int, Any]]:
        """The next keys of a number."""
        return self._database.read(
            "SELECT DISTINCT minute, id FROM ledger WHERE stream = ? AND minute >= 0 AND (minute, id) > (?, ?) "
            "ORDER BY minute, id LIMIT ?",
            (number, *after, _PART),
        )


def array(numbers: Sequence[int]) -> str:
    """An array of PostgreSQL: as text it is made in a tenth of the time."""
    return f"{{{','.join(map(str, numbers))}}}"
