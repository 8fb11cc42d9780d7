"""Windows of time: pure arithmetic, in epoch milliseconds, with the clock passed in.

A window is frozen when it is planned: `search_after` is valid only for the identical query, so a window keeps
its times, services and limit for its whole life, also over a restart.
"""

from __future__ import annotations

from typing import Any

import msgspec

from in_jumpcloud.timestamps import rfc3339


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The query for `[start_ms, end_ms)`, and how far it has been paged: `cursor` is None before the first page."""

    start_ms: int
    end_ms: int
    services: tuple[str, ...]
    limit: int
    cursor: str | None = None

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
        """The same query, for the page behind `cursor`."""
        return msgspec.structs.replace(self, cursor=cursor)


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far a stream has come.

    Everything before `watermark_ms` was asked for and delivered. `origin_ms` is where the stream began: nothing
    before it is asked for. `window` is the one under way, if any.
    """

    origin_ms: int
    watermark_ms: int
    window: Window | None = None

    @classmethod
    def starting_at(cls, at_ms: int) -> Position:
        """A stream that has delivered nothing yet."""
        return cls(origin_ms=at_ms, watermark_ms=at_ms)

    def with_window(self, window: Window) -> Position:
        """The position while `window` is being paged."""
        return msgspec.structs.replace(self, window=window)

    def past(self, window: Window) -> Position:
        """The position once the last page of `window` is delivered."""
        return msgspec.structs.replace(self, watermark_ms=max(self.watermark_ms, window.end_ms), window=None)


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
    """The window to ask for next, or None while there is nothing to ask.

    A window under way is taken up again, unless the configuration now asks for other services: then the same span
    is asked anew, and the ledger keeps what was already delivered from going out twice. A window or a watermark ahead
    of the clock was made while the clock was wrong: it must not keep us from asking now.
    """
    if position.window and position.window.services == services and position.window.start_ms < now_ms:
        return position.window
    until_ms = now_ms - lag_ms
    start = max(position.origin_ms, min(position.watermark_ms, until_ms) - overlap_ms)
    end = min(until_ms, start + length_ms)
    if start >= end:
        return None
    return Window(start_ms=start, end_ms=end, services=services, limit=limit)
