"""Windows of time and the position of a stream: pure arithmetic in epoch milliseconds, with the clock passed in.

A window is frozen once it is planned. `search_after` is valid only for the identical query, so a window keeps its
times, services and limit until its last page is delivered, also across a restart.
"""

from __future__ import annotations

from typing import Any

import msgspec

from in_jumpcloud.timestamps import rfc3339


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
