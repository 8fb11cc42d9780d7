"""The state's file: its schema and its versions, who holds it, and what its faults mean."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from in_jumpcloud.errors import ConfigError, Fatal, InJumpCloudError, StateUnavailable

VERSION = 2
_APPLICATION = 0x696E6A63  # "injc": tells our file from any other SQLite database
_MAGIC = b"SQLite format 3\0"
_SCHEMA = """
CREATE TABLE identity (agent_id TEXT NOT NULL);
CREATE TABLE stream (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    position TEXT NOT NULL,              -- insights.window.Position as JSON
    acknowledged INTEGER NOT NULL DEFAULT 0,
    late INTEGER NOT NULL DEFAULT 0,
    dead_lettered INTEGER NOT NULL DEFAULT 0,
    error TEXT,                          -- the last one, until the stream goes on
    error_ms INTEGER,
    updated_ms INTEGER                   -- of the last commit; NULL: by a program that did not write it down
);
CREATE TABLE ledger (
    stream INTEGER NOT NULL,
    minute INTEGER NOT NULL,             -- of the event's timestamp, since the epoch
    id TEXT NOT NULL,
    PRIMARY KEY (stream, minute, id)
) WITHOUT ROWID;
"""
_MIGRATIONS = {  # from this version to the next
    1: """
ALTER TABLE stream ADD COLUMN late INTEGER NOT NULL DEFAULT 0;
ALTER TABLE stream ADD COLUMN dead_lettered INTEGER NOT NULL DEFAULT 0;
ALTER TABLE stream ADD COLUMN error TEXT;
ALTER TABLE stream ADD COLUMN error_ms INTEGER;
ALTER TABLE stream ADD COLUMN updated_ms INTEGER;
""",
}
FAULTS = (sqlite3.Error, UnicodeDecodeError)
"""What the database raises; the latter where it quotes bytes of a damaged file."""
_CACHE_KIB = 256  # ids come in the order of their minutes: what is at work at a time is small
_CHECKED_BYTES = 64 * 1024**2
"""The largest file that is gone through at opening, page by page: 0.25 s for a million ids, which are 40 MB."""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_ADVICE = {
    sqlite3.SQLITE_FULL: "free room on its disk",
    sqlite3.SQLITE_IOERR: "its disk fails, or has no room for this user; the system's log may say which",
    sqlite3.SQLITE_BUSY: "another program is at work in it; end that one",
    sqlite3.SQLITE_LOCKED: "another program is at work in it; end that one",
    sqlite3.SQLITE_READONLY: "it, its folder or its disk is read-only",
    sqlite3.SQLITE_CANTOPEN: "it, or its folder, is not there or may not be used",
    sqlite3.SQLITE_PERM: "it, or its folder, is not there or may not be used",
}
_TRIES = 4  # at the lock: whoever looks at who holds it holds it himself for an instant


class OpenDatabase(NamedTuple):
    """A database, ready for use. `is_new`: it was empty, and now has its tables."""

    database: sqlite3.Connection
    agent_id: str
    is_new: bool


def corrupt(path: Path, what: object) -> ConfigError:
    """Nothing that waiting would mend, and no room that would help."""
    words = " ".join(str(what).split())  # of a damaged file, in any shape
    return ConfigError(
        f"state.path: {path}: {words}; move it away to begin anew at jumpcloud.start, or name another path"
    )


def state_error(path: Path, error: Exception, doing: str) -> InJumpCloudError:
    """What `error`, one of FAULTS, means to whoever uses an open state: StateFull passes, a ConfigError does not."""
    return _damage(path, error) or StateUnavailable(f"{path}: {doing}: {_with_advice(error)}")


def _damage(path: Path, error: Exception) -> ConfigError | None:
    """`error` as damage, if it tells of that."""
    if isinstance(error, sqlite3.ProgrammingError):  # such as a database that was closed
        return None
    if _code(error) in _DAMAGED:
        return corrupt(path, error)
    # A table or a column that is not there, text that is none.
    return corrupt(path, "not as in-jumpcloud writes it") if _code(error) == sqlite3.SQLITE_ERROR else None


def _code(error: Exception) -> int:
    """SQLite's code without its refinement; Python's own errors have none."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def _with_advice(error: Exception) -> str:
    advice = _ADVICE.get(_code(error))
    return f"{error}; {advice}" if advice else str(error)


def _lock(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def acquire_lock(path: Path) -> Any:
    """Lock `path` for this process, and write into the lock's file who holds it. Closing what comes back releases it.

    Raises:
        ConfigError: the path cannot be used.
        Failed: another process holds it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The lock comes first where there is one: to open and close the database's file lets go of every lock that
        # SQLite has on it, of another State in this process too.
        held = _held(path, 0) if _lock(path).exists() else None
        try:
            _require_database(path)
        except BaseException:
            if held:
                held.close()
            raise
        held = held or _held(path, os.O_CREAT)
    except OSError as error:
        raise ConfigError(f"state.path: {path}: cannot be written: {error.strerror}") from None
    with contextlib.suppress(OSError):  # on a full disk nobody is told who holds it; it is held all the same
        os.ftruncate(held.fileno(), 0)
        os.pwrite(held.fileno(), f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
    return held


def _held(path: Path, create: int) -> Any:
    held = open(os.open(_lock(path), os.O_RDWR | create | os.O_CLOEXEC, 0o600), "r+", errors="replace")  # noqa: PTH123, SIM115 - held
    for left in reversed(range(_TRIES)):
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if left:
                time.sleep(0.02)
        else:
            return held
    by = held.read().strip() or "another process"
    held.close()
    raise Fatal(f"state.path: {path}: in use by {by}; one process at a time may have it")


def _require_database(path: Path) -> None:
    """SQLite takes any file of less than a page for an empty database, and would write over it."""
    if path.exists():
        with path.open("rb") as file:
            begin = file.read(len(_MAGIC))
        if begin not in (b"", _MAGIC):
            raise ConfigError(f"state.path: {path}: file is not a database; move it away, or name another path")


def lock_holder(path: Path) -> str | None:
    """Who holds the state now, as whoever it is wrote down; None: nobody.

    Raises:
        ConfigError: it may not be looked at.
    """
    try:
        with _lock(path).open(errors="replace") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().strip() or "another process"
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"state.path: {path}: cannot be read: {error.strerror}") from None
    return None


def open_to_write(path: Path, new_agent_id: str) -> OpenDatabase:
    """The database at `path`, made or brought to this version where need be.

    Raises:
        ConfigError: it cannot be used.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ConfigError(f"state.path: {path}: cannot be written: {error.strerror}") from None
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    with _closed_on_error(database, path):
        empty = _require_ours(database, path)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        if empty:
            database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {_APPLICATION};")
            database.execute("INSERT INTO identity VALUES (?)", (new_agent_id,))
        else:
            _require_sound(database, path)
            database.execute("BEGIN IMMEDIATE")
            for version in range(database.execute("PRAGMA user_version").fetchone()[0], VERSION):
                for statement in filter(str.strip, _MIGRATIONS[version].split(";")):
                    database.execute(statement)
        database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute("COMMIT")
        return OpenDatabase(database, _agent_id(database, path), empty)


def open_to_read(path: Path) -> OpenDatabase:
    """The database at `path`, as it is, also while another process writes to it.

    Raises:
        ConfigError: it is not there, or cannot be read by this version.
    """
    if not path.exists():
        raise ConfigError(f"state.path: {path}: no such file; the first `in-jumpcloud run` makes it")
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    with _closed_on_error(database, path):
        empty = _require_ours(database, path)
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if empty and path.stat().st_size:
            raise corrupt(path, "file is not a database")
        if empty:
            raise ConfigError(f"state.path: {path}: an empty file; the first `in-jumpcloud run` makes a state of it")
        if version < VERSION:
            raise ConfigError(
                f"state.path: {path}: of version {version}, older than this program's {VERSION}; "
                "the next `in-jumpcloud run` of this version brings it up to date"
            )
        return OpenDatabase(database, _agent_id(database, path), is_new=False)


@contextlib.contextmanager
def _closed_on_error(database: sqlite3.Connection, path: Path) -> Iterator[None]:
    try:
        yield
    except FAULTS as error:
        database.close()
        wrong = ConfigError(f"state.path: {path}: cannot be used: {_with_advice(error)}")
        raise _damage(path, error) or wrong from None
    except BaseException:
        database.close()
        raise


def _require_ours(database: sqlite3.Connection, path: Path) -> bool:
    """Raise ConfigError where it is not ours, or of a newer version; whether it is empty."""
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
    if version < 1 and not empty:
        raise corrupt(path, "not as in-jumpcloud writes it: no version")
    return empty


def _require_sound(database: sqlite3.Connection, path: Path) -> None:
    """Damage is better found now than in the midst of a backfill."""
    if path.stat().st_size <= _CHECKED_BYTES and database.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise corrupt(path, "database disk image is malformed")


def _agent_id(database: sqlite3.Connection, path: Path) -> str:
    row = database.execute("SELECT agent_id FROM identity").fetchone()
    if row is None:
        raise corrupt(path, "not as in-jumpcloud writes it: no identity")
    return str(row[0])
