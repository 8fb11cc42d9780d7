"""The waits at start: which errors they are for, how they grow, and when they end."""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Callable
from itertools import pairwise

import pytest

from in_jumpcloud.errors import (
    ConfigError,
    Fatal,
    KeyRefused,
    Problem,
    StateCorrupt,
    StateUnavailable,
    Stopped,
    may_pass,
)
from in_jumpcloud.retry import Retry
from in_jumpcloud.runtime import Runtime
from in_jumpcloud.troubles import Troubles


class _Stop(threading.Event):
    """An event whose waits only move the clock of the runtime."""

    def __init__(self, runtime: VirtualRuntime) -> None:
        super().__init__()
        self._runtime = runtime

    def wait(self, timeout: float | None = None) -> bool:
        """Let the time pass."""
        self._runtime.now += timeout or 0.0
        return self.is_set()


class VirtualRuntime(Runtime):
    """A runtime whose time passes only while something waits."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.stop = _Stop(self)

    def monotonic(self) -> float:
        """The time."""
        return self.now


class Waiting:
    """A wait for an attempt that fails a few times."""

    def __init__(self, *, give_up_after: float | None = None) -> None:
        self.runtime = VirtualRuntime()
        self.troubles = Troubles(lambda: 0)
        self.tried: list[float] = []
        self.ticks: list[str] = []
        self.retry = Retry(
            self.troubles,
            self.runtime.stop,
            on_tick=self.ticks.append,
            give_up_after=give_up_after,
            runtime=self.runtime,
        )

    def wait(self, errors: Callable[[int], Exception | None]) -> int:
        """Wait until the attempt of a number has no error."""

        def attempt() -> int:
            self.tried.append(self.runtime.now)
            if error := errors(len(self.tried)):
                raise error
            return len(self.tried)

        return self.retry("state", attempt)


FULL = StateUnavailable("state.path: x: cannot be written: full", advice="free space")


def test_pauses_grow(caplog: pytest.LogCaptureFixture) -> None:
    """Up to a minute, for ever; one line when it begins, when its cause changes and when it ends."""
    waiting = Waiting()
    caplog.set_level("INFO", logger="in_jumpcloud")
    locked = StateUnavailable("state.path: x: locked")
    assert waiting.wait(lambda number: FULL if number < 90 else locked if number < 100 else None) == 100
    pauses = [later - earlier for earlier, later in pairwise(waiting.tried)]
    assert 0.5 <= pauses[0] <= 1.25
    assert all(30 <= pause <= 60.25 for pause in pauses[6:])
    assert caplog.messages == [
        "state.path: x: cannot be written: full; free space; the start waits until it works",
        "state.path: x: locked; the start waits until it works",
        "recovered from: state.path: x: locked",
    ]
    assert set(waiting.ticks) == {"state.path: x: cannot be written: full", "state.path: x: locked"}
    assert not waiting.troubles.current()


def test_it_gives_up() -> None:
    """With a limit it fails with the cause and exit code 1, and not before most of the time has passed."""
    waiting = Waiting(give_up_after=120)
    with pytest.raises(Fatal, match=r"\Astate.path: x: cannot be written: full; free space\Z") as caught:
        waiting.wait(lambda _: FULL)
    assert caught.value.exit_code == 1
    assert 60 <= waiting.runtime.now <= 121


def test_it_ends_early() -> None:
    """A stop ends it; a request for another try ends its present pause only."""
    waiting = Waiting()
    waiting.retry.at_once()
    assert waiting.wait(lambda number: FULL if number == 1 else None) == 2
    assert waiting.tried == [0.0, 0.0]

    def stop(_: int) -> Exception:
        waiting.runtime.stop.set()
        return FULL

    with pytest.raises(Stopped):
        waiting.wait(stop)
    assert len(waiting.tried) == 3


def test_what_may_pass() -> None:
    """Everything but what an editor of the configuration, or of the state, must repair."""
    passing = Problem("jumpcloud.api_key_file", "missing", may_pass=True)
    final = Problem("jumpcloud.intervall", "unknown key")
    codes = {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK),
        *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ESTALE, errno.EADDRINUSE, errno.EAGAIN, errno.EINTR),
    }
    errors: dict[bool, list[BaseException]] = {
        True: [FULL, ConfigError(passing), MemoryError(), *(OSError(code, "") for code in codes)],
        False: [
            *(ConfigError(passing, final), ConfigError("text"), StateCorrupt("damaged"), Fatal("in use"), KeyRefused()),
            *(OSError(code, "") for code in (errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)),
            *(sqlite3.OperationalError(), ValueError()),
        ],
    }
    for expected, each in ((expected, each) for expected, group in errors.items() for each in group):
        assert may_pass(each) is expected, repr(each)
