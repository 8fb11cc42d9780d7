"""What else the state keeps: counts, errors, older versions; and what damage, or a look from outside, does to it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from in_jumpcloud.errors import ConfigError, Fatal, StateUnavailable
from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.insights.window import Position, Window
from in_jumpcloud.state import database
from in_jumpcloud.state.store import StateStore, StreamRow, open_readonly

VERSION_1 = Path(__file__).parents[1] / "data" / "state_v1.sql"
POSITION = Position.starting_at(5)
NOW = 1_767_225_600_000


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "a state?#%.db"  # what a URI would read otherwise


@pytest.fixture(name="state")
def _state(path: Path) -> Iterator[StateStore]:
    with opened(path) as state:
        yield state


def opened(path: Path) -> StateStore:
    """The state, at one and the same moment."""
    return StateStore(path, new_agent_id="the agent", now_ms=lambda: NOW)


def keys(count: int, minute: int = 1) -> list[EventKey]:
    """So many keys of one minute."""
    return [(minute, f"id-{number}") for number in range(count)]


def version_1(path: Path) -> None:
    """Make the file that version 1 left."""
    database = sqlite3.connect(path)
    database.executescript(VERSION_1.read_text())
    database.execute("PRAGMA journal_mode = WAL")
    database.close()


class TestCounts:
    """What is counted, and who told what."""

    def test_commit_counts(self, state: StateStore) -> None:
        """Late and dead-lettered events add up; what became a dead letter was not acknowledged."""
        state.commit("a", keys(5), POSITION, late=2)
        state.commit("a", keys(3, 2), POSITION, late=1, dead_lettered=1)
        assert state.streams() == [StreamRow("a", POSITION, 7, 3, 1, None, None, NOW)]

    def test_a_failed_commit_counts_nothing(self, state: StateStore) -> None:
        """Counts are of the same transaction as ids and position."""
        state.commit("a", keys(1), POSITION)
        pages = state._database.execute("PRAGMA page_count").fetchone()[0]
        state._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StateUnavailable, match="free room on its disk"):
            state.commit("a", keys(10_000), POSITION, late=4, dead_lettered=2)
        assert state.streams()[0][2:5] == (1, 0, 0)

    def test_streams_by_name(self, state: StateStore) -> None:
        """Every stream comes with its own position."""
        window = Window(start_ms=5, end_ms=9, services=("all",), limit=10, cursor="[1]")
        state.commit("b", [], POSITION.with_window(window))
        state.commit("a", [], POSITION)
        assert [(row.name, row.position) for row in state.streams()] == [
            ("a", POSITION),
            ("b", POSITION.with_window(window)),
        ]

    def test_told(self, state: StateStore) -> None:
        """The last error is kept with its time over commits, until there is none."""
        state.commit("a", [], POSITION)
        state.record_error("a", "JumpCloud answered 401", 7)
        state.record_error("a", "JumpCloud answered 402", 8)
        state.commit("a", keys(1), POSITION)
        assert state.streams()[0][5:7] == ("JumpCloud answered 402", 8)
        state.record_error("a", None, 9)
        assert state.streams()[0][5:7] == (None, None)

    def test_the_same_error_again(self, state: StateStore) -> None:
        """An error that comes again has the later time."""
        state.commit("a", [], POSITION)
        state.record_error("a", "down", 7)
        state.record_error("a", "down", 8)
        assert state.streams()[0].error_ms == 8

    def test_told_of_a_new_stream(self, state: StateStore) -> None:
        """An error makes no stream: it would have no position."""
        state.record_error("a", "JumpCloud answered 401", 7)
        assert state.streams() == []
        assert state.position("a") is None

    def test_told_of_odd_text(self, state: StateStore) -> None:
        """What another side sent may end in an error's words, whatever it is."""
        state.commit("a", [], POSITION)
        state.record_error("a", "\ud800 'é'", 7)
        assert state.streams()[0].error == "\\ud800 'é'"

    def test_telling_never_raises(self, path: Path) -> None:
        """Whoever tells an error has one already; that it cannot be written must not hide it."""
        state = opened(path)
        state.commit("a", [], POSITION)
        state.close()
        state.record_error("a", "down", 7)
        with opened(path) as later:
            assert later.streams()[0].error is None

    def test_counts_by_minute(self, state: StateStore) -> None:
        """Ids are counted by minute, from the first up to but not with the last, of one stream."""
        state.commit("a", [*keys(2, 0), *keys(3, 9), *keys(1, 10), *keys(4, 11), *keys(5, 12)], POSITION)
        state.commit("b", keys(7, 10), POSITION)
        assert state.counts("a", 9, 12) == {9: 3, 10: 1, 11: 4}
        assert state.counts("a", 0, 1) == {0: 2}
        assert state.counts("c", 0, 100) == {}


class TestVersions:
    """Older files, and new ones."""

    def test_new_or_not(self, path: Path) -> None:
        """Only the opening that makes the tables is told that they are new."""
        with opened(path) as state:
            assert state.is_new
        with opened(path) as state:
            assert not state.is_new

    def test_version_1(self, path: Path) -> None:
        """A file of version 1 is brought to this version, with every position, id and count."""
        version_1(path)
        window = Window(
            start_ms=1_767_225_600_000,
            end_ms=1_767_312_000_000,
            services=("sso", "ldap"),
            limit=1000,
            cursor='["é", 17, null]',
        )
        own = Position(origin_ms=1_767_225_600_000, watermark_ms=1_767_225_600_000, window=window)
        other = Position(origin_ms=5, watermark_ms=1_767_312_000_000)
        for _ in range(2):
            with opened(path) as state:
                assert not state.is_new
                assert state.agent_id == "0b8f5f0e-agent"
                assert state.streams() == [
                    StreamRow("organization 5a2af2", other, 1, 0, 0, None, None, None),
                    StreamRow("own organization", own, 4, 0, 0, None, None, None),
                ]
                assert state.counts("own organization", 0, 2**40) == {0: 1, 29_453_760: 2, 29_453_761: 1}
                assert state.delivered("organization 5a2af2", [(29_453_762, "it's")]) == {(29_453_762, "it's")}
        with opened(path) as state:
            state.commit("own organization", keys(2), own, late=1)
            assert state.streams()[1][2:4] == (6, 1)

    def test_the_same_tables(self, path: Path, tmp_path: Path) -> None:
        """A migrated file has the columns that a new one has."""
        version_1(path)
        columns = []
        for each in (path, tmp_path / "new.db"):
            with opened(each) as state:
                info = state._database.execute("PRAGMA table_info(stream)").fetchall()
                columns.append([(name, kind, required, default) for _, name, kind, required, default, _ in info])
        assert columns[0] == columns[1]

    def test_a_migration_that_breaks_off(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A migration is done as a whole or not at all; the next opening does it."""
        version_1(path)
        with monkeypatch.context() as patch:
            patch.setitem(database._MIGRATIONS, 1, database._MIGRATIONS[1] + "ALTER TABLE nowhere ADD COLUMN x;")
            with pytest.raises(ConfigError):
                opened(path)
        migrated = sqlite3.connect(path)
        assert migrated.execute("PRAGMA user_version").fetchone() == (1,)
        assert len(migrated.execute("PRAGMA table_info(stream)").fetchall()) == 4
        migrated.close()
        with opened(path) as state:
            assert len(state.streams()) == 2


class TestReading:
    """A look from outside, beside the process that holds the state."""

    def test_beside_the_holder(self, state: StateStore) -> None:
        """Streams and counts are read while another connection writes, who holds it is told, nothing is locked."""
        state.commit("a", keys(3), POSITION)
        with open_readonly(state.path) as look:
            assert look.holder == f"process {os.getpid()} on {os.uname().nodename}"
            assert look.agent_id == "the agent"
            assert look.streams() == state.streams()
            state.commit("a", keys(2, 2), POSITION)
            assert look.counts("a", 0, 9) == {1: 3, 2: 2}
        state.commit("a", keys(1, 3), POSITION)

    def test_without_a_holder(self, path: Path) -> None:
        """A state that nobody holds is read too, and nobody is named."""
        with opened(path) as state:
            state.commit("a", keys(3), POSITION)
        with open_readonly(path) as look:
            assert look.holder is None
            assert look.counts("a", 0, 9) == {1: 3}
            opened(path).close()  # whoever only looks holds nothing

    def test_after_a_kill(self, path: Path) -> None:
        """What a killed process had committed is seen, though it never closed the file."""
        script = (
            "import os, pathlib, signal, sys\n"
            "from in_jumpcloud.insights.window import Position\n"
            "from in_jumpcloud.state.store import StateStore\n"
            "state = StateStore(pathlib.Path(sys.argv[1]), new_agent_id='x')\n"
            "state.commit('a', [(1, 'x')], Position.starting_at(5))\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run([sys.executable, "-c", script, path], check=False, timeout=60)  # noqa: S603 - our own
        assert done.returncode < 0
        with open_readonly(path) as look:
            assert look.holder is None
            assert look.counts("a", 0, 9) == {1: 1}

    def test_looking_does_not_keep_others_out(self, path: Path) -> None:
        """A process begins also while somebody else looks again and again at who holds the state."""
        opened(path).close()
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                database.lock_holder(path)

        looker = threading.Thread(target=look)
        looker.start()
        try:
            for _ in range(20):
                opened(path).close()
        finally:
            done.set()
            looker.join()

    def test_what_cannot_be_read(self, path: Path, tmp_path: Path) -> None:
        """What is not there, not ours, empty, older or newer gets one clear line, and nothing is made or changed."""
        version_1(path)
        other, junk, empty = (tmp_path / name for name in ("other", "junk", "empty"))
        database = sqlite3.connect(other)
        database.executescript("CREATE TABLE bookmarks (url TEXT)")
        database.close()
        junk.write_text("no database" * 1000)
        empty.touch()
        newer = tmp_path / "newer"
        with opened(newer) as state:
            state._database.execute("PRAGMA user_version = 99")
        reasons = {
            tmp_path / "missing": "no such file; the first `in-jumpcloud run` makes it",
            path: "of version 1, older than this program's 2; the next `in-jumpcloud run`",
            other: "a database of another program",
            junk: "file is not a database; move it away",
            empty: "an empty file",
            newer: "of version 99, newer than this program's 2; upgrade in-jumpcloud",
        }
        for each, reason in reasons.items():
            with pytest.raises(ConfigError) as caught, open_readonly(each):
                pass
            assert str(caught.value).startswith(f"state.path: {each}: {reason}")
        assert not (tmp_path / "missing").exists()


class TestDamage:
    """A damaged file: waiting does not mend it, and no room would help."""

    @staticmethod
    def _filled(path: Path) -> bytes:
        with opened(path) as state:
            for minute in range(20):
                state.commit("a", keys(100, minute), POSITION)
        return path.read_bytes()

    @pytest.mark.parametrize("reader", [False, True], ids=["to write", "to read"])
    def test_cut_off_anywhere(self, path: Path, reader: bool) -> None:
        """Wherever a file is cut off, it is damaged or no database; never an emptier state."""
        whole = self._filled(path)
        for size in (1, 15, 16, 99, 100, 511, 512, 1000, 4095, 4096, 4097, 8192, len(whole) - 4096):
            path.write_bytes(whole[:size])
            with pytest.raises(ConfigError, match="move it away"):
                open_readonly(path).__enter__() if reader else opened(path)

    def test_damage_deep_inside(self, path: Path) -> None:
        """A page of the ledger that is damaged is found at opening, before anything is asked for."""
        whole = self._filled(path)
        path.write_bytes(whole[:-4096] + bytes(4096))
        with pytest.raises(ConfigError, match=r"malformed; move it away to begin anew at jumpcloud\.start"):
            opened(path)

    def test_damage_while_it_is_open(self, path: Path) -> None:
        """Damage that is met later stops too, at reading and at writing, and does not ask for room."""
        whole = self._filled(path)
        with opened(path) as state:
            with path.open("r+b") as damaged:
                damaged.seek(4096)
                damaged.write(bytes(len(whole) - 4096))
            state._database.execute("PRAGMA shrink_memory")
            for use in (
                lambda: state.delivered("a", keys(1)),
                lambda: state.position("a"),
                lambda: state.counts("a", 0, 9),
                lambda: state.commit("a", keys(1), POSITION),
                lambda: state.prune("a", 9),
            ):
                with pytest.raises(ConfigError, match=r"malformed; move it away") as caught:
                    use()
                assert "room" not in str(caught.value)

    def test_a_position_that_is_none(self, path: Path) -> None:
        """A position that cannot be understood is damage like any other."""
        with opened(path) as state:
            state.commit("a", [], POSITION)
            state._database.execute("UPDATE stream SET position = '{}'")
            with pytest.raises(ConfigError, match="move it away"):
                state.position("a")
            with pytest.raises(ConfigError, match="move it away"):
                state.streams()

    def test_busy(self, state: StateStore) -> None:
        """While another program is at work in the file a commit waits for its end, and says so: that passes."""
        state.commit("a", keys(1), POSITION)
        state._database.execute("PRAGMA busy_timeout = 0")
        other = sqlite3.connect(state.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateUnavailable, match="another program is at work in it"):
            state.commit("a", keys(2), POSITION)
        other.execute("ROLLBACK")
        other.close()
        state.commit("a", keys(2), POSITION)
        assert state.counts("a", 1, 2) == {1: 2}

    def test_disk_error(self, path: Path) -> None:
        """A disk that refuses to write is told as that, and passes."""
        script = (
            "import pathlib, resource, sys\n"
            "from in_jumpcloud.errors import StateUnavailable\n"
            "from in_jumpcloud.insights.window import Position\n"
            "from in_jumpcloud.state.store import StateStore\n"
            "state = StateStore(pathlib.Path(sys.argv[1]), new_agent_id='x')\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
            "try:\n"
            "    state.commit('a', [(1, 'x')], Position.starting_at(5))\n"
            "except StateUnavailable as error:\n"
            "    print(error)\n"
        )
        said = subprocess.run([sys.executable, "-c", script, path], capture_output=True, check=True, timeout=60)  # noqa: S603
        assert b"cannot be written: disk I/O error; its disk fails" in said.stdout

    def test_a_second_opening_lets_go_of_nothing(self, state: StateStore) -> None:
        """A refused second opening in this process leaves the locks that SQLite has on the file."""
        state._database.execute("BEGIN IMMEDIATE")
        with pytest.raises(Fatal, match="in use by"):
            opened(state.path)
        script = (
            "import sqlite3, sys\n"
            "database = sqlite3.connect(sys.argv[1], timeout=0)\n"
            "try:\n"
            "    database.execute('BEGIN IMMEDIATE')\n"
            "except sqlite3.OperationalError as error:\n"
            "    print(error)\n"
        )
        said = subprocess.run([sys.executable, "-c", script, state.path], capture_output=True, check=True, timeout=60)  # noqa: S603
        assert said.stdout.strip() == b"database is locked"
        state._database.execute("ROLLBACK")
