"""What must outlive the process: each stream's position, and the ledger of delivered ids. SQLite, one file.

A commit writes the ids of one acknowledged chunk and the stream's position in one transaction, and is on the disk
when it returns.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from in_jumpcloud.errors import InJumpCloudError
from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state import database


class StreamRow(NamedTuple):
    """One stream, as the state has it.

    `acknowledged`, `late` and `dead_lettered` count events, over every run. `error` is what kept it from going on
    when it last was told of, at `error_ms`; both None while it goes on. `updated_ms` is the time of the last commit.
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
    """A state to look at. `agent_id` is its own; `holder` the process that held it at opening, None: nobody did."""

    def __init__(self, path: Path, opened: database.OpenDatabase, holder: str | None) -> None:
        self.path = path
        self.agent_id = opened.agent_id
        self.holder = holder
        self._database = opened.database
        self._lock = threading.RLock()

    def streams(self) -> list[StreamRow]:
        """Every stream that has a position, by name.

        Raises:
            StateFull: it cannot be read now; ConfigError: it is damaged.
        """
        rows = self._read(f"SELECT {', '.join(StreamRow._fields)} FROM stream ORDER BY name")  # noqa: S608 - our own
        return [StreamRow(name, self._position(position), *rest) for name, position, *rest in rows]

    def counts(self, stream: str, start_minute: int, end_minute: int) -> dict[int, int]:
        """How many ids the ledger has of each minute in `[start_minute, end_minute)`; minutes without any are left out.

        Raises:
            StateFull: it cannot be read now; ConfigError: it is damaged.
        """
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
            raise database.corrupt(self.path, f"a position is not as in-jumpcloud writes it: {error}") from None

    def _read(self, query: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock:
            try:
                return self._database.execute(query, parameters).fetchall()
            except database.FAULTS as error:
                raise database.state_error(self.path, error, "cannot be read") from None


@contextlib.contextmanager
def open_readonly(path: Path) -> Iterator[StateReader]:
    """Open `path` to look at it, also beside the process that holds it; nothing is written.

    Raises:
        ConfigError: it is not there, not ours, damaged, or of another version.
    """
    with StateReader(path, database.open_to_read(path), database.lock_holder(path)) as state:
        yield state


class StateStore(StateReader):
    """The open state. One process at a time holds it; its threads may share it.

    What passes (no room, a failing disk, another program in the file) is StateFull. A damaged file is a ConfigError:
    waiting does not mend it.
    """

    def __init__(
        self, path: Path, *, new_agent_id: str, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        """Open `path`, or make it; `new_agent_id` is kept in a new one. `is_new` tells that it was made.

        Raises:
            ConfigError: the path cannot be used: not writable, no database of ours, damaged, of a newer version.
            Failed: another process holds it.
        """
        self._now_ms = now_ms
        self._held = database.acquire_lock(path)
        try:
            opened = database.open_to_write(path, new_agent_id)
        except BaseException:
            self._held.close()
            raise
        super().__init__(path, opened, None)
        self._newest: dict[str, int] = {}
        self.is_new = opened.is_new

    def position(self, stream: str) -> Position | None:
        """Where `stream` stands; None where it is new."""
        rows = self._read("SELECT position FROM stream WHERE name = ?", (stream,))
        return self._position(rows[0][0]) if rows else None

    def delivered(self, stream: str, keys: Collection[EventKey]) -> set[EventKey]:
        """Those of `keys` that were delivered before."""
        newest = self._newest_minute(stream)
        of_minutes: dict[int, list[str]] = {}
        for minute, key in keys:
            if minute <= newest:  # a backlog brings ever newer ones, and need not ask
                of_minutes.setdefault(minute, []).append(key)
        if not of_minutes:
            return set()
        return set(
            self._read(
                "SELECT minute, ledger.id FROM json_each(?1) AS ids CROSS JOIN json_each(ids.value) AS wanted "
                "CROSS JOIN ledger WHERE stream = (SELECT number FROM stream WHERE name = ?2) "
                "AND minute = CAST(ids.key AS INTEGER) AND ledger.id = wanted.value",
                (json.dumps(of_minutes), stream),
            )
        )

    def commit(
        self, stream: str, keys: Collection[EventKey], position: Position, *, late: int = 0, dead_lettered: int = 0
    ) -> None:
        """Remember `keys` as done with and `position` as reached, both or neither.

        `late` of the keys appeared late; `dead_lettered` of them were not acknowledged, but are dead letters.

        Raises:
            StateFull: it could not be written; nothing of it was.
            ConfigError: the file is damaged.
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
                "INSERT OR IGNORE INTO ledger VALUES (?, ?, ?)", [(number, minute, key) for minute, key in keys]
            )
        self._newest[stream] = newest

    def record_error(self, stream: str, error: str | None, now_ms: int) -> None:
        """Remember what keeps `stream` from going on, or (None) that nothing does; for whoever looks at the state.

        A stream without a position is not made by it: the log alone has what kept it from beginning. Where it
        cannot be written nothing happens: the caller is in trouble already.
        """
        with contextlib.suppress(InJumpCloudError), self._transaction() as database:
            database.execute(
                "UPDATE stream SET error = ?2, error_ms = ?3 WHERE name = ?1 AND (error, error_ms) IS NOT (?2, ?3)",
                (stream, _storable(error), None if error is None else now_ms),
            )

    def prune(self, stream: str, before_minute: int) -> int:
        """Forget what was delivered of the minutes before `before_minute`; how many ids those were.

        Undated events (minute 0) are few and are never forgotten.
        """
        with self._transaction() as database:
            return database.execute(
                "DELETE FROM ledger WHERE stream = (SELECT number FROM stream WHERE name = ?) "
                "AND minute > 0 AND minute < ?",
                (stream, before_minute),
            ).rowcount

    def close(self) -> None:
        """Close the file and let another process have it."""
        super().close()
        self._held.close()

    def _newest_minute(self, stream: str) -> int:
        """The newest minute of which the ledger has an id; -1 where it has none."""
        newest = self._newest.get(stream)
        if newest is None:
            query = "SELECT max(minute) FROM ledger WHERE stream = (SELECT number FROM stream WHERE name = ?)"
            found = self._read(query, (stream,))[0][0]
            newest = self._newest[stream] = -1 if found is None else found
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
    """SQLite wants text that is valid Unicode; what others sent may end in an error's words."""
    return text and text.encode(errors="backslashreplace").decode()
