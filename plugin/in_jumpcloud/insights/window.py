"""Windows of time and the position of a stream: pure arithmetic in epoch milliseconds, with the clock passed in.

A window is frozen once it is planned. `search_after` is valid only for the identical query, so a window keeps its
times, services and limit until its last page is delivered, also across a restart.
"""

from __future__ import annotations

from typing import Any

import msgspec

from in_jumpcloud.timestamps import HOUR_MS, MINUTE_MS, rfc3339

_MAX_DIGITS = 20
_FIRST_LENGTH_MS = HOUR_MS
"""The length of a window while nothing is known about how many events there are."""
_FILL = 0.8
"""How much of a page the events of a window should fill: one more event than a page costs a request."""
_GROWTH = 8
"""A window is at most so many times as long as the last ones: a quiet hour says little about the day after it."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The query for events in `[start_ms, end_ms)`. `cursor` leads to the next page; None before the first page."""

    start_ms: int
    end_ms: int
    services: tuple[str, ...]
    limit: int
    cursor: str | None = None

    @property
    def span(self) -> tuple[int, int]:
        """`(start_ms, end_ms)`."""
        return self.start_ms, self.end_ms

    @property
    def reached_ms(self) -> int:
        """The pages before the cursor have all events before this moment. A cursor begins with that of its event."""
        moment = None if self.cursor is None else cursor_ms(self.cursor, self.span)
        return self.start_ms if moment is None else moment

    def query(self) -> dict[str, Any]:
        """The body of a request to `/events`."""
        body: dict[str, Any] = {
            "service": list(self.services),
            "start_time": rfc3339(self.start_ms),
            "end_time": rfc3339(self.end_ms),
            "limit": self.limit,
            "sort": "ASC",
        }
        if self.cursor is not None:
            body["search_after"] = msgspec.json.decode(self.cursor)
        return body

    def after(self, cursor: str | None) -> Window:
        """The same query for the page after `cursor`."""
        return msgspec.structs.replace(self, cursor=cursor)


def cursor_ms(cursor: str, span: tuple[int, int]) -> int | None:
    """The moment with which a cursor begins, in epoch milliseconds; None if it is none of `span`, `[start, end)`."""
    moment, *_ = [*msgspec.json.decode(cursor.encode(errors="replace"), type=list), None]
    if isinstance(moment, str) and moment.isdecimal() and len(moment) < _MAX_DIGITS:
        moment = int(moment)
    return moment if isinstance(moment, int) and span[0] <= moment < span[1] else None


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """The position of a stream.

    All events before `watermark_ms` were requested and delivered. Events before `origin_ms`, where the stream began,
    are never requested. `window` is the window being paged, if any. The origin is `provisional` until JumpCloud has
    answered once: this machine's clock may be wrong.
    """

    origin_ms: int
    watermark_ms: int
    window: Window | None = None
    provisional: bool = False

    @classmethod
    def starting_at(cls, at_ms: int, *, provisional: bool = False) -> Position:
        """The position of a new stream."""
        return cls(origin_ms=at_ms, watermark_ms=at_ms, provisional=provisional)

    @property
    def newest_ms(self) -> int:
        """The end of what was requested: of the window being paged, or of what is delivered."""
        return max(self.watermark_ms, self.window.end_ms if self.window else 0)

    @property
    def reached_ms(self) -> int:
        """All events before this moment are delivered: it moves with each page, the watermark with each window."""
        return max(self.watermark_ms, self.window.reached_ms if self.window else 0)

    def with_window(self, window: Window) -> Position:
        """The position while `window` is being paged."""
        return msgspec.structs.replace(self, window=window)

    def past(self, window: Window) -> Position:
        """The position after the last page of `window` is delivered."""
        return msgspec.structs.replace(self, watermark_ms=max(self.watermark_ms, window.end_ms), window=None)

    def not_after(self, now_ms: int) -> Position:
        """The position with nothing in the future: a clock that was ahead has moved it there."""
        window = self.window if self.window and self.window.end_ms <= now_ms else None
        origin_ms, watermark_ms = min(self.origin_ms, now_ms), min(self.watermark_ms, now_ms)
        return msgspec.structs.replace(self, origin_ms=origin_ms, watermark_ms=watermark_ms, window=window)


def plan_window(
    position: Position,
    now_ms: int,
    *,
    services: tuple[str, ...],
    limit: int,
    length_ms: int,
    overlap_ms: int,
    lag_ms: int,
) -> Window | None:
    """The window to request next, or None while there is nothing to request.

    A window that is being paged is resumed. If the configuration names other services, the same span is requested again
    with those; the ledger removes what was already delivered.
    """
    if position.window and position.window.services == services:
        return position.window
    until_ms = now_ms - lag_ms
    start_ms = max(position.origin_ms, min(position.watermark_ms, until_ms) - overlap_ms)
    end_ms = min(until_ms, start_ms + length_ms)
    if start_ms >= end_ms:
        return None
    return Window(start_ms=start_ms, end_ms=end_ms, services=services, limit=limit)


def plan_ahead(window: Window, *, limit: int, length_ms: int, until_ms: int) -> Window | None:
    """The window of `length_ms` that begins where `window` ends; None if it would not end by `until_ms`.

    A shorter one would cost a request, which covers more time if it is sent when its turn has come.
    """
    start_ms, end_ms = window.end_ms, window.end_ms + length_ms
    return (
        None if end_ms > until_ms else Window(start_ms=start_ms, end_ms=end_ms, services=window.services, limit=limit)
    )


class WindowLength:
    """How long the next window is: most of a page, by the density of the last events."""

    def __init__(self, max_ms: int) -> None:
        self.is_known = False
        """Whether any events were seen."""
        self._max_ms = max_ms
        self._events = self._span_ms = 0.0  # of the last pages, the newest with the most weight

    def note(self, events: int, span_ms: int) -> None:
        """Note that a page had so many events, of `span_ms` milliseconds."""
        if events and not self.is_known:
            self.is_known, self._span_ms = True, 0.0  # how long nothing came before says nothing
        self._events = self._events / 2 + events
        self._span_ms = self._span_ms / 2 + span_ms

    def ms(self, limit: int) -> int:
        """The length in milliseconds for pages of up to `limit` events."""
        longest = min(self._max_ms, _GROWTH * self._span_ms if self._span_ms else _FIRST_LENGTH_MS)
        fitting = _FILL * limit * self._span_ms / self._events if self._events else longest
        return max(MINUTE_MS, round(min(longest, fitting)))
