"""The rest of the state: counters, the last error, reading while a process holds it, and damage."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest
from support.state import POSITION, connection, database_pages_limited, filled_state, keys, run_python

from in_jumpcloud.errors import InJumpCloudError, StateCorrupt, StateMissing, StateOutdated, StateUnavailable
from in_jumpcloud.insights.window import Window
from in_jumpcloud.state.dead_letters import Refused
from in_jumpcloud.state.reader import StateReader
from in_jumpcloud.state.sqlite.files import lock_holder
from in_jumpcloud.state.sqlite.schema import VERSION
from in_jumpcloud.state.sqlite.store import SqliteStore, open_readonly

NOW = 1_767_225_600_000


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "a state?#%.db"  # characters with a meaning in a URI


@pytest.fixture(name="state")
def _state(path: Path) -> Iterator[SqliteStore]:
    with opened(path) as state:
        yield state


def opened(path: Path) -> SqliteStore:
    """The state, with a clock that always shows NOW."""
    return SqliteStore(path, new_agent_id="the agent", now_ms=lambda: NOW)


class TestStreams:
    """What is kept of each stream."""

    def test_counters(self, state: SqliteStore) -> None:
        """Late and dead-lettered events add up, a dead letter is not acknowledged; a failed commit counts nothing."""
        letters = [Refused(each, "1", "refused", NOW, "tag", b"{}") for each in keys(3, 2)]
        state.commit("a", keys(5), POSITION, late=2)
        state.commit("a", keys(3, 2), POSITION, late=1, dead_letters=letters[:1])
        with database_pages_limited(state), pytest.raises(StateUnavailable):
            state.commit("a", keys(10_000, 3), POSITION, late=4, dead_letters=letters[1:])
        (row,) = state.streams()
        assert (row.acknowledged, row.late, row.dead_lettered, row.updated_ms) == (7, 3, 1, NOW)

    def test_sorted_by_name(self, state: SqliteStore) -> None:
        """Every stream has its own position."""
        window = Window(start_ms=5, end_ms=9, services=("all",), limit=10, cursor="[1]")
        state.commit("b", [], POSITION.with_window(window))
        state.commit("a", [], POSITION)
        expected = [("a", POSITION), ("b", POSITION.with_window(window))]
        assert [(row.name, row.position) for row in state.streams()] == expected

    def test_the_last_error(self, state: SqliteStore) -> None:
        """The last error stays with its time over commits, until a step succeeds; any text can be stored."""
        state.record_error("a", "before the stream exists", 6)
        assert (state.streams(), state.position("a")) == ([], None)
        state.commit("a", [], POSITION)
        for error, at_ms, expected in (
            ("JumpCloud answered 401", 7, ("JumpCloud answered 401", 7)),
            ("JumpCloud answered 401", 8, ("JumpCloud answered 401", 8)),
            ("\ud800 'é'", 9, ("\\ud800 'é'", 9)),
            (None, 10, (None, None)),
        ):
            state.record_error("a", error, at_ms)
            state.commit("a", keys(1), POSITION)
            (row,) = state.streams()
            assert (row.error, row.error_ms) == expected

    def test_an_error_that_cannot_be_stored(self, path: Path) -> None:
        """Recording never raises: that would hide the error itself."""
        state = opened(path)
        state.commit("a", [], POSITION)
        state.close()
        state.record_error("a", "down", 7)
        with opened(path) as later:
            assert later.streams()[0].error is None

    def test_counts_by_minute(self, state: SqliteStore) -> None:
        """Ids are counted by minute, of one stream, from the first minute to before the last."""
        state.commit("a", [*keys(2, 1), *keys(3, 9), *keys(1, 10), *keys(4, 11), *keys(5, 12)], POSITION)
        state.commit("b", keys(7, 10), POSITION)
        assert state.counts("a", 9, 12) == {9: 3, 10: 1, 11: 4}
        assert state.counts("a", 1, 2) == {1: 2}
        assert state.counts("c", 0, 100) == {}


class TestReading:
    """Opening read-only."""

    def test_beside_the_holder(self, state: SqliteStore) -> None:
        """Streams and counts are read while another connection writes. The holder is named and not disturbed."""
        state.commit("a", keys(3), POSITION)
        with open_readonly(state.path) as reader:
            assert str(reader.holder) == f"process {os.getpid()} on {os.uname().nodename}"
            assert reader.agent_id == "the agent"
            assert reader.streams() == state.streams()
            state.commit("a", keys(2, 2), POSITION)
            assert reader.counts("a", 0, 9) == {1: 3, 2: 2}
        state.commit("a", keys(1, 3), POSITION)

    def test_after_a_kill(self, path: Path) -> None:
        """What a killed process had committed is read, no holder is named, and reading takes no lock."""
        run_python("""
            import signal
            from in_jumpcloud.insights.event import EventKey
            from in_jumpcloud.insights.window import Position
            from in_jumpcloud.state.sqlite.store import SqliteStore
            state = SqliteStore(Path(sys.argv[1]), new_agent_id="x")
            state.commit("a", [EventKey(1, b"x" * 16)], Position.starting_at(5))
            os.kill(os.getpid(), signal.SIGKILL)
            """, path, check=False)  # fmt: skip
        with open_readonly(path) as reader:
            assert reader.holder is None
            assert reader.counts("a", 0, 9) == {1: 1}
            opened(path).close()

    def test_asking_for_the_holder_keeps_nobody_out(self, path: Path) -> None:
        """A process can start while another asks again and again who holds the state."""
        opened(path).close()
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                lock_holder(path)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for _ in range(20):
                opened(path).close()
        finally:
            done.set()
            asking.join()

    def test_what_cannot_be_read(self, tmp_path: Path) -> None:
        """A file that is missing, not ours, empty, older or newer gives one clear line, and nothing is created."""
        paths = {name: tmp_path / name for name in ("missing", "empty", "other", "junk", "newer", "older")}
        paths["empty"].touch()
        paths["junk"].write_text("no database" * 1000)
        with closing(sqlite3.connect(paths["other"])) as database:
            database.execute("CREATE TABLE bookmarks (url TEXT)")
        for name, version in (("newer", 99), ("older", 2)):
            filled_state(paths[name])
            with closing(sqlite3.connect(paths[name])) as database:
                database.execute(f"PRAGMA user_version = {version}")
        reasons: dict[str, tuple[type[InJumpCloudError], str]] = {
            "missing": (StateMissing, "no such file; the first `in-jumpcloud run` creates the state"),
            "empty": (StateMissing, "empty file; the first `in-jumpcloud run` creates the state"),
            "other": (StateCorrupt, "a database of another program"),
            "junk": (StateCorrupt, "file is not a database; move it away"),
            "newer": (
                StateCorrupt,
                f"of version 99, newer than version {VERSION} of this program; upgrade in-jumpcloud",
            ),
            "older": (StateOutdated, f"of version 2, older than version {VERSION} of this program; the next start of"),
        }
        for name, (kind, reason) in reasons.items():
            with pytest.raises(kind) as caught, open_readonly(paths[name]):
                pass
            assert str(caught.value).startswith(f"state.path: {paths[name]}: {reason}")
        assert not paths["missing"].exists()


Open = Callable[[Path], AbstractContextManager[StateReader]]


class TestDamage:
    """A damaged file: neither waiting nor free space repairs it. And what only looks like damage."""

    @pytest.mark.parametrize("open_state", [opened, open_readonly], ids=["to write", "to read"])
    def test_cut_off_anywhere(
        self, path: Path, open_state: Callable[[Path], AbstractContextManager[StateReader]]
    ) -> None:
        """Wherever a file is cut off, it is damaged or no database, never an emptier state."""
        whole = filled_state(path)
        for size in (1, 15, 16, 99, 100, 511, 512, 1000, 4095, 4096, 4097, 8192, len(whole) // 2, len(whole) - 4096):
            path.write_bytes(whole[:size])
            with (
                pytest.raises(StateCorrupt, match=r"move it away to start again at jumpcloud\.start"),
                open_state(path),
            ):
                pass

    @pytest.mark.parametrize("page", [1, -1], ids=["second page", "last page"])
    def test_a_damaged_page(self, path: Path, page: int) -> None:
        """A damaged page is found when the state is opened, before it is needed."""
        whole = filled_state(path)
        pages = [whole[start : start + 4096] for start in range(0, len(whole), 4096)]
        pages[page] = bytes(4096)
        path.write_bytes(b"".join(pages))
        with pytest.raises(StateCorrupt, match="malformed; move it away"):
            opened(path)

    def test_damage_while_it_is_open(self, path: Path) -> None:
        """Damage that is met later ends every use, and does not ask for space."""
        whole = filled_state(path)
        with opened(path) as state:
            with path.open("r+b") as damaged:
                damaged.seek(4096)
                damaged.write(bytes(len(whole) - 4096))
            connection(state).execute("PRAGMA shrink_memory")
            for use in (
                lambda: state.delivered("a", keys(1)),
                lambda: state.position("a"),
                lambda: state.counts("a", 0, 9),
                lambda: state.commit("a", keys(1), POSITION),
                lambda: state.prune("a", 9 * 60_000),
            ):
                with pytest.raises(StateCorrupt, match=r"malformed; move it and .*-wal away"):
                    use()

    def test_a_position_that_makes_no_sense(self, path: Path) -> None:
        """A position that cannot be parsed is damage."""
        filled_state(path)
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE stream SET position = '{}'")
        with opened(path) as state:
            for use in (lambda: state.position("a"), state.streams):
                with pytest.raises(StateCorrupt, match="a position is not what in-jumpcloud writes"):
                    use()

    def test_another_program_in_the_file(self, state: SqliteStore) -> None:
        """While another program holds a lock, a commit fails for now; afterwards it works."""
        state.commit("a", keys(1), POSITION)
        connection(state).execute("PRAGMA busy_timeout = 0")
        with closing(sqlite3.connect(state.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StateUnavailable) as caught:
                state.commit("a", keys(2), POSITION)
            assert "another program is using it" in caught.value.advice
            other.execute("ROLLBACK")
        state.commit("a", keys(2), POSITION)
        assert state.counts("a", 1, 2) == {1: 2}

    def test_a_failing_disk(self, path: Path) -> None:
        """A disk that refuses to write gives StateUnavailable, which says so."""
        line = run_python("""
            import resource
            from in_jumpcloud.errors import StateUnavailable
            from in_jumpcloud.insights.event import EventKey
            from in_jumpcloud.insights.window import Position
            from in_jumpcloud.state.sqlite.store import SqliteStore
            state = SqliteStore(Path(sys.argv[1]), new_agent_id="x")
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            try:
                state.commit("a", [EventKey(1, b"x" * 16)], Position.starting_at(5))
            except StateUnavailable as error:
                print(error)
            """, path)  # fmt: skip
        assert "cannot be written: disk I/O error; the disk fails" in line
