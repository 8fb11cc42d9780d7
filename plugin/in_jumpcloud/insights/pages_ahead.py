"""Pages that are requested before they are needed, each on a thread of its own, within a limit for all streams."""

from __future__ import annotations

import threading

from in_jumpcloud.errors import Stopped
from in_jumpcloud.insights.pages import Fetch, Page
from in_jumpcloud.insights.window import Window
from in_jumpcloud.runtime import SYSTEM, Runtime

MAX_PAGES = 16
"""How many pages all streams together request ahead: each takes a thread and a connection."""
MAX_BYTES = 32 * 1024**2
"""About how many bytes those pages may have."""
_STOP_CHECK_SECONDS = 0.25
"""How often a wait for a page checks `stop`."""


class AheadLimit:
    """Bounds the pages that all streams together hold or await ahead. Thread-safe."""

    def __init__(self, max_bytes: int = MAX_BYTES, max_pages: int = MAX_PAGES) -> None:
        self.bytes = 0
        """Of the pages that are there, and those that are expected."""
        self._max_bytes, self._max_pages = max_bytes, max_pages
        self._pages = 0
        self._lock = threading.Lock()

    def reserve(self, size: int) -> bool:
        """Reserve a page of about `size` bytes. One is always possible. False: that is more than the limit."""
        with self._lock:
            if self._pages >= self._max_pages or (self._pages and self.bytes + size > self._max_bytes):
                return False
            self._pages += 1
            self.bytes += size
            return True

    def resize(self, size: int, actual: int) -> None:
        """A page for which `size` was reserved has `actual` bytes."""
        with self._lock:
            self.bytes += actual - size

    def release(self, size: int) -> None:
        """A page for which `size` was reserved, or its actual size, is not held any more."""
        with self._lock:
            self._pages -= 1
            self.bytes -= size


class _Request:
    """A page that a thread of its own requests."""

    def __init__(self, window: Window, fetch: Fetch, limit: AheadLimit, size: int, runtime: Runtime) -> None:
        """Starts the thread. `size` bytes are reserved.

        Raises:
            RuntimeError: the system has no more threads.
        """
        self._window, self._fetch, self._limit, self._size = window, fetch, limit, size
        self._page: Page | None = None
        self._error: BaseException | None = None
        self._done, self._stop = runtime.event(), runtime.event()
        self._is_released = False
        self._lock = threading.Lock()
        runtime.start(self._run, name="fetch-ahead")

    def page(self, stop: threading.Event) -> Page:
        """Wait for the page.

        Raises:
            InJumpCloudError: as the fetch.
            Stopped: `stop` was set.
        """
        while not self._done.wait(_STOP_CHECK_SECONDS):
            if stop.is_set():
                raise Stopped
        if self._page is None:
            raise self._error or Stopped
        return self._page

    def drop(self) -> None:
        """Release it, at the latest when the answer is there. A request that still waits for its turn is not sent."""
        self._stop.set()
        with self._lock:
            if self._done.is_set():
                self._release()

    def _run(self) -> None:
        try:
            self._page = self._fetch(self._window, self._stop)
        except BaseException as error:  # noqa: BLE001 - raised where the page is needed
            self._error = error
        finally:
            actual = self._page.size if self._page else 0
            self._limit.resize(self._size, actual)
            self._size = actual
            with self._lock:
                self._done.set()
                if self._stop.is_set():
                    self._release()

    def _release(self) -> None:
        if not self._is_released:
            self._is_released = True
            self._limit.release(self._size)


class PagesAhead:
    """The pages that one stream has requested ahead. One thread at a time uses it."""

    def __init__(self, fetch: Fetch, limit: AheadLimit, *, runtime: Runtime = SYSTEM) -> None:
        self._fetch = fetch
        self._limit = limit
        self._runtime = runtime
        self._requests: dict[Window, _Request] = {}
        self._event_bytes: float | None = None  # of an event of the last page

    def ask(self, window: Window) -> bool:
        """Request the page at the cursor of `window`, unless that is done already.

        Returns:
            False if it cannot be requested ahead: the limit is reached, the system has no more threads, or no page has
            shown yet how large an event is.
        """
        if window in self._requests:
            return True
        if self._event_bytes is None:
            return False
        size = round(self._event_bytes * window.limit)
        if not self._limit.reserve(size):
            return False
        try:
            self._requests[window] = _Request(window, self._fetch, self._limit, size, self._runtime)
        except BaseException as error:
            self._limit.release(size)
            if isinstance(error, RuntimeError):  # the system has no more threads
                return False
            raise
        return True

    def page(self, window: Window, stop: threading.Event) -> Page:
        """The page at the cursor of `window`: the one requested ahead, if it was, or else a new one.

        Raises:
            InJumpCloudError: as the fetch.
            Stopped: `stop` was set.
        """
        request = self._requests.pop(window, None)
        if request is None:
            page = self._fetch(window, stop)
        else:
            try:
                page = request.page(stop)
            finally:
                request.drop()
        if page.events:
            self._event_bytes = page.size / len(page.events)
        return page

    def drop(self) -> None:
        """Forget all of them."""
        for request in self._requests.values():
            request.drop()
        self._requests.clear()
