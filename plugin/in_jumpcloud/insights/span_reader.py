"""Reads all events of a span of time, each once, without a state: page by page, window by window, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from in_jumpcloud.config.schema import JumpCloudSettings
from in_jumpcloud.errors import CursorLost, PageTooLarge, Retryable
from in_jumpcloud.insights.event import EventKey, parse_event
from in_jumpcloud.insights.pages import Fetch, Page, Pager, behind
from in_jumpcloud.insights.pages_ahead import AheadLimit, PagesAhead
from in_jumpcloud.insights.window import Window, cursor_ms
from in_jumpcloud.timestamps import MINUTE_MS

_GROWTH = 4
"""How many times more, or fewer, events the pages after one have that was small, or too large to hold."""


class NewEvents(NamedTuple):
    """The events of a page that no earlier page had. The span is read up to `until_ms`, in epoch milliseconds."""

    events: Sequence[bytes | msgspec.Raw]
    until_ms: int


class SpanReader:
    """Reads one stream. Windows follow each other without an overlap, but a page may be requested again.

    So only the keys of events that may come again are kept: those of the newest minute, and of events whose time is
    not in the span.
    """

    _pager: Pager  # of the window that is being read

    def __init__(
        self,
        settings: JumpCloudSettings,
        fetch: Fetch,
        repeat: Callable[[Callable[[], Page | None]], Page | None],
        left_out: Callable[[PageTooLarge], None],
        stop: threading.Event,
    ) -> None:
        """`repeat` calls its argument again while it raises what may pass.

        `left_out` is called for each event that is larger than jumpcloud.event_max_bytes: it is not read.
        """
        self._settings = settings
        self._repeat = repeat
        self._left_out = left_out
        self._stop = stop
        self._ahead = PagesAhead(fetch, AheadLimit())
        self._seen: set[EventKey] = set()
        self._span = (0, 0)
        self._page_ms = self._restarted_ms = 0  # the minute of the newest event on the last page, and of a restart

    def read(self, start_ms: int, end_ms: int) -> Iterator[NewEvents]:
        """The events of `[start_ms, end_ms)`, in epoch milliseconds.

        Raises:
            Retryable, RequestRejected, KeyRefused, NotLicensed: as `repeat` and `fetch`.
            Stopped: `stop` was set.
        """
        self._span = start_ms // MINUTE_MS, -(-end_ms // MINUTE_MS)
        settings = self._settings
        for begin_ms in range(start_ms, end_ms, settings.window.ms):
            until_ms = min(end_ms, begin_ms + settings.window.ms)
            window = Window(start_ms=begin_ms, end_ms=until_ms, services=settings.services, limit=settings.page_limit)
            yield from self._read_window(window)

    def _read_window(self, window: Window) -> Iterator[NewEvents]:
        self._page_ms = self._restarted_ms = window.start_ms
        self._pager = self._new_pager(window)
        while True:
            page = self._repeat(self._try_page)
            if page is None:
                continue
            pager = self._pager
            following = pager.next_window(page)
            events = self._new(page, window)
            yield NewEvents(events, self._page_ms if following else window.end_ms)
            if following is None:
                return
            if not self._may_grow(page, pager.window):
                pager.advance(page)

    def _try_page(self) -> Page | None:
        """The page at the cursor; None if it has to be requested in another way, and at once."""
        pager = self._pager
        try:
            return pager.page(self._stop)
        except PageTooLarge as error:
            if pager.window.limit > 1:
                self._restart(pager.window, max(1, pager.window.limit // _GROWTH))
            elif following := behind(pager.window, error):
                self._left_out(error)
                self._note_left_out(following)
                self._pager = self._new_pager(following)
            else:
                self._pager = self._new_pager(pager.window)
                raise
            return None
        except CursorLost:
            self._restart(pager.window, pager.window.limit)
            raise
        except Retryable:
            self._pager = self._new_pager(pager.window)
            raise

    def _note_left_out(self, following: Window) -> None:
        """What is requested again begins behind the minute of the event before `following`, so it is tried once."""
        moment = following.cursor and cursor_ms(following.cursor, (following.start_ms, following.end_ms))
        if moment:
            self._page_ms = self._restarted_ms = max(self._page_ms, moment // MINUTE_MS * MINUTE_MS)

    def _may_grow(self, page: Page, window: Window) -> bool:
        """After a small page that has come further, request more events a page again. Returns whether it did so."""
        is_small = window.limit < self._settings.page_limit and page.size < self._settings.page_bytes // _GROWTH
        if not is_small or self._page_ms <= self._restarted_ms:
            return False
        self._restart(window, min(self._settings.page_limit, window.limit * _GROWTH))
        return True

    def _restart(self, window: Window, limit: int) -> None:
        """Request the window from the newest minute on that was read, with other pages."""
        self._restarted_ms = self._page_ms
        window = msgspec.structs.replace(window, start_ms=max(window.start_ms, self._page_ms), limit=limit, cursor=None)
        self._pager = self._new_pager(window)

    def _new_pager(self, window: Window) -> Pager:
        self._ahead.drop()
        return Pager(window, self._ahead.page, self._ahead.ask)

    def _new(self, page: Page, window: Window) -> list[bytes | msgspec.Raw]:
        """The events of a page that were not seen, and notes all of them."""
        events, keys = [], set()
        for raw in page.events:
            key = parse_event(raw).key
            if key not in self._seen and key not in keys:
                events.append(raw)
            keys.add(key)
        moments = [key.minute * MINUTE_MS for key in keys]
        self._page_ms = max((ms for ms in moments if self._page_ms <= ms < window.end_ms), default=self._page_ms)
        newest, (first, end) = self._page_ms // MINUTE_MS, self._span
        self._seen = {key for key in self._seen | keys if key.minute >= newest or not first <= key.minute < end}
        return events
