"""From a page to the receiver: map, chunk, send, await the ack, commit."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from in_jumpcloud.backoff import backoff_delay
from in_jumpcloud.config.schema import ForwardSettings
from in_jumpcloud.counters import Counters
from in_jumpcloud.ecs.encoder import RecordEncoder
from in_jumpcloud.errors import HandshakeRejected, ReceiverDown, ReceiverPaused, StateUnavailable, Stopped
from in_jumpcloud.forward import wire
from in_jumpcloud.forward.chunks import batch
from in_jumpcloud.forward.failover import Failover
from in_jumpcloud.insights.event import EventKey, RawEvent, parse_event
from in_jumpcloud.insights.pages import Page
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state.dead_letters import DeadLetterFile
from in_jumpcloud.state.store import StateStore
from in_jumpcloud.tags import TagTemplate

log = logging.getLogger(__name__)

_BATCH, _BATCH_BYTES = 200, 1_000_000
"""Events that are decoded at a time, and about how many bytes, so that a page is never held decoded as a whole."""
_REFUSALS = 3
"""Times that a chunk has to be refused, while a probe is acknowledged, before it counts as poison."""
_UNWELCOME = 60.0
"""Seconds before the next try at a receiver that does not accept us: its settings, or ours, have to be changed."""


class PipelineResources(NamedTuple):
    """What all streams share."""

    encoder: RecordEncoder
    servers: Failover
    state: StateStore
    dead_letters: DeadLetterFile


class _Entry(msgspec.Struct, frozen=True, gc=False):
    """An event on its way, as it travels, and by what it is known. `raw` and `time_ns` are the event's."""

    raw: bytes | msgspec.Raw
    time_ns: int | None
    key: EventKey
    tag: str
    packed: bytes
    late: bool


class Pipeline:
    """Delivers the pages of one stream, each event once. What the receiver refuses for good becomes a dead letter."""

    def __init__(
        self,
        stream: str,
        resources: PipelineResources,
        settings: ForwardSettings,
        counters: Counters,
        *,
        now_ms: Callable[[], int],
        organization: str | None = None,
        give_up_after: float | None = None,
    ) -> None:
        """Make ready.

        `organization` is the one that was asked for, None where any is right. `give_up_after`: seconds after which a
        receiver that is down is an error; None: never.
        """
        self._stream = stream
        self._organization = organization
        self._resources = resources
        self._settings = settings
        self._tag = TagTemplate(settings.tag)
        room = settings.message_max_bytes - wire.ENVELOPE - self._tag.most_bytes
        self._chunk_bytes = min(settings.chunk_bytes, room)
        self._counters = counters
        self._now_ms = now_ms
        self._give_up_after = give_up_after

    def deliver(self, page: Page, before: Position, after: Position, stop: threading.Event) -> None:
        """Deliver what is new in `page`. The position stays `before` up to its last chunk, with which it is `after`.

        Raises:
            Failed: the state, or the file of dead letters, cannot be written.
            ReceiverDown: for longer than the give_up_after.
            Stopped: `stop` was set. What was acknowledged is committed.
        """
        is_last = False
        try:
            for chunk, is_last in batch(self._entries(page, before, stop), self._chunk_bytes):
                self._counters.in_flight = _oldest(chunk, page)
                self._deliver_chunk(chunk, before, after if is_last else before, stop)
            if not is_last:
                self._commit([], after, stop)
        finally:
            self._counters.in_flight = None

    def _entries(self, page: Page, before: Position, stop: threading.Event) -> Iterator[_Entry]:
        """The new events of `page`, packed; those that are too large for any message are buried here."""
        counters, encode, tag_of = self._counters, self._resources.encoder.encode, self._tag.of
        watermark_ns, received_ns = before.watermark_ms * 1_000_000, page.received_ns
        for event in self._new_events(page):
            packed, info = encode(event, received_ns)
            counters.mapped += 1
            counters.looked_up += info.geo_found
            counters.with_problems += info.has_error
            time_ns, late = event.time_ns, False
            if time_ns is not None and time_ns < watermark_ns:
                late = True
                counters.found_late((received_ns - time_ns) / 1e9)
            if self._organization:
                self._check_organization(info.organization)
            tag = tag_of(info.service, info.organization or self._organization)
            entry = _Entry(event.raw, time_ns, event.key, tag, packed, late)
            size = len(packed)
            if size > self._chunk_bytes and wire.message_bytes(tag, size) > self._settings.message_max_bytes:
                reason = f"its record of {size} bytes is larger than forward.message_max_bytes"
                self._dead_letter(entry, reason, before, stop)
            else:
                yield entry

    def _new_events(self, page: Page) -> Iterator[RawEvent]:
        """The events that were not delivered before, each once."""
        seen: set[EventKey] = set()
        count = min(_BATCH, max(1, _BATCH_BYTES * len(page.events) // max(1, page.size)))
        for begin in range(0, len(page.events), count):
            events = [parse_event(raw) for raw in page.events[begin : begin + count]]
            self._counters.received += len(events)
            seen |= self._resources.state.delivered(self._stream, [event.key for event in events])
            for event in events:
                if event.key in seen:
                    self._counters.duplicates += 1
                else:
                    seen.add(event.key)
                    yield event

    def _check_organization(self, organization: Any) -> None:
        if organization in (None, "", self._organization):
            return
        self._counters.foreign += 1
        if self._counters.foreign == 1:
            log.warning(
                "%s: JumpCloud also sends events of organization %.40s; they are delivered, and counted",
                *(self._stream, organization),
            )

    def _deliver_chunk(
        self,
        entries: Sequence[_Entry],
        before: Position,
        after: Position,
        stop: threading.Event,
        *,
        halved: bool = False,
    ) -> None:
        """Deliver one chunk and commit it; where the receiver takes others but not this, find the record it refuses."""
        chunk = wire.build_chunk(
            entries[0].tag,
            b"".join([entry.packed for entry in entries]),
            len(entries),
            compress=self._settings.compress,
        )
        refusal = self._send(chunk, stop, tries=1 if halved and len(entries) > 1 else _REFUSALS)
        if refusal is None:
            self._commit(entries, after, stop)
        elif len(entries) == 1:
            self._dead_letter(entries[0], refusal, after, stop)
        else:
            log.warning(
                "%s: the receiver refuses a chunk of %d records (%s) while it takes others; halving it",
                *(self._stream, len(entries), refusal),
            )
            middle = len(entries) // 2
            self._deliver_chunk(entries[:middle], before, before, stop, halved=True)
            self._deliver_chunk(entries[middle:], before, after, stop, halved=True)

    def _send(self, chunk: wire.Chunk, stop: threading.Event, *, tries: int) -> str | None:
        """Send the same bytes until they are acknowledged: None; or why they are refused, where nothing else is."""
        began = time.monotonic()
        failures = refusals = 0
        while True:
            self._counters.sent += chunk.records
            self._counters.sent_bytes += len(chunk.message)
            self._counters.liveness.touch()
            try:
                self._resources.servers.deliver(chunk, stop)
            except ReceiverDown as error:
                failures += 1
                refusals += bool(error.reached)
                if refusals >= tries and self._resources.servers.probe(error.reached, stop):
                    return str(error)
                unwelcome = isinstance(error, HandshakeRejected)
                if self._give_up_after is not None and (unwelcome or time.monotonic() - began > self._give_up_after):
                    raise
                delay = max(backoff_delay(failures), _UNWELCOME if unwelcome else 0)
                level = logging.INFO if isinstance(error, ReceiverPaused) else logging.WARNING
                log.log(level, "%s: %s; the same chunk again in %.0f s", self._stream, error, delay)
                if stop.wait(delay):
                    raise Stopped from None
            else:
                if failures:
                    log.info("%s: the receiver acknowledges again", self._stream)
                return None

    def _dead_letter(self, entry: _Entry, reason: str, after: Position, stop: threading.Event) -> None:
        """Keep the event on disk, since the receiver will never take it; then it counts as dealt with."""
        _, event_id = entry.key
        self._resources.dead_letters.add(self._stream, event_id, reason, bytes(entry.raw), now_ms=self._now_ms())
        log.error(
            "%s: event %s can not be delivered: %s; it is kept in %s",
            *(self._stream, event_id, reason, self._resources.dead_letters.path),
        )
        self._counters.dead_lettered += 1
        self._commit([entry], after, stop, dead_lettered=1)

    def _commit(
        self, entries: Sequence[_Entry], after: Position, stop: threading.Event, *, dead_lettered: int = 0
    ) -> None:
        """Write down what was acknowledged. While the disk is full, wait with it: a resend would double it."""
        keys = [entry.key for entry in entries]
        late = sum(entry.late for entry in entries)
        failures = 0
        while True:
            try:
                self._counters.liveness.touch()
                self._resources.state.commit(self._stream, keys, after, late=late, dead_lettered=dead_lettered)
            except StateUnavailable as error:
                failures += 1
                if self._give_up_after is not None and failures > _REFUSALS:
                    raise
                delay = backoff_delay(failures)
                log.error("%s: %s; next try in %.0f s", self._stream, error, delay)  # noqa: TRY400 - no traceback
                if stop.wait(delay):
                    raise Stopped from None
            else:
                self._counters.acknowledged += len(keys) - dead_lettered
                self._counters.liveness.mark_progress()
                return


def _oldest(entries: Sequence[_Entry], page: Page) -> tuple[int, int]:
    """The time of the oldest of `entries`, and that of their page, in epoch nanoseconds."""
    times = (entry.time_ns for entry in entries)
    return min((each for each in times if each is not None), default=page.received_ns), page.received_ns
