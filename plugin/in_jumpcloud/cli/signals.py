"""Signals, taken by a thread of their own.

A signal handler would run within whatever the main thread does: it cannot set an event that this thread waits for
without the risk of a deadlock, and it waits while a slow disk holds this thread.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from in_jumpcloud.errors import Fatal
from in_jumpcloud.runtime import SYSTEM


def watch_signals(actions: Mapping[signal.Signals, Callable[[], None]]) -> None:
    """Call the action of each signal that arrives. Call this before the process starts any thread.

    Raises:
        Fatal: no thread can be started.
    """

    def watch() -> None:
        while True:
            actions[signal.Signals(signal.sigwait(actions))]()

    for number in actions:  # one that is ignored, as by nohup, would not arrive
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, actions)  # threads inherit it
    try:
        SYSTEM.start(watch, name="signals")
    except RuntimeError as error:
        raise Fatal(f"cannot start a thread: {error}", advice="raise the limit of threads or memory") from None


@contextmanager
def held() -> Iterator[None]:
    """What begins here is not interrupted half done: Ctrl-C takes effect at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ends(end: Callable[[], None]) -> dict[signal.Signals, Callable[[], None]]:
    """The actions for SIGTERM and Ctrl-C: the first calls `end`, the second exits at once."""
    ending = threading.Event()

    def action(number: signal.Signals) -> Callable[[], None]:
        def act() -> None:
            if ending.is_set():
                os._exit(128 + number)
            ending.set()
            end()

        return act

    return {number: action(number) for number in (signal.SIGTERM, signal.SIGINT)}


def exits(finish: Callable[[], None]) -> dict[signal.Signals, Callable[[], None]]:
    """The actions for SIGTERM and Ctrl-C of a command that has nothing to keep: call `finish`, and exit at once."""

    def action(number: signal.Signals) -> Callable[[], None]:
        def act() -> None:
            finish()
            os._exit(128 + number)

        return act

    return {number: action(number) for number in (signal.SIGTERM, signal.SIGINT)}


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set; the second of them exits at once.

    Raises:
        Fatal: no thread can be started.
    """
    stop = threading.Event()
    watch_signals(ends(stop.set))
    return stop
