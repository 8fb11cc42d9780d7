"""What a receiver refuses for good, kept on disk: one JSON object a line, with the event as JumpCloud sent it.

Lines are only ever added at the end. One that was delivered after all is marked in place, by its first byte, and
taken out at the end of the replay. So nobody waits for a replay, and one that is killed delivers at most one twice.
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
"""The first byte of a line that was delivered; `{` stood there."""


class DeadLetter(NamedTuple):
    """One event that could not be delivered. `time` is when it was given up, RFC 3339; `event` its JSON, exactly."""

    time: str
    stream: str
    id: str
    reason: str
    event: bytes

    def line(self) -> bytes:
        """As it stands in the file. Bytes that are not UTF-8 survive as lone surrogates, which JSON can spell."""
        fields = self._asdict() | {"event": self.event.decode(errors="surrogateescape")}
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> DeadLetter:
        """Read a line of the file; ValueError where it is none."""
        try:
            fields = json.loads(line)
            if not all(type(value) is str for value in fields.values()):
                raise ValueError("a field that is not text")
            event = fields.pop("event").encode(errors="surrogateescape")
            return cls(**fields, event=event)
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not a dead letter: {error}") from None


class ReplayResult(NamedTuple):
    """How many dead letters were delivered, and how many stay."""

    delivered: int
    kept: int


class DeadLetterFile:
    """The file. Several processes may use it: each holds its lock while it writes, which is never long."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes

    def add(self, stream: str, event_id: str, reason: str, event: bytes | msgspec.Raw, *, now_ms: int) -> None:
        """Write one down; it is on the disk when this returns.

        Raises:
            Failed: the file is full or cannot be written, nothing of it was: the event must not be given up then.
        """
        line = DeadLetter(rfc3339(now_ms), stream, event_id, reason, bytes(event)).line()
        with self._errors("written"), self._locked() as file:
            size = os.fstat(file).st_size
            # After a crash the last line may be a part of one. It stays, on a line of its own.
            torn = size and os.pread(file, 1, size - 1) != b"\n"
            data = b"\n" + line if torn else line
            if size + len(data) > self._max_bytes:
                raise Fatal(
                    f"{self.path}: full: {size} bytes, and dead_letter.max_bytes is {self._max_bytes}; "
                    "see `in-jumpcloud dead-letter list`, then replay or move it away"
                )
            try:
                _write(file, data, size)
                os.fsync(file)
                if not size:
                    _sync_folder(self.path)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file, size)
                raise

    def letters(self) -> Iterator[DeadLetter]:
        """All that are in it; none where there is no file. A line that cannot be read is told in the log.

        Raises:
            Failed: it cannot be read.
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
        """Hand each to `deliver`, and take those out of the file for which that is True.

        An error of `deliver` ends it; what it was True for until then is taken out. A line that cannot be read stays.

        Raises:
            Failed: the file cannot be read or written, or another replay is under way.
        """
        if not self.size():
            return ReplayResult(0, 0)
        delivered = kept = 0
        with self._alone():
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
                self._take_out()
        return ReplayResult(delivered, kept)

    def size(self) -> int:
        """Its bytes; 0 where there is none."""
        with self._errors("read"):
            try:
                return self.path.stat().st_size
            except FileNotFoundError:
                return 0

    def _lines(self, file: IO[bytes]) -> Iterator[tuple[int, DeadLetter | None]]:
        """Each line that was not delivered, by its offset; None for one that cannot be read.

        Those that are added meanwhile are left for the next time.
        """
        with self._errors("read"):
            fcntl.flock(file, fcntl.LOCK_SH)  # an addition under way comes to its end first
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
                        log.warning("%s:%d: cannot be read, and stays: %s", self.path, number, error)
                        letter = None
                    yield offset, letter
                offset += len(line)

    def _take_out(self) -> None:
        """Write the file anew, without the lines that were delivered."""
        new = self.path.with_name(f"{self.path.name}.new")
        with self._errors("written"), self._locked() as fileno, os.fdopen(os.dup(fileno), "rb") as file:
            if not any(line.startswith(_DONE) for line in file):
                return
            file.seek(0)
            was = os.fstat(fileno)
            try:
                with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as kept:  # noqa: PTH123 - the mode
                    kept.writelines(line for line in file if not line.startswith(_DONE))
                    kept.flush()
                    if was.st_uid != os.geteuid():  # root replays, and the plugin has to go on with the file
                        os.fchown(kept.fileno(), was.st_uid, was.st_gid)
                    os.fsync(kept.fileno())
                new.replace(self.path)
            except OSError:
                new.unlink(missing_ok=True)
                raise
            _sync_folder(self.path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, made where there is none, while no other process adds to it or replaces it."""
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
    def _alone(self) -> Iterator[None]:
        """One replay at a time: two would deliver each event twice."""
        lock = self.path.with_name(f"{self.path.name}.lock")
        with self._errors("written"):
            held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Fatal(f"{self.path}: another replay is under way") from None
            yield
        finally:
            os.close(held)

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Fatal(f"dead_letter.path: {self.path}: cannot be {doing}: {error.strerror}") from None


def _is_at(file: int, path: Path) -> bool:
    """Whether nobody replaced the file, or moved it away, while the lock was waited for."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _write(file: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(file, left, offset)
        left, offset = left[written:], offset + written


def _sync_folder(path: Path) -> None:
    """Make a new name in a folder outlive a loss of power."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
