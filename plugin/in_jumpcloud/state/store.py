"""The position of each stream and the ledger of delivered ids, in one SQLite file.

A commit writes the ids of one acknowledged chunk and the position of the stream in one transaction. It is on disk
when `commit` returns.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from in_jumpcloud.errors import InJumpCloudError
from in_jumpcloud.insights.event import DIGEST_BYTES, UNDATED, EventKey
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state import database
from in_jumpcloud.timestamps import DAY_MS, MINUTE_MS, now_ms

_KEEP_OUTSIDE = (
    "INSERT INTO outside VALUES (?1, ?2, ?3) "
    "ON CONFLICT (stream, digest) DO UPDATE SET read_ms = ?3 WHERE ?3 > read_ms + ?4"
)
"""An event that every query returns is not written every time, but once a day."""


class StreamRow(NamedTuple):
    """One stream in the state.

    `acknowledged`, `late` and `dead_lettered` count events over all runs. `error` is the last error and `error_ms` its
    time; both are None once a step has succeeded. `updated_ms` is the time of the last commit. Times are epoch
    milliseconds.
    """

    name: str
    position: Position
    acknowledged: int
    late: int
    dead_lettered: int
    error: str | None
    error_ms: int | None
    updated_ms: int | None


class StateReader:
    """An open state, to read. `holder` is the process that held it when it was opened; None if no process did.

    Every method can raise StateUnavailable (it passes: wait and retry) and StateCorrupt (it does not).
    """

    def __init__(self, path: Path, opened: database.OpenDatabase, holder: str | None) -> None:
        self.path = path
        self.agent_id = opened.agent_id
        self.holder = holder
        self._database = opened.database
        self._lock = threading.RLock()

    def streams(self) -> list[StreamRow]:
        """Every stream that has a position, sorted by name."""
        rows = self._read(f"SELECT {', '.join(StreamRow._fields)} FROM stream ORDER BY name")  # noqa: S608 - our own
        return [StreamRow(name, self._position(position), *rest) for name, position, *rest in rows]

    def counts(self, stream: str, start_minute: int, end_minute: int) -> dict[int, int]:
        """The number of ids in the ledger for each minute in `[start_minute, end_minute)`, without empty minutes."""
        ledgers = ["ledger", "ledger_v2"] if self._has_old_ledger() else ["ledger"]
        counted = " UNION ALL ".join(
            f"SELECT minute, count(*) AS ids FROM {each} WHERE stream = (SELECT number FROM stream WHERE name = ?1) "  # noqa: S608 - our own
            "AND minute >= ?2 AND minute < ?3 GROUP BY minute"
            for each in ledgers
        )
        query = f"SELECT minute, sum(ids) FROM ({counted}) GROUP BY minute"  # noqa: S608 - our own
        return dict(self._read(query, (stream, start_minute, end_minute)))

    def kept_from_ms(self, stream: str) -> int:
        """The time from which on the ledger has every delivered id; epoch milliseconds, 0 for an unknown stream."""
        rows = self._read("SELECT kept_from_ms, position FROM stream WHERE name = ?", (stream,))
        if not rows:
            return 0
        ((kept_from_ms, position),) = rows
        return self._position(position).origin_ms if kept_from_ms is None else int(kept_from_ms)

    def reconciliation(self, stream: str) -> str | None:
        """What `save_reconciliation` stored; None before the first time."""
        rows = self._read("SELECT reconciliation FROM stream WHERE name = ?", (stream,))
        return rows[0][0] if rows else None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _position(self, text: str) -> Position:
        try:
            return msgspec.json.decode(text, type=Position)
        except msgspec.DecodeError as error:
            raise database.corrupt(self.path, f"a position is not what in-jumpcloud writes: {error}") from None

    def _has_old_ledger(self) -> bool:
        """Whether there are ids that version 2 of the schema wrote."""
        return bool(self._read("SELECT 1 FROM sqlite_schema WHERE name = 'ledger_v2'"))

    def _read(self, query: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock:
            try:
                return self._database.execute(query, parameters).fetchall()
            except database.FAULTS as error:
                raise database.state_error(self.path, error, "cannot be read") from None


@contextlib.contextmanager
def open_readonly(path: Path) -> Iterator[StateReader]:
    """Open the state at `path` read-only, also while another process holds it.

    Raises:
        StateMissing: there is no state yet.
        ConfigError: the file cannot be opened.
        StateOutdated: an older program wrote it.
        StateCorrupt: the file is damaged, not ours, or of a newer version.
    """
    with StateReader(path, database.open_to_read(path), database.lock_holder(path)) as state:
        yield state


@dataclass(slots=True)
class _Contents:
    """What the ledgers have of one stream: its number, the newest minute (-1: none), and which others are not empty."""

    number: int
    newest: int
    has_outside: bool
    has_old: bool


class StateStore(StateReader):
    """The open state. One process at a time holds it; its threads may share it."""

    def __init__(
        self,
        path: Path,
        *,
        new_agent_id: str,
        now_ms: Callable[[], int] = now_ms,
        connect: database.Connect = sqlite3.connect,
    ) -> None:
        """Open the state at `path`, or create it with `new_agent_id`. `is_new`: whether it was created.

        `now_ms` dates commits for `in-jumpcloud status`; nothing else depends on the clock. `connect` opens the
        database.

        Raises:
            ConfigError: the path cannot be used.
            StateCorrupt: the file is damaged, not ours, or of a newer version.
            Fatal: another process holds the state.
        """
        self._now_ms = now_ms
        self._file_lock = database.acquire_lock(path)
        try:
            opened = database.open_to_write(path, new_agent_id, connect)
        except BaseException:
            self._file_lock.close()
            raise
        super().__init__(path, opened, None)
        self._contents: dict[str, _Contents] = {}
        self.is_new = opened.is_new

    def position(self, stream: str) -> Position | None:
        """The position of `stream`; None if the stream is new."""
        rows = self._read("SELECT position FROM stream WHERE name = ?", (stream,))
        return self._position(rows[0][0]) if rows else None

    def delivered(self, stream: str, keys: Sequence[EventKey], ids: Sequence[str] = ()) -> set[EventKey]:
        """Those of `keys` that were delivered.

        `ids` are the events' own ids, in the order of `keys`: version 2 of the schema knew events by these.
        """
        contents = self._contents_of(stream)
        if contents is None:
            return set()
        number = contents.number
        # Most events of a backlog are newer than all of the ledger.
        found = self._find("ledger", number, [key for key in keys if key.minute <= contents.newest])
        if contents.has_outside:
            outside = {digest for _, digest in self._find("outside", number, keys)}
            found.update(key for key in keys if key.digest in outside)
        if contents.has_old:
            old = self._find_old(number, [(key.minute, event_id) for key, event_id in zip(keys, ids, strict=False)])
            found.update(key for key, event_id in zip(keys, ids, strict=False) if (key.minute, event_id) in old)
        return found

    def commit(
        self,
        stream: str,
        keys: Collection[EventKey],
        position: Position,
        *,
        span: tuple[int, int] | None = None,
        seen: Collection[EventKey] = (),
        late: int = 0,
        dead_lettered: int = 0,
    ) -> None:
        """Add `keys` to the ledger and set `position`, in one transaction: after an error, nothing was written.

        `span` is the window that returned them, `[start, end)` in epoch milliseconds. A key whose minute is not in it
        is kept as long as that window may be read again, not as long as its own date says; None: every minute is.
        `seen` are keys that were delivered before and that this window returned too; those outside the span are kept
        longer. `late` of the keys are late events. `dead_lettered` of them were not acknowledged, but are dead letters.
        """
        values = (stream, msgspec.json.encode(position).decode(), len(keys) - dead_lettered, late, dead_lettered)
        read_ms = span[1] if span else position.watermark_ms
        with self._transaction() as database:
            database.execute(
                "INSERT INTO stream (name, position, acknowledged, late, dead_lettered, updated_ms) "
                "VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (name) DO UPDATE SET position = ?2, "
                "acknowledged = acknowledged + ?3, late = late + ?4, dead_lettered = dead_lettered + ?5, "
                "updated_ms = ?6",
                (*values, self._now_ms()),
            )
            number = database.execute("SELECT number FROM stream WHERE name = ?", (stream,)).fetchone()[0]
            dated, outside = _split(keys, span)
            database.executemany(
                "INSERT OR IGNORE INTO ledger VALUES (?, ?, ?)", [(number, minute, digest) for minute, digest in dated]
            )
            outside += _split(seen, span)[1]
            database.executemany(_KEEP_OUTSIDE, [(number, digest, read_ms, DAY_MS) for _, digest in outside])
        contents = self._contents.get(stream)
        if contents:
            contents.newest = max([contents.newest, *(key.minute for key in dated)])
            contents.has_outside |= bool(outside)

    def save_reconciliation(self, stream: str, text: str) -> None:
        """Store how far the reconciler has come with `stream`. It does nothing for a stream without a position."""
        with self._transaction() as database:
            database.execute("UPDATE stream SET reconciliation = ?2 WHERE name = ?1", (stream, text))

    def record_error(self, stream: str, error: str | None, now_ms: int) -> None:
        """Store the last error of `stream` for `in-jumpcloud status`; None: the last step succeeded.

        It does nothing for a stream without a position, or if the state cannot be written: the log has the error.
        """
        with contextlib.suppress(InJumpCloudError), self._transaction() as database:
            database.execute(
                "UPDATE stream SET error = ?2, error_ms = ?3 WHERE name = ?1 AND (error, error_ms) IS NOT (?2, ?3)",
                (stream, _storable(error), None if error is None else now_ms),
            )

    def prune(self, stream: str, before_ms: int) -> int:
        """Remove the ids of all minutes before `before_ms` (epoch milliseconds), and return how many.

        The ids of events outside their window go when all of that window is before it. `kept_from_ms` becomes the
        start of its minute, and never moves backwards.
        """
        minute = before_ms // MINUTE_MS
        before_ms = minute * MINUTE_MS
        contents = self._contents_of(stream)
        if contents is None or before_ms <= self.kept_from_ms(stream):
            return 0
        number = contents.number
        with self._transaction() as database:
            database.execute("UPDATE stream SET kept_from_ms = ? WHERE number = ?", (before_ms, number))
            deletions = [
                ("DELETE FROM ledger WHERE stream = ? AND minute < ?", minute),
                ("DELETE FROM outside WHERE stream = ? AND read_ms < ?", before_ms),
            ]
            if contents.has_old:
                # Also its rows for events outside their windows must stay until none of those is read again.
                all_read = "(SELECT v2_read_ms FROM stream WHERE number = ?1) <= ?2"
                deletions.append((f"DELETE FROM ledger_v2 WHERE stream = ?1 AND {all_read}", before_ms))  # noqa: S608 - our own
            removed = sum(database.execute(query, (number, bound)).rowcount for query, bound in deletions)
            if contents.has_old and not database.execute("SELECT 1 FROM ledger_v2 LIMIT 1").fetchone():
                database.execute("DROP TABLE ledger_v2")
        self._contents.pop(stream)
        return removed

    def close(self) -> None:
        """Close the file and release its lock."""
        super().close()
        self._file_lock.close()

    def _contents_of(self, stream: str) -> _Contents | None:
        """What the ledgers have of `stream`; None if it is new."""
        if stream not in self._contents:
            rows = self._read("SELECT number FROM stream WHERE name = ?", (stream,))
            if not rows:
                return None
            number = rows[0][0]
            newest = self._read("SELECT max(minute) FROM ledger WHERE stream = ?", (number,))[0][0]
            outside = self._read("SELECT 1 FROM outside WHERE stream = ? LIMIT 1", (number,))
            old = self._has_old_ledger() and self._read("SELECT 1 FROM ledger_v2 WHERE stream = ? LIMIT 1", (number,))
            self._contents[stream] = _Contents(number, -1 if newest is None else newest, bool(outside), bool(old))
        return self._contents[stream]

    def _find(self, table: str, number: int, keys: Sequence[EventKey]) -> set[EventKey]:
        """Those of `keys` that are in `table`; `outside` has no minutes."""
        if not keys:
            return set()
        minute = "AND minute = wanted.value " if table == "ledger" else ""
        rows = self._read(
            f"SELECT wanted.value, digest FROM json_each(?1) AS wanted CROSS JOIN {table} "  # noqa: S608 - our own
            f"WHERE stream = ?2 {minute}AND digest = substr(?3, wanted.key * {DIGEST_BYTES} + 1, {DIGEST_BYTES})",
            (json.dumps([key.minute for key in keys]), number, b"".join([key.digest for key in keys])),
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
        return set(self._read(query, (json.dumps(ids_by_minute), number)))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield self._database
                self._database.execute("COMMIT")
            except BaseException as error:
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                if isinstance(error, database.FAULTS):
                    raise database.state_error(self.path, error, "cannot be written") from None
                raise


def _storable(text: str | None) -> str | None:
    """SQLite stores valid Unicode only. An error may quote text from outside."""
    return text and text.encode(errors="backslashreplace").decode()


def _split(keys: Collection[EventKey], span: tuple[int, int] | None) -> tuple[list[EventKey], list[EventKey]]:
    """The keys whose minute is in the span, and the others. UNDATED is in no span."""
    start, end = (span[0] // MINUTE_MS, -(-span[1] // MINUTE_MS)) if span else (UNDATED + 1, sys.maxsize)
    inside: list[EventKey] = []
    outside: list[EventKey] = []
    for key in keys:
        (inside if key.minute > UNDATED and start <= key.minute < end else outside).append(key)
    return inside, outside
