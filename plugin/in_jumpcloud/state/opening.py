"""Opens the state that the settings name."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from in_jumpcloud.config.schema import StateSettings
from in_jumpcloud.state.database import Holder
from in_jumpcloud.state.sqlite import files
from in_jumpcloud.state.sqlite import store as sqlite_store
from in_jumpcloud.state.sqlite.database import Connect
from in_jumpcloud.state.sqlite.store import SqliteStore
from in_jumpcloud.state.sqlite.trial import TrialStore
from in_jumpcloud.state.store import MAX_DEAD_LETTER_BYTES, StateReader, StateStore
from in_jumpcloud.timestamps import now_ms


def where(settings: StateSettings) -> str:
    """Where the state is, for people; the same for every process that uses it."""
    return str(settings.path.resolve())


def exists(settings: StateSettings) -> bool:
    """Whether there is a state."""
    return settings.path.exists()


def size(settings: StateSettings) -> int:
    """The bytes of the state on disk."""
    return sqlite_store.database_bytes(settings.path)


def holder(settings: StateSettings) -> Holder | None:
    """The process that holds the state now; None if no process does.

    Raises:
        ConfigError, StateUnavailable: that cannot be found out.
    """
    return files.lock_holder(settings.path)


def open_store(
    settings: StateSettings,
    *,
    new_agent_id: str,
    max_dead_letter_bytes: int = MAX_DEAD_LETTER_BYTES,
    now_ms: Callable[[], int] = now_ms,
    monotonic: Callable[[], float] = time.monotonic,
    connect: Connect = sqlite3.connect,
    alone: bool = False,
) -> StateStore:
    """Open the state, or create it with `new_agent_id`, for the process that writes it. `connect` opens a file.

    `alone`: no other process may change its backfills meanwhile.

    Raises:
        ConfigError: the settings cannot be used.
        StateUnavailable: it cannot be used now.
        StateCorrupt: it is damaged, not ours, or of a newer version.
        Fatal: another process holds it.
    """
    return SqliteStore(
        settings.path,
        new_agent_id=new_agent_id,
        max_dead_letter_bytes=max_dead_letter_bytes,
        now_ms=now_ms,
        monotonic=monotonic,
        connect=connect,
        alone=alone,
    )


def open_trial(
    settings: StateSettings,
    *,
    new_agent_id: str,
    max_dead_letter_bytes: int = MAX_DEAD_LETTER_BYTES,
    now_ms: Callable[[], int] = now_ms,
    monotonic: Callable[[], float] = time.monotonic,
    connect: Connect = sqlite3.connect,  # noqa: ARG001 - it opens no file
    copies: bool,
) -> StateStore:
    """A state that is thrown away, for runs that commit nothing. With `copies` it begins as a copy of the state.

    Raises:
        ConfigError, StateUnavailable, StateCorrupt: that state cannot be read.
    """
    return TrialStore(
        settings.path,
        new_agent_id=new_agent_id,
        max_dead_letter_bytes=max_dead_letter_bytes,
        now_ms=now_ms,
        monotonic=monotonic,
        copies=copies,
    )


def open_readonly(settings: StateSettings) -> AbstractContextManager[StateReader]:
    """Open the state read-only, also while another process holds it.

    Raises:
        StateMissing: there is no state yet.
        ConfigError: it cannot be opened.
        StateOutdated: an older program wrote it.
        StateCorrupt: it is damaged, not ours, or of a newer version.
    """
    return sqlite_store.open_readonly(settings.path)


def open_shared(settings: StateSettings) -> AbstractContextManager[StateReader]:
    """Open the state to change its dead letters or backfills, also while another process holds it.

    Raises:
        StateMissing, StateOutdated, ConfigError, StateCorrupt: as in `open_readonly`.
    """
    return sqlite_store.open_shared(settings.path)


def changing_dead_letters(settings: StateSettings) -> AbstractContextManager[StateReader]:
    """`open_shared`, for one command at a time: two replays would deliver each event twice.

    Raises:
        StateMissing, StateOutdated, ConfigError, StateCorrupt: as in `open_readonly`.
        Fatal: another command is changing them.
    """
    return sqlite_store.changing_dead_letters(settings.path)


@contextlib.contextmanager
def open_alone(settings: StateSettings) -> Iterator[StateStore]:
    """Open a state that exists, of this version or an older one, and keep other processes from changing it.

    Raises:
        StateMissing: there is no state yet.
        ConfigError, StateUnavailable, StateCorrupt, Fatal: as in `open_store`.
    """
    sqlite_store.require_state(settings.path)
    with (
        sqlite_store.keeping_dead_letters(settings.path),
        open_store(settings, new_agent_id="", alone=True) as state,
    ):
        yield state


@contextlib.contextmanager
def open_to_fill(settings: StateSettings) -> Iterator[StateStore]:
    """As `open_store`, for `StateStore.load`; if the body fails, a state that it has created is gone."""
    with open_store(settings, new_agent_id="", alone=True) as state:
        try:
            yield state
        except BaseException:
            if state.is_new:
                state.discard()
            raise
