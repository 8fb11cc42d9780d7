"""States for tests, and scripts that run in a process of their own."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state.sqlite.store import SqliteStore
from in_jumpcloud.state.store import StateStore

POSITION = Position.starting_at(5)


def keys(count: int, minute: int = 1, name: str = "id") -> list[EventKey]:
    """`count` keys of one minute."""
    return [key(minute, f"{name}-{number}") for number in range(count)]


def key(minute: int, name: str) -> EventKey:
    """The key of an event that is called `name` here."""
    return EventKey(minute, hashlib.blake2b(name.encode(), digest_size=16).digest())


def filled_state(path: Path) -> bytes:
    """Write a state with 2,000 ids of stream `a`, and return the file's bytes."""
    with SqliteStore(path, new_agent_id="the agent") as state:
        for minute in range(20):
            state.commit("a", keys(100, minute), POSITION)
    return path.read_bytes()


def connection(state: StateStore) -> sqlite3.Connection:
    """The store's own connection: SQLite's limits are a connection's."""
    assert isinstance(state, SqliteStore)
    return state._database.connection


@contextmanager
def database_pages_limited(state: SqliteStore) -> Iterator[None]:
    """A full disk: SQLite cannot add another page to the file."""
    database = connection(state)
    limit = database.execute("PRAGMA max_page_count").fetchone()[0]
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}")
    yield
    database.execute(f"PRAGMA max_page_count = {limit}")


def run_python(script: str, *arguments: object, check: bool = True) -> str:
    """Run a script in another process, with `os`, `sys` and `Path` imported, and return what it prints."""
    text = "import os, sys\nfrom pathlib import Path\n" + textwrap.dedent(script)
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", text, *map(str, arguments)], capture_output=True, check=check, timeout=60, text=True
    )
    return done.stdout.strip()
