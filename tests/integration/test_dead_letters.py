"""Dead letters in real files: nothing of them is lost, and none is delivered twice."""

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
]


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "a" / "dead-letter.ndjson"


@pytest.fixture(name="file")
def _file(path: Path) -> DeadLetterFile:
    return DeadLetterFile(path, max_bytes=MIB)


def add(file: DeadLetterFile, *ids: str, event: bytes = b"{}") -> None:
    """Write one down for each id."""
    for each in ids:
        file.add("a stream", each, "refused", event, now_ms=NOW)


def ids(file: DeadLetterFile) -> list[str]:
    """The ids in the file, in order."""
    return [letter.id for letter in file.letters()]


def taking(*wanted: str) -> Callable[[DeadLetter], bool]:
    """A receiver that takes only these."""
    return lambda letter: letter.id in wanted


class TestAdding:
    """What is written, and what is read back."""

    def test_none(self, file: DeadLetterFile, path: Path) -> None:
        """Where there is no file there are no letters, and looking makes none."""
        assert list(file.letters()) == []
        assert file.replay(taking()) == (0, 0)
        assert file.size() == 0
        assert not path.parent.exists()

    @pytest.mark.parametrize("event", ODD_EVENTS, ids=range(len(ODD_EVENTS)))
    def test_exact(self, file: DeadLetterFile, event: bytes) -> None:
        """An event comes back byte for byte, whatever its bytes are, with all that is told of it."""
        file.add("default", "é'\"\n", "no\nack: \ud800", event, now_ms=NOW)
        assert list(file.letters()) == [
            DeadLetter("2026-01-01T00:00:00.000Z", "default", "é'\"\n", "no\nack: \ud800", event)
        ]

    def test_raw(self, file: DeadLetterFile) -> None:
        """An event may come as a piece of a page."""
        (raw,) = msgspec.json.decode(b'[{"id":  1}]', type=list[msgspec.Raw])
        file.add("a", "1", "refused", raw, now_ms=NOW)
        assert next(file.letters()).event == b'{"id":  1}'

    def test_a_line_each(self, file: DeadLetterFile, path: Path) -> None:
        """Every line is one JSON object in ASCII, for any tool to read."""
        add(file, "1", "2", event=b'{"name": "\xc3\xa9\n\xff"}')
        lines = path.read_bytes().decode("ascii").splitlines()
        assert [json.loads(line)["id"] for line in lines] == ["1", "2"]

    def test_mode(self, file: DeadLetterFile, path: Path) -> None:
        """The file is for its owner alone, whatever the umask, also once it was written anew; its folder is made."""
        before = os.umask(0)
        try:
            add(file, "1", "2")
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            file.replay(taking("1"))
        finally:
            os.umask(before)
        assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}

    def test_full(self, path: Path) -> None:
        """Above its bound nothing is written, and that is told; the last byte may be used."""
        add(DeadLetterFile(path, max_bytes=MIB), "1", "2")
        whole = path.read_bytes()
        exact = DeadLetterFile(path, max_bytes=len(whole) * 3 // 2)
        add(exact, "3")
        with pytest.raises(Fatal, match=rf"full: {len(whole) * 3 // 2} bytes, and dead_letter\.max_bytes"):
            add(exact, "4")
        assert path.read_bytes()[: len(whole)] == whole
        assert ids(exact) == ["1", "2", "3"]

    def test_no_room(self, file: DeadLetterFile, path: Path) -> None:
        """On a full disk nothing of the line stays, and that is told; with room again it works."""
        add(file, "1")
        script = (
            "import pathlib, resource, signal, sys\n"
            "from in_jumpcloud.state.dead_letters import DeadLetterFile\n"
            "from in_jumpcloud.errors import Fatal\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "path = pathlib.Path(sys.argv[1])\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, resource.RLIM_INFINITY))\n"
            "try:\n"
            "    DeadLetterFile(path, max_bytes=2**20).add('a', '2', 'refused', b'{}', now_ms=0)\n"
            "except Fatal as error:\n"
            "    print(error)\n"
        )
        whole = path.read_bytes()
        said = subprocess.run([sys.executable, "-c", script, path], capture_output=True, check=True, timeout=60)  # noqa: S603
        assert said.stdout.decode() == f"dead_letter.path: {path}: cannot be written: File too large\n"
        assert path.read_bytes() == whole
        add(file, "2")
        assert ids(file) == ["1", "2"]

    def test_no_place(self, tmp_path: Path) -> None:
        """A path that cannot be used is told: the event must not be given up then."""
        (tmp_path / "file").touch()
        with pytest.raises(Fatal, match=r"^dead_letter\.path: .* cannot be written: "):
            add(DeadLetterFile(tmp_path / "file" / "x", max_bytes=MIB), "1")
        with pytest.raises(Fatal, match="cannot be read: Is a directory"):
            list(DeadLetterFile(tmp_path, max_bytes=MIB).letters())

    def test_moved_away(self, file: DeadLetterFile, path: Path) -> None:
        """Once somebody moved the file away the next letter begins a new one."""
        add(file, "1")
        path.rename(path.with_name("old"))
        add(file, "2")
        assert ids(file) == ["2"]


class TestDamage:
    """What a crash, or a person, leaves behind."""

    @pytest.mark.parametrize("left", [1, 20, -2, -1])
    def test_torn(self, file: DeadLetterFile, path: Path, left: int, caplog: pytest.LogCaptureFixture) -> None:
        """A part of a line at the end is told and stays, and what comes behind it stands on a line of its own."""
        add(file, "1")
        line = path.read_bytes()
        torn = line[:left]
        path.write_bytes(line + torn)
        whole = left == -1  # only the line's end is missing: nothing is lost
        assert ids(file) == (["1", "1"] if whole else ["1"])
        add(file, "2")
        caplog.clear()
        assert ids(file) == (["1", "1", "2"] if whole else ["1", "2"])
        assert ("2: not a dead letter" in caplog.text) != whole
        assert path.read_bytes().splitlines()[1] == torn.rstrip(b"\n")

    @pytest.mark.parametrize(
        "line",
        [b"\0" * 30, b"[" * 100_000, b"[]", b"{}", b'"text"', b'{"event": 1}', b"\xff", b'{"event": "\\ud800"}'],
        ids=range(8),
    )
    def test_a_line_that_is_none(self, file: DeadLetterFile, path: Path, line: bytes) -> None:
        """Whatever a line is, the others are read and delivered, and it stays as it was."""
        add(file, "1")
        path.write_bytes(path.read_bytes() + line + b"\n")
        add(file, "2")
        assert ids(file) == ["1", "2"]
        assert file.replay(taking("1", "2")) == ReplayResult(delivered=2, kept=1)
        assert path.read_bytes() == line + b"\n"

    def test_fields_of_another_kind(self, file: DeadLetterFile, path: Path) -> None:
        """A field that is not text, is missing or is one too many makes no dead letter."""
        add(file, "1")
        fields = json.loads(path.read_bytes())
        wrong = [fields | {"id": 1}, fields | {"more": "x"}, {"event": "{}"}]
        path.write_text("".join(json.dumps(each) + "\n" for each in wrong))
        assert ids(file) == []


class TestReplay:
    """Another try."""

    def test_takes_out_what_was_delivered(self, file: DeadLetterFile, path: Path) -> None:
        """Only what was delivered is taken out; the rest stays byte for byte, in its order."""
        add(file, "1", "2", "3", event=ODD_EVENTS[1])
        lines = path.read_bytes().splitlines(keepends=True)
        assert file.replay(taking("2")) == ReplayResult(delivered=1, kept=2)
        assert path.read_bytes() == lines[0] + lines[2]

    def test_all(self, file: DeadLetterFile, path: Path) -> None:
        """Where all were delivered the file is empty, and has room again."""
        add(file, "1", "2")
        assert file.replay(taking("1", "2")) == (2, 0)
        assert path.read_bytes() == b""
        assert file.replay(taking()) == (0, 0)
        add(file, "3")
        assert ids(file) == ["3"]

    def test_an_error_ends_it(self, file: DeadLetterFile) -> None:
        """What was delivered before an error is taken out; the one under way and those behind it stay."""
        add(file, "1", "2", "3")

        def deliver(letter: DeadLetter) -> bool:
            if letter.id == "2":
                raise ReceiverDown("down")
            return True

        with pytest.raises(ReceiverDown):
            file.replay(deliver)
        assert ids(file) == ["2", "3"]

    def test_killed(self, file: DeadLetterFile, path: Path) -> None:
        """What was delivered before a kill is not delivered again, and is taken out by the next replay."""
        add(file, "1", "2", "3")
        script = (
            "import os, pathlib, signal, sys\n"
            "from in_jumpcloud.state.dead_letters import DeadLetterFile\n"
            "def deliver(letter):\n"
            "    if letter.id == '2':\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return True\n"
            "DeadLetterFile(pathlib.Path(sys.argv[1]), max_bytes=2**20).replay(deliver)\n"
        )
        done = subprocess.run([sys.executable, "-c", script, path], check=False, timeout=60)  # noqa: S603 - our own
        assert done.returncode < 0
        assert ids(file) == ["2", "3"]
        tried: list[str] = []

        def deliver(letter: DeadLetter) -> bool:
            tried.append(letter.id)
            return False

        assert file.replay(deliver) == (0, 2)
        assert tried == ["2", "3"]
        assert len(path.read_bytes().splitlines()) == 2

    def test_added_meanwhile(self, file: DeadLetterFile) -> None:
        """Nobody who adds waits for a replay; what is added meanwhile stays for the next one."""
        add(file, "1", "2")

        def deliver(letter: DeadLetter) -> bool:
            add(file, f"new-{letter.id}")
            return True

        assert file.replay(deliver) == (2, 0)
        assert ids(file) == ["new-1", "new-2"]

    def test_two_at_once(self, file: DeadLetterFile) -> None:
        """A second replay is refused while one is under way: it would deliver everything twice."""
        add(file, "1")

        def deliver(_: DeadLetter) -> bool:
            with pytest.raises(Fatal, match="another replay is running"):
                file.replay(taking())
            return True

        assert file.replay(deliver) == (1, 0)

    def test_moved_away_meanwhile(self, file: DeadLetterFile, path: Path) -> None:
        """What is moved away during a replay is marked where it now is; the new file is not touched."""
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
    """Processes that add while others list and replay lose nothing, and no line is torn."""
    script = (
        "import pathlib, sys\n"
        "from in_jumpcloud.state.dead_letters import DeadLetterFile\n"
        "file = DeadLetterFile(pathlib.Path(sys.argv[1]), max_bytes=2**30)\n"
        "for number in range(150):\n"
        "    file.add('a', f'{sys.argv[2]}-{number}', 'refused', b'x' * 20_000, now_ms=0)\n"
    )
    delivered: list[str] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            found = ids(file)
            assert len(set(found)) == len(found)

    looker = threading.Thread(target=look)
    looker.start()

    def deliver(letter: DeadLetter) -> bool:
        delivered.append(letter.id)
        return True

    children = [subprocess.Popen([sys.executable, "-c", script, path, name]) for name in "ab"]  # noqa: S603 - our own
    try:
        while any(child.poll() is None for child in children):
            file.replay(deliver)
    finally:
        ended.set()
        looker.join()
        for child in children:
            child.kill()
            child.wait()
    file.replay(deliver)
    assert [child.returncode for child in children] == [0, 0]
    assert sorted(delivered) == sorted(f"{name}-{number}" for name in "ab" for number in range(150))
    assert ids(file) == []
    assert "cannot be read" not in caplog.text
