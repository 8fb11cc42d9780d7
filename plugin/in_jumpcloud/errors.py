"""Every error this package raises, named by what the one who catches it has to do.

InJumpCloudError            its text is one line for a person: what is wrong, where, what to do
├── ConfigError             change the configuration: a command ends with exit code 2
├── Failed                  give up: a command ends with exit code 1
│   └── StateFull           keep the chunk's ids and write them again later: the disk has no room
├── Refused                 ask again after minutes, not at once: JumpCloud does not want this request
│   ├── KeyRefused          the same, and it is the key: `run --once` ends with exit code 3
│   └── NotLicensed         the same, or ask for a later start: the plan does not reach back so far
├── NoCounts                read the whole span again instead: JumpCloud does not count it
├── TryAgain                the same request again, after a growing pause
│   ├── CursorLost          the same window again, from its start; the ledger drops what was already delivered
│   └── PageTooLarge        the same, with fewer events on a page
├── ReceiverDown            the same chunk again, on a new connection: no ack for it is certain
│   ├── NotReady            the same; the receiver is there and takes nothing at present
│   └── Unwelcome           the same, after minutes: it refuses our key, user or certificate, or we refuse its own
└── Stopped                 end now: somebody asked for it
"""

from __future__ import annotations

from typing import NamedTuple


class InJumpCloudError(Exception):
    """The root: catching it catches whatever this package raises on purpose.

    `exit_code` is what a command that ends with it tells the shell.
    """

    exit_code = 1


class Problem(NamedTuple):
    """One thing that is wrong with the configuration.

    `path` is the dotted key, such as `jumpcloud.api_key` or `forward.servers[0].port`; empty where no key is concerned.
    `location` names the place where the key was set, and the key; empty where that is not known.
    """

    path: str
    text: str
    location: str = ""

    @property
    def section(self) -> str:
        """The first part of the path."""
        return self.path.partition(".")[0]

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.location or self.path, self.text)))


class ConfigError(InJumpCloudError):
    """The configuration, or something it points to, has to be changed. `problems` has at least one."""

    exit_code = 2

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = tuple(each if isinstance(each, Problem) else Problem("", each) for each in problems)
        super().__init__("\n".join(map(str, self.problems)))


class Fatal(InJumpCloudError):
    """It cannot go on, and neither waiting nor another configuration is known to help."""


class StateUnavailable(Fatal):
    """The state could not be written for want of room or of a sound disk."""


class RequestRejected(InJumpCloudError):
    """JumpCloud understood and said no: 400, 402, 403, a redirect."""


class KeyRefused(RequestRejected):
    """JumpCloud answered 401: the key is wrong, revoked, expired, or of another region."""

    exit_code = 3


class NotLicensed(RequestRejected):
    """JumpCloud answered 402: Directory Insights is not enabled, or the plan does not reach back so far."""


class CountsUnavailable(InJumpCloudError):
    """JumpCloud's counts of a span cannot be had, or not be believed."""


class Retryable(InJumpCloudError):
    """A passing fault: 429, 5xx, a timeout, a cut-off or senseless answer.

    `after` is the pause in seconds that JumpCloud asked for, or None where it named none.
    """

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class CursorLost(Retryable):
    """A `search_after` value that JumpCloud no longer takes, or that leads round in a circle."""


class PageTooLarge(Retryable):
    """An answer of more bytes than we are willing to hold."""


class ReceiverDown(InJumpCloudError):
    """The receiver could not be reached, or did not acknowledge in time.

    `reached` names the receivers that were sent the chunk: it may be just this one that they do not want.
    """

    exit_code = 4

    def __init__(self, message: str, *, reached: frozenset[str] = frozenset()) -> None:
        super().__init__(message)
        self.reached = reached


class ReceiverPaused(ReceiverDown):
    """The receiver is there, but does not begin the handshake: a Fluent Bit that is paused."""


class HandshakeRejected(ReceiverDown):
    """Receiver and sender do not accept each other: shared key, user, password, certificate."""


class Stopped(InJumpCloudError):
    """The process was asked to end while it waited."""
