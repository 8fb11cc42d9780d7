"""How the process gets memory and gives it back: settings of the C library and of the interpreter."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

_M_ARENA_MAX = -8
_GC_THRESHOLDS = 20_000, 2, 2
"""More than the new objects of one page; and soon all, since streams that leave are cycles of long-lived objects.

See https://docs.python.org/3/library/gc.html#gc.set_threshold.
"""


def share_one_arena() -> None:
    """Have all threads allocate from one arena: call it before they start.

    glibc gives each its own, against a contention that the interpreter's lock rules out; what one thread frees stays
    in its arena. See mallopt(3). Other C libraries have no such setting.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def started() -> None:
    """What lives now lives long: the collector of cycles need not look at it again.

    Mapping creates many short-lived objects but no cycles: looking for cycles often is wasted time.
    """
    gc.collect()  # what is frozen is never freed
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
