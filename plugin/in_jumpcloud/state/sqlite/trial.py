"""A state that is thrown away: for runs that commit nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from in_jumpcloud.state.reader import MAX_DEAD_LETTER_BYTES
from in_jumpcloud.state.sqlite import database
from in_jumpcloud.state.sqlite.files import StateLock
from in_jumpcloud.state.sqlite.store import SqliteStore
from in_jumpcloud.timestamps import now_ms


class _NoFiles(StateLock):
    """There are no files."""

    def __init__(self) -> None:
        """There is nothing to lock."""

    def verify(self, *, lock: bool = True) -> None:
        """None can be replaced."""

    def close(self) -> None:
        """None is locked."""


class TrialStore(SqliteStore):
    """Works as the state does, on a copy of the one at `path`, or on a new one. Writes no file, and takes no lock."""

    def __init__(
        self,
        path: Path,
        *,
        new_agent_id: str,
        max_dead_letter_bytes: int = MAX_DEAD_LETTER_BYTES,
        now_ms: Callable[[], int] = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
        copies: bool,
    ) -> None:
        """With `copies` it begins as a copy of the state at `path`, if there is one.

        Raises:
            ConfigError, StateUnavailable, StateCorrupt: that state cannot be read.
        """
        opened = database.open_trial(path, new_agent_id, copies=copies)
        self._use(opened, max_dead_letter_bytes, now_ms, monotonic)
        self._files = _NoFiles()
        self.is_new = False  # at the path nothing is new

    def import_dead_letters(self, path: Path) -> None:
        """They stay in their file."""

    def require_space(self) -> None:
        """It takes no space on the disk of the state."""
