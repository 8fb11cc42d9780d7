"""Sends the records of one stream until each is acknowledged, or is known to be refused for good.

A chunk that is refused is split until the record is found that is refused alone, which is parked in the state as a
suspect. If everything is refused, one record is parked, and the others wait.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from in_jumpcloud.backoff import backoff_delay
from in_jumpcloud.config.schema import ForwardSettings
from in_jumpcloud.counters import Counters
from in_jumpcloud.ecs.encoder import RecordEncoder
from in_jumpcloud.errors import HandshakeRejected, ReceiverDown, ReceiverPaused, Stopped
from in_jumpcloud.forward import wire
from in_jumpcloud.forward.failover import Receivers
from in_jumpcloud.insights.event import EventKey, parse_event
from in_jumpcloud.insights.window import Position
from in_jumpcloud.runtime import Runtime
from in_jumpcloud.state.dead_letters import DeadLetter
from in_jumpcloud.state.jobs import Deliveries
from in_jumpcloud.suspects import PROOFS, Suspect, Suspects

log = logging.getLogger(__name__)

REJECTED_DELAY = 60.0
"""Seconds before the next try after a rejected handshake: somebody has to change a configuration."""
_MAX_REFUSALS = 3
"""How often a chunk must be refused before it is split, and a lone record before it is a suspect."""
_RETRY_SUSPECTS_SECONDS = 300.0
"""How often suspects are sent while nothing else is."""


State_co = TypeVar("State_co", bound=Deliveries, covariant=True)


class PipelineResources(NamedTuple, Generic[State_co]):
    """The resources that all streams share."""

    encoder: RecordEncoder
    receivers: Receivers
    state: State_co


class PendingRecord(msgspec.Struct, frozen=True, gc=False):
    """A new event and its packed record. `time_ns` is the event's time; `oversized`: no message can hold the record."""

    raw: bytes | msgspec.Raw
    time_ns: int | None
    key: EventKey
    id: str
    tag: str
    packed: bytes
    late: bool
    oversized: bool


class Commits(Protocol):
    """How a pipeline commits what happened to records. The position becomes `after`."""

    def acknowledged(self, records: Sequence[PendingRecord], after: Position, stop: threading.Event) -> None:
        """The receiver has them."""

    def park(self, record: PendingRecord, reason: str, after: Position, stop: threading.Event) -> None:
        """The receiver refused it alone."""

    def settle(self, letter: DeadLetter, reason: str | None, stop: threading.Event) -> None:
        """A parked record was acknowledged; or, with a `reason`, it is refused for good."""


class RecordSender:
    """Sends the records of one stream. One thread at a time uses it."""

    def __init__(
        self,
        stream: str,
        resources: PipelineResources[Deliveries],
        settings: ForwardSettings,
        counters: Counters,
        commits: Commits,
        *,
        runtime: Runtime,
        give_up_after: float | None,
    ) -> None:
        """A receiver that is down for longer than `give_up_after` seconds is an error; with None, `send` waits."""
        self._stream = stream
        self._encoder, self._receivers, self._state = resources
        self._settings = settings
        self._counters = counters
        self._commits = commits
        self._runtime = runtime
        self._give_up_after = give_up_after
        self._retry_at = runtime.monotonic()
        self._suspects = Suspects(stream, self._receivers, self._state, counters)

    def send(self, records: Sequence[PendingRecord], before: Position, after: Position, stop: threading.Event) -> None:
        """Send `records`, of one tag, and commit them. The position becomes `after` with the last of them.

        Raises:
            StateCorrupt, StateUnavailable, DeadLettersFull: the state cannot be used, or not written.
            ReceiverDown: for longer than `give_up_after`.
            Stopped: `stop` was set. Acknowledged chunks are committed.
        """
        self._retry_suspect(stop)
        waits, groups = 0, deque([records])
        refused: list[Sequence[PendingRecord]] = []
        alone: set[EventKey] = set()  # records that were refused alone
        last, may_split = ReceiverDown(""), True  # the last refusal
        while groups or refused:
            if not groups:  # nothing but refused records is left
                groups.append([record for group in refused for record in group])
                if not self._suspects.may_park():
                    waits += 1
                    self._wait(waits, last, stop)
                    self._retry_all(stop)
                refused, may_split = [], True
            group = groups.popleft()
            if len(group) > 1 and len(groups) < PROOFS and self._suspects.all():  # each ack says more about them
                groups.appendleft(group[len(group) // 2 :])
                group = group[: len(group) // 2]
            is_known = bool(alone) and all(record.key in alone for record in group)
            tries = _MAX_REFUSALS if len(group) in {1, len(records)} and not is_known else 1
            refusal = self._try(_chunk(group, self._settings), stop, tries=tries, is_known=is_known)
            position = before if groups or refused else after
            if refusal is None:
                self._commits.acknowledged(group, position, stop)
                self._retry_suspect(stop)
                groups.extend(each for each in refused if len(each) > 1)
                refused = [each for each in refused if len(each) == 1]
                if refused and self._suspects.may_park():
                    groups.appendleft(refused.pop(0))
                waits, may_split = 0, True
            elif len(group) > 1 and may_split:
                log.warning(
                    "%s: the receiver refuses a chunk of %d records (%s); splitting it in half",
                    *(self._stream, len(group), refusal),
                )
                middle = len(group) // 2
                groups.extendleft([group[middle:], group[:middle]])
            elif len(group) == 1 and self._suspects.may_park():
                self._park(group[0], refusal, position, stop)
                may_split &= is_known
            else:
                # One record is refused alone, and others with it: only if some are acknowledged is it the record.
                last = refusal
                refused.append(group)
                if len(group) == 1:
                    may_split &= is_known  # so one more record is found to be refused alone in each round
                    alone.add(group[0].key)

    def _park(self, record: PendingRecord, refusal: ReceiverDown, position: Position, stop: threading.Event) -> None:
        self._commits.park(record, str(refusal), position, stop)
        self._suspects.parked(refusal)
        log.warning(
            "%s: event %s is refused (%s); it is sent once more after the next records",
            *(self._stream, record.id, refusal),
        )

    def _try(self, chunk: wire.Chunk, stop: threading.Event, *, tries: int, is_known: bool) -> ReceiverDown | None:
        """Send the same bytes until they are acknowledged. `is_known`: each record of them was refused alone before.

        Returns:
            None; or why a receiver refuses the chunk, if it does so `tries` times.
        """
        started_at = self._runtime.monotonic()
        failures = refusals = 0
        while True:
            self._state.may_send(self._stream)
            self._counters.sent += chunk.records
            self._counters.sent_bytes += len(chunk.message)
            self._counters.liveness.touch()
            try:
                self._deliver(chunk, stop)
            except ReceiverDown as error:
                failures += 1
                refusals += bool(error.reached)
                limit = self._give_up_after
                is_rejected = isinstance(error, HandshakeRejected)
                if limit is not None and (is_rejected or self._runtime.monotonic() - started_at > limit):
                    raise
                self._receivers.doubt(error.reached)
                # Without an answer the ack may still come, for these bytes only: they are sent again before a split.
                if refusals >= (max(tries, 2) if error.errno == errno.ETIMEDOUT else tries):
                    return error
                self._pause(failures, error, stop)
            else:
                self._counters.held_up = None
                if is_known:
                    self._receivers.doubt(None)
                if failures:
                    log.info("%s: the receiver acknowledges again", self._stream)
                return None

    def _deliver(self, chunk: wire.Chunk, stop: threading.Event) -> None:
        self._counters.awaits_ack = True
        try:
            self._receivers.deliver(chunk, stop)
        finally:
            self._counters.awaits_ack = False

    def _wait(self, waits: int, refusal: ReceiverDown, stop: threading.Event) -> None:
        if self._give_up_after is not None:
            raise refusal
        self._pause(waits + _MAX_REFUSALS, refusal, stop)

    def _pause(self, failures: int, error: ReceiverDown, stop: threading.Event) -> None:
        delay = backoff_delay(failures, self._runtime.random)
        delay = max(delay, REJECTED_DELAY) if isinstance(error, HandshakeRejected) else delay
        self._counters.hold_up(error)
        level = logging.INFO if isinstance(error, ReceiverPaused) else logging.WARNING
        log.log(level, "%s: %s; resending the chunk in %.0f s", self._stream, error, delay)
        if stop.wait(delay):
            raise Stopped

    def idle(self, stop: threading.Event) -> None:
        """Send suspects once more, and find out whether a receiver that failed is back. Call it with nothing to send.

        Raises:
            StateCorrupt, StateUnavailable, DeadLettersFull, ReceiverDown, Stopped: as `send`.
        """
        self._retry_suspect(stop)
        if self._suspects.all() and self._runtime.monotonic() >= self._retry_at:
            self._retry_at = self._runtime.monotonic() + _RETRY_SUSPECTS_SECONDS
            self._retry_all(stop)
        self._receivers.check_if_down(stop)

    def _retry_all(self, stop: threading.Event) -> None:
        for suspect in self._suspects.all():
            self._retry(suspect, stop)

    def look_for_parked(self) -> None:
        """A backfill that has ended may have left parked records to the stream. Safe in any thread."""
        self._suspects.look_for_others()

    def _retry_suspect(self, stop: threading.Event) -> None:
        """Send the oldest suspect once more, if other records were acknowledged since it was refused."""
        suspect = next(iter(self._suspects.all()), None)
        if suspect and self._suspects.is_followed(suspect.refusal):
            self._retry(suspect, stop)

    def _retry(self, suspect: Suspect, stop: threading.Event) -> None:
        """Send a suspect once more. It is settled if it is acknowledged, or if that makes enough proofs."""
        proofs = suspect.proofs + 1 if self._suspects.is_proof(suspect.refusal) else 0
        letter = suspect.letter.refused
        packed, _ = self._encoder.encode(parse_event(letter.event), letter.time_ms * 1_000_000)
        chunk = wire.build_chunk(letter.tag, packed, 1, compress=self._settings.compress)
        refusal = self._try(chunk, stop, tries=_MAX_REFUSALS if proofs else 1, is_known=True)
        if refusal:
            self._receivers.probe(refusal.reached, stop)  # it refuses a record, but it is up
        if refusal and proofs < PROOFS:
            self._suspects.refused_again(suspect, refusal, proofs)
        else:
            self._commits.settle(suspect.letter, None if refusal is None else str(refusal), stop)
            self._suspects.settled(suspect)


def _chunk(records: Sequence[PendingRecord], settings: ForwardSettings) -> wire.Chunk:
    packed = b"".join([record.packed for record in records])
    return wire.build_chunk(records[0].tag, packed, len(records), compress=settings.compress)
