"""Positions and the ledger of delivered ids, in real files."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from in_jumpcloud.errors import ConfigError, Fatal, StateUnavailable
from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.insights.window import Position, Window
from in_jumpcloud.state.store import StateStore

WINDOW = Window(start_ms=5, end_ms=86_400_005, services=("sso", "ldap"), limit=1000, cursor='["é", 17, null]')
POSITION = Position(origin_ms=1, watermark_ms=5, window=WINDOW)
NEXT = POSITION.past(WINDOW)
ODD_IDS = ["'", '"', "''; --", "\\", "%", "é", "\U0001f600", " ", "$[0]", "null", "1", "01", "[1]", "x" * 10_000]


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture(name="state")
def _state(path: Path) -> Iterator[StateStore]:
    with StateStore(path, new_agent_id="the agent") as state:
        yield state


def reopened(path: Path) -> StateStore:
    """The state as a later process finds it."""
    return StateStore(path, new_agent_id="another agent")


def keys(count: int, minute: int = 1, name: str = "id") -> list[EventKey]:
    """So many keys of one minute."""
    return [(minute, f"{name}-{number}") for number in range(count)]


class TestKept:
    """What is written, and what is read back."""

    def test_new(self, state: StateStore) -> None:
        """A new state knows no stream and no event."""
        assert state.position("a") is None
        assert state.delivered("a", keys(3)) == set()

    def test_position_survives(self, path: Path) -> None:
        """A position with the window under way is read back as it was written, cursor included."""
        with reopened(path) as state:
            state.commit("a", [], POSITION)
        with reopened(path) as state:
            assert state.position("a") == POSITION

    def test_ledger_survives(self, path: Path) -> None:
        """What was delivered is still known after the file was opened again, whatever is asked first."""
        with reopened(path) as state:
            state.commit("a", keys(3), POSITION)
        with reopened(path) as state:
            assert state.delivered("a", keys(5)) == set(keys(3))

    def test_prune_after_reopening(self, path: Path) -> None:
        """Pruning works in a state that was just opened."""
        with reopened(path) as state:
            state.commit("a", keys(3), POSITION)
        with reopened(path) as state:
            assert state.prune("a", 2) == 3

    def test_latest_position(self, state: StateStore) -> None:
        """The last committed position counts, and ids add up."""
        state.commit("a", keys(2), POSITION)
        state.commit("a", keys(3), NEXT)
        assert state.position("a") == NEXT
        assert state.delivered("a", keys(5)) == set(keys(3))

    def test_streams(self, state: StateStore) -> None:
        """Streams do not see each other's positions and ids."""
        state.commit("a", keys(2), POSITION)
        state.commit("b'; --", keys(2, name="other"), NEXT)
        assert (state.position("a"), state.position("b'; --"), state.position("c")) == (POSITION, NEXT, None)
        assert state.delivered("a", keys(2, name="other")) == state.delivered("b'; --", keys(2)) == set()
        assert state.prune("c", 10) == 0

    def test_minute(self, state: StateStore) -> None:
        """The same id in another minute is another event."""
        state.commit("a", [(7, "x")], POSITION)
        assert state.delivered("a", [(7, "x"), (8, "x"), (0, "x")]) == {(7, "x")}

    def test_odd_ids(self, state: StateStore) -> None:
        """Ids of any text are told apart, exactly."""
        known = [(1, each) for each in ODD_IDS]
        state.commit("a", known, POSITION)
        assert state.delivered("a", [*known, *((1, each + "x") for each in ODD_IDS), (1, "É")]) == set(known)

    def test_nothing_asked(self, state: StateStore) -> None:
        """Of no events none was delivered."""
        state.commit("a", keys(3), POSITION)
        assert state.delivered("a", []) == set()

    def test_in_any_order(self, path: Path) -> None:
        """What is older than the newest that was delivered is known, and what is newer is not."""
        with StateStore(path, new_agent_id="the agent") as state:
            state.commit("a", keys(2, minute=9), POSITION)
            state.commit("a", keys(2, minute=3), POSITION)
            assert state.delivered("a", [*keys(3, 3), *keys(3, 9), *keys(3, 10)]) == {*keys(2, 3), *keys(2, 9)}
        with reopened(path) as state:
            assert state.delivered("a", [*keys(3, 3), *keys(3, 9), *keys(3, 10)]) == {*keys(2, 3), *keys(2, 9)}

    def test_many(self, state: StateStore) -> None:
        """A page of 10,000 events is known and asked for at once."""
        state.commit("a", keys(10_000), POSITION)
        assert len(state.delivered("a", keys(10_001))) == 10_000

    def test_prune(self, state: StateStore) -> None:
        """Pruning forgets what is before a minute, counts it, and keeps that minute, undated ids and other streams."""
        everything = [*keys(2, minute=0), *keys(3, minute=9), *keys(4, minute=10)]
        state.commit("a", everything, POSITION)
        state.commit("b", everything, POSITION)
        assert state.prune("a", 10) == 3
        assert state.delivered("a", everything) == {*keys(2, minute=0), *keys(4, minute=10)}
        assert state.delivered("b", everything) == set(everything)

    def test_agent_id(self, path: Path) -> None:
        """The agent's id is the one of the first opening, ever after."""
        with StateStore(path, new_agent_id="first") as state:
            assert state.agent_id == "first"
        for _ in range(2):
            with reopened(path) as state:
                assert state.agent_id == "first"

    def test_threads(self, state: StateStore) -> None:
        """Threads that commit and ask at the same time do not disturb each other."""
        errors: list[BaseException] = []

        def work(stream: str) -> None:
            try:
                for minute in range(1, 31):
                    state.commit(stream, keys(5, minute), POSITION)
                    assert state.delivered(stream, keys(6, minute)) == set(keys(5, minute))
                assert state.prune(stream, 11) == 50
            except BaseException as error:  # noqa: BLE001 - told below
                errors.append(error)

        threads = [threading.Thread(target=work, args=(f"stream {number}",)) for number in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(60)
        assert errors == []
        left = [key for minute in range(1, 31) for key in keys(5, minute)]
        assert [len(state.delivered(f"stream {number}", left)) for number in range(4)] == [100] * 4


@contextmanager
def full(state: StateStore) -> Iterator[None]:
    """No room for another page of the database."""
    database = state._database
    most = database.execute("PRAGMA max_page_count").fetchone()[0]
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}")
    yield
    database.execute(f"PRAGMA max_page_count = {most}")


class Interrupted(list[EventKey]):
    """Keys that break off when they are gone through."""

    def __iter__(self) -> Iterator[EventKey]:
        """Give one, then be interrupted."""
        yield (1, "first")
        raise KeyboardInterrupt


class TestAtomic:
    """Ids and position are written together or not at all."""

    def test_no_room(self, state: StateStore, path: Path) -> None:
        """With a full disk neither is written, StateUnavailable says where; with room again it works."""
        state.commit("a", keys(2), POSITION)
        with full(state):
            with pytest.raises(StateUnavailable, match=r"state\.db: cannot be written: .*full; free room"):
                state.commit("a", keys(10_000, name="more"), NEXT)
            assert state.position("a") == POSITION
            assert state.delivered("a", keys(10_000, name="more")) == set()
        state.commit("a", keys(10_000, name="more"), NEXT)
        state.close()
        with reopened(path) as later:
            assert later.position("a") == NEXT
            assert len(later.delivered("a", keys(10_000, name="more"))) == 10_000

    def test_no_room_for_a_new_stream(self, state: StateStore) -> None:
        """A stream whose first commit failed is still new, and has no part in the next new stream's ids."""
        with full(state), pytest.raises(StateUnavailable):
            state.commit("a", keys(10_000), POSITION)
        state.commit("b", keys(3), POSITION)
        assert state.position("a") is None
        assert state.delivered("a", keys(3)) == set()

    def test_interrupted(self, state: StateStore) -> None:
        """A commit that is interrupted leaves nothing behind, and the next one works at once."""
        state.commit("a", [], POSITION)
        with pytest.raises(KeyboardInterrupt):
            state.commit("a", Interrupted(), NEXT)
        assert state.position("a") == POSITION
        assert state.delivered("a", [(1, "first")]) == set()
        state.commit("a", keys(1), NEXT)
        assert state.position("a") == NEXT

    def test_closed(self, state: StateStore) -> None:
        """A closed state is not read from and not written to; closing it again does no harm."""
        state.close()
        with pytest.raises(Fatal):
            state.position("a")
        with pytest.raises(StateUnavailable):
            state.commit("a", [], POSITION)
        state.close()


SCRIPT = """
import sys, pathlib
from in_jumpcloud.errors import InJumpCloudError
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state.store import StateStore
{before}
try:
    state = StateStore(pathlib.Path(sys.argv[1]), new_agent_id="child")
except InJumpCloudError as error:
    print(type(error).__name__, error, flush=True)
else:
    state.commit("child", [(1, "x")], Position.starting_at(7))
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def process(path: Path, before: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that opens the state, and the line it says then; it ends with the block at the latest."""
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT.format(before=before), str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:  # noqa: S603 - our own interpreter
        assert child.stdout is not None
        try:
            yield child, child.stdout.readline().strip()
        finally:
            child.kill()


class TestOneProcess:
    """One process at a time has the state."""

    def test_second_is_refused(self, state: StateStore) -> None:
        """A second process is told who holds the state."""
        with process(state.path) as (_, said):
            assert said.startswith(f"Fatal state.path: {state.path}: in use by process {os.getpid()} on ")

    def test_holder_before(self, path: Path) -> None:
        """Of a holder before nothing is left in what the next one is told."""
        path.with_name(f"{path.name}.lock").write_text(f"process 1 on {'a machine of a long name ' * 20}\n")
        with reopened(path), pytest.raises(Fatal) as caught:
            reopened(path)
        assert f"in use by process {os.getpid()} on {os.uname().nodename}; one" in str(caught.value)

    def test_second_in_the_same_process(self, state: StateStore) -> None:
        """The state cannot be opened twice in one process either."""
        with pytest.raises(Fatal, match=f"in use by process {os.getpid()} "):
            reopened(state.path)

    def test_after_a_kill(self, path: Path) -> None:
        """After SIGKILL the next process gets the state, with all that was committed."""
        with process(path) as (child, said):
            assert said == "held"
            with pytest.raises(Fatal, match=f"in use by process {child.pid} "):
                reopened(path)
            child.send_signal(signal.SIGKILL)
            child.wait(30)
            with reopened(path) as state:
                assert state.position("child") == Position.starting_at(7)
                assert state.delivered("child", [(1, "x"), (1, "y")]) == {(1, "x")}
                assert state.agent_id == "child"

    def test_after_closing(self, state: StateStore) -> None:
        """Once it is closed another process gets it."""
        state.close()
        with process(state.path) as (_, said):
            assert said == "held"

    def test_after_a_refused_file(self, path: Path) -> None:
        """A file that could not be used is not held: once it is moved away the path can be opened."""
        path.write_bytes(b"no database" * 1000)
        with pytest.raises(ConfigError):
            reopened(path)
        path.unlink()
        reopened(path).close()


class TestFiles:
    """What lies at the path."""

    def test_modes(self, path: Path) -> None:
        """Every file is for its owner alone, whatever the umask; folders on the way are made."""
        before = os.umask(0)
        try:
            with reopened(path.parent / "a" / "b" / "state.db") as state:
                state.commit("a", keys(1), POSITION)
                modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in state.path.parent.iterdir()}
        finally:
            os.umask(before)
        assert modes == dict.fromkeys(("state.db", "state.db-wal", "state.db-shm", "state.db.lock"), 0o600)

    @staticmethod
    def _other_program(path: Path) -> None:
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE bookmarks (url TEXT)")
        database.close()

    @staticmethod
    def _changed(path: Path, change: str) -> None:
        with reopened(path) as state:
            for minute in range(20):
                state.commit("a", keys(100, minute), POSITION)
            state._database.execute(change)

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda path: path.write_bytes(b"no database" * 1000), "not a database; move it away, or name"),
            (lambda path: path.write_text("state: {}"), "not a database; move it away, or name"),
            (_other_program, "a database of another program; name another path"),
            (
                lambda path: TestFiles._changed(path, "PRAGMA user_version = 3"),
                "version 3, newer than this program's 2",
            ),
            (lambda path: TestFiles._changed(path, "PRAGMA application_id = 7"), "a database of another program"),
            (lambda path: path.mkdir(), "cannot be written: Is a directory"),
            (lambda path: path.symlink_to(path), "cannot be written: "),
        ],
        ids=["junk", "small text", "other program", "newer", "other id", "directory", "loop"],
    )
    def test_refused(self, path: Path, make: Callable[[Path], Any], reason: str) -> None:
        """What is no state of ours is refused in one line that says what to do, and is left as it was."""
        make(path)
        before = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        with pytest.raises(ConfigError) as caught:
            reopened(path)
        message = str(caught.value)
        assert message.startswith(f"state.path: {path}: ")
        assert reason in message
        assert "\n" not in message
        assert before is None or path.read_bytes() == before

    def test_below_a_file(self, path: Path) -> None:
        """A path below a regular file cannot be written."""
        path.write_bytes(b"")
        with pytest.raises(ConfigError, match=r"cannot be written: (Not a directory|File exists)"):
            reopened(path / "state.db")

    @pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
    def test_truncated(self, path: Path, part: float) -> None:
        """A file that was cut off is refused, not taken for an emptier state."""
        self._changed(path, "PRAGMA user_version = 2")
        os.truncate(path, int(path.stat().st_size * part))
        with pytest.raises(ConfigError, match="move it away to begin anew"):
            reopened(path)

    def test_damaged_inside(self, path: Path) -> None:
        """A file whose first page is sound and whose second is not is refused in the same way."""
        self._changed(path, "PRAGMA user_version = 2")
        whole = path.read_bytes()
        path.write_bytes(whole[:4096] + bytes(4096) + whole[8192:])
        with pytest.raises(ConfigError, match="malformed; move it away"):
            reopened(path)

    def test_full_disk_at_the_start(self, path: Path) -> None:
        """A start without room is told as what it is, with no advice to move a sound file away."""
        reopened(path).close()
        no_room = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
        with process(path, no_room) as (_, said):
            assert said.startswith(f"ConfigError state.path: {path}: cannot be used: ")
            assert "move" not in said

    def test_empty_file(self, path: Path) -> None:
        """An empty file, as made by touch, becomes a state."""
        path.touch()
        with reopened(path) as state:
            assert state.agent_id == "another agent"
