"""Pages: one answer of `/events`, split into raw events without decoding them; and a window, page by page."""

from __future__ import annotations

import concurrent.futures
import re
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from in_jumpcloud.errors import CursorLost, Retryable, Stopped
from in_jumpcloud.insights.window import Window

_split = msgspec.json.Decoder(list[msgspec.Raw]).decode
# A string (one that breaks off reaches to the end), or one character of structure: all that is needed to see where an
# element ends.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)


class Page(NamedTuple):
    """What one request brought.

    `cursor` leads to the page behind this one; it is None where this is the window's last. `size` is the body's
    length in bytes, decompressed. `received_ns` is when it arrived, in nanoseconds since the epoch.
    """

    events: Sequence[bytes | msgspec.Raw]
    cursor: str | None
    size: int
    received_ns: int


def split_page(body: bytes | bytearray) -> Sequence[bytes | msgspec.Raw]:
    """The elements of a JSON array, byte for byte.

    An array that a strict decoder refuses (a lone surrogate, NaN, nesting without end) is split by its brackets, so
    that one odd event does not keep the others of its page back.

    Raises:
        TryAgain: it is no array, or it breaks off.
    """
    try:
        return _split(body)
    except (msgspec.DecodeError, RecursionError):
        return _split_by_brackets(bytes(body))


def _split_by_brackets(body: bytes) -> list[bytes]:
    text = body.strip()
    if not text.startswith(b"["):
        raise Retryable(f"the answer is not a JSON array; it begins with {text[:40].decode(errors='replace')!r}")
    elements: list[bytes] = []
    depth, begin, end = 0, 1, 0
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in b"[{":
            depth += 1
        elif mark in b"]}":
            depth -= 1
            if depth == 0:
                end = token.start()
                break
        elif mark == b"," and depth == 1:
            elements.append(text[begin : token.start()].strip())
            begin = token.end()
    if depth or end != len(text) - 1:
        raise Retryable("the answer breaks off in the middle of its JSON array")
    last = text[begin:end].strip()
    if last or elements:
        elements.append(last)
    return elements


Fetch = Callable[[Window, threading.Event], Page]


class Pager:
    """Pages one window to its end. While a page is being delivered, the one behind it is already asked for."""

    def __init__(self, window: Window, fetch: Fetch, ahead: threading.Semaphore) -> None:
        """`ahead` bounds how many pages all pagers together fetch ahead; a pager that gets no place does without."""
        self.window = window
        """With the cursor of the page that comes next."""
        self.done = False
        self._fetch = fetch
        self._places = ahead
        self._ahead: concurrent.futures.Future[Page] | None = None
        self._cursors = {window.cursor}

    def page(self, stop: threading.Event) -> Page:
        """The next page.

        Raises:
            TryAgain and its kin: as DirectoryInsights.fetch; the pager is of no use any more.
            Stopped: `stop` was set.
        """
        page = self._fetch(self.window, stop) if self._ahead is None else _result(self._ahead, stop)
        self._ahead = None
        if page.cursor is not None:
            if page.cursor in self._cursors:
                raise CursorLost(f"JumpCloud gave the cursor {page.cursor} again: its pages lead round in a circle")
            self._cursors.add(page.cursor)
            if self._places.acquire(blocking=False):
                self._ahead = self._in_background(self.window.after(page.cursor), stop)
        return page

    def next_window(self, page: Page) -> Window | None:
        """The window with the cursor of the page after `page`; None if `page` is the last one."""
        return None if page.cursor is None else self.window.after(page.cursor)

    def advance(self, page: Page) -> None:
        """`page` is delivered: continue with the page after it."""
        following = self.next_window(page)
        self.done = following is None
        self.window = following or self.window

    def _in_background(self, window: Window, stop: threading.Event) -> concurrent.futures.Future[Page]:
        """The thread is a daemon: a request under way must not hold up the end of the process."""
        future: concurrent.futures.Future[Page] = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(self._fetch(window, stop))
            except BaseException as error:  # noqa: BLE001 - whoever asks for the page gets it
                future.set_exception(error)
            finally:
                self._places.release()

        threading.Thread(target=run, name="fetch-ahead", daemon=True).start()
        return future


def _result(future: concurrent.futures.Future[Page], stop: threading.Event) -> Page:
    while True:
        try:
            return future.result(timeout=0.25)
        except concurrent.futures.TimeoutError:
            if stop.is_set():
                raise Stopped from None
