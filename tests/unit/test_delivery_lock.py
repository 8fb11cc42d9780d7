"""What could not be written yet: in order, and never once another process has the stream."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from in_jumpcloud.delivery_lock import DeliveryLock
from in_jumpcloud.errors import Fenced, StateUnavailable


def failing(times: int, error: Exception, written: list[str], name: str) -> Callable[[], None]:
    """A commit that fails so many times before it is written."""
    left = [error] * times

    def write() -> None:
        if left:
            raise left.pop()
        written.append(name)

    return write


def test_in_their_order() -> None:
    """What fails again stays owed, and so does all that came after it."""
    lock, stop, written = DeliveryLock(), threading.Event(), list[str]()
    lock.owe(failing(1, StateUnavailable("full"), written, "first"))
    lock.owe(failing(0, StateUnavailable("full"), written, "second"))
    with pytest.raises(StateUnavailable):
        lock.write_owed(stop)
    assert (lock.owes, written) == (True, [])
    lock.write_owed(stop)
    assert (lock.owes, written) == (False, ["first", "second"])


def test_not_after_another_process_has_the_stream() -> None:
    """A commit of an earlier owner would move the position back: it is dropped with all that came after it."""
    lock, stop, written = DeliveryLock(), threading.Event(), list[str]()
    lock.owe(failing(1, Fenced("another process"), written, "first"))
    lock.owe(failing(0, Fenced("another process"), written, "second"))
    with pytest.raises(Fenced), lock.held(stop):
        pytest.fail("nothing may be sent")
    assert not lock.owes
    lock.owe(failing(0, Fenced("another process"), written, "third"))
    lock.drop()
    with lock.held(stop):
        assert written == []
