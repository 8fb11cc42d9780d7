"""Events that the receiver refuses for good, kept on disk: one JSON object a line, with the event as JumpCloud sent it.

New lines are appended. A replay marks each delivered line in place, in its first byte, and removes the marked lines at
its end. So adding never waits for a replay, and a replay that is killed delivers at most one event twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from in_jumpcloud.errors import Fatal
from in_jumpcloud.timestamps import rfc3339

log = logging.getLogger(__name__)

_DONE = b"#"
"""Replaces the `{` at the beginning of a delivered line."""


class DeadLetter(NamedTuple):
    """One event that could not be delivered.

    `time` is when it became a dead letter, in RFC 3339. `event` is its JSON, byte for byte.
    """

    time: str
    stream: str
    id: str
    reason: str
    event: bytes

    def line(self) -> bytes:
        """The line in the file. Bytes that are not UTF-8 become lone surrogates, which JSON can escape."""
        fields = self._asdict() | {"event": self.event.decode(errors="surrogateescape")}
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> DeadLetter:
        """Parse a line of the file.

        Raises:
            ValueError: it is not a dead letter.
        """
        try:
            fields = json.loads(line)
            if not all(type(value) is str for value in fields.values()):
                raise ValueError("a field is not text")
            event = fields.pop("event").encode(errors="surrogateescape")
            return cls(**fields, event=event)
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not a dead letter: {error}") from None


class ReplayResult(NamedTuple):
    """The number of dead letters that were delivered, and of those that stay in the file."""

    delivered: int
    kept: int


class DeadLetterFile:
    """The file of dead letters. Several processes may use it; each locks it briefly while it writes."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes

    def add(self, stream: str, event_id: str, reason: str, event: bytes | msgspec.Raw, *, now_ms: int) -> None:
        """Append one dead letter. It is on disk when this returns.

        Raises:
            Fatal: the file is full or cannot be written. Nothing was written, so the event must not be dropped.
        """
        line = DeadLetter(rfc3339(now_ms), stream, event_id, reason, bytes(event)).line()
        with self._errors("written"), self._locked() as file:
            size = os.fstat(file).st_size
            # A crash may leave an incomplete last line. It stays; the new one begins on a line after it.
            is_torn = size and os.pread(file, 1, size - 1) != b"\n"
            data = b"\n" + line if is_torn else line
            if size + len(data) > self._max_bytes:
                raise Fatal(
                    f"dead_letter.path: {self.path}: full: {size} bytes, and dead_letter.max_bytes is "
                    f"{self._max_bytes}",
                    advice="see `in-jumpcloud dead-letter list`, then replay the file or move it away",
                )
            try:
                _write(file, data, size)
                os.fsync(file)
                if not size:
                    _sync_directory(self.path)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file, size)
                raise

    def letters(self) -> Iterator[DeadLetter]:
        """All dead letters in the file; none if there is no file. A line that cannot be parsed is logged and skipped.

        Raises:
            Fatal: the file cannot be read.
        """
        with self._errors("read"):
            try:
                file = self.path.open("rb")
            except FileNotFoundError:
                return
        with file:
            for _, letter in self._lines(file):
                if letter:
                    yield letter

    def replay(self, deliver: Callable[[DeadLetter], bool]) -> ReplayResult:
        """Call `deliver` with each dead letter, and remove those from the file for which it returns True.

        An error of `deliver` ends the replay; what was delivered before it is removed. A line that cannot be parsed
        stays.

        Raises:
            Fatal: the file cannot be read or written, or another replay is running.
        """
        if not self.size():
            return ReplayResult(0, 0)
        delivered = kept = 0
        with self._exclusive_replay():
            try:
                with self._errors("written"):
                    file = self.path.open("r+b")
                with file:
                    for offset, letter in self._lines(file):
                        if letter and deliver(letter):
                            with self._errors("written"):
                                os.pwrite(file.fileno(), _DONE, offset)
                                os.fsync(file.fileno())
                            delivered += 1
                        else:
                            kept += 1
            finally:
                self._remove_delivered()
        return ReplayResult(delivered, kept)

    def size(self) -> int:
        """The size of the file in bytes; 0 if there is no file."""
        with self._errors("read"):
            try:
                return self.path.stat().st_size
            except FileNotFoundError:
                return 0

    def _lines(self, file: IO[bytes]) -> Iterator[tuple[int, DeadLetter | None]]:
        """The offset and dead letter of each line not yet delivered; None for a line that cannot be parsed.

        Lines that are added meanwhile are left for the next replay.
        """
        with self._errors("read"):
            fcntl.flock(file, fcntl.LOCK_SH)  # wait for a process that is adding a line
            size = os.fstat(file.fileno()).st_size
            fcntl.flock(file, fcntl.LOCK_UN)
            offset = 0
            for number, line in enumerate(file, 1):
                if offset >= size:
                    return
                if line.strip() and not line.startswith(_DONE):
                    try:
                        letter = DeadLetter.parse(line)
                    except ValueError as error:
                        log.warning("%s:%d: not a dead letter, left in the file: %s", self.path, number, error)
                        letter = None
                    yield offset, letter
                offset += len(line)

    def _remove_delivered(self) -> None:
        """Rewrite the file without the delivered lines."""
        new = self.path.with_name(f"{self.path.name}.new")
        with self._errors("written"), self._locked() as fileno, os.fdopen(os.dup(fileno), "rb") as file:
            if not any(line.startswith(_DONE) for line in file):
                return
            file.seek(0)
            old = os.fstat(fileno)
            try:
                with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as kept:  # noqa: PTH123 - the mode
                    kept.writelines(line for line in file if not line.startswith(_DONE))
                    kept.flush()
                    if old.st_uid != os.geteuid():  # root runs the replay, but the plugin must be able to use the file
                        os.fchown(kept.fileno(), old.st_uid, old.st_gid)
                    os.fsync(kept.fileno())
                new.replace(self.path)
            except OSError:
                new.unlink(missing_ok=True)
                raise
            _sync_directory(self.path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Open the file, or create it, and keep other processes from adding to it or replacing it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if _is_at(file, self.path):
                    yield file
                    return
            finally:
                os.close(file)

    @contextlib.contextmanager
    def _exclusive_replay(self) -> Iterator[None]:
        """Allow one replay at a time: two would deliver each event twice."""
        lock = self.path.with_name(f"{self.path.name}.lock")
        with self._errors("written"):
            file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Fatal(f"{self.path}: another replay is running") from None
            yield
        finally:
            os.close(file)

    @contextlib.contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Fatal(f"dead_letter.path: {self.path}: cannot be {action}: {error.strerror}") from None


def _is_at(file: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`: it may have been replaced while we waited for the lock."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _write(file: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(file, left, offset)
        left, offset = left[written:], offset + written


def _sync_directory(path: Path) -> None:
    """Make a new name in a directory survive a loss of power."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
