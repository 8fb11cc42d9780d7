"""Delivers a page: deduplicate, map, chunk, send, await the ack, commit."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from in_jumpcloud.backoff import MAX_DELAY, backoff_delay
from in_jumpcloud.config.schema import ForwardSettings
from in_jumpcloud.counters import Counters
from in_jumpcloud.ecs.encoder import RecordEncoder
from in_jumpcloud.errors import (
    HandshakeRejected,
    OtherOrganization,
    ReceiverDown,
    ReceiverPaused,
    StateUnavailable,
    Stopped,
)
from in_jumpcloud.forward import wire
from in_jumpcloud.forward.chunks import batch
from in_jumpcloud.forward.failover import Failover
from in_jumpcloud.insights.event import EventKey, RawEvent, parse_event
from in_jumpcloud.insights.pages import Page
from in_jumpcloud.insights.window import Position
from in_jumpcloud.runtime import SYSTEM, Runtime
from in_jumpcloud.state.dead_letters import Refused
from in_jumpcloud.state.store import StateStore
from in_jumpcloud.tags import TagTemplate

log = logging.getLogger(__name__)

_BATCH_EVENTS, _BATCH_BYTES = 200, 1_000_000
"""How many events are decoded at a time, and about how many bytes: a page is never held decoded as a whole."""
_ACROSS_ORGANIZATIONS = ("admin_", "organization_", "provider_", "mtp_", "msp_")
"""How the types of events begin that may name another organization than the key's."""
_MAX_REFUSALS = 3
"""How often a chunk must be refused, while the receiver acknowledges a probe, before it counts as poison."""
_MAX_COMMIT_FAILURES = 3
"""Failed commits in a row after which a run that must end gives up."""
_REJECTED_DELAY = 60.0
"""Seconds before the next try after a rejected handshake: somebody has to change a configuration."""


class PipelineResources(NamedTuple):
    """The resources that all streams share."""

    encoder: RecordEncoder
    receivers: Failover
    state: StateStore


class _PendingRecord(msgspec.Struct, frozen=True, gc=False):
    """A new event and its packed record. `time_ns` is the event's time; `oversized`: no message can hold the record."""

    raw: bytes | msgspec.Raw
    time_ns: int | None
    key: EventKey
    id: str
    tag: str
    packed: bytes
    late: bool
    oversized: bool


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
        runtime: Runtime = SYSTEM,
        organization: str | None = None,
        is_own: bool = False,
        give_up_after: float | None = None,
    ) -> None:
        """`organization` is the requested one, None for any; `is_own`: it is that of the key, which events name.

        A receiver that is down for longer than `give_up_after` seconds is an error; with None, `deliver` waits.
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
        self._give_up_after = give_up_after
        # Of the page that is being delivered: the window that returned it, and which of its events were known.
        self._span = (0, 0)
        self._seen: list[EventKey] = []

    @property
    def max_silence_seconds(self) -> float:
        """The longest time between two signs of liveness in `deliver`: a delivery, a probe, a pause."""
        return 2 * self._resources.receivers.max_delivery_seconds + max(MAX_DELAY, _REJECTED_DELAY)

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
        is_last = False
        self._span, self._seen = span, []
        keys: set[EventKey] = set()
        try:
            for records, is_last in batch(self._records(page, before, keys), self._chunk_bytes):
                self._counters.in_flight = _oldest(records, page)
                position = after if is_last else before
                first = records[0]
                if first.oversized:  # larger than a chunk, so it is alone
                    reason = f"its record of {len(first.packed)} bytes is larger than forward.message_max_bytes"
                    self._dead_letter(first, reason, position, stop)
                else:
                    self._deliver_chunk(records, before, position, stop)
            if not is_last:
                self._commit([], after, stop)
        finally:
            self._counters.in_flight = None
        return Counter(key.minute for key in keys)

    def _records(self, page: Page, before: Position, keys: set[EventKey]) -> Iterator[_PendingRecord]:
        """Map and pack the new events of `page`; adds the keys of all its events to `keys`."""
        counters, encode, tag_of = self._counters, self._resources.encoder.encode, self._tag.of
        watermark_ns, received_ns = before.watermark_ms * 1_000_000, page.received_ns
        max_bytes, chunk_bytes = self._settings.message_max_bytes, self._chunk_bytes
        for event in self._new_events(page, keys):
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
            size = len(packed)
            oversized = size > chunk_bytes and wire.message_bytes(tag, size) > max_bytes
            yield _PendingRecord(event.raw, time_ns, event.key, event.id, tag, packed, late, oversized)

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
            known |= keys
            keys.update(of_batch)
            for event in events:
                if event.key in known:
                    self._counters.duplicates += 1
                else:
                    known.add(event.key)
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
                f"{self._stream}: JumpCloud sends events of organization {min(named):.40}, but the state at "
                f"{self._resources.state.path} is of organization {self._own:.40}",
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

    def _deliver_chunk(
        self,
        records: Sequence[_PendingRecord],
        before: Position,
        after: Position,
        stop: threading.Event,
        *,
        halved: bool = False,
    ) -> None:
        """Deliver one chunk and commit it. If the receiver refuses only this chunk, find the record it refuses."""
        chunk = wire.build_chunk(
            records[0].tag,
            b"".join([record.packed for record in records]),
            len(records),
            compress=self._settings.compress,
        )
        refusal = self._send(chunk, stop, tries=1 if halved and len(records) > 1 else _MAX_REFUSALS)
        if refusal is None:
            self._commit(records, after, stop)
        elif len(records) == 1:
            self._dead_letter(records[0], refusal, after, stop)
        else:
            log.warning(
                "%s: the receiver refuses a chunk of %d records (%s) but accepts others; splitting it in half",
                *(self._stream, len(records), refusal),
            )
            middle = len(records) // 2
            self._deliver_chunk(records[:middle], before, before, stop, halved=True)
            self._deliver_chunk(records[middle:], before, after, stop, halved=True)

    def _send(self, chunk: wire.Chunk, stop: threading.Event, *, tries: int) -> str | None:
        """Send the same bytes until they are acknowledged.

        Returns:
            None; or why the receiver refuses the chunk, if it does so `tries` times and acknowledges a probe.
        """
        started_at = self._runtime.monotonic()
        failures = refusals = 0
        while True:
            self._counters.sent += chunk.records
            self._counters.sent_bytes += len(chunk.message)
            self._counters.liveness.touch()
            try:
                self._resources.receivers.deliver(chunk, stop)
            except ReceiverDown as error:
                failures += 1
                refusals += bool(error.reached)
                if refusals >= tries and self._resources.receivers.probe(error.reached, stop):
                    return str(error)
                rejected, limit = isinstance(error, HandshakeRejected), self._give_up_after
                if limit is not None and (rejected or self._runtime.monotonic() - started_at > limit):
                    raise
                delay = max(backoff_delay(failures, self._runtime.random), _REJECTED_DELAY if rejected else 0)
                level = logging.INFO if isinstance(error, ReceiverPaused) else logging.WARNING
                log.log(level, "%s: %s; resending the chunk in %.0f s", self._stream, error, delay)
                if stop.wait(delay):
                    raise Stopped from None
            else:
                if failures:
                    log.info("%s: the receiver acknowledges again", self._stream)
                return None

    def _dead_letter(self, record: _PendingRecord, reason: str, after: Position, stop: threading.Event) -> None:
        """Commit the event as a dead letter: the receiver will never accept it."""
        refused = Refused(record.key, record.id, reason, self._now_ms(), record.tag, bytes(record.raw))
        self._commit([record], after, stop, dead_letters=[refused])
        self._counters.dead_lettered += 1
        log.error(
            "%s: event %s cannot be delivered: %s; it is now a dead letter, see `in-jumpcloud dead-letters list`",
            *(self._stream, record.id, reason),
        )

    def _commit(
        self,
        records: Sequence[_PendingRecord],
        after: Position,
        stop: threading.Event,
        *,
        dead_letters: Sequence[Refused] = (),
    ) -> None:
        """Commit what was acknowledged. If the state is unavailable, wait: sending again would duplicate it."""
        keys = [record.key for record in records]
        late = sum(record.late for record in records)
        failures = 0
        while True:
            try:
                self._counters.liveness.touch()
                self._resources.state.commit(
                    self._stream,
                    keys,
                    after,
                    span=self._span,
                    seen=self._seen,
                    late=late,
                    dead_letters=dead_letters,
                    organization=self._own,
                )
            except StateUnavailable as error:
                failures += 1
                if self._give_up_after is not None and failures > _MAX_COMMIT_FAILURES:
                    raise
                delay = backoff_delay(failures, self._runtime.random)
                log.error("%s: %s; retrying in %.0f s", self._stream, error, delay)  # noqa: TRY400 - no traceback
                if stop.wait(delay):
                    raise Stopped from None
            else:
                self._seen = []
                self._counters.acknowledged += len(keys) - len(dead_letters)
                if keys:
                    self._counters.liveness.mark_progress()
                return


def _oldest(records: Sequence[_PendingRecord], page: Page) -> tuple[int, int]:
    """The time of the oldest of `records`, and when their page arrived, in epoch nanoseconds."""
    times = (record.time_ns for record in records)
    return min((time_ns for time_ns in times if time_ns is not None), default=page.received_ns), page.received_ns
