"""Opens the state that the settings name."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from types import ModuleType
from typing import Any

from in_jumpcloud.config.schema import MembersSettings, StateSettings
from in_jumpcloud.errors import ConfigError, Problem, StateMissing
from in_jumpcloud.state.database import Holder
from in_jumpcloud.state.reader import MAX_DEAD_LETTER_BYTES, StateReader
from in_jumpcloud.state.server import Server
from in_jumpcloud.state.sqlite import files
from in_jumpcloud.state.sqlite import store as sqlite_store
from in_jumpcloud.state.sqlite.database import Connect
from in_jumpcloud.state.sqlite.store import SqliteStore
from in_jumpcloud.state.sqlite.trial import TrialStore
from in_jumpcloud.state.store import StateStore
from in_jumpcloud.timestamps import now_ms


def _postgresql() -> ModuleType:
    """The module for a server: only where `state.url` is set is psycopg imported, which is an extra.

    Raises:
        ConfigError: it is not there.
    """
    try:
        return import_module("in_jumpcloud.state.postgresql.opening")
    except ImportError as error:
        advice = "install it: pip install 'fluent-bit-in-jumpcloud[postgresql]'"
        raise ConfigError(Problem("state.url", f"psycopg cannot be used: {error}"), advice=advice) from None


def _reader(opened: Any) -> AbstractContextManager[StateReader]:
    reader: AbstractContextManager[StateReader] = opened
    return reader


def where(settings: StateSettings) -> str:
    """Where the state is, for people; the same for every process that uses it."""
    return settings.place if settings.url else str(settings.path.resolve())


def exists(settings: StateSettings) -> bool:
    """Whether there is a state.

    Raises:
        ConfigError, StateUnavailable, StateCorrupt: a server cannot be asked.
    """
    return bool(_postgresql().exists(settings)) if settings.url else settings.path.exists()


def try_out(settings: StateSettings) -> Server:
    """Do on the server what a start does, and undo it. Returns what the server says of itself.

    Raises:
        ConfigError, StateUnavailable, StateCorrupt: it cannot be used.
    """
    found: Server = _postgresql().try_out(settings)
    return found


def size(settings: StateSettings) -> int:
    """The bytes of the state on disk.

    Raises:
        ConfigError, StateUnavailable, StateCorrupt: a server cannot be asked.
    """
    if settings.url:
        return int(_postgresql().bytes_of(settings))
    return sqlite_store.database_bytes(settings.path)


def holder(settings: StateSettings) -> Holder | None:
    """The process that holds the state now; None if no process does.

    Raises:
        ConfigError, StateUnavailable: that cannot be found out.
    """
    if settings.url:
        with open_readonly(settings) as state:
            return state.holder
    return files.lock_holder(settings.path)


def open_store(
    settings: StateSettings,
    *,
    new_agent_id: str,
    max_dead_letter_bytes: int = MAX_DEAD_LETTER_BYTES,
    now_ms: Callable[[], int] = now_ms,
    monotonic: Callable[[], float] = time.monotonic,
    connect: Connect = sqlite3.connect,
    members: MembersSettings | None = MembersSettings(),  # noqa: B008 - immutable
    alone: bool = False,
) -> StateStore:
    """Open the state, or create it with `new_agent_id`, for a process that writes it. `connect` opens a file.

    `members`: how it is a member of those that share the state; None: it has the state for itself. `alone`: no other
    process may change its backfills meanwhile.

    Raises:
        ConfigError: the settings cannot be used.
        StateUnavailable: it cannot be used now.
        StateCorrupt: it is damaged, not ours, or of a newer version.
        Fatal: another process holds it.
    """
    if settings.url:
        store: StateStore = _postgresql().PostgresStore(
            settings,
            new_agent_id=new_agent_id,
            max_dead_letter_bytes=max_dead_letter_bytes,
            now_ms=now_ms,
            monotonic=monotonic,
            members=members,
            alone=alone or members is None,
        )
        return store
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
    members: MembersSettings | None = None,  # noqa: ARG001 - it has none
    copies: bool,
) -> StateStore:
    """A state that is thrown away, for runs that commit nothing. With `copies` it begins as a copy of the state.

    Raises:
        ConfigError, StateUnavailable, StateCorrupt: that state cannot be read.
    """
    trial = TrialStore(
        settings.path,
        new_agent_id=new_agent_id,
        max_dead_letter_bytes=max_dead_letter_bytes,
        now_ms=now_ms,
        monotonic=monotonic,
        copies=copies and not settings.url,
    )
    if settings.url and copies:
        with contextlib.suppress(StateMissing), open_readonly(settings) as state:
            trial.load(state.export())
    return trial


def open_readonly(settings: StateSettings) -> AbstractContextManager[StateReader]:
    """Open the state read-only, also while another process holds it.

    Raises:
        StateMissing: there is no state yet.
        ConfigError: it cannot be opened.
        StateOutdated: an older program wrote it.
        StateCorrupt: it is damaged, not ours, or of a newer version.
    """
    if settings.url:
        return _reader(_postgresql().open_reader(settings))
    return sqlite_store.open_readonly(settings.path)


def open_shared(settings: StateSettings) -> AbstractContextManager[StateReader]:
    """Open the state to change its dead letters or backfills, also while another process holds it.

    Raises:
        StateMissing, StateOutdated, ConfigError, StateCorrupt: as in `open_readonly`.
    """
    if settings.url:
        return _reader(_postgresql().open_shared(settings))
    return sqlite_store.open_shared(settings.path)


def changing_dead_letters(settings: StateSettings) -> AbstractContextManager[StateReader]:
    """`open_shared`, for one command at a time: two replays would deliver each event twice.

    Raises:
        StateMissing, StateOutdated, ConfigError, StateCorrupt: as in `open_readonly`.
        Fatal: another command is changing them.
    """
    if settings.url:
        return _reader(_postgresql().changing_dead_letters(settings))
    return sqlite_store.changing_dead_letters(settings.path)


@contextlib.contextmanager
def open_alone(settings: StateSettings) -> Iterator[StateStore]:
    """Open a state that exists, of this version or an older one, and keep other processes from changing it.

    Raises:
        StateMissing: there is no state yet.
        ConfigError, StateUnavailable, StateCorrupt, Fatal: as in `open_store`.
    """
    if settings.url:
        _postgresql().require_state(settings)
        keeping: AbstractContextManager[None] = _postgresql().keeping_dead_letters(settings)
    else:
        sqlite_store.require_state(settings.path)
        keeping = sqlite_store.keeping_dead_letters(settings.path)
    with keeping, open_store(settings, new_agent_id="", alone=True) as state:
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
