"""The state in a SQLite file."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from in_jumpcloud.errors import Fatal, InJumpCloudError, StateUnavailable
from in_jumpcloud.file_access import open_private
from in_jumpcloud.state.database import Space
from in_jumpcloud.state.reader import MAX_DEAD_LETTER_BYTES, StateReader
from in_jumpcloud.state.sqlite import database
from in_jumpcloud.state.sqlite.database import SqliteDatabase
from in_jumpcloud.state.sqlite.files import StateLock, lock_holder, path_errors, with_suffix
from in_jumpcloud.state.sqlite.ledger import SqliteLedger
from in_jumpcloud.state.store import StateStore
from in_jumpcloud.timestamps import now_ms

log = logging.getLogger(__name__)


@contextlib.contextmanager
def open_readonly(path: Path) -> Iterator[StateReader]:
    """Open the state at `path` read-only, also while another process holds it.

    Raises:
        StateMissing: there is no state yet.
        ConfigError: the file cannot be opened.
        StateOutdated: an older program wrote it.
        StateCorrupt: the file is damaged, not ours, or of a newer version.
    """
    with contextlib.closing(database.open_to_read(path)) as opened:
        yield StateReader(opened, SqliteLedger(opened), lock_holder(path))


@contextlib.contextmanager
def open_shared(path: Path) -> Iterator[StateReader]:
    """Open the state at `path` to change its dead letters or backfills, also while another process holds it.

    Raises:
        StateMissing, StateOutdated, ConfigError, StateCorrupt: as in `open_readonly`.
        Fatal: another process holds it alone.
    """
    with contextlib.closing(database.open_to_share(path)) as opened:
        state = StateReader(opened, SqliteLedger(opened), lock_holder(path))
        if state.holder and state.holder.is_alone:
            raise Fatal(f"state.path: {path}: in use by {state.holder} alone; try again when it has ended")
        try:
            yield state
        finally:
            # Who closes the file last empties its log. That of a run that was killed is then no sign of a copy.
            if lock_holder(path) is None:
                with contextlib.suppress(InJumpCloudError), opened.transaction() as transaction:
                    transaction.execute("UPDATE identity SET in_use = NULL WHERE in_use IS ?", (opened.identity.run,))


class SqliteStore(StateStore):
    """The state at a path."""

    _database: SqliteDatabase

    def __init__(
        self,
        path: Path,
        *,
        new_agent_id: str,
        max_dead_letter_bytes: int = MAX_DEAD_LETTER_BYTES,
        now_ms: Callable[[], int] = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
        connect: database.Connect = sqlite3.connect,
        alone: bool = False,
    ) -> None:
        """Open the state at `path`, or create it with `new_agent_id`. `is_new`: whether it was created.

        `now_ms` dates commits for `in-jumpcloud status`, `monotonic` says when notes are written; nothing else depends
        on the clocks. `connect` opens the database. `alone`: no other process may change the state meanwhile.

        Raises:
            ConfigError: the path cannot be used.
            StateUnavailable: it cannot be used now.
            StateCorrupt: the file is damaged, not ours, or of a newer version.
            Fatal: another process holds the state.
        """
        with contextlib.ExitStack() as on_failure:
            self._files = StateLock(path, alone=alone)
            on_failure.callback(self._files.close)
            opened = database.open_to_write(path, new_agent_id, connect)
            on_failure.callback(opened.close)
            self._use(opened, max_dead_letter_bytes, now_ms, monotonic)
            with contextlib.suppress(StateUnavailable):  # a full disk: commits wait for space
                self._mark_in_use(uuid.uuid4().hex)
            self._files.opened()
            on_failure.pop_all()
        if opened.is_new and self._files.was_created:
            log.warning("%s: the state that was here is gone; events may be delivered again", path)

    def _use(
        self,
        opened: SqliteDatabase,
        max_dead_letter_bytes: int,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        """Work on an open database."""
        self.path = opened.path
        super().__init__(
            *(opened, SqliteLedger(opened), max_dead_letter_bytes, now_ms, monotonic), is_new=opened.is_new
        )

    def verify(self) -> None:
        """Check that the files are still those that this process opened.

        Raises:
            StateUnavailable: a file was deleted or replaced; nothing is delivered until it is back.
        """
        self._files.verify()
        self.dead_letters.refresh_if_idle()

    def _require_held(self, stream: str, *, to_commit: bool = False) -> None:  # noqa: ARG002 - it holds them all
        self._files.verify(lock=not to_commit)

    def space(self) -> Space:
        """As StateStore.space."""
        return self._database.space()

    def require_space(self) -> None:
        """Check that the disk will not be full soon.

        Raises:
            StateUnavailable: it may be full within a day.
        """
        space = self.space()
        if space.is_low:
            raise StateUnavailable(
                f"{self.where}: less than {space.needed_bytes // 1024**2} MB free on its disk",
                advice="free space on it, or nothing is delivered when it is full",
            )

    @property
    def size(self) -> int:
        """The bytes of the database and its write-ahead log."""
        return database_bytes(self._database.path)

    def discard(self) -> None:
        """Remove the files."""
        for suffix in ("", "-wal", "-shm", ".lock"):
            with_suffix(self._database.path, suffix).unlink(missing_ok=True)

    def close(self) -> None:
        """Write the notes, close the file and release its lock."""
        with contextlib.suppress(InJumpCloudError):
            self._files.verify()  # otherwise the mark may be that of another process
            self._mark_in_use(None)
        super().close()
        self._files.close()

    def _mark_in_use(self, run: str | None) -> None:
        """Note in the file itself that it is in use: a copy that was made without its log is recognized by that."""
        with self._writing(*self._notes.streams) as transaction:
            transaction.execute("UPDATE identity SET in_use = ?", (run,))
        if run:
            self._database.read("PRAGMA wal_checkpoint(PASSIVE)")

    def _give_back_space(self) -> None:
        self._database.give_back_space()


def require_state(path: Path) -> None:
    """Check that there is a state, which may be one of an older version.

    Raises:
        StateMissing: there is none.
        ConfigError, StateUnavailable, StateCorrupt: it cannot be read.
    """
    database.open_to_read(path, outdated=True).close()


@contextlib.contextmanager
def changing_dead_letters(path: Path) -> Iterator[StateReader]:
    """`open_shared`, for one command at a time: two replays would deliver each event twice.

    Raises:
        StateMissing, StateOutdated, ConfigError, StateCorrupt: as in `open_readonly`.
        Fatal: another command is changing them.
    """
    database.open_to_read(path).close()
    with keeping_dead_letters(path), open_shared(path) as state:
        yield state


@contextlib.contextmanager
def keeping_dead_letters(path: Path) -> Iterator[None]:
    """No other command changes the dead letters meanwhile.

    Raises:
        ConfigError, StateUnavailable: the lock cannot be created.
        Fatal: another command is changing them.
    """
    with path_errors(path):
        lock = open_private(with_suffix(path, ".dead-letters.lock"), create=True)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Fatal(f"{path}: another command is using its dead letters; try again when it has ended") from None
        yield
    finally:
        os.close(lock)


def database_bytes(path: Path) -> int:
    """The bytes of the database at `path` and its write-ahead log; 0 where there is none."""
    total = 0
    for file in (path, with_suffix(path, "-wal")):
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total
