"""Positions and the ledger of delivered ids, in real files: what is kept, atomic commits, the lock, refused files."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.state import POSITION, connection, database_pages_limited, filled_state, key, keys, run_python

from in_jumpcloud.errors import ConfigError, Fatal, InJumpCloudError, StateCorrupt, StateUnavailable
from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.insights.window import Position, Window
from in_jumpcloud.state.sqlite import store
from in_jumpcloud.state.sqlite.schema import VERSION
from in_jumpcloud.state.sqlite.store import SqliteStore

WINDOW = Window(start_ms=5, end_ms=86_400_005, services=("sso", "ldap"), limit=1000, cursor='["é", 17, null]')
IN_WINDOW = POSITION.with_window(WINDOW)
NEXT = IN_WINDOW.past(WINDOW)
MINUTE = 60_000


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture(name="state")
def _state(path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(path, new_agent_id="the agent") as state:
        yield state


def reopened(path: Path) -> SqliteStore:
    """The state as a later process opens it."""
    return SqliteStore(path, new_agent_id="another agent")


class TestKept:
    """What is written, and what is read back."""

    def test_over_a_restart(self, path: Path) -> None:
        """Position with window and cursor, ledger, agent id; `is_new` only at the first opening; pruning works."""
        with SqliteStore(path, new_agent_id="first") as state:
            assert state.is_new
            assert (state.position("a"), state.delivered("a", keys(3))) == (None, set())
            state.commit("a", keys(3), IN_WINDOW)
        for _ in range(2):
            with reopened(path) as state:
                assert not state.is_new
                assert state.agent_id == "first"
                assert state.position("a") == IN_WINDOW
                assert state.delivered("a", keys(5)) == set(keys(3))
        with reopened(path) as state:
            assert state.prune("a", 2 * MINUTE) == 3

    def test_commits_add_up(self, state: SqliteStore) -> None:
        """The last committed position counts, and ids add up."""
        state.commit("a", keys(2), IN_WINDOW)
        state.commit("a", keys(3), NEXT)
        assert state.position("a") == NEXT
        assert state.delivered("a", keys(5)) == set(keys(3))
        assert state.delivered("a", []) == set()

    def test_streams(self, state: SqliteStore) -> None:
        """Streams do not see each other's positions and ids."""
        state.commit("a", keys(2), IN_WINDOW)
        state.commit("b'; --", keys(2, name="other"), NEXT)
        assert (state.position("a"), state.position("b'; --"), state.position("c")) == (IN_WINDOW, NEXT, None)
        assert state.delivered("a", keys(2, name="other")) == state.delivered("b'; --", keys(2)) == set()
        assert state.prune("c", 10 * MINUTE) == 0

    def test_keys_are_exact(self, state: SqliteStore) -> None:
        """Every byte of a digest counts, and the same digest in another minute is another event."""
        known = [EventKey(7, bytes(16)), EventKey(7, bytes(15) + b"\x01"), EventKey(7, b"\xff" * 16)]
        state.commit("a", known, POSITION)
        others = [EventKey(7, b"\x01" + bytes(15)), EventKey(8, bytes(16)), EventKey(6, bytes(16))]
        assert state.delivered("a", [*known, *others]) == set(known)

    def test_in_any_order(self, path: Path) -> None:
        """Ids older than the newest delivered one are found too."""
        wanted = [*keys(3, 3), *keys(3, 9), *keys(3, 10)]
        with reopened(path) as state:
            state.commit("a", keys(2, minute=9), POSITION)
            state.commit("a", keys(2, minute=3), POSITION)
            assert state.delivered("a", wanted) == {*keys(2, 3), *keys(2, 9)}
        with reopened(path) as state:
            assert state.delivered("a", wanted) == {*keys(2, 3), *keys(2, 9)}

    def test_prune(self, state: SqliteStore) -> None:
        """Pruning removes the minutes before one, keeps that minute and other streams, and never moves backwards."""
        everything = [*keys(3, minute=9), *keys(4, minute=10)]
        for stream in "ab":
            state.commit(stream, everything, POSITION)
        assert state.kept_from_ms("a") == 0
        assert state.prune("a", 11 * MINUTE - 1) == 3
        for before_ms in (9 * MINUTE, 10 * MINUTE, 0, 10 * MINUTE + 5):
            assert state.prune("a", before_ms) == 0
        assert state.kept_from_ms("a") == 10 * MINUTE
        assert state.delivered("a", everything) == set(keys(4, minute=10))
        assert state.delivered("b", everything) == set(everything)
        assert (state.kept_from_ms("b"), state.kept_from_ms("c")) == (0, 0)

    def test_reconciliation(self, path: Path) -> None:
        """The reconciler's own text is kept as it is."""
        with reopened(path) as state:
            state.save_reconciliation("a", "no such stream")
            state.commit("a", [], POSITION)
            assert state.reconciliation("a") is state.reconciliation("b") is None
            state.save_reconciliation("a", '{"é": 1}')
        with reopened(path) as state:
            assert state.reconciliation("a") == '{"é": 1}'

    def test_threads(self, state: SqliteStore) -> None:
        """Threads that commit and ask at the same time do not disturb each other."""
        errors: list[BaseException] = []

        def work(stream: str) -> None:
            try:
                for minute in range(1, 31):
                    state.commit(stream, keys(5, minute), POSITION)
                    assert state.delivered(stream, keys(6, minute)) == set(keys(5, minute))
                assert state.prune(stream, 11 * MINUTE) == 50
            except BaseException as error:  # noqa: BLE001 - asserted below
                errors.append(error)

        threads = [threading.Thread(target=work, args=(f"stream {number}",)) for number in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(60)
        assert errors == []
        kept = [key for minute in range(1, 31) for key in keys(5, minute)]
        assert [len(state.delivered(f"stream {number}", kept)) for number in range(4)] == [100] * 4


class TestOutside:
    """Events whose timestamp is not in the window that returned them."""

    SPAN = (100 * MINUTE, 110 * MINUTE)
    OUTSIDE = (key(0, "undated"), key(7, "long ago"), key(99, "before"), key(110, "after"), key(10**8, "future"))

    def test_known_as_long_as_their_window_may_be_read_again(self, state: SqliteStore) -> None:
        """They are not in the ledger's counts, and go with their window, whatever their own date is."""
        inside = [key(100, "first"), key(109, "last")]
        state.commit("a", [*self.OUTSIDE, *inside], POSITION, span=self.SPAN)
        assert state.counts("a", 0, 10**9) == {100: 1, 109: 1}
        everything = [*self.OUTSIDE, *inside, key(100, "another")]
        assert state.delivered("a", everything) == {*self.OUTSIDE, *inside}
        assert state.prune("a", 110 * MINUTE) == 2
        assert state.delivered("a", everything) == set(self.OUTSIDE)
        assert state.prune("a", 111 * MINUTE) == len(self.OUTSIDE)
        assert state.delivered("a", everything) == set()

    def test_over_a_restart(self, path: Path) -> None:
        """A later process knows them too."""
        with reopened(path) as state:
            state.commit("a", self.OUTSIDE, POSITION, span=self.SPAN)
        with reopened(path) as state:
            assert state.delivered("a", self.OUTSIDE) == set(self.OUTSIDE)

    def test_what_every_query_returns_stays_known(self, state: SqliteStore) -> None:
        """A repeated reading keeps it for as long as that window may be read again, and is written once a day."""
        day, undated = 24 * 60 * MINUTE, self.OUTSIDE[0]
        state.commit("a", [undated], POSITION, span=(0, day))
        written = []
        for end in (day + 1, 2 * day, 2 * day + 1, 3 * day, 3 * day + 2):
            assert state.delivered("a", [undated]) == {undated}
            state.commit("a", [], POSITION, span=(end - MINUTE, end), seen=[undated])
            written.append(connection(state).execute("SELECT read_ms FROM outside").fetchone()[0])
        assert written == [day, day, 2 * day + 1, 2 * day + 1, 3 * day + 2]
        assert state.prune("a", 3 * day) == 0
        assert state.delivered("a", [undated]) == {undated}

    def test_a_known_event_that_another_window_returns(self, state: SqliteStore) -> None:
        """It stays known after its own minute is pruned."""
        early = key(5, "early")
        state.commit("a", [early], POSITION, span=(0, 10 * MINUTE))
        state.commit("a", [], POSITION, span=self.SPAN, seen=[early, key(100, "inside")])
        assert state.prune("a", 50 * MINUTE) == 1
        assert state.delivered("a", [early, key(100, "inside")]) == {early}


class WithinCommit(list[EventKey]):
    """Keys that do something in the middle of the commit."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__(keys(2, name="within"))
        self._action = action

    def __iter__(self) -> Iterator[EventKey]:
        """Act between two keys."""
        for number, each in enumerate(super().__iter__()):
            if number == 1:
                self._action()
            yield each


class TestAtomic:
    """Ids and position are written together or not at all."""

    def test_full_disk(self, state: SqliteStore, path: Path) -> None:
        """Nothing is written, the error says where and what to do, and the same commit works once there is space."""
        state.commit("a", keys(2), IN_WINDOW)
        more = keys(10_000, name="more")
        with database_pages_limited(state):
            with pytest.raises(StateUnavailable) as caught:
                state.commit("a", more, NEXT)
            assert caught.value.message.startswith(f"{path}: cannot be written: ")
            assert caught.value.advice == "free space on its disk"
            with pytest.raises(StateUnavailable):
                state.commit("b", more, NEXT)
            assert state.position("a") == IN_WINDOW
            assert state.delivered("a", more) == set()
        state.commit("c", keys(3), POSITION)  # a new stream has no part in the ids of "b"
        assert (state.position("b"), state.delivered("b", keys(3))) == (None, set())
        state.commit("a", more, NEXT)
        state.close()
        with reopened(path) as later:
            assert later.position("a") == NEXT
            assert len(later.delivered("a", [*more, key(1, "other")])) == 10_000

    def test_interrupted(self, state: SqliteStore) -> None:
        """An interrupted commit leaves nothing behind, and the next one works."""
        state.commit("a", [], IN_WINDOW)

        def interrupt() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            state.commit("a", WithinCommit(interrupt), NEXT)
        assert state.position("a") == IN_WINDOW
        assert state.delivered("a", keys(2, name="within")) == set()
        state.commit("a", keys(1), NEXT)
        assert state.position("a") == NEXT

    def test_closed(self, state: SqliteStore) -> None:
        """A closed state raises StateUnavailable; closing it again does no harm."""
        state.close()
        with pytest.raises(StateUnavailable):
            state.position("a")
        with pytest.raises(StateUnavailable):
            state.commit("a", [], POSITION)
        state.close()

    def test_commit_that_took_effect(self, path: Path) -> None:
        """What a COMMIT wrote is known, even if it reported an error afterwards."""

        class Disk(sqlite3.Connection):
            fails = False

            def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
                cursor = super().execute(sql, parameters)
                if sql == "COMMIT" and self.fails:
                    raise sqlite3.OperationalError("disk I/O error")
                return cursor

        with SqliteStore(path, new_agent_id="a", connect=partial(sqlite3.connect, factory=Disk)) as state:
            state.commit("a", keys(1), IN_WINDOW)
            assert state.delivered("a", keys(3)) == set(keys(1))
            Disk.fails = True
            with pytest.raises(InJumpCloudError):
                state.commit("a", [key(9, "x")], NEXT)
            assert state.delivered("a", [key(9, "x")]) == {key(9, "x")}
            Disk.fails = False


KILLED = EventKey(1, b"x" * 16)
SCRIPT = """
import sys, pathlib
from in_jumpcloud.errors import InJumpCloudError
from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state.sqlite.store import SqliteStore
{before}
try:
    state = SqliteStore(pathlib.Path(sys.argv[1]), new_agent_id="child")
except InJumpCloudError as error:
    print(type(error).__name__, error, flush=True)
else:
    state.commit("child", [EventKey(1, b"x" * 16)], Position.starting_at(7))
    print("held", flush=True)
    sys.stdin.read()
"""


BEGIN = """
import sqlite3
try:
    sqlite3.connect(sys.argv[1], timeout=0).execute("BEGIN IMMEDIATE")
except sqlite3.OperationalError as error:
    print(error)
"""


@contextmanager
def process(path: Path, before: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that opens the state, and the line that it prints then."""
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT.format(before=before), str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:  # noqa: S603 - our own interpreter
        assert child.stdout is not None
        try:
            yield child, child.stdout.readline().strip()
        finally:
            child.kill()


class TestOneProcess:
    """One process at a time holds the state."""

    def test_second_is_refused(self, path: Path) -> None:
        """Another process, and another store of this process, learn who holds the state, without an old name's rest."""
        path.with_name(f"{path.name}.lock").write_text(f"process 1 on {'a machine of a long name ' * 20}\n")
        with reopened(path) as state:
            expected = f"state.path: {path}: in use by process {os.getpid()} on {os.uname().nodename}; only one"
            with pytest.raises(Fatal) as caught:
                reopened(path)
            assert str(caught.value).startswith(expected)
            with process(path) as (_, line):
                assert line.startswith(f"Fatal {expected}")
            state.close()
            with process(path) as (_, line):
                assert line == "held"

    def test_a_refused_store_keeps_the_locks_of_the_open_one(self, path: Path) -> None:
        """The lock of SQLite on the file survives a second opening in the same process."""
        tried = []

        def open_again() -> None:
            with pytest.raises(Fatal, match="in use by"):
                reopened(path)
            tried.append(run_python(BEGIN, path))

        with reopened(path) as state:
            state.commit("a", WithinCommit(open_again), POSITION)
        assert set(tried) == {"database is locked"}

    def test_after_a_kill(self, path: Path) -> None:
        """After SIGKILL the next process gets the state, with all that was committed."""
        with process(path) as (child, line):
            assert line == "held"
            with pytest.raises(Fatal, match=f"in use by process {child.pid} "):
                reopened(path)
            child.send_signal(signal.SIGKILL)
            child.wait(30)
            with reopened(path) as state:
                assert state.position("child") == Position.starting_at(7)
                assert state.delivered("child", [KILLED, key(1, "y")]) == {KILLED}
                assert state.agent_id == "child"

    def test_after_a_refused_file(self, path: Path) -> None:
        """A refused file is not locked: once it is moved away, the path can be opened."""
        path.write_bytes(b"no database" * 1000)
        with pytest.raises(StateCorrupt):
            reopened(path)
        path.unlink()
        reopened(path).close()


def other_program(path: Path) -> None:
    """A database of another program."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE bookmarks (url TEXT)")


def changed(statement: str) -> Callable[[Path], None]:
    """A state that was changed by a statement."""

    def change(path: Path) -> None:
        filled_state(path)
        with closing(sqlite3.connect(path)) as database:
            database.executescript(statement)

    return change


REFUSED: list[tuple[Callable[[Path], object], type[InJumpCloudError], str]] = [
    (lambda path: path.write_bytes(b"no database" * 1000), StateCorrupt, "not a database; move it away"),
    (lambda path: path.write_text("state: {}"), StateCorrupt, "not a database; move it away"),
    (other_program, StateCorrupt, "a database of another program; set another path"),
    (changed("PRAGMA application_id = 7"), StateCorrupt, "a database of another program"),
    (
        changed(f"PRAGMA user_version = {VERSION + 1}"),
        StateCorrupt,
        f"newer than version {VERSION} of this program; upgrade in-jumpcloud",
    ),
    (changed("PRAGMA user_version = 0"), StateCorrupt, "not what in-jumpcloud writes: no version; move it away"),
    (changed("DROP TABLE identity"), StateCorrupt, "not what in-jumpcloud writes; move it away"),
    (changed("DELETE FROM identity"), StateCorrupt, "no identity; move it away"),
    (lambda path: path.mkdir(), ConfigError, "cannot be written: Is a directory"),
    (lambda path: path.symlink_to(path), ConfigError, "cannot be written: "),
]


class TestFiles:
    """The file at the path."""

    @pytest.mark.parametrize("mask", [0, 0o277])
    def test_modes(self, path: Path, mask: int) -> None:
        """Only the owner can use the files with any umask; missing directories are created."""
        state_path = path.parent / "a" / "b" / "state.db"
        if mask:
            state_path.parent.mkdir(parents=True)  # it would be unusable with that umask
        umask = os.umask(mask)
        try:
            with reopened(state_path) as state:
                state.commit("a", keys(1), POSITION)
                for directory in () if mask else (state_path.parent, state_path.parent.parent):
                    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
                modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in state.path.parent.iterdir()}
        finally:
            os.umask(umask)
        assert modes == dict.fromkeys(("state.db", "state.db-wal", "state.db-shm", "state.db.lock"), 0o600)

    @pytest.mark.parametrize(("make", "kind", "reason"), REFUSED, ids=range(len(REFUSED)))
    def test_refused(
        self, path: Path, make: Callable[[Path], object], kind: type[InJumpCloudError], reason: str
    ) -> None:
        """A file that is not a state of ours is refused in one line that says what to do, and is not changed."""
        make(path)
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(kind) as caught:
            reopened(path)
        message = str(caught.value)
        assert type(caught.value) is kind
        assert message.startswith(f"state.path: {path}: ")
        assert reason in message
        assert "\n" not in message
        assert before is None or path.read_bytes() == before

    def test_below_a_file(self, path: Path) -> None:
        """A path below a regular file cannot be written."""
        path.write_bytes(b"")
        with pytest.raises(ConfigError, match=r"cannot be written: (Not a directory|File exists)"):
            reopened(path / "state.db")

    def test_full_disk_at_the_start(self, path: Path) -> None:
        """A start on a full disk says so, and does not advise to move a sound file away."""
        reopened(path).close()
        full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
        with process(path, full) as (_, line):
            assert line.startswith(f"StateUnavailable state.path: {path}: cannot be used: ")
            assert "move" not in line

    def test_empty_file(self, path: Path) -> None:
        """An empty file becomes a state."""
        path.touch()
        with reopened(path) as state:
            assert state.agent_id == "another agent"

    def test_an_empty_file_that_was_a_state(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """It is not taken for a new state, unlike a missing one; neither is a log without its file."""
        reopened(path).close()
        path.write_bytes(b"")
        with pytest.raises(StateCorrupt, match="the file is empty, but it was a state before"):
            reopened(path)
        path.unlink()
        path.with_name(f"{path.name}-wal").write_bytes(b"x" * 5000)
        with pytest.raises(StateCorrupt, match=r"the file is missing, but state\.db-wal has data of it"):
            reopened(path)
        path.with_name(f"{path.name}-wal").unlink()
        assert "is gone" not in caplog.text
        with reopened(path) as state:
            assert state.is_new
        assert f"{path}: the state that was here is gone; events may be delivered again" in caplog.text

    @pytest.mark.parametrize("suffix", ["", ".lock"])
    def test_symbolic_links(self, path: Path, suffix: str) -> None:
        """A symbolic link as the last part of a path is refused: nothing is created elsewhere."""
        target = path.with_name("elsewhere")
        link = path.with_name(f"{path.name}{suffix}")
        link.symlink_to(target)
        says = f"{link.name} is a symbolic link; remove it" if suffix else "it is a symbolic link; name the file itself"
        with pytest.raises(ConfigError, match=re.escape(f"{path}: cannot be written: {says}")):
            reopened(path)
        assert not target.exists()

    @pytest.mark.parametrize("suffix", ["-wal", "-shm"])
    def test_symbolic_links_of_sqlite(self, path: Path, suffix: str) -> None:
        """The same holds for the files that SQLite creates: the state cannot be used until the link is gone."""
        target = path.with_name("elsewhere")
        path.with_name(f"{path.name}{suffix}").symlink_to(target)
        with pytest.raises(StateUnavailable):
            reopened(path)
        assert not target.exists()


class TestInUse:
    """Files that are deleted, replaced or copied while a process uses them."""

    @pytest.mark.parametrize("suffix", ["", "-wal", "-shm", ".lock"])
    @pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
    def test_noticed(self, state: SqliteStore, suffix: str, replaced: bool) -> None:
        """Nothing is delivered until the file is back: another process may use what is at the path.

        Without the lock a commit works: what was acknowledged must be known to the next process.
        """
        state.commit("a", keys(1), POSITION)
        file = state.path.with_name(f"{state.path.name}{suffix}")
        moved = file.rename(file.with_name("moved"))
        if replaced:
            file.write_bytes(moved.read_bytes())
        what = f"{file}: was {'replaced' if replaced else 'deleted'} while this process is using it"
        uses: list[Callable[[], object]] = [state.verify, lambda: state.delivered("a", keys(2))]
        uses.append(lambda: state.commit("a", keys(2), NEXT))
        for use in uses[:2] if suffix == ".lock" else uses:
            with pytest.raises(StateUnavailable) as caught:
                use()
            assert caught.value.message.startswith(what)
        moved.rename(file)
        state.verify()
        assert state.delivered("a", keys(2)) == set(keys(1))
        assert state.position("a") == POSITION

    def test_a_copy_without_its_log(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """It opens with a warning: the newest commits may be missing. A copy of a closed state does not."""
        copy = path.with_name("copy.db")
        with reopened(path) as state:
            state.commit("a", keys(1), POSITION)
            copy.write_bytes(path.read_bytes())
        warning = "copied without its -wal file"
        reopened(copy).close()
        assert warning in caplog.text
        caplog.clear()
        reopened(copy).close()
        copy.write_bytes(path.read_bytes())
        reopened(copy).close()
        assert warning not in caplog.text

    @pytest.mark.parametrize("command", ["open_readonly", "open_shared"])
    def test_no_copy_after_a_kill(self, path: Path, command: str, caplog: pytest.LogCaptureFixture) -> None:
        """What a command does to the files after a kill is not taken for a copy, and loses nothing."""
        with process(path) as (child, line):
            assert line == "held"
            child.send_signal(signal.SIGKILL)
            child.wait(30)
        with getattr(store, command)(path) as reader:
            assert [row.name for row in reader.streams()] == ["child"]
        with reopened(path) as state:
            assert state.delivered("child", [KILLED]) == {KILLED}
        assert "copied" not in caplog.text


class TestSpace:
    """The disk of the state."""

    def test_the_file_gives_space_back(self, state: SqliteStore) -> None:
        """After pruning the file becomes smaller, some pages at a time."""
        many = [key for minute in range(1, 200) for key in keys(2000, minute)]
        state.commit("a", many, POSITION)
        connection(state).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        large = state.path.stat().st_size
        for minute in range(190, 200):
            state.prune("a", minute * MINUTE)
        connection(state).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        assert state.path.stat().st_size < large / 2

    def test_what_is_needed(self, state: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """Below 64 MB free, or what a large ledger may need in a day, it says so."""
        state.require_space()
        usage = shutil.disk_usage(state.path.parent)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=60 * 1024**2))
        assert state.space().free_bytes == 60 * 1024**2
        with pytest.raises(StateUnavailable, match="less than 64 MB free on its disk; free space on it"):
            state.require_space()
