"""Which records become dead letters, for any mixture of refused records and a receiver that is full now and then."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st

from in_jumpcloud.config.schema import ForwardSettings
from in_jumpcloud.counters import Counters
from in_jumpcloud.errors import ReceiverDown, Stopped
from in_jumpcloud.forward.failover import Outcomes
from in_jumpcloud.forward.wire import Chunk, pack_entry
from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.insights.window import Position
from in_jumpcloud.record_sender import PendingRecord, PipelineResources, RecordSender
from in_jumpcloud.runtime import SYSTEM
from in_jumpcloud.state.dead_letters import DeadLetter, Refused

POSITION = Position.starting_at(0)
MANY_WAITS = 40
NAME = frozenset(["receiver"])


class Waits(threading.Event):
    """Lets every wait pass at once, and stops after MANY_WAITS without an ack."""

    count = 0

    def wait(self, timeout: float | None = None) -> bool:
        """Count it."""
        self.count += timeout is not None
        return self.count > MANY_WAITS


class World:
    """The receiver, the state and the commits of one stream, as plain values."""

    def __init__(self, poison: set[str], full: Sequence[bool]) -> None:
        self.poison, self.full = poison, list(full)
        self.stop = Waits()
        self.tries: list[tuple[list[str], bool]] = []
        self.acked: Counter[str] = Counter()
        self.dead: list[str] = []
        self.suspects: list[DeadLetter] = []
        self._outcomes = Outcomes(0, 0)
        resources = PipelineResources(cast("Any", self), cast("Any", self), cast("Any", self))
        self.sender = RecordSender(
            *("stream", resources, ForwardSettings(), Counters(), self), runtime=SYSTEM, give_up_after=None
        )

    # The state, and the receivers.

    def may_send(self, _: str) -> None:
        """It has the state for itself."""

    def deliver(self, chunk: Chunk, _: threading.Event) -> None:
        """Take all records of a chunk, or none. It is full as often as `full` says."""
        ids = [record["id"] for _, record in msgpack.Unpacker(io.BytesIO(msgpack.unpackb(chunk.message)[1]))]
        taken = not (self.full and self.full.pop(0)) and not self.poison.intersection(ids)
        self.tries.append((ids, taken))
        if not taken:
            raise ReceiverDown("refused", reached=NAME)
        self.acked.update(ids)
        self.stop.count = 0
        self._outcomes = self._outcomes._replace(acknowledged=self._outcomes.acknowledged + 1)

    def outcomes(self, _: object) -> Outcomes:
        """As Failover."""
        return self._outcomes

    def doubt(self, _: object) -> None:
        """As Failover."""
        self._outcomes = self._outcomes._replace(doubts=self._outcomes.doubts + 1)

    def probe(self, *_: object) -> bool:
        """A full receiver acknowledges messages without records."""
        return True

    def is_by_the_rule(self, name: str) -> bool:
        """Whether it was refused alone, the next record that was never refused alone was taken, and it was refused."""
        suspects: set[str] = set()
        was_refused = is_proven = False
        for ids, taken in self.tries:
            if ids == [name]:
                if is_proven and not taken:
                    return True
                was_refused, is_proven = not taken, False
            elif not suspects.issuperset(ids):
                is_proven |= was_refused and taken
                was_refused &= taken
            if len(ids) == 1 and not taken:
                suspects.update(ids)
        return False

    # The state, and the commits.

    def parked(self, _: str) -> list[DeadLetter]:
        """As SqliteStore."""
        return list(self.suspects)

    def settle(self, letter: DeadLetter, reason: str | None, _: threading.Event) -> None:
        """As Pipeline."""
        self.suspects.remove(letter)
        self.dead += [letter.refused.id] if reason else []

    def acknowledged(self, *_: object) -> None:
        """As Pipeline."""

    def park(self, record: PendingRecord, reason: str, *_: object) -> None:
        """As Pipeline."""
        refused = Refused(record.key, record.id, reason, 0, record.tag, record.id.encode())
        self.suspects.append(DeadLetter(len(self.tries), "suspect", "stream", refused))

    def dead_letter(self, record: PendingRecord, *_: object) -> None:
        """As Pipeline."""
        self.dead.append(record.id)

    def encode(self, raw: Any, _: int) -> tuple[bytes, None]:
        """As RecordEncoder."""
        return pack_entry(0, {"id": bytes(raw.raw).decode()}), None

    def send(self, *ids: str) -> bool:
        """Whether they were sent, or committed otherwise, before it waited for long."""
        records = [
            PendingRecord(b"", 0, EventKey(1, each.encode()), each, "tag", pack_entry(0, {"id": each}), False, False)
            for each in ids
        ]
        try:
            self.sender.send(records, POSITION, POSITION, self.stop)
        except Stopped:
            return False
        return True


@settings(max_examples=300)
@given(
    size=st.integers(1, 30),
    poison=st.sets(st.integers(0, 29), max_size=4),
    full=st.lists(st.integers(0, 9), max_size=20),
)
def test_only_what_is_refused_for_good_becomes_a_dead_letter(size: int, poison: set[int], full: list[int]) -> None:
    """Everything else is acknowledged once, in few tries. What stays is parked, or waits for an ack of others.

    `full` is how often the receiver refuses everything before it takes one chunk, again and again.
    """
    ids = [str(number) for number in range(size)]
    refused = {str(number) for number in poison if number < size}
    world = World(refused, [is_full for count in full for is_full in (*[True] * count, False)])

    if world.send(*ids):
        for number in range(100):
            assert world.send(f"later-{number}")
        assert not world.suspects
        assert refused <= set(world.dead)
    else:
        assert len(refused) > 1, "one record that is refused stops the stream"
        assert len(world.suspects) >= 1
    for each in world.dead:
        assert each in refused or world.is_by_the_rule(each)
    delivered = set(ids) - refused - set(world.dead)
    assert {each: world.acked[each] for each in delivered} == dict.fromkeys(delivered, 1)
    assert not world.acked.keys() & set(world.dead)
    assert len(world.tries) < 500
