"""The write-ahead log next to a database: one that is of it is never set aside, and another one is never replayed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from random import Random

import pytest
from support.state import POSITION, connection, key

from in_jumpcloud.errors import StateUnavailable
from in_jumpcloud.state.sqlite import log_file
from in_jumpcloud.state.sqlite.store import SqliteStore, open_readonly

Files = tuple[bytes, bytes]


def with_log(path: Path) -> Path:
    """The log of the database at `path`."""
    return path.with_name(f"{path.name}-wal")


def read(path: Path) -> Files:
    """A database and its log, as they are now."""
    log = with_log(path)
    return path.read_bytes(), log.read_bytes() if log.exists() else b""


def write(path: Path, files: Files) -> None:
    """Put both into an empty place."""
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()
    path.write_bytes(files[0])
    with_log(path).write_bytes(files[1])


def history(path: Path, random: Random) -> Iterator[Files]:
    """The files after each of some commits, over restarts and kills, with checkpoints that readers keep from ending."""
    commits = 0
    for _ in range(3):
        with ExitStack() as stack:
            state = stack.enter_context(SqliteStore(path, new_agent_id="x"))
            connection(state).execute(f"PRAGMA wal_autocheckpoint = {random.choice([5, 40])}").fetchall()
            for _ in range(8):
                if random.random() < 0.2:
                    reader = stack.enter_context(closing(sqlite3.connect(path)))
                    reader.execute("BEGIN").execute("SELECT * FROM stream").fetchall()
                commits += 1
                state.commit("a", [key(random.randrange(10_000), f"{commits}-{n}") for n in range(30)], POSITION)
                if random.random() < 0.1:
                    state.prune("a", random.randrange(10_000) * 60_000)
                if random.random() < 0.1:
                    state.save_services("a", {"x": commits})
                if random.random() < 0.1:
                    connection(state).execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                yield read(path)
            killed = read(path)
        yield read(path)
        if random.random() < 0.5:
            write(path, killed)


def total(path: Path) -> int | None:
    """How many events were acknowledged; None if the files are damaged or not there together."""
    try:
        with closing(sqlite3.connect(path)) as database:
            if database.execute("PRAGMA quick_check").fetchone() != ("ok",):
                return None
            return int(database.execute("SELECT coalesce(sum(acknowledged), 0) FROM stream").fetchone()[0])
    except sqlite3.Error:
        return None


@pytest.mark.parametrize("seed", range(3))
def test_every_file_with_every_log(tmp_path: Path, seed: int) -> None:
    """A log that was next to the database is of it. Another is only used if what comes out is what that log was of."""
    all_files = list(history(tmp_path / "state.db", Random(seed)))
    path = tmp_path / "mixed" / "state.db"
    path.parent.mkdir()
    foreign = 0
    for number, (database, own_log) in enumerate(all_files):
        write(path, (database, own_log))
        assert not log_file.is_foreign(path), number
        write(path, (database, b""))
        if total(path) is None:  # a checkpoint has not ended: without its own log it is no copy
            continue
        for other, (_, log) in enumerate(all_files):
            write(path, (database, log))
            if log_file.is_foreign(path):
                foreign += 1
            elif log:
                found = total(path)
                write(path, all_files[other])
                assert found == total(path) is not None, (number, other)
    assert foreign > len(all_files)


def test_an_unused_log_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is renamed with a warning; until then commands do not touch the files."""
    path = tmp_path / "state.db"
    with SqliteStore(path, new_agent_id="x") as state:
        state.commit("a", [key(1, "1")], POSITION)
    before = path.read_bytes()
    with SqliteStore(path, new_agent_id="x") as state:
        for name in "23":
            state.commit("a", [key(1, name)], POSITION)
        _, log = read(path)
    write(path, (before, log))
    with pytest.raises(StateUnavailable, match=r"state\.db-wal is of another copy of it"), open_readonly(path):
        pass
    assert read(path) == (before, log)
    with SqliteStore(path, new_agent_id="x") as state:
        assert state.delivered("a", [key(1, name) for name in "123"]) == {key(1, "1")}
    assert (
        f"{with_log(path)}: this log is of another copy of the state, so it is now state.db-wal.unused" in caplog.text
    )
    assert with_log(path).with_name("state.db-wal.unused").read_bytes() == log


@pytest.mark.parametrize("log", [b"", b"x" * 20, b"x" * 5000, bytes(5000)])
def test_a_log_that_makes_no_sense(tmp_path: Path, log: bytes) -> None:
    """SQLite replays nothing of it, so it stays."""
    path = tmp_path / "state.db"
    with SqliteStore(path, new_agent_id="x") as state:
        state.commit("a", [key(1, "1")], POSITION)
    with_log(path).write_bytes(log)
    with SqliteStore(path, new_agent_id="x") as state:
        assert state.delivered("a", [key(1, "1")]) == {key(1, "1")}


def test_a_process_whose_files_were_replaced_writes_nothing_at_its_end(tmp_path: Path) -> None:
    """The mark in the file is that of the process that has it now."""
    path = tmp_path / "state.db"
    first = SqliteStore(path, new_agent_id="x")
    first.commit("a", [key(1, "1")], POSITION)
    path.with_name("state.db.lock").unlink()
    with SqliteStore(path, new_agent_id="x") as second:
        first.close()
        (found,) = connection(second).execute("SELECT in_use FROM identity").fetchone()
        assert found is not None
