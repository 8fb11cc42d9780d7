"""Realistic Directory Insights events of every service, made from a seed.

What exists is decided by minute, from the seed alone; what an event says is decided by its document id, and only when
somebody asks for its bytes. So counting is cheap, and an event is the same whichever query finds it.
Times are epoch milliseconds.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import math
import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from operator import attrgetter
from random import Random
from typing import Any
from uuid import UUID

import msgspec

from in_jumpcloud.simulator.catalog import WHOLE_SECONDS, draw_service, render

MINUTE = 60_000
CACHED_BLOCKS = 512
CACHED_EVENTS = 50_000

_at = attrgetter("timestamp_ms")
_key = attrgetter("timestamp_ms", "doc_id")


class Item:
    """One stored event: `doc_id` is the store's own 20 characters, `event_id` what the event calls itself."""

    __slots__ = ("_raw", "doc_id", "event_id", "service", "timestamp_ms", "visible_ms")

    def __init__(
        self,
        timestamp_ms: int,
        doc_id: str,
        service: str,
        event_id: str,
        *,
        visible_ms: int,
        raw: bytes | Callable[[Item], bytes],
    ) -> None:
        """Keep `raw`, or the function that makes it when it is first asked for."""
        self.timestamp_ms = timestamp_ms
        self.doc_id = doc_id
        self.service = service
        self.event_id = event_id
        self.visible_ms = visible_ms
        self._raw = raw

    @property
    def raw(self) -> bytes:
        """The event's JSON, exactly as it is served."""
        raw = self._raw
        if not isinstance(raw, bytes):
            raw = self._raw = raw(self)
        return raw


class EventSource:
    """Realistic events of every service, the same for the same seed whatever is asked and in whatever order."""

    def __init__(
        self,
        *,
        seed: int = 1,
        start_ms: int,
        end_ms: int | None = None,
        per_minute: float = 60.0,
        bursts: Mapping[int, int] | None = None,
        organization: str = "5a2af2a82cf2b0010053ea41",
        late: float = 0.0,
        late_by_ms: tuple[int, int] = (60_000, 3_600_000),
    ) -> None:
        """Hold events from `start_ms` up to (not with) `end_ms`, or without end.

        Args:
            seed: what everything is made from
            start_ms: first millisecond that may hold an event
            end_ms: the millisecond after the last
            per_minute: may be a fraction; the total over whole minutes is exact to within one event
            bursts: millisecond → how many further events lie on exactly that millisecond
            organization: the id that every event carries; other organizations have other event ids
            late: the share (0 to 1) of events that appear later than their timestamp
            late_by_ms: the least and the most milliseconds by which those are late
        """
        self.organization = organization
        self._seed = seed
        self._start = start_ms
        self._end = end_ms
        self._rate = per_minute
        self._late = late
        self._late_by = late_by_ms
        self._bursts: dict[int, list[int]] = {}
        for moment, size in sorted((bursts or {}).items()):
            self._bursts.setdefault(moment // MINUTE, []).extend([moment] * size)
        self._added: dict[int, list[Item]] = {}
        self._additions = 0
        self._blocks: OrderedDict[int, list[Item]] = OrderedDict()
        self._cached_events = 0
        self._lock = threading.RLock()

    def add(self, event: bytes | Mapping[str, Any], *, timestamp_ms: int, visible_ms: int | None = None) -> str:
        """Put one event in (bytes are served byte for byte, even when they are not JSON) and return its document id."""
        raw = event if isinstance(event, bytes) else msgspec.json.encode(event)
        try:
            fields = msgspec.json.decode(raw, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            fields = {}
        service, event_id = fields.get("service", "directory"), fields.get("id", "")
        visible_ms = timestamp_ms if visible_ms is None else visible_ms
        minute = timestamp_ms // MINUTE
        with self._lock:
            self._additions += 1
            doc_id, _ = self._identity("added", self._additions)
            item = Item(timestamp_ms, doc_id, str(service), str(event_id), visible_ms=visible_ms, raw=raw)
            self._added.setdefault(minute, []).append(item)
            self._cached_events -= len(self._blocks.pop(minute, ()))
        return doc_id

    def between(self, start_ms: int, end_ms: int, *, now_ms: int) -> Sequence[Item]:
        """Every event in [start, end) that can be seen at `now_ms`, by timestamp and document id."""
        return list(self._walk(start_ms, end_ms, now_ms))

    def page(
        self,
        start_ms: int,
        end_ms: int,
        *,
        now_ms: int,
        limit: int,
        services: Collection[str] | None = None,
        after: tuple[int, str] | None = None,
        descending: bool = False,
        skip: int = 0,
    ) -> list[Item]:
        """At most `limit` events of the range, those beyond `after` in the order asked for.

        Args:
            start_ms: first millisecond
            end_ms: the millisecond after the last
            now_ms: what is later, or visible only later, does not exist yet
            limit: the most events to return
            services: only these; None for all
            after: the place of an event: its millisecond and its document id, or the beginning of that
            descending: newest first
            skip: how many events to pass over
        """
        found = self._walk(start_ms, end_ms, now_ms, services, after=after, descending=descending)
        return list(islice(found, skip, skip + limit))

    def count(self, start_ms: int, end_ms: int, *, now_ms: int, services: Collection[str] | None = None) -> int:
        """How many events `between` would find; whole minutes are counted without making their events."""
        total = 0
        for minute in self._minutes(start_ms, end_ms, now_ms):
            low, high = minute * MINUTE, (minute + 1) * MINUTE
            whole = max(start_ms, self._start) <= low and high <= min(end_ms, self._end or end_ms)
            latest = high + (max(self._late_by) if self._late else 0)
            if services is None and whole and latest <= now_ms:
                total += self._quota(minute) + len(self._bursts.get(minute, ()))
                total += sum(item.visible_ms <= now_ms for item in self._added.get(minute, ()))
            else:
                part = self._walk(max(start_ms, low), min(end_ms, high), now_ms, services)
                total += sum(1 for _ in part)
        return total

    def _walk(
        self,
        start_ms: int,
        end_ms: int,
        now_ms: int,
        services: Collection[str] | None = None,
        *,
        after: tuple[int, str] | None = None,
        descending: bool = False,
    ) -> Iterator[Item]:
        width = len(after[1]) if after else 0
        end_ms = min(end_ms, now_ms + 1)
        if after and descending:
            end_ms = min(end_ms, after[0] + 1)
        elif after:
            start_ms = max(start_ms, after[0])

        def place(item: Item) -> tuple[int, str]:
            return item.timestamp_ms, item.doc_id[:width]

        for minute in self._minutes(start_ms, end_ms, now_ms, descending=descending):
            block = self._block(minute)
            low, high = bisect_left(block, start_ms, key=_at), bisect_left(block, end_ms, key=_at)
            if after and descending:
                high = min(high, bisect_left(block, after, key=place))
            elif after:
                low = max(low, bisect_right(block, after, key=place))
            for index in range(high - 1, low - 1, -1) if descending else range(low, high):
                item = block[index]
                if item.visible_ms <= now_ms and (services is None or item.service in services):
                    yield item

    def _minutes(self, start_ms: int, end_ms: int, now_ms: int, *, descending: bool = False) -> Iterator[int]:
        """The minutes of the range that may hold an event, in order."""
        end_ms = min(end_ms, now_ms + 1)
        made_end = end_ms if self._end is None else min(end_ms, self._end)
        made = range(max(start_ms, self._start) // MINUTE, -(-made_end // MINUTE))
        with self._lock:
            extra = sorted(m for m in self._added if start_ms // MINUTE <= m <= end_ms // MINUTE and m not in made)
        both = (reversed(made), reversed(extra)) if descending else (iter(made), iter(extra))
        return heapq.merge(*both, reverse=descending)

    def _block(self, minute: int) -> Sequence[Item]:
        """Every event of a minute, sorted, also those that cannot be seen yet."""
        with self._lock:
            block = self._blocks.get(minute)
            if block is not None:
                self._blocks.move_to_end(minute)
                return block
            block = sorted([*self._generate(minute), *self._added.get(minute, ())], key=_key)
            if block:
                self._blocks[minute] = block
                self._cached_events += len(block)
            # Two always stay: a page that straddles a minute must not make both again and again.
            while len(self._blocks) > 2 and (len(self._blocks) > CACHED_BLOCKS or self._cached_events > CACHED_EVENTS):  # noqa: PLR2004
                self._cached_events -= len(self._blocks.popitem(last=False)[1])
            return block

    def _quota(self, minute: int) -> int:
        return math.floor((minute + 1) * self._rate) - math.floor(minute * self._rate)

    def _generate(self, minute: int) -> Iterator[Item]:
        quota, bursts = self._quota(minute), self._bursts.get(minute, [])
        if not quota and not bursts:
            return
        random = Random(f"{self._seed}:{minute}")
        moments = [minute * MINUTE + int(random.random() * MINUTE) for _ in range(quota)]
        for index, moment in enumerate(moments + bursts):
            service = draw_service(random)
            # Drawn whether or not it is used, so that `late` changes nothing else.
            late, share = random.random(), random.random()
            if service in WHOLE_SECONDS and moment % 1000:
                if index < quota:
                    moment -= moment % 1000  # noqa: PLW2901
                else:
                    service = "directory"
            if moment < self._start or (self._end is not None and moment >= self._end):
                continue
            low, high = self._late_by
            visible = moment + low + round(share * (high - low)) if late < self._late else moment
            doc_id, spare = self._identity(minute, index)
            if service in WHOLE_SECONDS:
                event_id = str(UUID(bytes=spare, version=4)).upper()
            else:
                event_id = f"{moment // 1000:08x}{spare[:8].hex()}"
            yield Item(moment, doc_id, service, event_id, visible_ms=visible, raw=self._render)

    def _identity(self, *place: object) -> tuple[str, bytes]:
        """A document id of 20 characters, and 16 bytes to make the event's own id from."""
        text = ":".join(map(str, (self.organization, self._seed, *place)))
        digest = hashlib.blake2b(text.encode(), digest_size=31).digest()
        return base64.urlsafe_b64encode(digest[:15]).decode(), digest[15:]

    def _render(self, item: Item) -> bytes:
        return render(
            item.service,
            item.timestamp_ms,
            doc_id=item.doc_id,
            event_id=item.event_id,
            organization=self.organization,
        )
