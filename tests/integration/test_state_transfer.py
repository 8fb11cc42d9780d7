"""What `export` returns fills another state with the same content; anything else changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.state import key

from in_jumpcloud.errors import Fatal
from in_jumpcloud.insights.window import Position, Window
from in_jumpcloud.state.dead_letters import Refused
from in_jumpcloud.state.jobs import JobSpec
from in_jumpcloud.state.sqlite.store import SqliteStore
from in_jumpcloud.state.store import StateStore

MINUTE = 60_000
SPAN = (5000 * MINUTE, 5010 * MINUTE)
WINDOW = Window(start_ms=SPAN[0], end_ms=SPAN[1], services=("all",), limit=10, cursor="[1]")
POSITION = Position(origin_ms=MINUTE, watermark_ms=5000 * MINUTE, window=WINDOW)
INSIDE = [key(5000 + number % 10, f"event {number}") for number in range(2500)]
OUTSIDE = [key(-1, "undated"), key(7, "long ago"), key(10**9, "in the far future")]


def refused(name: str) -> Refused:
    """An event that a receiver refuses, with bytes that are no text."""
    return Refused(key(5001, name), name, "no\nack é", 7, "a.tag", b'{"\xff\x00":1}' * 100)


def fill(state: StateStore) -> None:
    """Something of everything that a state can hold."""
    letters, suspects = [refused("refused")], [refused("suspect")]
    state.commit(
        "a",
        [*INSIDE, *OUTSIDE, letters[0].key, suspects[0].key],
        POSITION,
        span=SPAN,
        late=3,
        dead_letters=letters,
        suspects=suspects,
        organization="5f1b",
    )
    state.commit("b", [INSIDE[0]], Position.starting_at(5))
    state.save_reconciliation("a", '{"open": [5003]}')
    state.save_services("a", {"sso": 5})
    state.record_error("b", "JumpCloud answered 503", 17)
    state.prune("a", 4000 * MINUTE)
    for number in (1, 2):
        state.jobs.create(["a", "b"], JobSpec(number, 10**10, ("all",), again=True), 9)
    unit = state.jobs.rows(number=2)[0]
    in_progress = state.for_job(unit, shares_ledger=False)
    in_progress.commit("a", [*INSIDE[10:20], OUTSIDE[0]], POSITION, span=SPAN, suspects=[refused("of the backfill")])
    state.jobs.end(state.jobs.rows(number=1)[0].unit, "failed", "by the test", 11)


@pytest.fixture
def state(tmp_path: Path) -> StateStore:
    """A state with something of everything."""
    state = SqliteStore(tmp_path / "old.db", new_agent_id="the agent", now_ms=lambda: 1234)
    fill(state)
    state.close()
    return SqliteStore(tmp_path / "old.db", new_agent_id="", now_ms=lambda: 1234)


def test_all_of_it_moves(state: StateStore, tmp_path: Path) -> None:
    """Identity, streams, ledger, comparisons under way, suspects, dead letters and backfills are the same."""
    lines = list(state.export())
    with SqliteStore(tmp_path / "new.db", new_agent_id="another") as new:
        loaded = new.load(lines)
    with SqliteStore(tmp_path / "new.db", new_agent_id="") as new, state:
        assert list(new.export()) == lines
        assert (new.agent_id, new.streams()) == ("the agent", state.streams())
        assert new.delivered("a", [*INSIDE, *OUTSIDE]) == {*INSIDE, *OUTSIDE}
        assert new.delivered("b", INSIDE[:2]) == {INSIDE[0]}
        assert new.counts("a", 5000, 5010) == state.counts("a", 5000, 5010)
        assert new.kept_from_ms("a") == 4000 * MINUTE
        assert new.reconciliation("a") == '{"open": [5003]}'
        assert [each.refused for each in new.parked("a")] == [refused("suspect")]
        rows = new.jobs.rows()
        assert [row._replace(unit=0) for row in rows] == [row._replace(unit=0) for row in state.jobs.rows()]
        (unit,) = [row for row in rows if (row.number, row.stream) == (2, "a")]
        again = new.for_job(unit, shares_ledger=False)
        assert again.delivered("a", [*INSIDE, *OUTSIDE]) == {*INSIDE[10:20], OUTSIDE[0]}
        assert [each.refused.id for each in again.parked("a")] == ["of the backfill"]
    assert (loaded.streams, loaded.backfills, loaded.dead_letters) == (2, 4, 3)


def test_every_cut_is_found(state: StateStore, tmp_path: Path) -> None:
    """Wherever it is cut, in a line or between two, and whichever line is missing, nothing is imported."""
    with state:
        lines = list(state.export())
    cuts = [lines[:count] for count in range(len(lines))]
    cuts += [[*lines[:count], lines[count][: len(lines[count]) // 2]] for count in range(len(lines))]
    cuts += [[*lines[:count], *lines[count + 1 :]] for count in range(1, len(lines) - 1)]
    cuts += [[*lines, lines[1]], [*lines[:2], lines[1], *lines[2:]]]
    with SqliteStore(tmp_path / "new.db", new_agent_id="another") as new:
        for cut in cuts:
            with pytest.raises(Fatal, match=r"^standard input.*; nothing was imported$") as raised:
                new.load(cut)
            assert "\n" not in str(raised.value)
            assert (new.streams(), new.jobs.rows(), new.dead_letters.count, new.ids()) == ([], [], 0, 0)
        new.load(lines)
        assert len(new.streams()) == 2
        with pytest.raises(Fatal, match="has data of its own; import into a new state"):
            new.load(lines)


def test_lines_of_others(state: StateStore, tmp_path: Path) -> None:
    """Values that no state can hold are refused, with the number of their line."""
    with state:
        lines = list(state.export())
    changes = [
        (0, b'"format":1', b'"format":2', "format 2, newer than format 1 of this program"),
        (0, b"in-jumpcloud state", b"something else", "is not what `state export` prints"),
        (1, b'"acknowledged":', b'"acknowledged":1e40,"x":', "line 2 is not what"),
        (1, b'"name":"a"', b'"name":7', "line 2 is not what"),
        (1, b'"watermark_ms":', b'"watermark":', "line 2 is not what"),
        (
            1,
            b'"watermark_ms":300000000',
            b'"watermark_ms":"7"',
            "Expected `int`, got `str` - at `$.position.watermark_ms`",
        ),
        (1, b'"watermark_ms":', b'"watermark_ms":99999999', "`position.watermark_ms` is not a time"),
        (1, b'"end_ms":300600000', b'"end_ms":1', "`position.window` is not a query"),
        (1, b'"cursor":"[1]"', b'"cursor":"{1"', "`position.window.cursor` does not hold"),
        (1, b'"services":"{', b'"services":"{[', "`services` does not hold"),
        (1, b'"reconciliation":"{', b'"reconciliation":"[', "`reconciliation` does not hold"),
        (1, b'"acknowledged":', b'"acknowledged":-', "Expected `int` >= 0 - at `$.acknowledged`"),
        (3, b'"condition":"failed"', b'"condition":"new"', "Invalid enum value 'new' - at `$.condition`"),
        (3, b'"until_ms":10000000000', b'"until_ms":0', "`until_ms` is not after `since_ms`"),
        (3, b'"services":"[', b'"services":"[[', "`services` does not hold"),
        (7, b'"state":"dead"', b'"state":"alive"', "Invalid enum value 'alive' - at `$.state`"),
        (7, b'"event":"ey', b'"event":"eyey', "line 8 is not what"),
        (7, b'"bytes":1008', b'"bytes":7', "line 8 is not what `state export` prints: `bytes` is less than"),
        (2, b'"acknowledged":', b'"acknowledged":1', "the digest of other lines: one before it was changed"),
        (0, b"the agent", b"an agent", "the digest of other lines: one before it was changed"),
        (-2, b'"stream":"a"', b'"stream":"z"', f"line {len(lines) - 1} names no stream before it"),
        (
            -2,
            b'"digests":"',
            b'"digests":"AAAA',
            f"line {len(lines) - 1} is not what `state export` prints: `digests` ends",
        ),
        (-2, b'"minute":null', b'"minute":-7', f"line {len(lines) - 1} is not what"),
        (-1, b'"lines":', b'"lines":1', "some are missing"),
    ]
    with SqliteStore(tmp_path / "new.db", new_agent_id="another") as new:
        for at, old, changed, says in changes:
            assert old in lines[at], old
            wrong = list(lines)
            wrong[at] = wrong[at].replace(old, changed)
            with pytest.raises(Fatal, match="nothing was imported") as raised:
                new.load(wrong)
            assert says in str(raised.value)
            assert new.streams() == []
