"""Every error that this package raises on purpose. The class says what the caller has to do.

InJumpCloudError            the message is one line for a person: what is wrong, where, and what to do
├── ConfigError             the user must change the configuration; a command exits with code 2
│   └── StateMissing        there is no state yet; the first `in-jumpcloud run` creates it
├── Fatal                   another try soon does not help; a command exits with code 1, a stream waits for minutes
│   └── StateCorrupt        the state is damaged, not ours, or of a newer version; the process exits
├── StateUnavailable        the state is sound but cannot be used now; keep the ids of the chunk and write them later
│   ├── DeadLettersFull     the same, until a person replays or drops dead letters
│   └── StateOutdated       an older program wrote the state; the next `in-jumpcloud run` brings it up to date
├── RequestRejected         JumpCloud refuses this request; repeat it after minutes
│   ├── KeyRefused          the same, and the cause is the key; `run --once` exits with code 3
│   ├── OtherOrganization   the same: the key is of another organization than the state
│   └── NotLicensed         the same, or ask for a later start: the plan does not reach back that far
├── CountsUnavailable       JumpCloud does not count this time span; read all of it instead
├── Retryable               repeat the request, after a growing pause
│   ├── RequestTimeout      the same; a firewall or a proxy may be the cause
│   ├── CursorLost          restart the window; the ledger drops what was delivered already
│   └── PageTooLarge        restart the window with fewer events a page; a single event is stepped over
├── ReceiverDown            no ack is certain; resend the same chunk on a new connection
│   ├── ReceiverPaused      the same; the receiver is there, but takes nothing now
│   └── HandshakeRejected   the same, after a minute: one side rejects the key, user or certificate of the other
└── Stopped                 return at once: the process, or the stream, was asked to stop
    └── Fenced              another process owns the stream: drop it
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Literal, NamedTuple, Self

ReceiverStage = Literal["resolve", "connect", "tls", "handshake", "send", "ack"]
"""The steps of a delivery, in order. "handshake" is HELO, PING and PONG."""


class InJumpCloudError(Exception):
    """The root of all errors that are raised on purpose.

    `str(error)` is the message, followed by the advice if there is any. `message` and `advice` hold the two apart.
    `exit_code` is the exit code of a command that ends with this error.
    """

    exit_code = 1

    def __init__(self, message: str = "", *, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def redact(self, redact: Callable[[str], str]) -> None:
        """Replace the text by what `redact` makes of it."""
        self.message, self.advice = redact(self.message), redact(self.advice)
        self.args = (self.message,)

    def kept(self) -> Self:
        """This error, to be kept: without the frames and the errors it came from, which hold pages and connections."""
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.message}; {self.advice}" if self.advice else self.message


class Problem(NamedTuple):
    """One thing that is wrong with the configuration.

    `path` is the dotted key, such as `jumpcloud.api_key` or `forward.servers[0].port`; empty if it is about no key.
    `location` names the place where the key was set, and the key; empty if that is not known. `may_pass`: the setting
    may be right, because time or another person can repair what it names, such as a file.
    """

    path: str
    text: str
    location: str = ""
    may_pass: bool = False

    @property
    def section(self) -> str:
        """The first part of the path."""
        return self.path.partition(".")[0]

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.location or self.path, self.text)))


class ConfigError(InJumpCloudError):
    """The configuration, or something it points to, must be changed. `problems` has at least one.

    `settings` is the rest of the configuration, with defaults for what is wrong; None if it could not be read.
    """

    exit_code = 2

    def __init__(self, *problems: Problem | str, advice: str = "") -> None:
        self.settings: object = None
        self.problems = tuple(each if isinstance(each, Problem) else Problem("", each) for each in problems)
        super().__init__("\n".join(map(str, self.problems)), advice=advice)

    @property
    def may_pass(self) -> bool:
        """Whether the same configuration may work later."""
        return all(problem.may_pass for problem in self.problems)


class StateMissing(ConfigError):
    """There is no state at the path, or the file is empty. The first `in-jumpcloud run` creates it."""


class Fatal(InJumpCloudError):
    """It failed, and another try soon does not help."""


class StateCorrupt(Fatal):
    """The state is damaged, belongs to another program, or has a newer version."""


class StateUnavailable(InJumpCloudError):
    """The state cannot be read or written now: the disk is full or fails, or another program is using the file.

    `after` is the number of seconds after which it may be usable, None if that is not known.
    """

    def __init__(self, message: str, *, advice: str = "", after: float | None = None) -> None:
        super().__init__(message, advice=advice)
        self.after = after


class DeadLettersFull(StateUnavailable):
    """There is no space for another dead letter within dead_letter.max_bytes. A person must replay or drop some."""


class StateOutdated(StateUnavailable):
    """An older program wrote the state, so it cannot be read yet. The next `in-jumpcloud run` brings it up to date."""


class RequestRejected(InJumpCloudError):
    """JumpCloud understood the request and refused it: 400, 402, 403, a redirect."""


class KeyRefused(RequestRejected):
    """JumpCloud answered 401: the key is wrong, revoked, expired, or belongs to another region."""

    exit_code = 3


class OtherOrganization(RequestRejected):
    """The events are of another organization than those before: the key was replaced by that of another tenant."""


class NotLicensed(RequestRejected):
    """JumpCloud answered 402: Directory Insights is not enabled, or the plan does not reach back that far."""


class CountsUnavailable(InJumpCloudError):
    """JumpCloud does not count a time span, or its counts make no sense."""


class Retryable(InJumpCloudError):
    """A temporary fault: 429, 5xx, a timeout, an answer that is cut off or makes no sense.

    `after` is the pause that JumpCloud asked for, in seconds, or None.
    """

    def __init__(self, message: str, *, advice: str = "", after: float | None = None) -> None:
        super().__init__(message, advice=advice)
        self.after = after


class RequestTimeout(Retryable):
    """JumpCloud did not accept the connection, or did not answer, within its timeout."""


class CursorLost(Retryable):
    """JumpCloud does not accept a `search_after` value any more, or it leads to a page that was read before."""


class PageTooLarge(Retryable):
    """An answer has more bytes than we are willing to hold. `cursor` leads past it, as its header says."""

    def __init__(self, message: str, *, cursor: str | None = None) -> None:
        super().__init__(message)
        self.cursor = cursor


class ReceiverDown(InJumpCloudError):
    """The receiver could not be reached, or did not acknowledge in time.

    `stage` is the step that failed, None if several receivers failed at different ones. `errno` is the system's code:
    ETIMEDOUT after a timeout, ECONNRESET where the receiver closed the connection, None for every other reason.
    `reached` names the receivers that were sent the chunk: they may refuse only this chunk.
    """

    exit_code = 4

    def __init__(
        self,
        message: str,
        *,
        advice: str = "",
        stage: ReceiverStage | None = None,
        errno: int | None = None,
        reached: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(message, advice=advice)
        self.stage = stage
        self.errno = errno
        self.reached = reached


class ReceiverPaused(ReceiverDown):
    """The receiver accepts the connection, but does not begin the handshake: a Fluent Bit that is paused."""


class HandshakeRejected(ReceiverDown):
    """One side rejects the shared key, user, password or certificate of the other."""


class Stopped(InJumpCloudError):
    """A wait ended because the process, or the stream, was asked to stop."""


class Fenced(Stopped):
    """Another process has taken over the stream. What this one writes of it changes nothing."""


_WRONG_PATH = {
    *(errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO),
}


def may_pass(error: BaseException) -> bool:
    """Whether time or another person can repair the cause, so that the process waits instead of ending.

    Only an editor of the configuration repairs a path that names another kind of file. A full or read-only disk,
    missing permissions, a missing file, too many open files and an I/O error may pass.
    """
    if isinstance(error, ConfigError):
        return error.may_pass
    if isinstance(error, OSError):
        return error.errno not in _WRONG_PATH
    return isinstance(error, StateUnavailable | MemoryError)
