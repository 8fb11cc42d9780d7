"""The database file of the state: how it is opened, its lock, and what its errors mean."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from in_jumpcloud.errors import (
    ConfigError,
    Fatal,
    InJumpCloudError,
    Problem,
    StateCorrupt,
    StateMissing,
    StateOutdated,
    StateUnavailable,
)
from in_jumpcloud.state import schema

log = logging.getLogger(__name__)

_MAGIC = b"SQLite format 3\0"
FAULTS = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite raises. UnicodeDecodeError: its message quotes bytes of a damaged file."""
_CACHE_KIB = 256  # ids are written in the order of their minutes, so few pages are in use at a time
_MAX_CHECKED_BYTES = 64 * 1024**2
"""A file up to this size is checked when it is opened: 0.25 s for a million ids (40 MB)."""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_ADVICE = {
    sqlite3.SQLITE_FULL: "free space on its disk",
    sqlite3.SQLITE_IOERR: "the disk fails or its quota is used up; see the system log",
    sqlite3.SQLITE_BUSY: "another program is using it; stop that program",
    sqlite3.SQLITE_LOCKED: "another program is using it; stop that program",
    sqlite3.SQLITE_READONLY: "the file, its directory or its disk is read-only",
    sqlite3.SQLITE_CANTOPEN: "the file or its directory is missing, or permissions deny access",
    sqlite3.SQLITE_PERM: "the file or its directory is missing, or permissions deny access",
}
_MOVE_AWAY = "move it away to start again at jumpcloud.start, or set another path"
_LOCK_TRIES = 4
"""Tries to get the lock: `lock_holder` of another process holds it for an instant."""


Connect = Callable[..., sqlite3.Connection]
"""`sqlite3.connect`, or what a simulation puts in its place."""


class OpenDatabase(NamedTuple):
    """An open database. `is_new`: it was empty, and its tables were just created."""

    database: sqlite3.Connection
    agent_id: str
    is_new: bool


def corrupt(path: Path, what: object, advice: str = _MOVE_AWAY) -> StateCorrupt:
    """The error for a file that no retry makes usable."""
    message = " ".join(str(what).split())  # text from a damaged file may contain anything
    return StateCorrupt(f"state.path: {path}: {message}", advice=advice)


def state_error(path: Path, error: Exception, action: str) -> InJumpCloudError:
    """Translate `error`, one of FAULTS, of an open state: StateCorrupt for damage, else StateUnavailable."""
    return _damage(path, error) or StateUnavailable(f"{path}: {action}: {error}", advice=_advice(error))


def _damage(path: Path, error: Exception) -> StateCorrupt | None:
    if isinstance(error, sqlite3.ProgrammingError):  # the database is closed
        return None
    code = _code(error)
    if code in _DAMAGED:
        return corrupt(path, error)
    # A table or a column is missing, or text is not text.
    return corrupt(path, "its content is not what in-jumpcloud writes") if code == sqlite3.SQLITE_ERROR else None


def _code(error: Exception) -> int:
    """SQLite's primary result code."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def _advice(error: Exception) -> str:
    return _ADVICE.get(_code(error), "")


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def acquire_lock(path: Path) -> Any:
    """Lock the state at `path` for this process, and write into the lock file who holds it.

    Returns:
        The open lock file; closing it releases the lock.

    Raises:
        ConfigError: the path cannot be used.
        StateCorrupt: the file is not a database.
        Fatal: another process holds the lock.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # An existing lock is taken first. Opening and closing the database file would release every lock that SQLite
        # has on it in this process (POSIX locks), also one of another StateStore.
        lock = _open_lock(path, 0) if _lock_path(path).exists() else None
        try:
            _require_database(path)
        except BaseException:
            if lock:
                lock.close()
            raise
        lock = lock or _open_lock(path, os.O_CREAT)
    except OSError as error:
        raise ConfigError(Problem("state.path", f"{path}: cannot be written: {error.strerror}")) from None
    with contextlib.suppress(OSError):  # on a full disk the holder stays unnamed, but the lock is held
        os.ftruncate(lock.fileno(), 0)
        os.pwrite(lock.fileno(), f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
    return lock


def _open_lock(path: Path, create: int) -> Any:
    lock = open(os.open(_lock_path(path), os.O_RDWR | create | os.O_CLOEXEC, 0o600), "r+", errors="replace")  # noqa: PTH123, SIM115 - stays open
    for tries_left in reversed(range(_LOCK_TRIES)):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if tries_left:
                time.sleep(0.02)
        else:
            return lock
    holder = lock.read().strip() or "another process"
    lock.close()
    raise Fatal(f"state.path: {path}: in use by {holder}; only one process at a time can use it")


def _require_database(path: Path) -> None:
    """SQLite takes a file of less than a page for an empty database, and would overwrite it."""
    if path.exists():
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
        if magic not in (b"", _MAGIC):
            raise corrupt(path, "file is not a database")


def lock_holder(path: Path) -> str | None:
    """The process that holds the state now, as it named itself; None if no process does.

    Raises:
        ConfigError: the lock file cannot be read.
    """
    try:
        with _lock_path(path).open(errors="replace") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().strip() or "another process"
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(Problem("state.path", f"{path}: cannot be read: {error.strerror}")) from None
    return None


def open_to_write(path: Path, new_agent_id: str, connect: Connect = sqlite3.connect) -> OpenDatabase:
    """Open the database at `path`. Create its tables if it is new, and bring those of an older version up to date.

    Raises:
        ConfigError: the file cannot be opened or written.
        StateCorrupt: the file is damaged, not ours, or of a newer version.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ConfigError(Problem("state.path", f"{path}: cannot be written: {error.strerror}")) from None
    with _connected(path, str(path), connect) as database:
        version = _version(database, path)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        if version is None:
            schema.create(database, new_agent_id)
        else:
            _require_sound(database, path)
            if version < schema.VERSION:
                schema.migrate(database, version)
                log.info("%s: brought from version %d to version %d", path, version, schema.VERSION)
        return OpenDatabase(database, _agent_id(database, path), version is None)


def open_to_read(path: Path) -> OpenDatabase:
    """Open the database at `path` read-only, also while another process writes to it.

    Raises:
        StateMissing: there is no state yet.
        ConfigError: the file cannot be opened.
        StateOutdated: an older program wrote it.
        StateCorrupt: the file is damaged, not ours, or of a newer version.
    """
    if not path.exists():
        raise _missing(path, "no such file")
    with _connected(path, f"{path.absolute().as_uri()}?mode=ro", sqlite3.connect, uri=True) as database:
        version = _version(database, path)
        if version is None:
            raise corrupt(path, "file is not a database") if path.stat().st_size else _missing(path, "empty file")
        if version < schema.VERSION:
            raise StateOutdated(
                f"state.path: {path}: of version {version}, older than version {schema.VERSION} of this program",
                advice="the next start of `in-jumpcloud run` brings it up to date and keeps what is in it",
            )
        return OpenDatabase(database, _agent_id(database, path), is_new=False)


def _missing(path: Path, why: str) -> StateMissing:
    return StateMissing(
        Problem("state.path", f"{path}: {why}"), advice="the first `in-jumpcloud run` creates the state"
    )


@contextlib.contextmanager
def _connected(path: Path, target: str, connect: Connect, *, uri: bool = False) -> Iterator[sqlite3.Connection]:
    """Connect to the database at `path`, and close it again if that or the body fails."""
    with contextlib.ExitStack() as on_failure:
        try:
            database = connect(target, uri=uri, isolation_level=None, check_same_thread=False)
            on_failure.callback(database.close)
            yield database
        except FAULTS as error:
            unusable = ConfigError(Problem("state.path", f"{path}: cannot be used: {error}"), advice=_advice(error))
            raise _damage(path, error) or unusable from None
        on_failure.pop_all()


def _version(database: sqlite3.Connection, path: Path) -> int | None:
    """The version of the tables; None if there are none yet. Raises StateCorrupt unless they are ours and not newer."""
    if not database.execute("SELECT 1 FROM sqlite_schema").fetchone():
        return None
    if database.execute("PRAGMA application_id").fetchone()[0] != schema.APPLICATION:
        raise corrupt(path, "a database of another program", "set another path")
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version > schema.VERSION:
        raise corrupt(
            path,
            f"of version {version}, newer than version {schema.VERSION} of this program",
            "upgrade in-jumpcloud, or set another path",
        )
    if version < 1:
        raise corrupt(path, "its content is not what in-jumpcloud writes: no version")
    return version


def _require_sound(database: sqlite3.Connection, path: Path) -> None:
    """Find damage at start rather than in the middle of a backfill."""
    if path.stat().st_size <= _MAX_CHECKED_BYTES and database.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise corrupt(path, "database disk image is malformed")


def _agent_id(database: sqlite3.Connection, path: Path) -> str:
    row = database.execute("SELECT agent_id FROM identity").fetchone()
    if row is None:
        raise corrupt(path, "its content is not what in-jumpcloud writes: no identity")
    return str(row[0])
