"""What need not be on disk at once: positions that moved past nothing new, and how far comparisons have come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.state import keys

from in_jumpcloud.errors import StateUnavailable
from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.insights.window import Position
from in_jumpcloud.state.notes import WRITE_SECONDS
from in_jumpcloud.state.sqlite.store import SqliteStore, open_readonly
from in_jumpcloud.timestamps import DAY_MS, MINUTE_MS

BEGIN = Position.starting_at(0)


def at(minute: int) -> Position:
    """A position that came so far."""
    return Position(origin_ms=0, watermark_ms=minute * MINUTE_MS)


class Clock:
    """The monotonic clock of the state."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        """Its time."""
        return self.seconds


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture(name="clock")
def _clock() -> Clock:
    return Clock()


@pytest.fixture(name="state")
def _state(path: Path, clock: Clock) -> Iterator[SqliteStore]:
    with SqliteStore(path, new_agent_id="x", monotonic=clock) as state:
        for stream in "ab":
            state.commit(stream, keys(1), BEGIN)
        yield state


def on_disk(path: Path) -> dict[str, tuple[Position, str | None, int]]:
    """Position, reconciliation and kept_from_ms of each stream, as another process reads them."""
    with open_readonly(path) as reader:
        return {
            row.name: (row.position, reader.reconciliation(row.name), reader.kept_from_ms(row.name))
            for row in reader.streams()
        }


def files(path: Path) -> list[tuple[int, int]]:
    """Size and time of what is on disk."""
    both = (path, path.with_name(f"{path.name}-wal"))
    return [(each.stat().st_size, each.stat().st_mtime_ns) for each in both]


def note(state: SqliteStore, stream: str, minute: int) -> None:
    """A poll and a comparison that found nothing."""
    state.advance(stream, at(minute))
    state.save_reconciliation(stream, f"compared {minute}")


def test_notes_are_read_at_once_and_written_together(state: SqliteStore, path: Path, clock: Clock) -> None:
    """Nothing is written until it is due; then what all streams noted, in one transaction."""
    before = files(path)
    for minute in range(1, 50):
        note(state, "a", minute)
        state.advance("b", at(minute))
        clock.seconds += WRITE_SECONDS / 50
    assert files(path) == before
    assert (state.position("a"), state.reconciliation("a")) == (at(49), "compared 49")
    assert on_disk(path) == {"a": (BEGIN, None, 0), "b": (BEGIN, None, 0)}
    (commit,) = state._database.read("SELECT id FROM last_commit")

    clock.seconds += WRITE_SECONDS / 50
    state.advance("b", at(50))

    assert on_disk(path) == {"a": (at(49), "compared 49", 0), "b": (at(50), None, 0)}
    assert state._database.read("SELECT before FROM last_commit") == [commit]
    clock.seconds += WRITE_SECONDS - 1
    state.advance("a", at(60))
    assert on_disk(path)["a"][0] == at(49)


def test_the_next_commit_writes_the_notes_of_its_stream(state: SqliteStore, path: Path, clock: Clock) -> None:
    """With its own position, which is newer and stays; the other stream's wait."""
    for stream in "ab":
        note(state, stream, 3)
    state.commit("a", keys(2), at(4))
    assert on_disk(path) == {"a": (at(4), "compared 3", 0), "b": (BEGIN, None, 0)}
    state.save_services("b", {"all": 0})
    assert on_disk(path)["b"] == (at(3), "compared 3", 0)
    clock.seconds += 2 * WRITE_SECONDS
    state.advance("b", at(5))
    assert on_disk(path) == {"a": (at(4), "compared 3", 0), "b": (at(5), "compared 3", 0)}


def test_a_stop_writes_them_and_a_kill_does_not(path: Path, clock: Clock) -> None:
    """After a kill the position is that of the last write."""
    with SqliteStore(path, new_agent_id="x", monotonic=clock) as state:
        state.commit("a", keys(1), BEGIN)
        state.advance("a", at(5))
        killed = on_disk(path)["a"]
    assert killed[0] == BEGIN
    assert on_disk(path)["a"][0] == at(5)


def test_pruning_never_passes_the_position_on_disk(state: SqliteStore, path: Path) -> None:
    """Ids go only together with the position that no longer needs them. Without ids nothing is written."""
    state.commit("a", keys(3, minute=9), at(10))
    state.advance("a", at(40))
    assert state.prune("a", 20 * MINUTE_MS) == 3 + 1
    assert on_disk(path)["a"] == (at(40), None, 20 * MINUTE_MS)
    before = files(path)
    assert state.prune("a", 30 * MINUTE_MS) == 0
    assert state.kept_from_ms("a") == 30 * MINUTE_MS
    assert files(path) == before
    state.commit("a", keys(1, minute=31), at(41))
    assert on_disk(path)["a"] == (at(41), None, 30 * MINUTE_MS)


def test_what_is_read_again_outside_its_window_is_kept(state: SqliteStore, path: Path) -> None:
    """An event with a wrong date is written at once, then once a day at most; others not at all."""
    strange = EventKey(7, b"s" * 16)
    span = (100 * MINUTE_MS, 110 * MINUTE_MS)
    state.commit("a", [strange], at(100), span=span)
    state.advance("a", at(111), span=(span[0] + MINUTE_MS, span[1] + MINUTE_MS), seen=[strange, strange])
    assert on_disk(path)["a"][0] == at(100)
    state.advance("a", at(9000), span=(span[0] + 2 * DAY_MS, span[1] + 2 * DAY_MS), seen=[strange])
    assert on_disk(path)["a"][0] == at(9000)
    state.advance("b", at(111), span=span, seen=[strange])
    assert on_disk(path)["b"][0] == at(111)


def test_a_write_that_fails_keeps_the_notes(state: SqliteStore, path: Path, clock: Clock) -> None:
    """The stream that was to write them learns of it, and the next try writes all."""
    note(state, "a", 3)
    clock.seconds += WRITE_SECONDS
    state._database.connection.execute("PRAGMA query_only = ON")
    with pytest.raises(StateUnavailable):
        state.advance("b", at(3))
    assert (state.position("a"), state.position("b")) == (at(3), at(3))
    state._database.connection.execute("PRAGMA query_only = OFF")
    state.advance("b", at(4))
    assert on_disk(path) == {"a": (at(3), "compared 3", 0), "b": (at(4), None, 0)}
