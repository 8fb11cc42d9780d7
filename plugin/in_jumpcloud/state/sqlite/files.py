"""The files of the state: created for their owner only, locked, and recognized when they are deleted or replaced."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO

from in_jumpcloud.errors import ConfigError, Fatal, Problem, StateCorrupt, StateUnavailable, may_pass
from in_jumpcloud.file_access import create_private_directory, open_private
from in_jumpcloud.state.database import Holder

_MAGIC = b"SQLite format 3\0"
_LOCK_TRIES = 4
"""Tries to get the lock: `lock_holder` of another process holds it for an instant."""
_CREATED = "created"
"""The second line of the lock file once the state has its tables."""
_ALONE = "alone"
"""The third line of the lock file while its holder lets no other process change the state."""


def corrupt(path: Path, what: object, advice: str = "") -> StateCorrupt:
    """The error for a file that no retry makes usable. `advice` is to move it away, unless given."""
    log = with_suffix(path, "-wal")
    moved = f"it and {log.name}" if _has_data(log) else "it"
    advice = advice or f"move {moved} away to start again at jumpcloud.start, or set another path"
    message = " ".join(str(what).split())  # text from a damaged file may contain anything
    return StateCorrupt(f"state.path: {path}: {message}", advice=advice)


def with_suffix(path: Path, suffix: str) -> Path:
    """A file next to the database, such as its lock."""
    return path.with_name(f"{path.name}{suffix}")


@contextlib.contextmanager
def path_errors(path: Path, action: str = "written") -> Iterator[None]:
    """Turn an OSError into an error about state.path: StateUnavailable if it may pass, else ConfigError."""
    try:
        yield
    except OSError as error:
        if may_pass(error):
            raise StateUnavailable(f"state.path: {path}: cannot be {action}: {error.strerror}") from None
        reason = error.strerror
        if error.errno == errno.ELOOP and path.is_symlink():
            reason = "it is a symbolic link; name the file itself"
        elif error.errno == errno.ELOOP and error.filename and Path(error.filename).is_symlink():
            reason = f"{Path(error.filename).name} is a symbolic link; remove it"
        raise ConfigError(Problem("state.path", f"{path}: cannot be {action}: {reason}")) from None


class StateLock:
    """The lock on the state, held until `close`. It remembers the files, to find out when they are replaced."""

    def __init__(self, path: Path, *, alone: bool = False) -> None:
        """Lock the state at `path` for this process, and write into the lock file who holds it.

        `alone`: no other process may change it meanwhile, see Holder.

        Raises:
            ConfigError: the path cannot be used.
            StateUnavailable: it cannot be used now.
            StateCorrupt: the file is not a database, or the rest of one.
            Fatal: another process holds the lock.
        """
        self._path = path
        self._alone = alone
        self._lock_path = with_suffix(path, ".lock")
        with path_errors(path):
            create_private_directory(path.parent)
            # An existing lock is taken first. Opening and closing the database file would release every lock that
            # SQLite has on it in this process (POSIX locks), also one of another StateStore.
            file = _lock(path, self._lock_path) if self._lock_path.exists() else None
            self.was_created = file is not None and _line(file, 2) == _CREATED
            """Whether there was a state at the path before."""
            try:
                _require_database(path, was_created=self.was_created)
            except BaseException:
                if file:
                    file.close()
                raise
            self._file = file or _lock(path, self._lock_path)
        self._write_holder(created=self.was_created)
        self._identities: dict[Path, tuple[int, int]] = {}

    def opened(self) -> None:
        """The database is open and has its tables: from now on an empty file is not a new state."""
        self._write_holder(created=True)
        paths = [self._path, *(with_suffix(self._path, each) for each in ("-wal", "-shm"))]
        with path_errors(self._path, "read"):
            self._identities = {path: _identity(path.stat()) for path in paths if path.exists()}
            self._identities[self._lock_path] = _identity(os.fstat(self._file.fileno()))

    def verify(self, *, lock: bool = True) -> None:
        """Check that the files are still those that this process opened. It costs a few microseconds.

        Without the `lock` another process may use the state too, but what is committed is still found later.

        Raises:
            StateUnavailable: one was deleted or replaced.
        """
        for path, identity in self._identities.items():
            if path == self._lock_path and not lock:
                continue
            try:
                found = _identity(path.stat())
            except OSError as error:
                what = "was deleted" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
            else:
                if found == identity:
                    continue
                what = "was replaced"
            raise StateUnavailable(
                f"{path}: {what} while this process is using it, so nothing is delivered",
                advice=self._advice if path == self._path else "stop the process and start it again",
            )

    @property
    def _advice(self) -> str:
        return (
            f"stop the process, put a copy of {self._path.name} back, or, if there is none, move {self._path.name} and "
            f"{self._path.name}-wal away to start again at jumpcloud.start, and start the process again"
        )

    def close(self) -> None:
        """Release the lock."""
        self._file.close()

    def _write_holder(self, *, created: bool) -> None:
        name = f"process {os.getpid()} on {os.uname().nodename}"
        text = f"{name}\n{_CREATED if created else ''}\n{_ALONE if self._alone else ''}\n"
        with contextlib.suppress(OSError):  # on a full disk the holder stays unnamed, but the lock is held
            os.ftruncate(self._file.fileno(), 0)
            os.pwrite(self._file.fileno(), text.encode(), 0)
            os.fsync(self._file.fileno())


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _lock(path: Path, lock_path: Path) -> IO[str]:
    with contextlib.ExitStack() as on_failure:
        lock = on_failure.enter_context(os.fdopen(open_private(lock_path, create=True), "r+", errors="replace"))
        for tries_left in reversed(range(_LOCK_TRIES)):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if tries_left:
                    time.sleep(0.02)
            else:
                on_failure.pop_all()
                return lock
        holder = _holder(lock)
    raise Fatal(f"state.path: {path}: in use by {holder}; only one process at a time can use it")


def _holder(lock: IO[str]) -> Holder:
    return Holder(_line(lock, 1) or "another process", is_alone=_line(lock, 3) == _ALONE)


def _line(lock: IO[str], number: int) -> str:
    lock.seek(0)
    return next(islice(lock, number - 1, None), "").strip()


def _require_database(path: Path, *, was_created: bool) -> None:
    """SQLite takes a file of less than a page for an empty database, and would overwrite it and its log."""
    magic, log = b"", with_suffix(path, "-wal")
    if path.exists() and not path.is_file() and not path.is_dir():  # to open a pipe may block
        raise ConfigError(Problem("state.path", f"{path}: not a regular file"))
    if path.exists():
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
        if magic not in (b"", _MAGIC):
            raise corrupt(path, "file is not a database")
        if not magic and was_created and not _has_data(log):
            raise corrupt(path, "the file is empty, but it was a state before")
    if not magic and _has_data(log):
        what, moved = ("empty", f"it and {log.name}") if path.exists() else ("missing", log.name)
        advice = f"put the file back, or move {moved} away to start again at jumpcloud.start"
        raise corrupt(path, f"the file is {what}, but {log.name} has data of it", advice)


def _has_data(log: Path) -> bool:
    return log.is_file() and log.stat().st_size > 0


def lock_holder(path: Path) -> Holder | None:
    """The process that holds the state now; None if no process does, or the lock is not a file.

    Raises:
        ConfigError, StateUnavailable: the lock file cannot be read.
    """
    lock_path = with_suffix(path, ".lock")
    if not lock_path.is_file():  # to open a pipe may block
        return None
    with path_errors(path, "read"), lock_path.open(errors="replace") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(lock)
    return None
