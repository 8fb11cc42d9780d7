"""What must outlive the process: each stream's position, and the ledger of delivered ids. SQLite, one file.

A commit writes the ids of one acknowledged chunk and the stream's position in one transaction, and is on the disk
when it returns.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Self

import msgspec

from in_jumpcloud.errors import ConfigError, Failed, StateFull
from in_jumpcloud.insights.event import Key
from in_jumpcloud.insights.window import Position

VERSION = 1
_APPLICATION = 0x696E6A63  # "injc": tells our file from any other SQLite database
_MAGIC = b"SQLite format 3\0"
_SCHEMA = """
CREATE TABLE identity (agent_id TEXT NOT NULL);
CREATE TABLE stream (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    position TEXT NOT NULL,              -- insights.window.Position as JSON
    acknowledged INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE ledger (
    stream INTEGER NOT NULL,
    minute INTEGER NOT NULL,             -- of the event's timestamp, since the epoch
    id TEXT NOT NULL,
    PRIMARY KEY (stream, minute, id)
) WITHOUT ROWID;
"""


class State:
    """The open state. One process at a time holds it; its threads may share it."""

    def __init__(self, path: Path, *, new_agent_id: str) -> None:
        """Open `path`, or make it; `new_agent_id` is kept in a new one.

        Raises:
            ConfigError: the path cannot be used: not writable, no database of ours, of a newer version.
            Failed: another process holds it.
        """
        self.path = path
        self._lock = threading.RLock()
        self._held = _hold(path)
        try:
            self._database, self.agent_id = _open(path, new_agent_id)
        except BaseException:
            self._held.close()
            raise

    def position(self, stream: str) -> Position | None:
        """Where `stream` stands; None where it is new."""
        rows = self._read("SELECT position FROM stream WHERE name = ?", (stream,))
        return msgspec.json.decode(rows[0][0], type=Position) if rows else None

    def delivered(self, stream: str, keys: Collection[Key]) -> set[Key]:
        """Those of `keys` that were delivered before."""
        return set(
            self._read(
                "SELECT ledger.minute, ledger.id FROM json_each(?1) AS key CROSS JOIN ledger "
                "WHERE stream = (SELECT number FROM stream WHERE name = ?2) "
                "AND minute = json_extract(key.value, '$[0]') AND ledger.id = json_extract(key.value, '$[1]')",
                (json.dumps(list(keys)), stream),
            )
        )

    def commit(self, stream: str, keys: Collection[Key], position: Position) -> None:
        """Remember `keys` as delivered and `position` as reached, both or neither.

        Raises:
            StateFull: it could not be written; nothing of it was.
        """
        with self._transaction() as database:
            database.execute(
                "INSERT INTO stream (name, position, acknowledged) VALUES (?1, ?2, ?3) "
                "ON CONFLICT (name) DO UPDATE SET position = ?2, acknowledged = acknowledged + ?3",
                (stream, msgspec.json.encode(position).decode(), len(keys)),
            )
            number = database.execute("SELECT number FROM stream WHERE name = ?", (stream,)).fetchone()[0]
            database.executemany(
                "INSERT OR IGNORE INTO ledger VALUES (?, ?, ?)", [(number, minute, key) for minute, key in keys]
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
        with self._lock:
            self._database.close()
            self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, query: str, parameters: tuple[Any, ...]) -> list[Any]:
        with self._lock:
            try:
                return self._database.execute(query, parameters).fetchall()
            except sqlite3.Error as error:
                raise Failed(f"{self.path}: cannot be read: {error}") from None

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
                if isinstance(error, sqlite3.Error):
                    raise StateFull(f"{self.path}: cannot be written: {error}; free room on its disk") from None
                raise


def _hold(path: Path) -> Any:
    """Lock `path` for this process, and write into the lock's file who holds it."""
    lock = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            with path.open("rb") as file:
                begin = file.read(len(_MAGIC))
            if begin not in (b"", _MAGIC):  # SQLite takes any file of less than a page for an empty database
                raise ConfigError(f"state.path: {path}: file is not a database; move it away, or name another path")
        held = open(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+")  # noqa: PTH123, SIM115 - held
    except OSError as error:
        raise ConfigError(f"state.path: {path}: cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = held.read().strip() or "another process"
        held.close()
        raise Failed(f"state.path: {path}: in use by {holder}; one process at a time may have it") from None
    with contextlib.suppress(OSError):  # on a full disk nobody is told who holds it; it is held all the same
        os.ftruncate(held.fileno(), 0)
        os.pwrite(held.fileno(), f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
    return held


def _open(path: Path, new_agent_id: str) -> tuple[sqlite3.Connection, str]:
    """The database, and the agent id in it."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except OSError as error:
        raise ConfigError(f"state.path: {path}: cannot be written: {error.strerror}") from None
    try:
        return database, _prepare(database, path, new_agent_id)
    except sqlite3.DatabaseError as error:
        database.close()
        if isinstance(error, sqlite3.OperationalError):  # locked, or no room: the file itself is sound
            raise ConfigError(f"state.path: {path}: cannot be used: {error}") from None
        raise ConfigError(
            f"state.path: {path}: {error}; move it away to begin anew at jumpcloud.start, or name another path"
        ) from None
    except BaseException:
        database.close()
        raise


def _prepare(database: sqlite3.Connection, path: Path, new_agent_id: str) -> str:
    application = database.execute("PRAGMA application_id").fetchone()[0]
    version = database.execute("PRAGMA user_version").fetchone()[0]
    empty = not database.execute("SELECT 1 FROM sqlite_schema").fetchone()
    if application != _APPLICATION and not empty:
        raise ConfigError(f"state.path: {path}: a database of another program; name another path")
    if version > VERSION:
        raise ConfigError(
            f"state.path: {path}: of version {version}, newer than this program's {VERSION}; "
            "upgrade in-jumpcloud, or name another path"
        )
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    if empty:
        database.executescript(
            f"BEGIN; {_SCHEMA} PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {VERSION};"
        )
        database.execute("INSERT INTO identity VALUES (?)", (new_agent_id,))
        database.execute("COMMIT")
    agent_id: str = database.execute("SELECT agent_id FROM identity").fetchone()[0]
    return agent_id
