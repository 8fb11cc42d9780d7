"""Dead letters in real files: none is lost, and none is delivered twice."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from support.state import run_python

from in_jumpcloud.errors import Fatal, ReceiverDown
from in_jumpcloud.state.dead_letters import DeadLetter, DeadLetterFile, ReplayResult

NOW = 1_767_225_600_000
MIB = 1024**2
ODD_EVENTS = [
    b'{"id": "1"}',
    b'{"id": "\xff\xfe", "half": "\xc3"}',
    b'{"lone": "\\ud800", "pair": "\\ud83d\\ude00"}',
    '{"id": "é\U0001f600\u2028"}'.encode(),
    b"\xed\xa0\x80\xed\xb0\x80",
    b"\x00\n\r\t no JSON at all",
    b"",
    msgspec.json.decode(b'[{"id":  1}]', type=list[msgspec.Raw])[0],
]


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "a" / "dead-letter.ndjson"


@pytest.fixture(name="file")
def _file(path: Path) -> DeadLetterFile:
    return DeadLetterFile(path, max_bytes=MIB)


def add(file: DeadLetterFile, *ids: str, event: bytes = b"{}") -> None:
    """Add a dead letter for each id."""
    for each in ids:
        file.add("a stream", each, "refused", event, now_ms=NOW)


def ids(file: DeadLetterFile) -> list[str]:
    """The ids in the file, in order."""
    return [letter.id for letter in file.letters()]


def accepting(*wanted: str) -> Callable[[DeadLetter], bool]:
    """A receiver that accepts only these."""
    return lambda letter: letter.id in wanted


class TestAdding:
    """What is written, and what is read back."""

    def test_no_file(self, file: DeadLetterFile, path: Path) -> None:
        """Without a file there are no dead letters, and reading creates none."""
        assert list(file.letters()) == []
        assert file.replay(accepting()) == (0, 0)
        assert file.size() == 0
        assert not path.parent.exists()

    def test_exact(self, file: DeadLetterFile, path: Path) -> None:
        """Every event comes back byte for byte with all its fields. A line is a JSON object in ASCII, for any tool."""
        for event in ODD_EVENTS:
            file.add("default", "é'\"\n", "no\nack: \ud800", event, now_ms=NOW)
        expected = [
            DeadLetter("2026-01-01T00:00:00.000Z", "default", "é'\"\n", "no\nack: \ud800", bytes(event))
            for event in ODD_EVENTS
        ]
        assert list(file.letters()) == expected
        lines = path.read_bytes().decode("ascii").splitlines()
        assert [json.loads(line)["stream"] for line in lines] == ["default"] * len(ODD_EVENTS)

    def test_mode(self, file: DeadLetterFile, path: Path) -> None:
        """Only the owner can use the file with any umask, also after a replay; its directory is created."""
        umask = os.umask(0)
        try:
            add(file, "1", "2")
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            file.replay(accepting("1"))
        finally:
            os.umask(umask)
        assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}

    def test_full(self, path: Path) -> None:
        """Above its limit nothing is written, and the error names the limit; the last byte can be used."""
        add(DeadLetterFile(path, max_bytes=MIB), "1", "2")
        whole = path.read_bytes()
        exact = DeadLetterFile(path, max_bytes=len(whole) * 3 // 2)
        add(exact, "3")
        with pytest.raises(Fatal, match=rf"full: {len(whole) * 3 // 2} bytes, and dead_letter\.max_bytes"):
            add(exact, "4")
        assert path.read_bytes()[: len(whole)] == whole
        assert ids(exact) == ["1", "2", "3"]

    def test_full_disk(self, file: DeadLetterFile, path: Path) -> None:
        """On a full disk no part of the line stays; with space again it works."""
        add(file, "1")
        whole = path.read_bytes()
        line = run_python("""
            import resource, signal
            from in_jumpcloud.state.dead_letters import DeadLetterFile
            from in_jumpcloud.errors import Fatal
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            path = Path(sys.argv[1])
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, resource.RLIM_INFINITY))
            try:
                DeadLetterFile(path, max_bytes=2**20).add("a", "2", "refused", b"{}", now_ms=0)
            except Fatal as error:
                print(error)
            """, path)  # fmt: skip
        assert line == f"dead_letter.path: {path}: cannot be written: File too large"
        assert path.read_bytes() == whole
        add(file, "2")
        assert ids(file) == ["1", "2"]

    def test_unusable_path(self, tmp_path: Path) -> None:
        """A path that cannot be used is an error: the event must not be dropped then."""
        (tmp_path / "file").touch()
        with pytest.raises(Fatal, match=r"^dead_letter\.path: .* cannot be written: "):
            add(DeadLetterFile(tmp_path / "file" / "x", max_bytes=MIB), "1")
        with pytest.raises(Fatal, match="cannot be read: Is a directory"):
            list(DeadLetterFile(tmp_path, max_bytes=MIB).letters())

    def test_moved_away(self, file: DeadLetterFile, path: Path) -> None:
        """After the file was moved away, the next dead letter starts a new one."""
        add(file, "1")
        path.rename(path.with_name("old"))
        add(file, "2")
        assert ids(file) == ["2"]


class TestDamage:
    """Lines that are not dead letters."""

    @pytest.mark.parametrize("left", [1, 20, -2, -1])
    def test_torn(self, file: DeadLetterFile, path: Path, left: int, caplog: pytest.LogCaptureFixture) -> None:
        """An incomplete last line is logged and stays; the next dead letter begins on a line after it."""
        add(file, "1")
        line = path.read_bytes()
        torn = line[:left]
        path.write_bytes(line + torn)
        complete = left == -1  # only the line break is missing: nothing is lost
        assert ids(file) == (["1", "1"] if complete else ["1"])
        add(file, "2")
        caplog.clear()
        assert ids(file) == (["1", "1", "2"] if complete else ["1", "2"])
        assert (f"{path}:2: not a dead letter" in caplog.text) != complete
        assert path.read_bytes().splitlines()[1] == torn.rstrip(b"\n")

    def test_other_lines(self, file: DeadLetterFile, path: Path) -> None:
        """The dead letters around any other line are read and delivered, and that line stays unchanged."""
        add(file, "1")
        fields = json.loads(path.read_bytes())
        wrong = [fields | {"id": 1}, fields | {"more": "x"}, {"event": "{}"}]
        lines = [b"\0" * 30, b"[" * 100_000, b"[]", b"{}", b'"text"', b'{"event": 1}', b"\xff", b'{"event": "\\ud800"}']
        damaged = b"".join(line + b"\n" for line in [*lines, *(json.dumps(each).encode() for each in wrong)])
        path.write_bytes(path.read_bytes() + damaged)
        add(file, "2")
        assert ids(file) == ["1", "2"]
        assert file.replay(accepting("1", "2")) == ReplayResult(delivered=2, kept=len(lines) + len(wrong))
        assert path.read_bytes() == damaged


class TestReplay:
    """Another try to deliver them."""

    def test_removes_what_was_delivered(self, file: DeadLetterFile, path: Path) -> None:
        """Only what was delivered is removed; the rest stays byte for byte. An empty file has space again."""
        add(file, "1", "2", "3", event=ODD_EVENTS[1])
        lines = path.read_bytes().splitlines(keepends=True)
        assert file.replay(accepting("2")) == ReplayResult(delivered=1, kept=2)
        assert path.read_bytes() == lines[0] + lines[2]
        assert file.replay(accepting("1", "3")) == (2, 0)
        assert path.read_bytes() == b""
        assert file.replay(accepting()) == (0, 0)
        add(file, "4")
        assert ids(file) == ["4"]

    def test_an_error_ends_it(self, file: DeadLetterFile) -> None:
        """What was delivered before an error is removed; the rest stays."""
        add(file, "1", "2", "3")

        def deliver(letter: DeadLetter) -> bool:
            if letter.id == "2":
                raise ReceiverDown("down")
            return True

        with pytest.raises(ReceiverDown):
            file.replay(deliver)
        assert ids(file) == ["2", "3"]

    def test_killed(self, file: DeadLetterFile, path: Path) -> None:
        """What was delivered before a kill is not delivered again, and the next replay removes it."""
        add(file, "1", "2", "3")
        run_python("""
            import signal
            from in_jumpcloud.state.dead_letters import DeadLetterFile
            def deliver(letter):
                if letter.id == "2":
                    os.kill(os.getpid(), signal.SIGKILL)
                return True
            DeadLetterFile(Path(sys.argv[1]), max_bytes=2**20).replay(deliver)
            """, path, check=False)  # fmt: skip
        assert ids(file) == ["2", "3"]
        tried: list[str] = []

        def refuse(letter: DeadLetter) -> bool:
            tried.append(letter.id)
            return False

        assert file.replay(refuse) == (0, 2)
        assert tried == ["2", "3"]
        assert len(path.read_bytes().splitlines()) == 2

    def test_added_meanwhile(self, file: DeadLetterFile) -> None:
        """Adding does not wait for a replay; the next replay delivers what was added."""
        add(file, "1", "2")

        def deliver(letter: DeadLetter) -> bool:
            add(file, f"new-{letter.id}")
            return True

        assert file.replay(deliver) == (2, 0)
        assert ids(file) == ["new-1", "new-2"]

    def test_two_at_once(self, file: DeadLetterFile) -> None:
        """A second replay is refused while one is running: it would deliver everything twice."""
        add(file, "1")

        def deliver(_: DeadLetter) -> bool:
            with pytest.raises(Fatal, match="another replay is running"):
                file.replay(accepting())
            return True

        assert file.replay(deliver) == (1, 0)

    def test_moved_away_meanwhile(self, file: DeadLetterFile, path: Path) -> None:
        """A file that is moved away during a replay is marked where it is now; the new file is not touched."""
        add(file, "1", "2")
        old = path.with_name("old")

        def deliver(letter: DeadLetter) -> bool:
            if letter.id == "1":
                path.rename(old)
                add(file, "new")
            return letter.id == "1"

        assert file.replay(deliver) == (1, 1)
        assert ids(file) == ["new"]
        assert ids(DeadLetterFile(old, max_bytes=MIB)) == ["2"]


def test_processes_at_once(file: DeadLetterFile, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Processes that add while others list and replay lose nothing, and tear no line."""
    script = (
        "import pathlib, sys\n"
        "from in_jumpcloud.state.dead_letters import DeadLetterFile\n"
        "file = DeadLetterFile(pathlib.Path(sys.argv[1]), max_bytes=2**30)\n"
        "for number in range(150):\n"
        "    file.add('a', f'{sys.argv[2]}-{number}', 'refused', b'x' * 20_000, now_ms=0)\n"
    )
    delivered: list[str] = []
    repeated: list[str] = []
    ended = threading.Event()

    def list_repeatedly() -> None:
        while not ended.is_set():
            listed = ids(file)
            repeated.extend(each for each in set(listed) if listed.count(each) > 1)

    listing = threading.Thread(target=list_repeatedly)
    listing.start()

    def deliver(letter: DeadLetter) -> bool:
        delivered.append(letter.id)
        return True

    children = [subprocess.Popen([sys.executable, "-c", script, path, name]) for name in "ab"]  # noqa: S603 - our own
    try:
        while any(child.poll() is None for child in children):
            file.replay(deliver)
    finally:
        ended.set()
        listing.join()
        for child in children:
            child.kill()
            child.wait()
    file.replay(deliver)
    assert [child.returncode for child in children] == [0, 0]
    assert repeated == []
    assert sorted(delivered) == sorted(f"{name}-{number}" for name in "ab" for number in range(150))
    assert ids(file) == []
    assert "not a dead letter" not in caplog.text
