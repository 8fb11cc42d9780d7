"""The events of several organizations, as the answer to one request with several of their IDs."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from itertools import islice

from in_jumpcloud.simulator.events import EventSource, Item


class Together:
    """What a query asks of an EventSource, of several of them."""

    def __init__(self, sources: Sequence[EventSource]) -> None:
        self.organization = ",".join(each.organization for each in sources)
        self._sources = sources

    def between(
        self,
        start_ms: int,
        end_ms: int,
        *,
        now_ms: int,
        services: Collection[str] | None = None,
        after: tuple[int, str] | None = None,
        limit: int | None = None,
    ) -> list[Item]:
        """As EventSource.between."""
        found = (
            each.between(start_ms, end_ms, now_ms=now_ms, services=services, after=after, limit=limit)
            for each in self._sources
        )
        return list(islice(heapq.merge(*found, key=lambda item: (item.timestamp_ms, item.doc_id)), limit))

    def count(self, start_ms: int, end_ms: int, *, now_ms: int, services: Collection[str] | None = None) -> int:
        """As EventSource.count."""
        return sum(each.count(start_ms, end_ms, now_ms=now_ms, services=services) for each in self._sources)
