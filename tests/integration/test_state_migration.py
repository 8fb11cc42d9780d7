"""States that earlier versions wrote: brought up to date with nothing lost, and nothing delivered twice."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from support.command import ROOT, invoke
from support.state import key

from in_jumpcloud.checks import local
from in_jumpcloud.config.schema import StateSettings
from in_jumpcloud.errors import StateOutdated, StateUnavailable
from in_jumpcloud.insights.window import Position, Window
from in_jumpcloud.state import opening
from in_jumpcloud.state.dead_letters import Refused
from in_jumpcloud.state.sqlite.schema import VERSION
from in_jumpcloud.state.sqlite.store import SqliteStore, open_readonly, open_shared
from in_jumpcloud.state.store import StateStore

SCHEMAS = {int(file.stem): file for file in (ROOT / "tests" / "data" / "state_schemas").glob("*.sql")}
BY_ID = (1, 2)
"""The versions whose ledger has ids; later ones have digests."""
MINUTE = 60_000
LAST = 10_000
"""The minute of the watermark."""
WINDOW = Window(start_ms=LAST * MINUTE, end_ms=(LAST + 5) * MINUTE, services=("all",), limit=10, cursor="[1]")
POSITION = Position(origin_ms=MINUTE, watermark_ms=LAST * MINUTE, window=WINDOW)
IDS = [(minute, f"{minute}-{number}") for minute in range(LAST - 60, LAST + 3) for number in range(3)]
STRAY = [(0, "undated"), (17, "long ago"), (10**8, "future")]


def old_state(path: Path, version: int, name: str = "own organization") -> None:
    """A state as the program of that version left it: one stream, and one that has no ids."""
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(SCHEMAS[version].read_text())
        database.execute("PRAGMA application_id = 0x696E6A63")
        database.execute(f"PRAGMA user_version = {version}")
        database.execute("INSERT INTO identity (agent_id) VALUES ('the agent')")
        position = msgspec.json.encode(POSITION).decode()
        for number, stream in ((1, name), (2, "idle")):
            insert = "INSERT INTO stream (number, name, position, acknowledged) VALUES (?, ?, ?, 7)"
            database.execute(insert, (number, stream, position))
        rows = [*IDS, *STRAY] if version in BY_ID else [key(*each) for each in IDS]
        database.executemany("INSERT INTO ledger VALUES (1, ?, ?)", rows)


def known(state: StateStore, ids: list[tuple[int, str]], stream: str = "default") -> list[tuple[int, str]]:
    """Those of these events that were delivered."""
    keys = [key(*each) for each in ids]
    found = state.delivered(stream, keys, [event_id for _, event_id in ids])
    return [each for each, of_it in zip(ids, keys, strict=True) if of_it in found]


@pytest.fixture(params=BY_ID)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A state of each version whose ledger has ids."""
    old_state(tmp_path / "state.db", request.param)
    return tmp_path / "state.db"


def test_nothing_is_lost(path: Path) -> None:
    """Position, window, totals and agent id are kept, and a reader can read it afterwards."""
    for _ in range(2):
        with SqliteStore(path, new_agent_id="another") as state:
            assert (state.agent_id, state.is_new, state.position("default")) == ("the agent", False, POSITION)
            assert state.position("own organization") is None
    with open_readonly(path) as reader:
        totals = [(row.name, row.acknowledged, row.late) for row in reader.streams()]
        assert totals == [("default", 7, 0), ("idle", 7, 0)]
        assert reader.counts("default", LAST - 1, LAST + 1) == {LAST - 1: 3, LAST: 3}


def test_nothing_is_delivered_twice(path: Path) -> None:
    """What it had is known by its id, over restarts and together with new events; nothing else is."""
    others = [(LAST, f"{LAST}-9"), (LAST + 1, f"{LAST}-0"), (LAST + 9, "new")]
    with SqliteStore(path, new_agent_id="x") as state:
        assert known(state, [*IDS, *STRAY, *others]) == [*IDS, *STRAY]
        assert known(state, [*IDS, *others], "idle") == []
        state.commit("default", [key(*each) for each in others], POSITION, span=WINDOW.span)
    with SqliteStore(path, new_agent_id="x") as state:
        assert known(state, [*IDS, *STRAY, *others]) == [*IDS, *STRAY, *others]
        assert state.counts("default", LAST, LAST + 2) == {LAST: 4, LAST + 1: 4}


def test_what_may_be_read_again(path: Path) -> None:
    """The ledger counts as complete from its oldest minute on that is no stray; without ids, from the watermark on."""
    with SqliteStore(path, new_agent_id="x") as state:
        assert state.kept_from_ms("default") == (LAST - 72 * 60) * MINUTE
        assert state.kept_from_ms("idle") == POSITION.watermark_ms
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM ledger").fetchone() == (0,)


def test_oldest_minute(tmp_path: Path) -> None:
    """Without strays the oldest minute is where the ledger begins."""
    path = tmp_path / "state.db"
    old_state(path, 2)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM ledger WHERE minute = 17")
    with SqliteStore(path, new_agent_id="x") as state:
        assert state.kept_from_ms("default") == (LAST - 60) * MINUTE


def test_it_goes_when_nothing_of_it_can_be_read_again(path: Path) -> None:
    """The old ids stay until all windows of the old program are out of reach; what queries still return stays known."""
    with SqliteStore(path, new_agent_id="x") as state:
        assert state.prune("default", WINDOW.end_ms - 1) == 0
        assert known(state, [*IDS, *STRAY]) == [*IDS, *STRAY]
        later = (WINDOW.end_ms, WINDOW.end_ms + MINUTE)
        state.commit("default", [], POSITION, span=later, seen=[key(*STRAY[0])])
        assert state.prune("default", WINDOW.end_ms) == len(IDS) + len(STRAY)
        assert known(state, [*IDS, *STRAY]) == [STRAY[0]]
        assert state.counts("default", 0, 10**9) == {}
    with closing(sqlite3.connect(path)) as database:
        assert not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'ledger_v2'").fetchone()


def test_before_the_first_run(path: Path) -> None:
    """`check` says what will happen and changes nothing; commands that need the content say why they cannot read it."""
    before = path.read_bytes()
    (result,) = local.check_state(StateSettings(path=path), min_free_bytes=0)
    assert result.status == "ok"
    assert f"older than version {VERSION} of this program" in result.message
    with pytest.raises(StateOutdated, match="brings it up to date"), open_shared(path):
        pass
    assert path.read_bytes() == before


def test_an_interrupted_migration(path: Path) -> None:
    """A migration is whole or did not happen: the next start does it."""

    class Failing(sqlite3.Connection):
        def executescript(self, script: str, /) -> sqlite3.Cursor:
            super().executescript(script[: script.index("CREATE TABLE dead_letter")])
            error = sqlite3.OperationalError("no space")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    def connect(*arguments: object, **options: object) -> sqlite3.Connection:
        return sqlite3.connect(*arguments, **options, factory=Failing)  # type: ignore[call-overload, no-any-return]

    with pytest.raises(StateUnavailable, match="no space; free space on its disk"):
        SqliteStore(path, new_agent_id="x", connect=connect)
    with SqliteStore(path, new_agent_id="x") as state:
        assert known(state, [*IDS, *STRAY]) == [*IDS, *STRAY]


@pytest.mark.parametrize("version", sorted(set(SCHEMAS) - set(BY_ID)))
def test_ledgers_with_digests(tmp_path: Path, version: int) -> None:
    """From version 3 on the ledger stays as it is."""
    path = tmp_path / "state.db"
    old_state(path, version, "default")
    for _ in range(2):
        with SqliteStore(path, new_agent_id="x") as state:
            assert known(state, [*IDS, *STRAY]) == IDS
            assert state.counts("default", LAST, LAST + 1) == {LAST: 3}
            assert (state.kept_from_ms("default"), state.organization("default")) == (0, None)
            letter = Refused(key(1, "x"), "x", "refused", 0, "tag", b"{}")
            state.commit("default", [letter.key], POSITION, dead_letters=[letter])
            assert state.dead_letters.count == 1


def test_a_file_of_an_older_version_can_shrink(path: Path) -> None:
    """It is rewritten once, so that it gives back space."""
    for _ in range(2):
        SqliteStore(path, new_agent_id="x").close()
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_every_version_is_tested() -> None:
    """There is a schema for each version before the present one."""
    assert sorted(SCHEMAS) == list(range(1, VERSION))


def test_the_commands(tmp_path: Path) -> None:
    """`migrate` brings it up to date and says so; `export` of one that only its own file can hold says why not."""
    path = tmp_path / "state.db"
    old_state(path, VERSION - 1)
    first, second = (invoke("state", "migrate", "-o", f"state.path={path}") for _ in range(2))
    assert first.stdout.decode() == f"{path}: brought from version {VERSION - 1} to version {VERSION}\n"
    assert second.stdout.decode() == f"{path}: has version {VERSION}, which is up to date\n"
    path = tmp_path / "older.db"
    old_state(path, 2)
    refused = invoke("state", "export", "-o", f"state.path={path}")
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"the ledger has ids of an older version, which only this file can hold" in refused.stderr


@pytest.mark.parametrize("version", sorted(SCHEMAS))
def test_a_copy_that_is_thrown_away(tmp_path: Path, version: int) -> None:
    """A dry run knows what a state of each version has, and leaves it as it is."""
    path = tmp_path / "state.db"
    old_state(path, version, "default")
    before = path.read_bytes()
    with opening.open_trial(StateSettings(path=path), new_agent_id="", copies=True) as state:
        assert state.position("default") == POSITION
        assert known(state, IDS) == IDS
    assert path.read_bytes() == before
