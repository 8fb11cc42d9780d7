"""The ledger: which events of a stream were delivered, and from when on it has all of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from in_jumpcloud.errors import Fatal
from in_jumpcloud.insights.event import DIGEST_BYTES, EventKey
from in_jumpcloud.state.database import Database, Transaction
from in_jumpcloud.state.ledger import Part, Span, StreamNumbers, packed, split
from in_jumpcloud.timestamps import DAY_MS, MINUTE_MS

_PART = 1000
"""Keys of a part."""
_DIGEST = f"substr(?3, wanted.key * {DIGEST_BYTES} + 1, {DIGEST_BYTES})"
_ADD = f"INSERT OR IGNORE INTO ledger SELECT ?1, wanted.value, {_DIGEST} FROM json_each(?2) AS wanted"  # noqa: S608 - our own
"""All keys in one statement, see `packed`: binding each digest on its own takes three times as long."""
_KEEP_OUTSIDE = (
    "INSERT INTO outside VALUES (?1, ?2, ?3) "
    "ON CONFLICT (stream, digest) DO UPDATE SET read_ms = ?3 WHERE ?3 > read_ms + ?4"
)
"""An event that every query returns is not written every time, but once a day."""


@dataclass(slots=True)
class _Contents:
    """What the ledger has of one stream: the newest minute (-1: none), and which other tables are not empty."""

    newest: int
    has_outside: bool
    has_old: bool


class SqliteLedger:
    """The keys of delivered events. For the methods see state.ledger.Ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._numbers = StreamNumbers(database)
        self._contents: dict[int, _Contents] = {}

    def counts(self, stream: str, start_minute: int, end_minute: int) -> dict[int, int]:
        """The number of keys of each minute in `[start_minute, end_minute)`, without empty minutes."""
        counts: Counter[int] = Counter()
        for table in ["ledger", "ledger_v2"] if self._has_old_table() else ["ledger"]:
            query = (
                f"SELECT minute, count(*) FROM {table} WHERE stream = (SELECT number FROM stream WHERE name = ?1) "  # noqa: S608 - our own
                "AND minute >= ?2 AND minute < ?3 GROUP BY minute"
            )
            counts.update(dict(self._database.read(query, (stream, start_minute, end_minute))))
        return counts

    def delivered(self, stream: str, keys: Sequence[EventKey], ids: Sequence[str]) -> set[EventKey]:
        """As StateStore.delivered."""
        number = self._numbers.of(stream)
        return set() if number is None else self.find(number, keys, ids)

    def find(self, number: int, keys: Sequence[EventKey], ids: Sequence[str] = ()) -> set[EventKey]:
        """The same for the number of a stream, or of what has a ledger of its own."""
        contents = self._contents_of(number)
        # Most events of a backlog are newer than all of the ledger.
        newest = contents.newest
        found = self._find("ledger", number, [key for key in keys if key[0] <= newest])
        if contents.has_outside:
            outside = {digest for _, digest in self._find("outside", number, keys)}
            found.update(key for key in keys if key.digest in outside)
        if contents.has_old:
            old = self._find_old(number, [(key.minute, event_id) for key, event_id in zip(keys, ids, strict=False)])
            found.update(key for key, event_id in zip(keys, ids, strict=False) if (key.minute, event_id) in old)
        return found

    def add(
        self,
        transaction: Transaction,
        number: int,
        keys: Collection[EventKey],
        seen: Collection[EventKey],
        span: Span | None,
        read_ms: int,
    ) -> None:
        """Add `keys` of the stream with this number, in a transaction; keep those of `seen` outside `span`."""
        inside, outside = split(keys, span)
        transaction.execute(_ADD, (number, *packed(inside)))
        outside += split(seen, span)[1]
        transaction.executemany(_KEEP_OUTSIDE, [(number, digest, read_ms, DAY_MS) for _, digest in outside])
        contents = self._contents.get(number)
        if contents:  # before the COMMIT: one that fails may have taken effect, and too much costs only a query
            contents.newest = max([contents.newest, *(minute for minute, _ in inside)])
            contents.has_outside |= bool(outside)

    def must_keep(self, stream: str, seen: Collection[EventKey], span: Span | None, read_ms: int) -> bool:
        """Whether `add` has to write something for `seen`."""
        outside = {key.digest: key for key in split(seen, span)[1]}
        number = self._numbers.of(stream)
        if not outside or number is None:
            return bool(outside)
        kept = self._database.read(
            f"SELECT count(*) FROM json_each(?2) AS wanted CROSS JOIN outside "  # noqa: S608 - our own
            f"WHERE stream = ?1 AND digest = {_DIGEST} AND ?4 <= read_ms + ?5",
            (number, *packed(outside.values()), read_ms, DAY_MS),
        )
        return int(kept[0][0]) < len(outside)

    def has_before(self, stream: str, before_ms: int) -> bool:
        """Whether `prune` may have something to remove."""
        number = self._numbers.of(stream)
        if number is None or self._contents_of(number).has_old:
            return number is not None
        return bool(
            self._database.read(
                "SELECT 1 WHERE EXISTS (SELECT 1 FROM ledger WHERE stream = ?1 AND minute < ?2) "
                "OR EXISTS (SELECT 1 FROM outside WHERE stream = ?1 AND read_ms < ?3)",
                (number, before_ms // MINUTE_MS, before_ms),
            )
        )

    def prune(self, transaction: Transaction, stream: str, before_ms: int) -> int:
        """As StateStore.prune, in a transaction; `before_ms` is the start of a minute."""
        number = self._numbers.of(stream)
        if number is None:
            return 0
        contents = self._contents_of(number)
        self._contents.pop(number, None)
        transaction.execute("UPDATE stream SET kept_from_ms = ? WHERE number = ?", (before_ms, number))
        deletions = [
            ("DELETE FROM ledger WHERE stream = ? AND minute < ?", before_ms // MINUTE_MS),
            ("DELETE FROM outside WHERE stream = ? AND read_ms < ?", before_ms),
        ]
        if contents.has_old:
            # Also its rows for events outside their windows must stay until none of those is read again.
            all_read = "(SELECT v2_read_ms FROM stream WHERE number = ?1) <= ?2"
            deletions.append((f"DELETE FROM ledger_v2 WHERE stream = ?1 AND {all_read}", before_ms))  # noqa: S608 - our own
        removed = sum(transaction.execute(query, (number, bound)).rowcount for query, bound in deletions)
        if contents.has_old and not transaction.execute("SELECT 1 FROM ledger_v2 LIMIT 1").fetchone():
            transaction.execute("DROP TABLE ledger_v2")
        return removed

    def forget_before(self, transaction: Transaction, number: int, minute: int) -> None:
        """Remove the keys of all minutes before `minute`."""
        transaction.execute("DELETE FROM ledger WHERE stream = ? AND minute < ?", (number, minute))

    def drop(self, transaction: Transaction, number: int) -> None:
        """Remove all keys of a number."""
        for table in ("ledger", "outside"):
            transaction.execute(f"DELETE FROM {table} WHERE stream = ?", (number,))  # noqa: S608 - our own

    def parts(self) -> Iterator[Part]:
        """All of it. Raises Fatal if there are ids of version 2 of the schema."""
        if self._has_old_table():
            raise Fatal(
                f"{self._database.where}: the ledger has ids of an older version, which only this file can hold",
                advice="let `in-jumpcloud run` use it for 16 days more",
            )
        for (number,) in self._database.read("SELECT DISTINCT stream FROM ledger"):
            after: tuple[int, bytes] = (-(2**63), b"")
            while rows := self._page(number, after):
                for minute, keys in groupby(rows, key=itemgetter(0)):
                    yield Part(number, minute, [digest for _, digest in keys])
                after = rows[-1]
        rows = self._database.read("SELECT stream, read_ms, digest FROM outside ORDER BY stream, read_ms")
        for (number, read_ms), keys in groupby(rows, key=itemgetter(0, 1)):
            yield Part(number, None, [digest for *_, digest in keys], read_ms)

    def load(self, transaction: Transaction, part: Part) -> None:
        """Add a part."""
        number, minute, digests, read_ms = part
        if minute is None:
            rows = [(number, digest, read_ms, 0) for digest in digests]
            transaction.executemany(_KEEP_OUTSIDE, rows)
        else:
            transaction.execute(_ADD, (number, *packed([EventKey(minute, digest) for digest in digests])))

    def _page(self, number: int, after: tuple[int, bytes]) -> list[tuple[int, bytes]]:
        """The next keys of a number."""
        return self._database.read(
            "SELECT minute, digest FROM ledger WHERE stream = ?1 AND (minute, digest) > (?2, ?3) "
            "ORDER BY minute, digest LIMIT ?4",
            (number, *after, _PART),
        )

    def _has_old_table(self) -> bool:
        """Whether there are ids that version 2 of the schema wrote."""
        return bool(self._database.read("SELECT 1 FROM sqlite_schema WHERE name = 'ledger_v2'"))

    def _contents_of(self, number: int) -> _Contents:
        """What the ledger has of the stream with this number."""
        with self._database.lock:  # what another thread adds meanwhile would be missing
            if number not in self._contents:
                read = self._database.read
                newest = read("SELECT max(minute) FROM ledger WHERE stream = ?", (number,))[0][0]
                outside = read("SELECT 1 FROM outside WHERE stream = ? LIMIT 1", (number,))
                old = self._has_old_table() and read("SELECT 1 FROM ledger_v2 WHERE stream = ? LIMIT 1", (number,))
                self._contents[number] = _Contents(-1 if newest is None else newest, bool(outside), bool(old))
            return self._contents[number]

    def _find(self, table: str, number: int, keys: Sequence[EventKey]) -> set[EventKey]:
        """Those of `keys` that are in `table`; `outside` has no minutes."""
        if not keys:
            return set()
        minute = "AND minute = wanted.value " if table == "ledger" else ""
        rows = self._database.read(
            f"SELECT wanted.value, digest FROM json_each(?2) AS wanted CROSS JOIN {table} "  # noqa: S608 - our own
            f"WHERE stream = ?1 {minute}AND digest = {_DIGEST}",
            (number, *packed(keys)),
        )
        return {EventKey(*row) for row in rows}

    def _find_old(self, number: int, wanted: Iterable[tuple[int, str]]) -> set[tuple[int, str]]:
        """Those of `wanted`, minutes and ids, that are in the ledger of version 2."""
        ids_by_minute: dict[int, list[str]] = {}
        for minute, event_id in wanted:
            ids_by_minute.setdefault(minute, []).append(event_id)
        query = (
            "SELECT minute, ledger_v2.id FROM json_each(?1) AS ids CROSS JOIN json_each(ids.value) AS wanted "
            "CROSS JOIN ledger_v2 WHERE stream = ?2 "
            "AND minute = CAST(ids.key AS INTEGER) AND ledger_v2.id = wanted.value"
        )
        return set(self._database.read(query, (json.dumps(ids_by_minute), number)))
