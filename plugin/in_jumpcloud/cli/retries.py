"""Requests of a command: repeated, with growing pauses, while their error may pass."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import click

from in_jumpcloud.backoff import backoff_delay
from in_jumpcloud.cli import NAME
from in_jumpcloud.errors import Retryable, Stopped
from in_jumpcloud.once import ONCE_SECONDS
from in_jumpcloud.runtime import SYSTEM
from in_jumpcloud.text import shown

T = TypeVar("T")


def repeat(attempt: Callable[[], T], stop: threading.Event) -> T:
    """Call `attempt` until it succeeds, for about as long as `run --once` repeats what may pass. Says why it waits.

    Raises:
        Retryable: it did not succeed in time, or the pause that JumpCloud asks for is longer.
        Stopped: `stop` was set.
    """
    began, failures = SYSTEM.monotonic(), 0
    while True:
        try:
            return attempt()
        except Retryable as error:
            failures += 1
            delay = error.after if error.after is not None else backoff_delay(failures, SYSTEM.random)
            if SYSTEM.monotonic() + delay - began > ONCE_SECONDS:
                raise
            click.echo(f"{NAME}: {shown(error)}; retrying in {delay:.0f} s", err=True)
            if stop.wait(delay):
                raise Stopped from None
