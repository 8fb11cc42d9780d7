"""`run --supervised`: the process ends with the one that started it, such as a Fluent Bit with an `exec` input.

Fluent Bit leaves its descriptors to what it starts. A process that outlives a kill of Fluent Bit would hold its
listening socket, and no other Fluent Bit could take the port.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable

from in_jumpcloud.errors import Fatal
from in_jumpcloud.runtime import SYSTEM

_PARENT = os.getppid()
"""When this module is loaded, which is the first thing that a supervised process does."""
_INIT = 1
_STDOUT = 1
_STANDARD = {0, _STDOUT, 2}
_END_SECONDS = 0.8
"""How long the process has to end by itself. The receiver is gone, so no ack will come."""
_LOOK_SECONDS = 0.8
"""How often the parent is looked for on a system that does not report its end."""


def close_inherited() -> None:
    """Close the descriptors that the parent left open, except for standard input, output and error.

    Only those are inheritable: Python opens its own otherwise.
    """
    for descriptor in {int(name) for name in os.listdir("/dev/fd")} - _STANDARD:  # noqa: PTH208 - only names
        with contextlib.suppress(OSError):  # that of the list itself
            if os.get_inheritable(descriptor):
                os.close(descriptor)


def require_output() -> None:
    """Check that there is a standard output.

    Raises:
        Fatal: it is closed.
    """
    try:
        os.fstat(_STDOUT)
    except OSError:
        text = "standard output is closed, and --supervised logs there"
        raise Fatal(text, advice="start it with standard output open, as Fluent Bit's exec input does") from None


def end_with_parent(end: Callable[[], None], say: Callable[[str], None]) -> None:
    """Call `end` once the parent has ended or no process reads standard output; shortly after that, exit.

    `say` writes a line to standard error.

    Standard output tells of a parent that started a shell, which may outlive it.
    """

    def watch() -> None:
        _wait_for_the_end()
        with contextlib.suppress(OSError):  # what is still logged goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)
            say("the process that started this one has ended, so this one ends too")
        end()
        time.sleep(_END_SECONDS)
        os._exit(1)

    SYSTEM.start(watch, name="parent")


def _wait_for_the_end() -> None:
    events = select.poll()
    events.register(_STDOUT, 0)  # an error and a hangup are always reported
    parent = _open_process(_PARENT)
    if parent is not None:
        events.register(parent, select.POLLIN)
    while not _is_gone() and not events.poll(None if parent is not None else _LOOK_SECONDS * 1000):
        pass


def _open_process(number: int) -> int | None:
    """A descriptor that becomes readable when the process has ended; None without one: not Linux, or an old one."""
    try:
        return os.pidfd_open(number)
    except (AttributeError, OSError):
        return None


def _is_gone() -> bool:
    """Whether another process, such as init, has taken this one over.

    A parent that is init itself, as in a container, has the session of this process.
    """
    if os.getppid() != _PARENT:
        return True
    try:
        return _PARENT == _INIT and os.getsid(_INIT) != os.getsid(0)
    except PermissionError:
        return True
