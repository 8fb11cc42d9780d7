"""What the program asks of the state, asked of each kind of database: the answers are the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from support.state import key, keys

from in_jumpcloud.config.schema import StateSettings
from in_jumpcloud.errors import DeadLettersFull, StateMissing
from in_jumpcloud.insights.window import Position, Window
from in_jumpcloud.state import opening
from in_jumpcloud.state.dead_letters import Refused
from in_jumpcloud.state.jobs import JobSpec
from in_jumpcloud.state.notes import WRITE_SECONDS
from in_jumpcloud.state.reader import StateReader
from in_jumpcloud.state.store import StateStore
from in_jumpcloud.timestamps import DAY_MS, MINUTE_MS

NOW_MS = time.time_ns() // 1_000_000
MINUTE = NOW_MS // MINUTE_MS - 10
SPAN = (MINUTE * MINUTE_MS, (MINUTE + 5) * MINUTE_MS)
WINDOW = Window(start_ms=SPAN[0], end_ms=SPAN[1], services=("all",), limit=10, cursor='["\\u0000",1]')
POSITION = Position(origin_ms=SPAN[0] - DAY_MS, watermark_ms=SPAN[0], window=WINDOW)
LATER = Position.starting_at(SPAN[1])
INSIDE = keys(500, MINUTE + 1)
OUTSIDE = [key(-1, "undated"), key(7, "long ago"), key(10**10, "in the far future")]


class Kind:
    """A state of one kind, which can be opened again, and a clock for its notes."""

    def __init__(self, settings: StateSettings) -> None:
        self.settings = settings
        self.seconds = 0.0

    def store(self) -> StateStore:
        """For the process that writes it."""
        return opening.open_store(
            self.settings,
            new_agent_id="the agent",
            max_dead_letter_bytes=5000,
            now_ms=lambda: NOW_MS,
            monotonic=lambda: self.seconds,
        )

    def reader(self) -> AbstractContextManager[StateReader]:
        """For another process."""
        return opening.open_readonly(self.settings)


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    """An empty state of each kind."""
    if request.param == "sqlite":
        return Kind(StateSettings(path=tmp_path / "state.db"))
    return Kind(request.getfixturevalue("state_url"))


@pytest.fixture
def state(kind: Kind) -> Iterator[StateStore]:
    """An open one."""
    with kind.store() as state:
        yield state


def refused(name: str, reason: str = "no\0ack \ud800") -> Refused:
    """An event that a receiver refuses."""
    return Refused(key(MINUTE, name), name, reason, NOW_MS, "a.tag", b'{"\xff\x00":1}')


def test_new_and_again(kind: Kind) -> None:
    """It does not exist, is created once, and has the same identity and positions ever after."""
    assert not opening.exists(kind.settings)
    with pytest.raises(StateMissing), kind.reader():
        pass
    with kind.store() as state:
        assert (state.is_new, state.agent_id, state.position("a"), state.streams()) == (True, "the agent", None, [])
        state.commit("a", [], POSITION)
        assert state.position("a") == POSITION
        assert opening.holder(kind.settings)
    assert opening.exists(kind.settings)
    assert opening.holder(kind.settings) is None
    assert opening.size(kind.settings) > 10_000
    with kind.store() as state:
        assert (state.is_new, state.agent_id, state.position("a")) == (False, "the agent", POSITION)


def test_what_was_delivered(state: StateStore) -> None:
    """A key that was committed is known, whether its window returned it or its date is elsewhere; no other is."""
    state.commit("a", [*INSIDE, *OUTSIDE], POSITION, span=SPAN, late=2, organization="5f\0")
    state.commit("b", INSIDE[:1], LATER, span=SPAN)
    others = keys(500, MINUTE + 1, "other") + keys(5, MINUTE + 2)
    assert state.delivered("a", [*INSIDE, *OUTSIDE, *others]) == {*INSIDE, *OUTSIDE}
    assert state.delivered("b", [*INSIDE[:3], *OUTSIDE]) == {INSIDE[0]}
    assert state.counts("a", MINUTE, MINUTE + 5) == {MINUTE + 1: 500}
    assert state.counts("a", -(10**9), 10**9) == {MINUTE + 1: 500}
    row, other = state.streams()
    assert (row.name, row.acknowledged, row.late, row.position, row.updated_ms) == ("a", 503, 2, POSITION, NOW_MS)
    assert (other.acknowledged, other.position) == (1, LATER)


def test_notes_wait_and_are_read_at_once(kind: Kind) -> None:
    """What need not be on disk at once is known to the process, and to others after a while or at its end."""
    with kind.store() as state:
        state.commit("a", [], POSITION)
        state.advance("a", LATER, organization="5f1b")
        state.save_reconciliation("a", "{}")
        assert state.prune("a", SPAN[0]) == 0
        assert (state.position("a"), state.reconciliation("a"), state.kept_from_ms("a")) == (LATER, "{}", SPAN[0])
        with kind.reader() as reader:
            assert reader.streams()[0].position == POSITION
        kind.seconds += WRITE_SECONDS
        state.save_reconciliation("a", "[]")
        with kind.reader() as reader:
            assert (reader.streams()[0].position, reader.organization("a")) == (LATER, "5f1b")
            assert (reader.reconciliation("a"), reader.kept_from_ms("a")) == ("[]", SPAN[0])
        state.advance("a", POSITION)
        state.commit("b", [], POSITION)
        state.advance("b", LATER)
    with kind.reader() as reader:
        assert [row.position for row in reader.streams()] == [POSITION, LATER]


def test_an_event_that_every_query_returns(state: StateStore) -> None:
    """It is kept as long as windows return it: an advance that saw it writes that once a day."""
    state.commit("a", OUTSIDE[:1], POSITION, span=SPAN)
    state.advance("a", LATER, span=SPAN, seen=OUTSIDE)  # two of them are new: they were delivered by an older process
    assert state.delivered("a", OUTSIDE) == set(OUTSIDE)
    assert state.streams()[0].acknowledged == 1
    state.advance("a", POSITION, span=SPAN, seen=OUTSIDE)
    assert state.streams()[0].position == LATER  # nothing had to be written
    later = (SPAN[0] + 2 * DAY_MS, SPAN[1] + 2 * DAY_MS)
    state.advance("a", POSITION, span=later, seen=OUTSIDE)
    assert state.streams()[0].position == POSITION
    assert state.counts("a", 0, MINUTE + 10_000) == {}


def test_begin_services_and_errors(state: StateStore) -> None:
    """The first position stays; services and the last error are kept; an unknown stream has none."""
    assert state.begin({"a": POSITION, "b": LATER}) == set()
    assert state.begin({"a": LATER, "c": LATER}, ["sso", "mdm"]) == {"a"}
    assert [row.position for row in state.streams()] == [POSITION, LATER, LATER]
    assert (state.position("a"), state.position("c")) == (POSITION, LATER)
    assert (state.services("a"), state.services("c")) == ({}, dict.fromkeys(["sso", "mdm"], LATER.origin_ms))
    state.save_services("a", {"sso": 5})
    assert (state.services("a"), state.services("z")) == ({"sso": 5}, {})
    for error, at in (("JumpCloud\0 answered", 7), ("again", 9), (None, 11), (None, 12)):
        state.record_error("a", error, at)
        row, *_ = state.streams()
        assert (row.error, row.error_ms) == ((error.replace("\0", "\\x00"), at) if error else (None, None))
    state.record_error("z", "unknown", 1)
    state.save_reconciliation("z", "{}")
    assert (state.reconciliation("z"), state.kept_from_ms("z"), state.organization("z")) == (None, 0, None)


def test_refused_events(kind: Kind) -> None:
    """Dead letters and suspects are written with their commit, settled, listed in order, and removed by others."""
    with kind.store() as state:
        letters, suspects = [refused("1"), refused("2")], [refused("3")]
        state.commit("a", [each.key for each in letters + suspects], LATER, dead_letters=letters, suspects=suspects)
        state.commit("a", [each.key for each in letters + suspects], LATER, dead_letters=letters, suspects=suspects)
        assert state.dead_letters.count == 3
        (parked,) = state.parked("a")
        assert (parked.state, parked.refused.reason) == ("suspect", "no\\x00ack \\ud800")
        state.settle(parked, "still")
        state.settle(parked, None)
        assert state.parked("a") == []
        big = refused("big", "x" * 5000)
        with pytest.raises(DeadLettersFull):
            state.commit("a", [big.key, *INSIDE], POSITION, dead_letters=[big])
        assert state.position("a") == LATER
        assert state.delivered("a", [big.key, *INSIDE]) == set()
        with opening.changing_dead_letters(kind.settings) as other:
            found = list(other.dead_letters.letters())
            assert [each.refused.id for each in found] == ["1", "2", "3"]
            assert found[0].refused.event == letters[0].event
            assert found[0].refused.key == letters[0].key
            assert other.dead_letters.remove(found[0].number)
            assert not other.dead_letters.remove(found[0].number)
        state.dead_letters.refresh()
        assert state.dead_letters.count == 2


def test_backfills(kind: Kind) -> None:
    """A unit has its own position and ledger, shares what it delivers with its stream, and ends."""
    with kind.store() as state:
        state.commit("a", INSIDE[:2], POSITION, span=SPAN)
        with opening.open_shared(kind.settings) as command:
            spec = JobSpec(SPAN[0], SPAN[1], ("all",), again=True)
            assert command.jobs.create(["b", "a"], spec, NOW_MS) == 1
            assert command.jobs.create(["a", "b"], spec, NOW_MS) == 1  # it is open
            assert command.jobs.create(["a"], spec, NOW_MS) == 2
        rows = state.jobs.rows(only_open=True)
        assert [(row.number, row.stream) for row in rows] == [(1, "a"), (1, "b"), (2, "a")]
        unit = rows[0]
        job = state.for_job(unit, shares_ledger=True)
        assert job.delivered("a", INSIDE[:3]) == set()
        suspects = [refused("3")]
        job.commit("a", [*INSIDE[2:5], OUTSIDE[0], suspects[0].key], POSITION, span=SPAN, suspects=suspects)
        assert job.delivered("a", [*INSIDE[:6], *OUTSIDE]) == {*INSIDE[2:5], OUTSIDE[0]}
        assert state.delivered("a", [*INSIDE[:6], *OUTSIDE]) == {*INSIDE[:5], OUTSIDE[0]}
        job.advance("a", LATER, span=SPAN, seen=[OUTSIDE[0]])
        assert job.delivered("a", [*INSIDE[:6], *OUTSIDE]) == {OUTSIDE[0]}  # the minutes before its position are over
        state.jobs.expect(unit.unit, 7)
        state.jobs.record_error(unit.unit, "a 503", 5)
        (row,) = [each for each in state.jobs.rows(number=1) if each.stream == "a"]
        assert (row.position, row.expected, row.read, row.acknowledged, row.error) == (LATER, 7, 5, 4, "a 503")
        (parked,) = job.parked("a")
        job.settle(parked, None)
        state.jobs.end(unit.unit, "done", None, NOW_MS)
        assert not state.jobs.is_open(unit.unit)
        assert job.delivered("a", OUTSIDE) == set()
        with opening.open_shared(kind.settings) as command:
            assert command.jobs.cancel(None, NOW_MS) == [1, 2]
            assert command.jobs.cancel(2, NOW_MS) == []
        assert [row.condition for row in state.jobs.rows()] == ["done", "cancelled", "cancelled"]
        assert state.streams()[0].acknowledged == 2
