"""Dead letters in the state: none is lost or delivered twice, and commands work while a process holds the state."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from support.state import POSITION, connection, database_pages_limited, key, run_python

from in_jumpcloud.errors import DeadLettersFull, ReceiverDown, StateUnavailable
from in_jumpcloud.state.dead_letters import DeadLetter, Refused, replay
from in_jumpcloud.state.reader import StateReader
from in_jumpcloud.state.sqlite.store import SqliteStore, open_readonly, open_shared

NOW = 1_767_225_600_000
ODD_EVENTS = [
    b'{"id": "1"}',
    b'{"id": "\xff\xfe", "half": "\xc3"}',
    b'{"lone": "\\ud800", "pair": "\\ud83d\\ude00"}',
    '{"id": "é\U0001f600\u2028"}'.encode(),
    b"\xed\xa0\x80\xed\xb0\x80",
    b"\x00\n\r\t no JSON at all",
    b"",
    bytes(msgspec.json.decode(b'[{"id":  1}]', type=list[msgspec.Raw])[0]),
]


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "a" / "state.db"


@pytest.fixture(name="state")
def _state(path: Path) -> Iterator[SqliteStore]:
    with opened(path) as state:
        yield state


def opened(path: Path, max_bytes: int = 1024**2) -> SqliteStore:
    """The state, with a clock that always shows NOW."""
    return SqliteStore(path, new_agent_id="x", max_dead_letter_bytes=max_bytes, now_ms=lambda: NOW)


def refused(name: str, event: bytes = b"{}", reason: str = "refused") -> Refused:
    """An event that is called `name`."""
    return Refused(key(1, name), name, reason, NOW, "tag", event)


def add(state: SqliteStore, *names: str, event: bytes = b"{}") -> None:
    """Commit a dead letter for each name."""
    for name in names:
        letter = refused(name, event)
        state.commit("a", [letter.key], POSITION, dead_letters=[letter])


def suspect(state: SqliteStore, *names: str) -> None:
    """Park a suspect for each name."""
    for name in names:
        letter = refused(name)
        state.commit("a", [letter.key], POSITION, suspects=[letter])


def ids(state: StateReader) -> list[str]:
    """The ids of the dead letters, in order."""
    return [letter.refused.id for letter in state.dead_letters.letters()]


def replay_all(state: StateReader, deliver: Callable[[DeadLetter], bool]) -> int:
    """Replay every dead letter; how many stay."""
    return replay(state.dead_letters, [letter.number for letter in state.dead_letters.letters()], deliver)


def accepting(*wanted: str) -> Callable[[DeadLetter], bool]:
    """A receiver that accepts only these."""
    return lambda letter: letter.refused.id in wanted


class TestKept:
    """What is written, and what is read back."""

    def test_exact(self, path: Path) -> None:
        """Every event comes back byte for byte with all its fields. A line is a JSON object in ASCII, for any tool."""
        letters = [
            Refused(key(n, str(n)), "é'\"\n", "no\nack", NOW, "tag", event) for n, event in enumerate(ODD_EVENTS)
        ]
        with opened(path) as state:
            state.commit("default", [each.key for each in letters], POSITION, dead_letters=letters)
            (row,) = state.streams()
            assert (row.acknowledged, row.dead_lettered) == (0, len(letters))
        with open_readonly(path) as reader:
            found = list(reader.dead_letters.letters())
        assert [(each.stream, each.state, each.refused) for each in found] == [
            ("default", "dead", each) for each in letters
        ]
        lines = [json.loads(each.line().decode("ascii")) for each in found]
        assert [line["event"].encode(errors="surrogateescape") for line in lines] == ODD_EVENTS
        assert lines[0]["time"] == "2026-01-01T00:00:00.000Z"

    def test_text_that_cannot_be_stored(self, state: SqliteStore) -> None:
        """Text from outside that is not valid Unicode is escaped."""
        letter = refused("1", reason="\ud800")._replace(id="\udcff", tag="\ud800")
        state.commit("a", [letter.key], POSITION, dead_letters=[letter])
        (found,) = state.dead_letters.letters()
        assert (found.refused.id, found.refused.reason, found.refused.tag) == ("\\udcff", "\\ud800", "\\ud800")

    def test_together_with_their_commit(self, state: SqliteStore) -> None:
        """A commit that fails leaves neither the id nor the dead letter."""
        letter = refused("1", b"x" * 500_000)
        with database_pages_limited(state), pytest.raises(StateUnavailable):
            state.commit("a", [letter.key], POSITION, dead_letters=[letter])
        assert (ids(state), state.delivered("a", [letter.key]), state.dead_letters.count) == ([], set(), 0)
        state.commit("a", [letter.key], POSITION, dead_letters=[letter])
        assert (ids(state), state.delivered("a", [letter.key]), state.dead_letters.count) == (["1"], {letter.key}, 1)

    def test_full(self, path: Path) -> None:
        """Above the limit nothing is committed, and the error names the limit; the last byte can be used."""
        size = refused("1").size
        with opened(path, max_bytes=2 * size) as state:
            add(state, "1", "2")
            letter = refused("3")
            with pytest.raises(DeadLettersFull, match=rf"{2 * size} bytes are used, and dead_letter\.max_bytes is"):
                state.commit("b", [letter.key], POSITION, dead_letters=[letter])
            with pytest.raises(DeadLettersFull):
                state.commit("b", [letter.key], POSITION, suspects=[letter])
            assert state.position("b") is None
            with open_shared(path) as other:
                assert other.dead_letters.remove(next(other.dead_letters.letters()).number)
            state.commit("b", [letter.key], POSITION, dead_letters=[letter])
            assert ids(state) == ["2", "3"]


class TestSuspects:
    """Events that are sent once more before they become dead letters."""

    def test_parked_over_a_restart(self, path: Path) -> None:
        """They are known, but neither acknowledged nor dead letters."""
        with opened(path) as state:
            suspect(state, "1", "2")
        with opened(path) as state:
            assert [(each.refused.id, each.refused.tag, each.state) for each in state.parked("a")] == [
                ("1", "tag", "suspect"),
                ("2", "tag", "suspect"),
            ]
            assert state.parked("b") == []
            assert ids(state) == []
            assert state.delivered("a", [key(1, "1")]) == {key(1, "1")}
            (row,) = state.streams()
            assert (row.acknowledged, row.dead_lettered) == (0, 0)

    def test_settled(self, state: SqliteStore) -> None:
        """One that is acknowledged is gone, one that is refused again is a dead letter, and each is counted once."""
        suspect(state, "1", "2")
        first, second = state.parked("a")
        for _ in range(2):
            state.settle(first, None)
            state.settle(second, "refused again")
            (row,) = state.streams()
            assert (row.acknowledged, row.dead_lettered) == (1, 1)
        assert state.parked("a") == []
        assert [(each.refused.id, each.refused.reason) for each in state.dead_letters.letters()] == [
            ("2", "refused again")
        ]


class TestReplay:
    """Delivering them again."""

    def test_delivered_ones_are_removed(self, state: SqliteStore) -> None:
        """What stays is kept in order, and can be replayed again; suspects are not replayed."""
        add(state, "1", "2", "3")
        suspect(state, "suspect")
        with open_shared(state.path) as other:
            assert replay_all(other, accepting("1", "3")) == 1
        assert ids(state) == ["2"]
        assert replay_all(state, accepting("2", "suspect")) == 0
        assert len(state.parked("a")) == 1

    def test_an_error_in_between(self, state: SqliteStore) -> None:
        """What was delivered before an error is removed; the event that failed stays."""
        add(state, "1", "2", "3")

        def deliver(letter: DeadLetter) -> bool:
            if letter.refused.id == "2":
                raise ReceiverDown("down")
            return True

        with open_shared(state.path) as other, pytest.raises(ReceiverDown):
            replay_all(other, deliver)
        assert ids(state) == ["2", "3"]

    def test_a_kill_delivers_at_most_one_twice(self, path: Path) -> None:
        """Killed while it delivers the third, the next replay begins with the third."""
        with opened(path) as state:
            add(state, "1", "2", "3", "4")
        script = """
            import signal
            from in_jumpcloud.state.dead_letters import replay
            from in_jumpcloud.state.sqlite.store import open_shared
            def deliver(letter):
                print(letter.refused.id, flush=True)
                if letter.refused.id == "3":
                    os.kill(os.getpid(), signal.SIGKILL)
                return True
            with open_shared(Path(sys.argv[1])) as state:
                replay(state.dead_letters, [1, 2, 3, 4], deliver)
            """
        assert run_python(script, path, check=False).split() == ["1", "2", "3"]
        with opened(path) as state:
            assert ids(state) == ["3", "4"]

    def test_added_meanwhile(self, state: SqliteStore) -> None:
        """A process that holds the state adds during a replay; the next replay delivers what was added."""
        add(state, "1", "2")

        def deliver(letter: DeadLetter) -> bool:
            add(state, f"new-{letter.refused.id}")
            return True

        with open_shared(state.path) as other:
            assert replay_all(other, deliver) == 0
        assert ids(state) == ["new-1", "new-2"]


class TestImport:
    """The file of an earlier version."""

    def line(self, name: str, event: bytes = b"{}", stream: str = "default") -> bytes:
        """A line as earlier versions wrote it."""
        fields = {"time": "2026-01-01T00:00:00.000Z", "stream": stream, "id": name, "reason": "no ack"}
        return json.dumps(fields | {"event": event.decode(errors="surrogateescape")}).encode() + b"\n"

    def test_moved_once(self, state: SqliteStore, tmp_path: Path) -> None:
        """Its events move into the state, in order and byte for byte, and the file is renamed."""
        file = tmp_path / "dead-letter.ndjson"
        whole = b"".join(self.line(str(number), event) for number, event in enumerate(ODD_EVENTS))
        file.write_bytes(whole)
        for _ in range(2):
            state.import_dead_letters(file)
        found = [each.refused for each in state.dead_letters.letters()]
        assert [(each.id, each.event, each.time_ms) for each in found] == [
            (str(number), event, NOW) for number, event in enumerate(ODD_EVENTS)
        ]
        assert not file.exists()
        assert (tmp_path / "dead-letter.ndjson.imported").read_bytes() == whole

    def test_after_a_kill(self, state: SqliteStore, tmp_path: Path) -> None:
        """A run that was killed after the commit, before the last renaming, makes no second copy."""
        file = tmp_path / "dead-letter.ndjson"
        (tmp_path / "dead-letter.ndjson.importing").write_bytes(self.line("1"))
        state.import_dead_letters(file)
        (tmp_path / "dead-letter.ndjson.imported").rename(tmp_path / "dead-letter.ndjson.importing")
        state.import_dead_letters(file)
        assert ids(state) == ["1"]

    def test_other_lines(self, state: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Delivered lines are left out; those that cannot be parsed stay in the file, and their number is logged."""
        file = tmp_path / "dead-letter.ndjson"
        torn = [
            b'{"time": "2026-',
            b"[]",
            b'{"time": 5, "stream": "a", "id": "1", "reason": "r", "event": "{}"}',
            b"[" * 9999,
        ]
        file.write_bytes(b"\n".join([self.line("1").strip(), b"#" + self.line("2").strip()[1:], b"", *torn]))
        state.import_dead_letters(file)
        assert ids(state) == ["1"]
        assert "4 lines are no dead letters" in caplog.text

    def test_a_file_that_cannot_be_read(
        self, state: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is logged, and the plugin starts all the same."""
        (tmp_path / "directory").mkdir()
        os.mkfifo(tmp_path / "pipe")
        for name in ("directory", "pipe"):
            state.import_dead_letters(tmp_path / name)
            assert f"{name}: cannot be moved into the state: [Errno 22] not a regular file" in caplog.text
            assert (tmp_path / name).exists()


def test_the_size_is_read_from_an_index(state: SqliteStore) -> None:
    """Adding one does not read all events."""
    plan = connection(state).execute("EXPLAIN QUERY PLAN SELECT count(*), sum(bytes) FROM dead_letter").fetchall()
    assert "COVERING INDEX" in str(plan)
