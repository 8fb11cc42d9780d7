"""Realistic Directory Insights events of every service, made from a seed.

The seed alone decides, minute by minute, which events exist. A document id decides what its event contains, and the
bytes are made only when something reads them. So counting is cheap, and every query finds the same event.
Times are epoch milliseconds.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from random import Random
from typing import Any
from uuid import UUID

import msgspec

from in_jumpcloud.simulator.templates import templates
from in_jumpcloud.timestamps import MINUTE_MS

CACHED_MINUTES = 512
CACHED_EVENTS = 50_000

_timestamp = attrgetter("timestamp_ms")
_sort_key = attrgetter("timestamp_ms", "doc_id")


@dataclass(slots=True, eq=False)
class Item:
    """One stored event: `doc_id` is the store's own id of 20 characters, `event_id` the id inside the event."""

    timestamp_ms: int
    doc_id: str
    service: str
    event_id: str
    visible_ms: int
    content: bytes | Callable[[], bytes]
    """The event's JSON, or the function that makes it at the first read."""

    @property
    def raw(self) -> bytes:
        """The event's JSON, exactly as it is served."""
        if not isinstance(self.content, bytes):
            self.content = self.content()
        return self.content


class EventSource:
    """Events of every service. The same seed gives the same events, in whatever order they are queried."""

    def __init__(
        self,
        *,
        seed: int = 1,
        start_ms: int,
        end_ms: int | None = None,
        per_minute: float = 60.0,
        organization: str = "5a2af2a82cf2b0010053ea41",
        late: float = 0.0,
        late_by_ms: tuple[int, int] = (60_000, 3_600_000),
    ) -> None:
        """Hold the events of [start_ms, end_ms), without end if `end_ms` is None.

        Args:
            seed: decides every event
            start_ms: first millisecond that may have an event
            end_ms: the millisecond after the last
            per_minute: may be a fraction; the total over whole minutes is exact to within one event
            organization: the id in every event; events of different organizations have different ids
            late: the share (0 to 1) of events that become visible later than their timestamp
            late_by_ms: the shortest and the longest delay of those
        """
        self.organization = organization
        self._seed = seed
        self._start = start_ms
        self._end = end_ms
        self._rate = per_minute
        self._late = late
        self._late_by = late_by_ms
        self._added: dict[int, list[Item]] = {}
        self._lock = threading.Lock()
        # At least two minutes, so that pages across their boundary do not make both again each time.
        cached_minutes = max(2, min(CACHED_MINUTES, int(CACHED_EVENTS / max(per_minute, 1))))
        self._generated = functools.lru_cache(cached_minutes)(self._generate)

    def add(self, event: bytes | Mapping[str, Any], *, timestamp_ms: int, visible_ms: int | None = None) -> None:
        """Add one event. Bytes are served unchanged, even if they are not JSON."""
        raw = event if isinstance(event, bytes) else msgspec.json.encode(event)
        try:
            fields = msgspec.json.decode(raw, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            fields = {}
        service, event_id = fields.get("service", "directory"), fields.get("id", "")
        visible_ms = timestamp_ms if visible_ms is None else visible_ms
        with self._lock:
            added = self._added.setdefault(timestamp_ms // MINUTE_MS, [])
            doc_id, _ = self._identity("added", timestamp_ms // MINUTE_MS, len(added))
            added.append(Item(timestamp_ms, doc_id, str(service), str(event_id), visible_ms, raw))

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
        """The events of [start_ms, end_ms) that are visible at `now_ms`, by timestamp and document id.

        Args:
            start_ms: first millisecond
            end_ms: the millisecond after the last
            now_ms: events that become visible later are not found
            services: only these; None for all
            after: only events after this place, which is in the range: a millisecond and the first characters of a
                document id
            limit: the most events to return; None for all
        """
        end_ms = min(end_ms, now_ms + 1)
        place = after or (start_ms - 1, "")
        width = len(place[1])
        found: list[Item] = []
        for minute in self._occupied(place[0], end_ms):
            items = self._minute(minute)
            low = bisect_right(items, place, key=lambda item: (item.timestamp_ms, item.doc_id[:width]))
            high = bisect_left(items, end_ms, key=_timestamp)
            for item in items[low:high]:
                if item.visible_ms <= now_ms and (services is None or item.service in services):
                    found.append(item)
                    if len(found) == limit:
                        return found
        return found

    def count(self, start_ms: int, end_ms: int, *, now_ms: int, services: Collection[str] | None = None) -> int:
        """The number of events that `between` finds; whole minutes are counted without making their events."""
        total = 0
        for minute in self._occupied(start_ms, min(end_ms, now_ms + 1)):
            low, high = minute * MINUTE_MS, (minute + 1) * MINUTE_MS
            whole = max(start_ms, self._start) <= low and high <= min(end_ms, self._end or end_ms)
            latest = high + (max(self._late_by) if self._late else 0)
            if services is None and whole and latest <= now_ms and minute not in self._added:
                total += self._quota(minute)
            else:
                total += len(self.between(max(start_ms, low), min(end_ms, high), now_ms=now_ms, services=services))
        return total

    def _occupied(self, start_ms: int, end_ms: int) -> list[int]:
        """The minutes of [start_ms, end_ms) that may have an event, in order."""
        first, end = start_ms // MINUTE_MS, -(-end_ms // MINUTE_MS)
        generated_end = end if self._end is None else min(end, -(-self._end // MINUTE_MS))
        with self._lock:
            added = {minute for minute in self._added if first <= minute < end}
        return sorted(added.union(range(max(first, self._start // MINUTE_MS), generated_end)))

    def _minute(self, minute: int) -> Sequence[Item]:
        """Every event of a minute, sorted, including those that are not visible yet."""
        generated = self._generated(minute)
        with self._lock:
            added = self._added.get(minute)
            return sorted([*generated, *added], key=_sort_key) if added else generated

    def _quota(self, minute: int) -> int:
        return math.floor((minute + 1) * self._rate) - math.floor(minute * self._rate)

    def _generate(self, minute: int) -> Sequence[Item]:
        random, catalog, items = Random(f"{self._seed}:{minute}"), templates(), []
        moments = [minute * MINUTE_MS + int(random.random() * MINUTE_MS) for _ in range(self._quota(minute))]
        for index, moment in enumerate(moments):
            service = catalog.draw(random)
            # Drawn for every event, so that `late` changes nothing else.
            late, share = random.random(), random.random()
            if not service.fraction_digits:
                moment -= moment % 1000  # noqa: PLW2901
            if moment < self._start or (self._end is not None and moment >= self._end):
                continue
            low, high = self._late_by
            visible = moment + low + round(share * (high - low)) if late < self._late else moment
            doc_id, spare = self._identity(minute, index)
            if service.fraction_digits:
                event_id = f"{moment // 1000:08x}{spare[:8].hex()}"
            else:
                event_id = str(UUID(bytes=spare, version=4)).upper()
            content = functools.partial(service.render, moment, doc_id, event_id, self.organization)
            items.append(Item(moment, doc_id, service.name, event_id, visible, content))
        return sorted(items, key=_sort_key)

    def _identity(self, *place: object) -> tuple[str, bytes]:
        """A document id of 20 characters, and 16 bytes for the event's own id."""
        text = ":".join(map(str, (self.organization, self._seed, *place)))
        digest = hashlib.blake2b(text.encode(), digest_size=31).digest()
        return base64.urlsafe_b64encode(digest[:15]).decode(), digest[15:]
