"""The database of the state: how it is opened, read and written, and what its errors mean."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from in_jumpcloud.errors import (
    ConfigError,
    InJumpCloudError,
    Problem,
    StateCorrupt,
    StateMissing,
    StateOutdated,
    StateUnavailable,
)
from in_jumpcloud.file_access import open_private
from in_jumpcloud.state.database import Space
from in_jumpcloud.state.sqlite import log_file, schema
from in_jumpcloud.state.sqlite.files import corrupt, lock_holder, path_errors, with_suffix

log = logging.getLogger(__name__)

FAULTS = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite raises. UnicodeDecodeError: its message quotes bytes of a damaged file."""
_CACHE_KIB = 256  # ids are written in the order of their minutes, so few pages are in use at a time
_COPY_CACHE_KIB = 32 * 1024
_MAX_CHECKED_BYTES = 64 * 1024**2
"""A file up to this size is checked when it is opened: 0.25 s for a million ids (31 MB)."""
_MIN_FREE_BYTES = 64 * 1024**2
_DAYS_KEPT = 16
"""About how many days of ids a state has: reconcile.reach and a day."""
_GIVE_BACK_PAGES = 1000
"""Free pages (4 MB) from which on the file gives them back to the disk, and at most so many at a time."""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_ADVICE = {
    sqlite3.SQLITE_FULL: "free space on its disk",
    sqlite3.SQLITE_IOERR: "the disk fails or its quota is used up; see the system log",
    sqlite3.SQLITE_BUSY: "another program is using it; stop that program",
    sqlite3.SQLITE_LOCKED: "another program is using it; stop that program",
    sqlite3.SQLITE_READONLY: "the file, its directory or its disk is read-only for this user",
    sqlite3.SQLITE_CANTOPEN: "the file or directory is missing, permissions deny access, or too many files are open",
    sqlite3.SQLITE_PERM: "the file or its directory is missing, or permissions deny access",
}

_OPEN_WAIT_MS, _WAIT_MS = 300, 5000
"""How long a statement waits for another program's lock: short at the start, which can be stopped and is repeated."""

Connect = Callable[..., sqlite3.Connection]
"""`sqlite3.connect`, or what a simulation puts in its place."""


class SqliteDatabase:
    """An open database. Threads may share it. `is_new`: it was empty, and its tables were just created."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        identity: schema.Identity,
        *,
        is_new: bool,
        version: int = schema.VERSION,
    ) -> None:
        self.path = path
        self.where = str(path)
        self.connection = connection
        self.identity = identity
        self.agent_id = identity.agent_id
        self.is_new = is_new
        self.version = version
        self.newest_version = schema.VERSION
        self.lock = threading.RLock()

    def read(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query.

        Raises:
            StateUnavailable, StateCorrupt: it cannot be read.
        """
        with self.lock:
            try:
                return self.connection.execute(query, parameters).fetchall()
            except FAULTS as error:
                raise self._error(error, "read") from None

    def read_if_idle(self, query: str) -> list[Any]:
        """All rows of a query; none while another thread uses the database, or if it cannot be read."""
        if not self.lock.acquire(blocking=False):
            return []
        try:
            return self.connection.execute(query).fetchall()
        except FAULTS:
            return []
        finally:
            self.lock.release()

    @contextlib.contextmanager
    def transaction(self, stream: str | None = None) -> Iterator[sqlite3.Connection]:  # noqa: ARG002 - it holds them all
        """A transaction: on disk at the end of the body; after an error, nothing was written.

        Raises:
            StateUnavailable, StateCorrupt: it cannot be written.
        """
        with self.lock:
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                yield self.connection
                self.connection.execute(schema.NEXT_COMMIT)
                self.connection.execute("COMMIT")
            except BaseException as error:
                with contextlib.suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")
                if isinstance(error, FAULTS):
                    raise self._error(error, "written") from None
                raise

    def snapshot(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """As Database.snapshot: other processes that write wait for it."""
        return self.transaction()

    def give_back_space(self) -> None:
        """Return some free pages to the disk. It does nothing while few are free, or if the state cannot be written."""
        with self.lock, contextlib.suppress(*FAULTS):
            if self.connection.execute("PRAGMA freelist_count").fetchone()[0] > _GIVE_BACK_PAGES:
                # A script runs to the end; `execute` would give back one page.
                vacuum = f"PRAGMA incremental_vacuum({_GIVE_BACK_PAGES})"
                try:
                    self.connection.executescript(f"BEGIN IMMEDIATE; {vacuum}; {schema.NEXT_COMMIT}; COMMIT")
                finally:
                    if self.connection.in_transaction:
                        self.connection.execute("ROLLBACK")

    def corrupt(self, what: object) -> StateCorrupt:
        """The error for content that in-jumpcloud does not write."""
        return corrupt(self.path, what)

    def space(self) -> Space:
        """The disk of the state. It does not wait for a commit under way.

        Raises:
            StateUnavailable: it is not known.
        """
        try:
            size = self.path.stat().st_size
            free_bytes = shutil.disk_usage(self.path.parent).free
        except OSError as error:
            raise StateUnavailable(f"{self.path}: cannot be read: {error.strerror}") from None
        return Space(free_bytes, max(_MIN_FREE_BYTES, size // _DAYS_KEPT))

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self.connection.close()

    def _error(self, error: Exception, action: str) -> InJumpCloudError:
        """Translate `error`, one of FAULTS: StateCorrupt for damage, else StateUnavailable."""
        unavailable = StateUnavailable(f"{self.path}: cannot be {action}: {error}", advice=_advice(error))
        return _damage(self.path, error) or unavailable


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


def open_to_write(path: Path, new_agent_id: str, connect: Connect = sqlite3.connect) -> SqliteDatabase:
    """Open the database at `path`. Create its tables if it is new, and bring those of an older version up to date.

    Raises:
        ConfigError: the path cannot be used.
        StateUnavailable: the file cannot be opened or written now.
        StateCorrupt: the file is damaged, not ours, or of a newer version.
    """
    with path_errors(path):
        os.close(open_private(path, create=True))
    had_log = with_suffix(path, "-wal").exists()
    if log_file.is_foreign(path):
        log_file.set_aside(path)
    with _connected(path, str(path), connect) as connection:
        connection.execute(f"PRAGMA busy_timeout = {_OPEN_WAIT_MS}")
        version = _version(connection, path)
        if version is None:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        _configure(connection)
        if version is None:
            schema.create(connection, new_agent_id)
        else:
            _require_sound(connection, path)
            if version < schema.VERSION:
                schema.migrate(connection, version)
                log.info("%s: brought from version %d to version %d", path, version, schema.VERSION)
            if schema.identity(connection).run and not had_log:
                log.warning(
                    "%s: it was in use when it was copied without its -wal file, or that was deleted: what was "
                    "delivered last may be delivered again",
                    path,
                )
            _let_it_shrink(connection, path)
        connection.execute(f"PRAGMA busy_timeout = {_WAIT_MS}")
        found = schema.VERSION if version is None else version
        return SqliteDatabase(path, connection, schema.identity(connection), is_new=version is None, version=found)


def open_to_share(path: Path) -> SqliteDatabase:
    """Open the database at `path` to write to it, also while another process holds the state.

    Raises:
        StateMissing, StateOutdated, ConfigError, StateCorrupt, StateUnavailable: as in `open_to_read`.
    """
    open_to_read(path).close()
    with path_errors(path):
        os.close(open_private(path, create=False))
    with _connected(path, f"{path.absolute().as_uri()}?mode=rw", sqlite3.connect, uri=True) as connection:
        _configure(connection)
        return SqliteDatabase(path, connection, schema.identity(connection), is_new=False)


def open_trial(path: Path, new_agent_id: str, *, copies: bool) -> SqliteDatabase:
    """A database that is thrown away when it is closed: a new one, or with `copies` a copy of that at `path`, if any.

    It is in memory, and where it is large in a temporary file that no path leads to.

    Raises:
        ConfigError, StateUnavailable, StateCorrupt: as in `open_to_read`.
    """
    with contextlib.ExitStack() as stack:
        source = None
        if copies:
            with contextlib.suppress(StateMissing):
                source = stack.enter_context(contextlib.closing(open_to_read(path, outdated=True)))
        connection = stack.enter_context(_connected(path, "", sqlite3.connect))
        connection.execute(f"PRAGMA cache_size = -{_COPY_CACHE_KIB}")
        if source is None:
            schema.create(connection, new_agent_id)
        else:
            source.connection.backup(connection)
            version = _version(connection, path)
            if version is not None and version < schema.VERSION:
                schema.migrate(connection, version)
        return SqliteDatabase(path, connection, schema.identity(connection), is_new=source is None)


def open_to_read(path: Path, *, outdated: bool = False) -> SqliteDatabase:
    """Open the database at `path` read-only, also while another process writes to it.

    `outdated`: also one that an older program wrote.

    Raises:
        StateMissing: there is no state yet.
        ConfigError: the path cannot be used.
        StateUnavailable: the file cannot be opened now.
        StateOutdated: an older program wrote it.
        StateCorrupt: the file is damaged, not ours, or of a newer version.
    """
    if not path.exists():
        raise _missing(path, "no such file")
    if not path.is_file() and not path.is_dir():  # to open a pipe would block
        raise ConfigError(Problem("state.path", f"{path}: not a regular file"))
    if lock_holder(path) is None and log_file.is_foreign(path):
        raise StateUnavailable(
            f"state.path: {path}: {path.name}-wal is of another copy of it, so neither can be read",
            advice="the next start of `in-jumpcloud run` sets it aside",
        )
    with _connected(path, f"{path.absolute().as_uri()}?mode=ro", sqlite3.connect, uri=True) as connection:
        version = _version(connection, path)
        if version is None:
            raise corrupt(path, "file is not a database") if path.stat().st_size else _missing(path, "empty file")
        if version < schema.VERSION and not outdated:
            raise StateOutdated(
                f"state.path: {path}: of version {version}, older than version {schema.VERSION} of this program",
                advice="the next start of `in-jumpcloud run` brings it up to date and keeps what is in it",
            )
        is_present = version == schema.VERSION  # else the columns may be others
        identity = schema.identity(connection) if is_present else schema.Identity("", None)
        return SqliteDatabase(path, connection, identity, is_new=False, version=version)


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")


def _missing(path: Path, why: str) -> StateMissing:
    return StateMissing(
        Problem("state.path", f"{path}: {why}"), advice="the first `in-jumpcloud run` creates the state"
    )


@contextlib.contextmanager
def _connected(path: Path, target: str, connect: Connect, *, uri: bool = False) -> Iterator[sqlite3.Connection]:
    """Connect to the database at `path`, and close it again if that or the body fails."""
    with contextlib.ExitStack() as on_failure:
        try:
            connection = connect(target, uri=uri, isolation_level=None, check_same_thread=False)
            on_failure.callback(connection.close)
            yield connection
        except schema.ForeignContent as error:
            raise corrupt(path, error) from None
        except FAULTS as error:
            raise _damage(path, error) or _unusable(path, error) from None
        on_failure.pop_all()


def _unusable(path: Path, error: Exception) -> InJumpCloudError:
    problem = Problem("state.path", f"{path}: cannot be used: {error}")
    if path.is_dir():
        return ConfigError(problem, advice="it is a directory; name a file")
    return StateUnavailable(str(problem), advice=_advice(error))


def _version(connection: sqlite3.Connection, path: Path) -> int | None:
    """The version of the tables; None if there are none yet. Raises StateCorrupt unless they are ours and not newer."""
    if not connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
        return None
    if connection.execute("PRAGMA application_id").fetchone()[0] != schema.APPLICATION:
        raise corrupt(path, "a database of another program", "set another path")
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > schema.VERSION:
        raise corrupt(
            path,
            f"of version {version}, newer than version {schema.VERSION} of this program",
            "upgrade in-jumpcloud, or set another path",
        )
    if version < 1:
        raise corrupt(path, "its content is not what in-jumpcloud writes: no version")
    return version


def _require_sound(connection: sqlite3.Connection, path: Path) -> None:
    """Find damage at start rather than in the middle of a backfill."""
    if path.stat().st_size <= _MAX_CHECKED_BYTES and connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise corrupt(path, "database disk image is malformed")


def _let_it_shrink(connection: sqlite3.Connection, path: Path) -> None:
    """Rewrite a file of an older version once, so that it can give back space, if the disk has space for a copy."""
    if connection.execute("PRAGMA auto_vacuum").fetchone()[0]:
        return
    size = path.stat().st_size
    if shutil.disk_usage(path.parent).free < 2 * size + _MIN_FREE_BYTES:
        return
    if size > _MAX_CHECKED_BYTES:
        log.info("%s: rewriting %d MB once, so that the file can shrink", path, size // 1024**2)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    with contextlib.suppress(sqlite3.OperationalError):  # no space after all, or another program reads the file
        connection.execute("VACUUM")
