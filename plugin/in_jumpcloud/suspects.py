"""Records that a receiver refused alone: parked in the state until it is known whether the record was the reason.

It was if the same receiver then acknowledged other records, refused nothing in between, and refuses it again, PROOFS
times in a row. A receiver that is full refuses everything for a while, or all but a few.
"""

from __future__ import annotations

from typing import NamedTuple

from in_jumpcloud.counters import Counters
from in_jumpcloud.errors import ReceiverDown
from in_jumpcloud.forward.failover import Outcomes, Receivers
from in_jumpcloud.state.dead_letters import DeadLetter
from in_jumpcloud.state.jobs import Deliveries

PROOFS = 3
"""How often in a row that must have happened. Once may be an accident, if the receiver is full now and then."""
_MAX_SUSPECTS = 10
"""So many are parked at most."""


class Refusal(NamedTuple):
    """The last refusal of a lone record: by which receivers, None if unknown, and their outcomes until then."""

    receivers: frozenset[str] | None
    before: Outcomes


_UNKNOWN = Refusal(None, Outcomes(0, 0))


class Suspect(NamedTuple):
    """A parked record, and how many proofs there are that it is the reason."""

    letter: DeadLetter
    refusal: Refusal
    proofs: int = 0


class Suspects:
    """The parked records of one stream. One thread at a time uses it."""

    def __init__(self, stream: str, receivers: Receivers, state: Deliveries, counters: Counters) -> None:
        self._stream = stream
        self._receivers = receivers
        self._state = state
        self._counters = counters
        self._last_parked = _UNKNOWN
        self._all: list[Suspect] | None = None  # None: not read from the state yet
        self._is_stale = False

    def all(self) -> list[Suspect]:
        """Those in the state, oldest first.

        Raises:
            StateCorrupt, StateUnavailable: the state cannot be read.
        """
        if self._all is None or self._is_stale:
            known = {each.letter.number: each for each in self._all or ()}
            self._is_stale, self._all = False, None  # first: if the state cannot be read now, it is read again
            self._set([known.get(each.number, Suspect(each, _UNKNOWN)) for each in self._state.parked(self._stream)])
        return list(self._all or ())

    def look_for_others(self) -> None:
        """A backfill that has ended may have left some to the stream. Safe in any thread."""
        self._is_stale = True

    def may_park(self) -> bool:
        """Whether another one may be parked: one at most between two acks."""
        count = len(self.all())
        return not count or (count < _MAX_SUSPECTS and self.is_followed(self._last_parked))

    def parked(self, refusal: ReceiverDown) -> None:
        """Note that another one is in the state now."""
        known, self._all = self.all(), None  # if the state cannot be read now, it is read again
        numbers = {each.letter.number for each in known}
        noted = self._last_parked = self._note(refusal)
        new = [each for each in self._state.parked(self._stream) if each.number not in numbers]
        self._set(known + [Suspect(each, noted) for each in new])

    def _note(self, refusal: ReceiverDown) -> Refusal:
        """The refusal of a lone record, to be asked about later."""
        return Refusal(refusal.reached, self._receivers.outcomes(refusal.reached))

    def is_followed(self, refusal: Refusal) -> bool:
        """Whether a receiver that refused the record has acknowledged others since."""
        return self._receivers.outcomes(refusal.receivers).acknowledged > refusal.before.acknowledged

    def is_proof(self, refusal: Refusal) -> bool:
        """Whether it has, and nothing says that it was full when it refused the record."""
        return self.is_followed(refusal) and self._receivers.outcomes(refusal.receivers).doubts == refusal.before.doubts

    def refused_again(self, suspect: Suspect, refusal: ReceiverDown, proofs: int) -> None:
        """It stays parked."""
        changed = Suspect(suspect.letter, self._note(refusal), proofs)
        self._set([changed if each is suspect else each for each in self.all()])

    def settled(self, suspect: Suspect) -> None:
        """It was acknowledged, or it is a dead letter now."""
        self._set([each for each in self.all() if each is not suspect])

    def _set(self, suspects: list[Suspect]) -> None:
        self._all = suspects
        self._counters.parked = len(suspects)
