"""Delivers a page: deduplicate, map, chunk, send, await the ack, commit."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from in_jumpcloud.backoff import MAX_DELAY, backoff_delay
from in_jumpcloud.config.schema import ForwardSettings
from in_jumpcloud.counters import Counters
from in_jumpcloud.delivery_lock import DeliveryLock
from in_jumpcloud.errors import (
    Fenced,
    OtherOrganization,
    PageTooLarge,
    StateUnavailable,
    Stopped,
)
from in_jumpcloud.forward import wire
from in_jumpcloud.forward.chunks import batch
from in_jumpcloud.insights.event import EventKey, RawEvent, parse_event
from in_jumpcloud.insights.pages import Page, key_at
from in_jumpcloud.insights.window import Position, Window
from in_jumpcloud.record_sender import REJECTED_DELAY, PendingRecord, PipelineResources, RecordSender
from in_jumpcloud.runtime import SYSTEM, Runtime
from in_jumpcloud.state.dead_letters import DeadLetter, Refused
from in_jumpcloud.state.jobs import Deliveries
from in_jumpcloud.tags import TagTemplate
from in_jumpcloud.timestamps import rfc3339

log = logging.getLogger(__name__)

_BATCH_EVENTS, _BATCH_BYTES = 200, 1_000_000
"""How many events are decoded at a time, and about how many bytes: a page is never held decoded as a whole."""
_ACROSS_ORGANIZATIONS = ("admin_", "organization_", "provider_", "mtp_", "msp_")
"""How the types of events begin that may name another organization than the key's."""
_UNDECODED = 2
"""An event of more than so many times forward.message_max_bytes is not decoded: no record of it fits a message."""


class Pipeline:
    """Delivers the pages of one stream, each event once. What the receiver refuses for good becomes a dead letter."""

    def __init__(
        self,
        stream: str,
        resources: PipelineResources[Deliveries],
        settings: ForwardSettings,
        counters: Counters,
        *,
        now_ms: Callable[[], int],
        runtime: Runtime = SYSTEM,
        organization: str | None = None,
        is_own: bool = False,
        give_up_after: float | None = None,
        lock: DeliveryLock | None = None,
    ) -> None:
        """`organization` is the requested one, None for any; `is_own`: it is that of the key, which events name.

        A receiver that is down for longer than `give_up_after` seconds is an error; with None, `deliver` waits.
        Pipelines that may have the same events share `lock`: while one delivers a page, the others wait.
        """
        self._stream = stream
        self._organization = organization
        self._is_own = is_own
        self._own: str | None = None
        self._resources = resources
        self._settings = settings
        self._tag = TagTemplate(settings.tag)
        max_bytes = settings.message_max_bytes - wire.ENVELOPE_BYTES - self._tag.most_bytes
        self._chunk_bytes = min(settings.chunk_bytes, max_bytes)
        self._counters = counters
        self._now_ms = now_ms
        self._runtime = runtime
        self._sender = RecordSender(
            *(stream, resources, settings, counters, self), runtime=runtime, give_up_after=give_up_after
        )
        self._give_up_after = give_up_after
        self._lock = lock or DeliveryLock(runtime)
        # Of the page that is being delivered: the window that returned it, and which of its events were known.
        self._span = (0, 0)
        self._seen: list[EventKey] = []

    @property
    def max_silence_seconds(self) -> float:
        """The longest time between two signs of liveness in `deliver`: a delivery, a probe, a pause."""
        return 2 * self._resources.receivers.max_delivery_seconds + max(MAX_DELAY, REJECTED_DELAY)

    def deliver(
        self, page: Page, before: Position, after: Position, stop: threading.Event, *, span: tuple[int, int]
    ) -> Counter[int]:
        """Deliver the new events of `page`. The position stays `before` until the last commit sets it to `after`.

        `span` is the window of the page, `[start, end)` in epoch milliseconds.

        Returns:
            How many different events the page has of each minute, those delivered before included.

        Raises:
            StateCorrupt, StateUnavailable: the state cannot be read, or, with `give_up_after`, not written.
            OtherOrganization: the events are of another organization than the state. Nothing was delivered.
            ReceiverDown: for longer than `give_up_after`.
            Stopped: `stop` was set. Acknowledged chunks are committed.
        """
        with self._held(stop) if page.events or self._lock.owes else nullcontext():
            return self._deliver(page, before, after, stop, span)

    def _deliver(
        self, page: Page, before: Position, after: Position, stop: threading.Event, span: tuple[int, int]
    ) -> Counter[int]:
        is_last = False
        self._span, self._seen = span, []
        keys: set[EventKey] = set()
        try:
            for records, is_last in batch(self._records(page, before, keys), self._chunk_bytes):
                self._counters.in_flight = _oldest(records, page)
                position = after if is_last else before
                first = records[0]
                if first.oversized:  # larger than a chunk, so it is alone
                    reason = f"with {len(first.packed)} bytes it is larger than forward.message_max_bytes"
                    self.dead_letter(first, reason, position, stop)
                else:
                    self._sender.send(records, before, position, stop)
            if not is_last:
                self._sender.idle(stop)
                self._advance(after, stop)
        finally:
            self._counters.in_flight = self._counters.held_up = None
        return Counter([minute for minute, _ in keys])

    def _held(self, stop: threading.Event) -> AbstractContextManager[None]:
        return self._lock.held(stop, waiting=self._counters.liveness.touch)

    def idle(self, stop: threading.Event) -> None:
        """Send parked records once more, if it is time. Call it when there is no page.

        Raises:
            StateCorrupt, StateUnavailable, ReceiverDown, Stopped: as `deliver`.
        """
        if self._lock.owes:
            self._lock.write_owed(stop)
        self._sender.idle(stop)

    def look_for_parked(self) -> None:
        """A backfill that has ended may have left parked records to the stream. Safe in any thread."""
        self._sender.look_for_parked()

    def _records(self, page: Page, before: Position, keys: set[EventKey]) -> Iterator[PendingRecord]:
        """Map and pack the new events of `page`; adds the keys of all its events to `keys`."""
        counters, encode, tag_of = self._counters, self._resources.encoder.encode, self._tag.of
        watermark_ns, received_ns = before.watermark_ms * 1_000_000, page.received_ns
        max_bytes, chunk_bytes = self._settings.message_max_bytes, self._chunk_bytes
        for event in self._new_events(page, keys):
            if len(event.raw) > _UNDECODED * max_bytes:
                raw, tag = bytes(event.raw), tag_of(None, self._organization)
                yield PendingRecord(raw, event.time_ns, event.key, event.id, tag, raw, late=False, oversized=True)
                continue
            packed, record = encode(event, received_ns)
            counters.mapped += 1
            counters.looked_up += record.geo_found
            counters.with_problems += record.has_problems
            time_ns, late = event.time_ns, False
            if time_ns is not None and time_ns < watermark_ns:
                late = True
                counters.found_late((received_ns - time_ns) / 1e9)
            if self._organization:
                self._check_organization(record.organization)
            tag = tag_of(record.service, record.organization or self._organization)
            size = len(packed)
            oversized = size > chunk_bytes and wire.message_bytes(tag, size) > max_bytes
            yield PendingRecord(event.raw, time_ns, event.key, event.id, tag, packed, late, oversized)

    def _new_events(self, page: Page, keys: set[EventKey]) -> Iterator[RawEvent]:
        """The events that the ledger does not have, each once; adds the keys of all to `keys`."""
        count = min(_BATCH_EVENTS, max(1, _BATCH_BYTES * len(page.events) // max(1, page.size)))
        for start in range(0, len(page.events), count):
            events = [parse_event(raw) for raw in page.events[start : start + count]]
            self._counters.received += len(events)
            if self._is_own and not start:
                self._require_own(events)
            of_batch = [event.key for event in events]
            known = self._resources.state.delivered(self._stream, of_batch, [event.id for event in events])
            self._seen += known
            keys |= known
            for event, key in zip(events, of_batch, strict=True):
                if key in keys:
                    self._counters.duplicates += 1
                else:
                    keys.add(key)
                    yield event

    def _require_own(self, events: Sequence[RawEvent]) -> None:
        """Keep the organization that events name, and refuse a page on which no event is of it but some of another.

        Events of administrators and of providers are no evidence: they may name several organizations.
        """
        named = {event.organization for event in events if not event.event_type.startswith(_ACROSS_ORGANIZATIONS)}
        named.discard("")
        self._own = self._own or self._resources.state.organization(self._stream)
        if self._own is None and len(named) == 1:
            (self._own,) = named
        if self._own and named and self._own not in named:
            raise OtherOrganization(
                f"JumpCloud sends events of organization {min(named):.40}, but the state at "
                f"{self._resources.state.where} is of organization {self._own:.40}",
                advice="use the key of that organization again, or set another state.path for the other one",
            )

    def _check_organization(self, organization: Any) -> None:
        if organization in (None, "", self._organization):
            return
        self._counters.foreign += 1
        if self._counters.foreign == 1:
            log.warning(
                "%s: JumpCloud also sends events of organization %.40s; they are delivered too, and counted",
                *(self._stream, organization),
            )

    def leave_out(self, window: Window, error: PageTooLarge, after: Position, stop: threading.Event) -> Counter[int]:
        """Commit a dead letter without its event, which is too large to hold. The position becomes `after`.

        The cursor behind the event identifies it: when it is read again, it is not reported twice.

        Returns:
            As `deliver`: the minute of the event.

        Raises:
            StateCorrupt, StateUnavailable: the state cannot be read, or, with `give_up_after`, not written.
            Stopped: `stop` was set.
        """
        with self._held(stop):
            return self._leave_out(window, error, after, stop)

    def _leave_out(self, window: Window, error: PageTooLarge, after: Position, stop: threading.Event) -> Counter[int]:
        cursor = error.cursor or ""
        key = key_at(cursor, window.span)
        self._span = window.span
        self._seen = list(self._resources.state.delivered(self._stream, [key], [cursor]))
        if self._seen:
            self._advance(after, stop)
            return Counter([key.minute])
        reason = (
            f"the event at cursor {cursor} of the window from {rfc3339(window.start_ms)} to {rfc3339(window.end_ms)} "
            f"is left out: {error}; raise jumpcloud.event_max_bytes to collect such events"
        )
        tag = self._tag.of(None, self._organization)
        record = PendingRecord(b"", None, key, cursor, tag, b"", late=False, oversized=True)
        self._commit([record], after, stop, dead_letters=[self._refused(record, reason)])
        self._counters.left_out += 1
        self._counters.dead_lettered += 1
        log.error("%s: %s", self._stream, reason)
        return Counter([key.minute])

    def acknowledged(self, records: Sequence[PendingRecord], after: Position, stop: threading.Event) -> None:
        """Commit records that the receiver has."""
        self._commit(records, after, stop)

    def park(self, record: PendingRecord, reason: str, after: Position, stop: threading.Event) -> None:
        """Commit a record that the receiver refused alone: it is sent once more."""
        self._commit([record], after, stop, suspects=[self._refused(record, reason)])

    def settle(self, letter: DeadLetter, reason: str | None, stop: threading.Event) -> None:
        """Commit what became of a parked record: acknowledged, or refused for `reason`."""

        def commit() -> None:
            self._resources.state.settle(letter, reason)
            self._counters.liveness.mark_progress()
            if reason is None:
                self._counters.acknowledged += 1
                log.info("%s: event %s is acknowledged now", self._stream, letter.refused.id)
            else:
                self._note_dead_letter(letter.refused.id, reason)

        self._until_written(commit, stop)

    def dead_letter(self, record: PendingRecord, reason: str, after: Position, stop: threading.Event) -> None:
        """Commit the event as a dead letter: the receiver will never accept it."""
        self._commit([record], after, stop, dead_letters=[self._refused(record, reason)])
        self._note_dead_letter(record.id, reason)

    def _note_dead_letter(self, event_id: str, reason: str) -> None:
        self._counters.dead_lettered += 1
        log.error(
            "%s: event %s cannot be delivered: %s; it is now a dead letter, see `in-jumpcloud dead-letters list`",
            *(self._stream, event_id, reason),
        )

    def _refused(self, record: PendingRecord, reason: str) -> Refused:
        return Refused(record.key, record.id, reason, self._now_ms(), record.tag, bytes(record.raw))

    def _commit(
        self,
        records: Sequence[PendingRecord],
        after: Position,
        stop: threading.Event,
        *,
        dead_letters: Sequence[Refused] = (),
        suspects: Sequence[Refused] = (),
    ) -> None:
        """Commit what was acknowledged. If the state is unavailable, wait: sending again would duplicate it."""
        keys = [record.key for record in records]
        late = sum(record.late for record in records)
        write = partial(
            self._resources.state.commit,
            *(self._stream, keys, after),
            span=self._span,
            seen=self._seen,
            late=late,
            dead_letters=dead_letters,
            suspects=suspects,
            organization=self._own,
        )

        def commit() -> None:
            write()
            self._counters.acknowledged += len(keys) - len(dead_letters) - len(suspects)
            if keys:
                self._counters.liveness.mark_progress()

        self._until_written(commit, stop)
        self._seen = []

    def _advance(self, after: Position, stop: threading.Event) -> None:
        """Set the position where nothing new was delivered."""
        advance = partial(
            self._resources.state.advance,
            *(self._stream, after),
            span=self._span,
            seen=self._seen,
            organization=self._own,
        )
        self._until_written(advance, stop)
        self._seen = []

    def _until_written(self, write: Callable[[], None], stop: threading.Event) -> None:
        """Write what a receiver has acknowledged or refused. If that is given up, it is owed: see DeliveryLock."""
        failures = 0
        try:
            while True:
                self._counters.liveness.touch()
                try:
                    return write()
                except StateUnavailable as error:
                    failures += 1
                    if self._give_up_after is not None:
                        raise
                    self._counters.hold_up(error)
                    delay = backoff_delay(failures, self._runtime.random)
                    log.error("%s: %s; retrying in %.0f s", self._stream, error, delay)  # noqa: TRY400 - no traceback
                    if stop.wait(delay):
                        raise Stopped from None
        except Fenced:  # it can never be written: the other process delivers it again
            raise
        except (StateUnavailable, Stopped):
            self._lock.owe(write)
            self._sender.look_for_parked()  # those in memory are no longer those in the state
            raise
        finally:
            self._counters.held_up = None


def _oldest(records: Sequence[PendingRecord], page: Page) -> tuple[int, int]:
    """The time of the oldest of `records`, and when their page arrived, in epoch nanoseconds."""
    times = (record.time_ns for record in records)
    return min((time_ns for time_ns in times if time_ns is not None), default=page.received_ns), page.received_ns
