"""The position of each stream and the ledger of delivered ids, in one SQLite file.

A commit writes the ids of one acknowledged chunk and the position of the stream in one transaction. It is on disk
when `commit` returns.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from in_jumpcloud.errors import InJumpCloudError
from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state import database
from in_jumpcloud.timestamps import now_ms


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
        return dict(
            self._read(
                "SELECT minute, count(*) FROM ledger WHERE stream = (SELECT number FROM stream WHERE name = ?) "
                "AND minute >= ? AND minute < ? GROUP BY minute",
                (stream, start_minute, end_minute),
            )
        )

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
        StateCorrupt: the file is damaged, not ours, or of another version.
    """
    with StateReader(path, database.open_to_read(path), database.lock_holder(path)) as state:
        yield state


class StateStore(StateReader):
    """The open state. One process at a time holds it; its threads may share it."""

    def __init__(self, path: Path, *, new_agent_id: str, now_ms: Callable[[], int] = now_ms) -> None:
        """Open the state at `path`, or create it with `new_agent_id`. `is_new`: whether it was created.

        Raises:
            ConfigError: the path cannot be used.
            StateCorrupt: the file is damaged, not ours, or of another version.
            Fatal: another process holds the state.
        """
        self._now_ms = now_ms
        self._file_lock = database.acquire_lock(path)
        try:
            opened = database.open_to_write(path, new_agent_id)
        except BaseException:
            self._file_lock.close()
            raise
        super().__init__(path, opened, None)
        self._newest: dict[str, int] = {}
        self.is_new = opened.is_new

    def position(self, stream: str) -> Position | None:
        """The position of `stream`; None if the stream is new."""
        rows = self._read("SELECT position FROM stream WHERE name = ?", (stream,))
        return self._position(rows[0][0]) if rows else None

    def delivered(self, stream: str, keys: Collection[EventKey]) -> set[EventKey]:
        """Those of `keys` that are in the ledger."""
        newest = self._newest_minute(stream)
        ids_by_minute: dict[int, list[str]] = {}
        for minute, event_id in keys:
            if minute <= newest:  # most events of a backlog are newer than all of the ledger
                ids_by_minute.setdefault(minute, []).append(event_id)
        if not ids_by_minute:
            return set()
        return set(
            self._read(
                "SELECT minute, ledger.id FROM json_each(?1) AS ids CROSS JOIN json_each(ids.value) AS wanted "
                "CROSS JOIN ledger WHERE stream = (SELECT number FROM stream WHERE name = ?2) "
                "AND minute = CAST(ids.key AS INTEGER) AND ledger.id = wanted.value",
                (json.dumps(ids_by_minute), stream),
            )
        )

    def commit(
        self, stream: str, keys: Collection[EventKey], position: Position, *, late: int = 0, dead_lettered: int = 0
    ) -> None:
        """Add `keys` to the ledger and set `position`, in one transaction: after an error, nothing was written.

        `late` of the keys are late events. `dead_lettered` of them were not acknowledged, but are dead letters.
        """
        values = (stream, msgspec.json.encode(position).decode(), len(keys) - dead_lettered, late, dead_lettered)
        newest = max([self._newest_minute(stream), *(minute for minute, _ in keys)])
        with self._transaction() as database:
            database.execute(
                "INSERT INTO stream (name, position, acknowledged, late, dead_lettered, updated_ms) "
                "VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (name) DO UPDATE SET position = ?2, "
                "acknowledged = acknowledged + ?3, late = late + ?4, dead_lettered = dead_lettered + ?5, "
                "updated_ms = ?6",
                (*values, self._now_ms()),
            )
            number = database.execute("SELECT number FROM stream WHERE name = ?", (stream,)).fetchone()[0]
            database.executemany(
                "INSERT OR IGNORE INTO ledger VALUES (?, ?, ?)",
                [(number, minute, event_id) for minute, event_id in keys],
            )
        self._newest[stream] = newest

    def record_error(self, stream: str, error: str | None, now_ms: int) -> None:
        """Store the last error of `stream` for `in-jumpcloud status`; None: the last step succeeded.

        It does nothing for a stream without a position, or if the state cannot be written: the log has the error.
        """
        with contextlib.suppress(InJumpCloudError), self._transaction() as database:
            database.execute(
                "UPDATE stream SET error = ?2, error_ms = ?3 WHERE name = ?1 AND (error, error_ms) IS NOT (?2, ?3)",
                (stream, _storable(error), None if error is None else now_ms),
            )

    def prune(self, stream: str, before_minute: int) -> int:
        """Remove the ids of all minutes before `before_minute` from the ledger, and return how many.

        Undated events (minute 0) are few and stay for ever.
        """
        with self._transaction() as database:
            return database.execute(
                "DELETE FROM ledger WHERE stream = (SELECT number FROM stream WHERE name = ?) "
                "AND minute > 0 AND minute < ?",
                (stream, before_minute),
            ).rowcount

    def close(self) -> None:
        """Close the file and release its lock."""
        super().close()
        self._file_lock.close()

    def _newest_minute(self, stream: str) -> int:
        """The newest minute in the ledger; -1 if it is empty."""
        newest = self._newest.get(stream)
        if newest is None:
            query = "SELECT max(minute) FROM ledger WHERE stream = (SELECT number FROM stream WHERE name = ?)"
            minute = self._read(query, (stream,))[0][0]
            newest = self._newest[stream] = -1 if minute is None else minute
        return newest

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
