"""From a window to its pages, one fetched ahead."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable

from in_jumpcloud.errors import CursorLost, Stopped
from in_jumpcloud.insights.page import Page
from in_jumpcloud.insights.window import Window

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

    def advance(self, page: Page) -> None:
        """`page` is delivered: go on behind it."""
        self.done = page.cursor is None
        self.window = self.window.after(page.cursor)

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
