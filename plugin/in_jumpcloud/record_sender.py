"""Sends the records of one stream until each is acknowledged, or is known to be refused for good.

A record is refused for good only if it was refused alone, and the same receiver acknowledged other records after that
and refused it again. Until then it is a suspect, parked in the state. A receiver that is full refuses everything for a
while, although it may acknowledge messages without records: its records wait.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from in_jumpcloud.backoff import backoff_delay
from in_jumpcloud.config.schema import ForwardSettings
from in_jumpcloud.counters import Counters
from in_jumpcloud.ecs.encoder import RecordEncoder
from in_jumpcloud.errors import HandshakeRejected, ReceiverDown, ReceiverPaused, Stopped
from in_jumpcloud.forward import wire
from in_jumpcloud.forward.failover import Failover
from in_jumpcloud.insights.event import EventKey, parse_event
from in_jumpcloud.insights.window import Position
from in_jumpcloud.runtime import Runtime
from in_jumpcloud.state.dead_letters import DeadLetter
from in_jumpcloud.state.store import StateStore

log = logging.getLogger(__name__)

REJECTED_DELAY = 60.0
"""Seconds before the next try after a rejected handshake: somebody has to change a configuration."""
_MAX_REFUSALS = 3
"""How often a chunk must be refused before it is split, and a lone record before it is a suspect."""

_RETRY_SUSPECTS_SECONDS = 300.0
"""How often suspects are sent while nothing else is."""


class PipelineResources(NamedTuple):
    """The resources that all streams share."""

    encoder: RecordEncoder
    receivers: Failover
    state: StateStore


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

    def dead_letter(self, record: PendingRecord, reason: str, after: Position, stop: threading.Event) -> None:
        """The receiver refused it again, and acknowledged others in between."""


class _Suspect(NamedTuple):
    """A parked record, the receivers that refused it, and how many chunks these had acknowledged until then."""

    letter: DeadLetter
    receivers: frozenset[str]
    acknowledged: int


class RecordSender:
    """Sends the records of one stream. One thread at a time uses it."""

    def __init__(
        self,
        stream: str,
        resources: PipelineResources,
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
        self._refusal = ReceiverDown("")  # the last one
        self._retry_at = 0.0
        self._suspects: list[_Suspect] | None = None  # None: not read from the state yet

    def send(self, records: Sequence[PendingRecord], before: Position, after: Position, stop: threading.Event) -> None:
        """Send `records`, of one tag, and commit them. The position becomes `after` with the last of them.

        Raises:
            StateCorrupt, StateUnavailable, DeadLettersFull: the state cannot be used, or not written.
            ReceiverDown: for longer than `give_up_after`.
            Stopped: `stop` was set. Acknowledged chunks are committed.
        """
        self._settle_suspects(stop)
        waits, groups = 0, deque([records])
        refused: list[Sequence[PendingRecord]] = []
        refused_at: dict[EventKey, int] = {}  # how many chunks were acknowledged when a record was first refused alone
        may_split = True
        while groups or refused:
            if not groups:  # nothing but refused records is left
                waits += 1
                groups.append([record for group in refused for record in group])
                self._wait(waits, self._refusal, stop)
                refused, may_split = [], True
            group = groups.popleft()
            is_first_try = len(group) in {1, len(records)}
            refusal = self._try(_chunk(group, self._settings), stop, tries=_MAX_REFUSALS if is_first_try else 1)
            position = before if groups or refused else after
            if refusal is None:
                self._commits.acknowledged(group, position, stop)
                self._settle_suspects(stop)
                groups.extend(refused)
                waits, refused, may_split = 0, [], True
            elif len(group) > 1 and may_split:
                log.warning(
                    "%s: the receiver refuses a chunk of %d records (%s); splitting it in half",
                    *(self._stream, len(group), refusal),
                )
                middle = len(group) // 2
                groups.extendleft([group[middle:], group[:middle]])
            elif len(group) == 1 and self._acknowledged(refusal) > refused_at.get(group[0].key, sys.maxsize):
                self._commits.dead_letter(group[0], str(refusal), position, stop)
            elif len(group) == 1 and not self._has_unproven_suspect():
                self._park(group[0], refusal, position, stop)
                may_split = False
            else:
                # One record is refused alone, and others with it: only if some are acknowledged is it the record.
                self._refusal = refusal
                refused.append(group)
                if len(group) == 1:
                    may_split = False
                    refused_at.setdefault(group[0].key, self._acknowledged(refusal))

    def _park(self, record: PendingRecord, refusal: ReceiverDown, position: Position, stop: threading.Event) -> None:
        self._commits.park(record, str(refusal), position, stop)
        self._note_suspects(refusal)
        log.warning(
            "%s: event %s is refused (%s); it is sent once more after the next records",
            *(self._stream, record.id, refusal),
        )

    def _try(self, chunk: wire.Chunk, stop: threading.Event, *, tries: int) -> ReceiverDown | None:
        """Send the same bytes until they are acknowledged.

        Returns:
            None; or why a receiver refuses the chunk, if it does so `tries` times.
        """
        started_at = self._runtime.monotonic()
        failures = refusals = 0
        while True:
            self._counters.sent += chunk.records
            self._counters.sent_bytes += len(chunk.message)
            self._counters.liveness.touch()
            try:
                self._receivers.deliver(chunk, stop)
            except ReceiverDown as error:
                failures += 1
                refusals += bool(error.reached)
                limit = self._give_up_after
                is_rejected = isinstance(error, HandshakeRejected)
                if limit is not None and (is_rejected or self._runtime.monotonic() - started_at > limit):
                    raise
                if refusals >= tries:
                    return error
                self._pause(failures, error, stop)
            else:
                if failures:
                    log.info("%s: the receiver acknowledges again", self._stream)
                return None

    def _wait(self, waits: int, refusal: ReceiverDown, stop: threading.Event) -> None:
        if self._give_up_after is not None:
            raise refusal
        self._pause(waits + _MAX_REFUSALS, refusal, stop)

    def _pause(self, failures: int, error: ReceiverDown, stop: threading.Event) -> None:
        delay = backoff_delay(failures, self._runtime.random)
        delay = max(delay, REJECTED_DELAY) if isinstance(error, HandshakeRejected) else delay
        level = logging.INFO if isinstance(error, ReceiverPaused) else logging.WARNING
        log.log(level, "%s: %s; resending the chunk in %.0f s", self._stream, error, delay)
        if stop.wait(delay):
            raise Stopped

    def _known_suspects(self) -> list[_Suspect]:
        if self._suspects is None:
            self._suspects = [_Suspect(each, frozenset(), 0) for each in self._state.parked(self._stream)]
            self._counters.parked = len(self._suspects)
        return self._suspects

    def _note_suspects(self, refusal: ReceiverDown) -> None:
        """Add the one that was just parked."""
        known = self._known_suspects()
        numbers = {each.letter.number for each in known}
        count = self._acknowledged(refusal)
        new = [each for each in self._state.parked(self._stream) if each.number not in numbers]
        known += [_Suspect(each, refusal.reached, count) for each in new]
        self._counters.parked = len(known)

    def _acknowledged(self, refusal: ReceiverDown) -> int:
        """How many chunks the receivers that refused one have acknowledged."""
        return self._receivers.acknowledged(refusal.reached)

    def _is_proven(self, suspect: _Suspect) -> bool:
        """Whether a receiver that refused it has acknowledged others since."""
        names = suspect.receivers or None
        return self._receivers.acknowledged(names) > suspect.acknowledged

    def _has_unproven_suspect(self) -> bool:
        return any(not self._is_proven(each) for each in self._known_suspects())

    def retry_suspects(self, stop: threading.Event) -> None:
        """Send suspects once more although no other record came. Call it when there is nothing to send.

        Raises:
            StateCorrupt, StateUnavailable, ReceiverDown, Stopped: as `send`.
        """
        self._settle_suspects(stop)
        if not self._known_suspects() or self._runtime.monotonic() < self._retry_at:
            return
        self._retry_at = self._runtime.monotonic() + _RETRY_SUSPECTS_SECONDS
        for suspect in list(self._known_suspects()):
            refusal = self._try(self._chunk_of(suspect), stop, tries=1)
            if refusal is None:
                self._settle(suspect, None)
            else:
                self._receivers.probe(refusal.reached, stop)  # it refuses a record, but it is up

    def _settle_suspects(self, stop: threading.Event) -> None:
        """Send suspects once more, if other records were acknowledged since they were refused."""
        for suspect in [each for each in self._known_suspects() if self._is_proven(each)]:
            refusal = self._try(self._chunk_of(suspect), stop, tries=_MAX_REFUSALS)
            self._settle(suspect, refusal)
            if refusal:
                self._receivers.probe(refusal.reached, stop)

    def _chunk_of(self, suspect: _Suspect) -> wire.Chunk:
        refused = suspect.letter.refused
        packed, _ = self._encoder.encode(parse_event(refused.event), refused.time_ms * 1_000_000)
        return wire.build_chunk(refused.tag, packed, 1, compress=self._settings.compress)

    def _settle(self, suspect: _Suspect, refusal: ReceiverDown | None) -> None:
        letter = suspect.letter
        self._state.settle(letter, None if refusal is None else str(refusal))
        self._known_suspects().remove(suspect)
        self._counters.parked = len(self._known_suspects())
        if refusal is None:
            self._counters.acknowledged += 1
            log.info("%s: event %s is acknowledged now", self._stream, letter.refused.id)
        else:
            self._counters.dead_lettered += 1
            log.error(
                "%s: event %s cannot be delivered: %s; it is now a dead letter, see `in-jumpcloud dead-letters list`",
                *(self._stream, letter.refused.id, refusal),
            )


def _chunk(records: Sequence[PendingRecord], settings: ForwardSettings) -> wire.Chunk:
    packed = b"".join([record.packed for record in records])
    return wire.build_chunk(records[0].tag, packed, len(records), compress=settings.compress)
