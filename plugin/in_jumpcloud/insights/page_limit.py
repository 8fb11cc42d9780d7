"""How many events to request per page: jumpcloud.page_limit, and fewer while pages are too large or too slow."""

from __future__ import annotations

from in_jumpcloud.insights.pages import Page
from in_jumpcloud.insights.window import Window

_MIN_TOO_SLOW = 100
"""A page of so few events is not slow because of their number."""
_PATIENCE_GROWTH = 4
_MAX_PATIENCE = 64


class PageLimit:
    """The limit of the next window. The windows that are being paged keep theirs."""

    def __init__(self, most: int, page_bytes: int) -> None:
        """`most` is jumpcloud.page_limit; a page of more than `page_bytes` lowers the limit."""
        self.events = most
        self._most = most
        self._page_bytes = page_bytes
        self._successes = 0  # in a row
        self._patience = 1  # how many of them raise the limit: more after each timeout

    def note(self, page: Page, window: Window) -> None:
        """Note a page that arrived: many bytes lower the limit; well filled pages of few bytes raise it."""
        if page.size > self._page_bytes:
            self.events, self._successes = max(1, window.limit * self._page_bytes // page.size), 0
        elif 2 * len(page.events) >= window.limit and page.size < self._page_bytes // 4:
            self._successes += 1
            if self._successes >= self._patience:
                self._successes = 0
                self._patience = self._patience if self.events < self._most else 1
                self.events = min(self._most, max(self.events, 2 * window.limit))

    def too_large(self) -> bool:
        """A page was too large to hold. Returns whether a smaller one is possible."""
        if self.events == 1:
            return False
        self.events, self._successes = max(1, self.events // 4), 0
        return True

    def too_slow(self) -> bool:
        """A page did not arrive in time. Returns whether a smaller one may."""
        if self.events <= _MIN_TOO_SLOW:
            return False
        self.events, self._successes = max(_MIN_TOO_SLOW, self.events // 2), 0
        self._patience = min(_MAX_PATIENCE, _PATIENCE_GROWTH * self._patience)
        return True

    def reset(self) -> None:
        """Request whole pages again: what was too large is behind."""
        self.events = self._most
