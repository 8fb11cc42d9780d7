"""Pages: a response of `/events` split into raw events without decoding them, and the pages of one window in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from in_jumpcloud.errors import CursorLost, PageTooLarge, Retryable
from in_jumpcloud.insights.event import DIGEST_BYTES, UNDATED, EventKey
from in_jumpcloud.insights.nesting import TOKEN, limit_nesting
from in_jumpcloud.insights.window import Position, Window, cursor_ms
from in_jumpcloud.timestamps import MINUTE_MS

_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Page(NamedTuple):
    """The events of one response.

    `cursor` leads to the next page; None on the last page of the window. `size` is the length of the decompressed body
    in bytes. `received_ns` is when it arrived, in nanoseconds since the epoch.
    """

    events: Sequence[bytes | msgspec.Raw]
    cursor: str | None
    size: int
    received_ns: int


def split_page(body: bytes | bytearray) -> Sequence[bytes | msgspec.Raw]:
    """The elements of a JSON array, byte for byte.

    An array that a strict decoder refuses (a lone surrogate, NaN, very deep nesting) is split by its brackets, so that
    one unusual event does not hold up the others on its page.

    Raises:
        Retryable: the body is not an array, or is incomplete.
    """
    try:
        return _split(body)
    except (msgspec.DecodeError, RecursionError):
        return _split_by_brackets(bytes(body))


def _split_by_brackets(body: bytes) -> list[bytes]:
    text = body.strip()
    if not text.startswith(b"["):
        raise Retryable(f"the response is not a JSON array; it begins with {text[:40].decode(errors='replace')!r}")
    elements: list[bytes] = []
    depth, begin, end = 0, 1, 0
    for token in TOKEN.finditer(text):
        character = token[0]
        if character in b"[{":
            depth += 1
        elif character in b"]}":
            depth -= 1
            if depth == 0:
                end = token.start()
                break
        elif character == b"," and depth == 1:
            elements.append(text[begin : token.start()].strip())
            begin = token.end()
    if depth or end != len(text) - 1:
        raise Retryable("the response is incomplete: its JSON array does not end")
    last = text[begin:end].strip()
    if last or elements:
        elements.append(last)
    return elements


def is_cursor(text: str) -> bool:
    """Whether `text` is a JSON array that can be sent back as `search_after`."""
    encoded = text.encode(errors="replace")
    try:
        msgspec.json.decode(encoded, type=list)
    except (msgspec.DecodeError, RecursionError):
        return False
    _, too_deep = limit_nesting(encoded)
    return not too_deep


def behind(window: Window, error: PageTooLarge) -> Window | None:
    """The query behind the one event that is too large to hold; None if the page has several, or no new cursor."""
    cursor = error.cursor
    if window.limit > 1 or cursor is None or cursor == window.cursor or not is_cursor(cursor):
        return None
    return window.after(cursor)


def key_at(cursor: str, span: tuple[int, int]) -> EventKey:
    """A key for the unread event at the cursor behind it, in a window `[start, end)` in epoch milliseconds.

    A cursor begins with the timestamp of its event. The rest belongs to the query: other queries have another one.
    """
    moment = cursor_ms(cursor, span)
    identity = f"left out\0{cursor if moment is None else moment}".encode(errors="replace")
    digest = blake2b(identity, digest_size=DIGEST_BYTES).digest()
    return EventKey(UNDATED if moment is None else moment // MINUTE_MS, digest)


Fetch = Callable[[Window, threading.Event], Page]


class Pager:
    """The pages of one window in turn. While a page is being delivered, the next one may already be requested."""

    def __init__(self, window: Window, fetch: Fetch, ask: Callable[[Window], object] = lambda _: None) -> None:
        """`ask` may request the page of a query before `fetch` is called for it."""
        self.window = window
        """Its cursor leads to the page that `page` returns."""
        self.done = False
        """Whether the last page of the window is delivered."""
        self._fetch = fetch
        self._ask = ask
        self._cursors = {window.cursor}

    def page(self, stop: threading.Event) -> Page:
        """The page at the cursor of `window`. The pager stays where it is until `advance`.

        Raises:
            Retryable, RequestRejected: as DirectoryInsights.fetch; discard the pager.
            CursorLost: the cursor of the page leads back to an earlier page; discard the pager.
            Stopped: `stop` was set.
        """
        page = self._fetch(self.window, stop)
        if page.cursor is not None:
            if page.cursor in self._cursors:
                raise CursorLost(f"JumpCloud returned the cursor {page.cursor} again: its pages form a cycle")
            self._ask(self.window.after(page.cursor))
        return page

    def next_window(self, page: Page) -> Window | None:
        """The window with the cursor of the page after `page`; None if `page` is the last one."""
        return None if page.cursor is None else self.window.after(page.cursor)

    def advance(self, page: Page) -> None:
        """Move past `page`, which `page()` returned and which is delivered. Nothing else moves the pager."""
        following = self.next_window(page)
        self.done = following is None
        self.window = following or self.window
        self._cursors.add(page.cursor)


class PageCalls(NamedTuple):
    """What polls and late events do with pages.

    `pager` makes a pager of a window. `deliver` delivers a page of a span `[start, end)` in epoch milliseconds; the
    position is the first until the last commit sets it to the second. `leave_out` reports the event at the end of a
    query that is too large to hold, and commits the position. Both return the number of distinct events by minute.
    """

    pager: Callable[[Window], Pager]
    deliver: Callable[[Page, Position, Position, tuple[int, int], threading.Event], Mapping[int, int]]
    leave_out: Callable[[Window, PageTooLarge, Position, threading.Event], Mapping[int, int]]
