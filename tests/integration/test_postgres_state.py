"""The state on a server: who may write, what a repeated statement changes, the days of the ledger, and bad input."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psycopg
import pytest
from support.command import invoke, wait_until
from support.fluent_bit import free_port
from support.postgres import state_settings, to_version_1
from support.proxy import Proxy
from support.state import key, keys, run_python

from in_jumpcloud.config.schema import StateSettings
from in_jumpcloud.config.types import DatabaseUrl
from in_jumpcloud.errors import Fatal, Fenced, StateCorrupt, StateUnavailable
from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.insights.window import Position, Window
from in_jumpcloud.state import opening
from in_jumpcloud.state.dead_letters import Refused
from in_jumpcloud.state.group import OwnStatus
from in_jumpcloud.state.jobs import JobSpec
from in_jumpcloud.state.postgresql import observation, ownership
from in_jumpcloud.state.postgresql.days import keep_days
from in_jumpcloud.state.postgresql.schema import VERSION
from in_jumpcloud.state.postgresql.store import PostgresStore
from in_jumpcloud.timestamps import DAY_MS, MINUTE_MS

NOW_MS = time.time_ns() // 1_000_000
MINUTE = NOW_MS // MINUTE_MS
POSITION, LATER = Position.starting_at(5), Position.starting_at(NOW_MS)
DAY_MINUTES = 1440


@pytest.fixture
def admin(postgres_url: str) -> Iterator[psycopg.Connection]:
    """A connection that may do anything."""
    with psycopg.connect(postgres_url, autocommit=True, prepare_threshold=None) as connection:
        yield connection


def url_of(settings: StateSettings) -> str:
    """The URL, with its password."""
    assert settings.url is not None
    return settings.url.reveal()


def open_store(settings: StateSettings, now_ms: int = NOW_MS, *, alone: bool = False) -> PostgresStore:
    """The state for a process that writes it."""
    return PostgresStore(settings, new_agent_id="the agent", now_ms=lambda: now_ms, alone=alone)


def _columns(admin: psycopg.Connection, settings: StateSettings) -> set[tuple[str, ...]]:
    """Of all tables."""
    query = "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = %s"
    return set(admin.execute(query, (settings.schema,)).fetchall())


class _Host:
    """Of a member in a test, which runs nothing."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.errors: list[StateCorrupt] = []

    def changed(self) -> None:
        """It runs nothing anyway."""

    def running(self) -> list[str]:
        """Nothing."""
        return []

    def is_able(self) -> bool:
        """Always."""
        return True

    def pause(self, seconds: float) -> None:
        """Note it."""
        self.pauses.append(seconds)

    def corrupt(self, error: StateCorrupt) -> None:
        """Note it."""
        self.errors.append(error)


class TestOwners:
    """A token is worth nothing once another process owns the stream."""

    def test_an_earlier_owner_changes_nothing(self, state_url: StateSettings, admin: psycopg.Connection) -> None:
        """Each write on behalf of a stream is refused, and so is the question what to send; others go on."""
        state = open_store(state_url)
        letter = Refused(key(MINUTE, "x"), "x", "no", NOW_MS, "tag", b"{}")
        for stream in ("a", "b"):
            state.commit(stream, [letter.key], POSITION, suspects=[letter])
        (suspect,) = state.parked("a")
        state.group.stop()  # it would find out
        admin.execute(f'UPDATE "{state_url.schema}".stream SET token = token + 1 WHERE name = %s', ("a",))  # noqa: S608 - our own
        before = list(state.export())
        state.advance("a", LATER)
        writes = [
            partial(state.commit, "a", keys(3, MINUTE), LATER),
            partial(state.commit, "a", [letter.key], LATER, dead_letters=[letter]),
            partial(state.settle, suspect, "again"),
            partial(state.save_services, "a", {"sso": 5}),
        ]
        for write in writes:
            with pytest.raises(Fenced, match="this process no longer has stream a"):
                write()
        state.record_error("a", "an error", 5)
        state.flush(["a"])
        assert list(state.export()) == before
        state.commit("b", keys(3, MINUTE), LATER)
        state.give_up(["a"])
        with pytest.raises(Fenced):
            state.delivered("a", keys(3, MINUTE))
        state.close()

    def test_a_member_that_is_frozen_within_a_transaction(
        self, state_url: StateSettings, admin: psycopg.Connection
    ) -> None:
        """The others can have its streams once the shortest lease is over: the transaction ends before that."""
        state = open_store(state_url)
        state.commit("a", keys(1, MINUTE), POSITION)
        free = f'SELECT 1 FROM "{state_url.schema}".stream WHERE name = %s FOR UPDATE SKIP LOCKED'  # noqa: S608 - our own
        writing = state._database.transaction("a")
        writing.__enter__()
        began = time.monotonic()
        assert not admin.execute(free, ("a",)).fetchall()
        wait_until(lambda: bool(admin.execute(free, ("a",)).fetchall()), timeout=20)
        assert time.monotonic() - began < 5  # members.lease is at least that
        with pytest.raises(StateUnavailable):
            writing.__exit__(None, None, None)
        state.commit("a", keys(2, MINUTE), POSITION)
        state.close()

    def test_a_member_that_is_silent(self, state_url: StateSettings, admin: psycopg.Connection) -> None:
        """Once its lease is over another one has its streams, with new tokens; when it is back it has its share."""
        first = open_store(state_url)
        first.commit("a", keys(1, MINUTE), POSITION)
        with pytest.raises(StateUnavailable, match=r"in use by process .* only one process at a time"):
            open_store(state_url, alone=True)
        first.group._turns.stop()
        silent = f"UPDATE \"{state_url.schema}\".member SET renewed_at = renewed_at - interval '1 minute'"  # noqa: S608 - our own
        admin.execute(silent)
        second = open_store(state_url)
        assert not second.group.owned  # it waits for a lease: the server may have been away
        second.group._judges_at = 0
        second.group.look()
        assert second.position("a") == POSITION
        with pytest.raises(Fenced):
            first.commit("a", keys(2, MINUTE), LATER)
        former = first.group.id
        first.group.look()
        assert first.group.id != former
        assert not first.group.owned
        second.commit("a", keys(2, MINUTE), LATER)
        assert second.ids() == 2
        second.close()
        first.group.look()
        assert list(first.group.owned) == ["a"]
        assert first.position("a") == LATER
        taken = {"new": 1, "given_back": 1, "taken_over": 0, "found": 0}
        assert first.group.status()._replace(renewed=0) == OwnStatus(0, 15, None, taken, 1, 0, "")
        assert second.group.status().taken == {"new": 0, "given_back": 0, "taken_over": 1, "found": 0}
        first.close()
        assert opening.holder(state_url) is None

    def test_shares(self, state_url: StateSettings) -> None:
        """Members that start together soon have their shares, each stream one owner; what one leaves others take."""
        names = {f"s{number}": POSITION for number in range(10)}
        with ThreadPoolExecutor(4) as pool:
            members = list(pool.map(lambda _: open_store(state_url), range(4)))
        for each in members:
            each.begin(names)

        def sizes() -> list[int]:
            return sorted(len(each.group.owned) for each in members)

        wait_until(lambda: sizes() == [2, 2, 3, 3])
        assert set().union(*(each.group.owned for each in members)) == names.keys()
        members.pop().close()
        wait_until(lambda: sizes() == [3, 3, 4])
        members[0].group.want(["s1", "s2", "s3"])
        wait_until(lambda: sizes() == [1, 1, 1])
        for each in members:
            each.close()

    def test_a_member_that_is_about_to_end(self, state_url: StateSettings) -> None:
        """It takes nothing of what others give back: that would move twice."""
        with open_store(state_url) as ending, open_store(state_url) as staying:
            with open_store(state_url) as other:
                other.begin({f"s{number}": POSITION for number in range(9)})
                wait_until(lambda: [len(each.group.owned) for each in (ending, staying, other)] == [3, 3, 3])
                ending.group.take_no_more()
            wait_until(lambda: len(staying.group.owned) >= 4)
            ending.group.look()
            assert len(ending.group.owned) == 3

    def test_a_stream_that_is_lost_meanwhile(self, state_url: StateSettings) -> None:
        """What was written of it is no longer noted here: it is another member's, or back with another position."""
        with open_store(state_url) as state:
            state.begin({"a": POSITION})
            token = state._database.tokens["a"]
            with state._writing("a"):
                state.give_up(["a"])
            assert state.position("a") is None
            state.take([ownership.Claimed("a", token, POSITION)])
            with state._writing("a"):
                state.advance("a", POSITION)
                state.give_up(["a"])
                state.take([ownership.Claimed("a", token + 1, LATER)])
            assert state.position("a") == LATER

    def test_lists_that_differ(self, state_url: StateSettings) -> None:
        """What one member names is run, whatever the others name; what none names any more is not."""
        names = ["s1", "s2", "s3"]
        with open_store(state_url) as one, open_store(state_url) as other:
            one.begin(dict.fromkeys(names, POSITION))
            one.group.want(names)
            other.group.want(names[:1])
            assert list(one.group.wanted()) == names
            other.group.want(())
            assert list(one.group.wanted()) == names
            one.group.want(names[1:])
            assert list(one.group.wanted()) == names[1:]
            other.group.want(names[:2])
            one.group.want(())
            assert list(one.group.wanted()) == names
            other.group.want(names[:2])
            assert list(one.group.wanted()) == names[:2]

    def test_one_member_lists(self, state_url: StateSettings) -> None:
        """Of those with the same settings one lists the organizations, and another one when it leaves."""
        with open_store(state_url) as another:
            members = [open_store(state_url) for _ in range(3)]
            for each in members:
                each.group.follow(_Host(), settings="the same", key="")
            another.group.follow(_Host(), settings="others", key="")
            for _ in range(3):
                wait_until(lambda: sum(each.group.lists for each in members) == 1)
                (found,) = [each for each in members if each.group.lists]
                assert another.group.lists
                members.remove(found)
                found.close()

    def test_members_that_differ(
        self,
        state_url: StateSettings,
        admin: psycopg.Connection,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """One line for all that have other settings, or another version, if that lasts longer than an upgrade."""
        with open_store(state_url) as one, open_store(state_url) as other:
            for member, settings in ((one, "these"), (other, "others")):
                member.group.follow(_Host(), settings=settings, key="")
                member.group.look()
            table = f'"{state_url.schema}".member'
            admin.execute(f"UPDATE {table} SET name = 'the other', version = '0.0.9' WHERE settings_hash = 'others'")  # noqa: S608 - our own
            one.group.look()
            assert "give all members" not in caplog.text
            assert not one.group.status().differences
            monkeypatch.setattr(observation, "_DIFFER_SECONDS", 0.0)
            for _ in range(3):
                one.group.look()
            assert "the other is of version 0.0.9; this member is of version " in one.group.status().differences
            other.group.follow(_Host(), settings="these", key="")
            admin.execute(f"UPDATE {table} SET version = 'the same'")  # noqa: S608 - our own
            other.group.look()
            one.group.look()
            assert not one.group.status().differences
        found = [each.getMessage() for each in caplog.records if "give all members" in each.getMessage()]
        (line,) = (each for each in found if "the other has other settings, the other is of version 0.0.9" in each)
        assert "the same settings and version, or events may be missing" in line

    def test_a_position_of_another_program(self, state_url: StateSettings, admin: psycopg.Connection) -> None:
        """A member that finds one ends, as with a damaged file: nothing is left out silently."""
        host = _Host()
        with open_store(state_url) as state:
            state.begin({"a": POSITION})
        admin.execute(f"UPDATE \"{state_url.schema}\".stream SET position = 'x'")  # noqa: S608 - our own
        with pytest.raises(StateCorrupt, match="a position is not what in-jumpcloud writes"):
            open_store(state_url)
        admin.execute(f'UPDATE "{state_url.schema}".stream SET wanted = false')  # noqa: S608 - our own
        with open_store(state_url) as state:
            state.group.follow(host, settings="", key="")
            admin.execute(f'UPDATE "{state_url.schema}".stream SET wanted = true')  # noqa: S608 - our own
            wait_until(lambda: bool(host.errors))

    def test_a_claim_without_an_answer(self, state_url: StateSettings, admin: psycopg.Connection) -> None:
        """What a member owns by the server and does not run, it runs; what it runs and does not own, it drops."""
        with open_store(state_url) as state:
            state.begin({"a": POSITION, "b": POSITION})
            state.give_up(["a"])  # as if the answer had been lost
            admin.execute(f'UPDATE "{state_url.schema}".stream SET wanted = false WHERE name = %s', ("b",))  # noqa: S608 - our own
            state.group.look()
            assert list(state.group.owned) == ["a"]
            assert state.group.status().taken["found"] == 1
            assert state.position("a") == POSITION
            with pytest.raises(Fenced):
                state.commit("b", keys(1, MINUTE), LATER)

    def test_what_the_tables_say_of_the_group(self, state_url: StateSettings, admin: psycopg.Connection) -> None:
        """Whoever reads the state sees its members, what each has, and what no living one has."""
        with open_store(state_url) as state:
            state.begin({"a": POSITION, "b": POSITION, "left": POSITION})
            state.group.want(["a", "b"])
            with opening.open_readonly(state_url) as reader:
                report = reader.group_report()
            assert report
            (member,) = report.view.members
            assert (member.id, member.able, report.view.streams, report.view.unowned) == (state.group.id, True, 2, 0)
            assert report.owners == dict.fromkeys("ab", state.group.id)
            assert report.held == {member.id: 2}
            state.group._turns.stop()
            table = f'"{state_url.schema}".member'
            admin.execute(f"UPDATE {table} SET renewed_at = renewed_at - interval '1 minute'")  # noqa: S608 - our own
            with opening.open_readonly(state_url) as reader:
                report = reader.group_report()
            assert report
            assert report.view.members[0].silent > 60
            assert (report.held, report.view.unowned) == ({member.id: 2}, 2)

    def test_a_pause_is_for_all_with_the_key(self, state_url: StateSettings) -> None:
        """Within a turn the other members know of it, but not those with another key."""
        hosts = [_Host(), _Host(), _Host()]
        with open_store(state_url) as one, open_store(state_url) as other, open_store(state_url) as third:
            for state, host, name in zip((one, other, third), hosts, ("key", "key", "another"), strict=True):
                state.group.follow(host, settings="", key=name)
            one.group.hold(20)
            wait_until(lambda: bool(hosts[1].pauses))
            third.group.look()
            assert 10 < hosts[1].pauses[0] <= 20
            assert not hosts[2].pauses

    def test_what_another_owner_delivered(self, state_url: StateSettings) -> None:
        """A process that has a stream again asks for what was delivered meanwhile, also by a backfill."""
        span = (NOW_MS - MINUTE_MS, NOW_MS + MINUTE_MS)
        with open_store(state_url) as state:
            state.begin({"a": POSITION})
            state.jobs.create(["a"], JobSpec(*span, ("all",), again=True), NOW_MS)
            unit = state.for_job(state.jobs.rows()[0], shares_ledger=True)
            assert state.delivered("a", keys(5, MINUTE)) == unit.delivered("a", keys(5, MINUTE)) == set()
            state.give_up(["a"])
            with pytest.raises(Fenced):
                state.delivered("a", keys(5, MINUTE))
            ownership.leave(state._database)
            with open_store(state_url) as other:
                other.for_job(other.jobs.rows()[0], shares_ledger=True).commit(
                    "a", keys(5, MINUTE), Position.starting_at(span[0]), span=span
                )
            state.group.look()
            assert state.delivered("a", keys(5, MINUTE)) == unit.delivered("a", keys(5, MINUTE)) == set(keys(5, MINUTE))

    def test_alone(self, state_url: StateSettings) -> None:
        """While a command has the state to itself, no other one changes it; to read it is not refused."""
        open_store(state_url).close()
        with opening.open_alone(state_url) as state:
            holder = opening.holder(state_url)
            assert holder
            assert holder.is_alone
            for shared in (opening.open_shared, opening.changing_dead_letters):
                with pytest.raises(Fatal, match="alone; try again when it has ended"), shared(state_url):
                    pass
            with opening.open_readonly(state_url) as reader:
                assert reader.agent_id == state.agent_id
        with opening.changing_dead_letters(state_url), pytest.raises(Fatal, match="another command"):  # noqa: SIM117
            with opening.open_alone(state_url):
                pass

    def test_an_export_is_of_one_moment(self, state_url: StateSettings) -> None:
        """What is written after its first line is not in it."""
        with open_store(state_url) as state:
            state.commit("a", keys(3000, MINUTE), LATER)
            before = list(state.export())
            lines = state.export()
            first = next(lines)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(state.commit, "a", keys(3000, MINUTE, "later"), LATER).result()
                pool.submit(state.commit, "b", keys(10, MINUTE), LATER).result()
            assert [first, *lines] == before

    def test_an_import_may_be_slow(self, state_url: StateSettings) -> None:
        """It is one transaction, which waits for the lines however long it takes."""
        with open_store(state_url) as state:
            state.commit("a", keys(10, MINUTE), LATER)
            lines = list(state.export())
            state.discard()

        def slow() -> Iterator[bytes]:
            yield lines[0]
            time.sleep(6)
            yield from lines[1:]

        with opening.open_to_fill(state_url) as new:
            assert new.load(slow()).ids == 10

    def test_an_import_that_fails(self, state_url: StateSettings) -> None:
        """A schema that it has created is gone: the next start is the first, with an agent id."""
        with pytest.raises(Fatal, match="is cut"), opening.open_to_fill(state_url) as state:
            state.load([])
        assert not opening.exists(state_url)
        with open_store(state_url) as state:
            assert (state.is_new, state.agent_id) == (True, "the agent")


class TestLostAnswers:
    """A statement whose answer is lost may have been done."""

    @pytest.mark.parametrize("with_letters", [False, True])
    def test_a_commit_counts_once(self, state_url: StateSettings, with_letters: bool) -> None:
        """Repeated, it changes nothing: the ids, the dead letters and all three totals are those of one."""
        letters = [Refused(key(MINUTE, "x"), "x", "no", NOW_MS, "tag", b"{}")] if with_letters else []
        delivered = [*keys(100, MINUTE), *(each.key for each in letters)]
        lost = threading.Event()
        word = b"COMMIT\0" if with_letters else b"WITH held"
        port = int(str(psycopg.conninfo.conninfo_to_dict(url_of(state_url))["port"]))
        with Proxy(port) as proxy:
            through = state_settings(url_of(state_url).replace(f":{port}/", f":{proxy.port}/"), state_url.schema)
            state = open_store(through)
            state.commit("a", keys(1, MINUTE, "first"), POSITION)  # the day has its partition
            is_armed = True

            def to_server(data: bytes) -> bytes:
                nonlocal is_armed
                if is_armed and word in data:
                    is_armed = False
                    lost.set()
                return data

            proxy.to_server = to_server
            proxy.to_client = lambda data: None if lost.is_set() and not lost.clear() else data  # type: ignore[func-returns-value]
            commit = partial(state.commit, "a", delivered, LATER, late=2, dead_letters=letters)
            with pytest.raises(StateUnavailable):
                commit()
            with opening.open_readonly(state_url) as reader:
                assert reader.ids() == 1 + len(delivered)
            commit()
            (row,) = state.streams()
            assert (row.acknowledged, row.late, row.dead_lettered) == (101, 2, len(letters))
            assert (state.ids(), state.dead_letters.count, row.position) == (1 + len(delivered), len(letters), LATER)
            state.close()

    def test_a_repeated_commit_after_midnight(self, state_url: StateSettings) -> None:
        """It is written on the day of the first try, so it counts once."""
        now = [NOW_MS]
        state = PostgresStore(state_url, new_agent_id="the agent", now_ms=lambda: now[0])
        written = state._written
        state._written = lambda *_: None  # type: ignore[method-assign]  # as if the answer had not come
        state.commit("a", keys(10, MINUTE), LATER)
        state._written = written  # type: ignore[method-assign]
        now[0] += DAY_MS
        state.commit("a", keys(10, MINUTE), LATER)
        assert (state.streams()[0].acknowledged, state.ids()) == (10, 10)
        assert state.counts("a", MINUTE, MINUTE + 1) == {MINUTE: 10}
        assert state.delivered("a", keys(11, MINUTE)) == set(keys(10, MINUTE))
        assert len({line for line in state.export() if b'"ledger"' in line}) == 1
        state.close()

    @pytest.mark.parametrize("is_last", [False, True])
    def test_a_commit_of_a_backfill_counts_once(self, state_url: StateSettings, is_last: bool) -> None:
        """The same for a unit of a backfill, whether its position moves or not."""
        span = (MINUTE * MINUTE_MS, (MINUTE + 1) * MINUTE_MS)
        before = Position.starting_at(span[0])
        position = Position.starting_at(span[1]) if is_last else before
        port = int(str(psycopg.conninfo.conninfo_to_dict(url_of(state_url))["port"]))
        with open_store(state_url) as first:
            first.begin({"a": POSITION})
            first.jobs.create(["a"], JobSpec(*span, ("all",), again=True), NOW_MS)
        with Proxy(port) as proxy:
            through = state_settings(url_of(state_url).replace(f":{port}/", f":{proxy.port}/"), state_url.schema)
            state = open_store(through)
            unit = state.for_job(state.jobs.rows()[0], shares_ledger=True)
            lost = threading.Event()
            proxy.to_server = lambda data: lost.set() or data if b"COMMIT\0" in data else data  # type: ignore[func-returns-value]
            proxy.to_client = lambda data: None if lost.is_set() else data
            commit = partial(unit.commit, "a", keys(10, MINUTE), position, span=span, late=1)
            with pytest.raises(StateUnavailable):
                commit()
            proxy.to_server = lambda data: data
            lost.clear()
            commit()
            (row,) = state.jobs.rows()
            assert (row.read, row.acknowledged, row.position, unit.read) == (10, 10, position, 10)
            assert len(unit.delivered("a", keys(10, MINUTE))) == (0 if is_last else 10)
            commit = partial(unit.commit, "a", keys(5, MINUTE, "more"), position, span=span)
            commit()
            (row,) = state.jobs.rows()
            assert (row.read, row.acknowledged, unit.read) == (15, 15, 15)
            state.close()

    def test_a_pooled_connection_that_was_closed(self, state_url: StateSettings, admin: psycopg.Connection) -> None:
        """After a restart of the server the first statement works: connections that it closed are not used."""
        state = open_store(state_url)
        state.commit("a", keys(1, MINUTE), POSITION)
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'in_jumpcloud'")
        wait_until(lambda: not all(each.is_alive() for each in state._database._connections._idle))
        state.commit("a", keys(2, MINUTE), POSITION)
        assert state.ids() == 2
        state.close()


class TestDays:
    """The ledger has a partition for each day of commits."""

    def test_old_days_go(self, state_url: StateSettings, admin: psycopg.Connection) -> None:
        """In three weeks there are never more days than are asked for and two; a stream that is refused loses none.

        The ids of its window are copied on, and so are those of an open unit of a backfill.
        """
        keep, first = 4, NOW_MS - 21 * DAY_MS
        now = [first]
        state = PostgresStore(state_url, new_agent_id="the agent", now_ms=lambda: now[0])
        refused = [*keys(50, first // MINUTE_MS, "refused"), key(-1, "undated")]
        span = (first - MINUTE_MS, first + MINUTE_MS)
        state.commit("refused", refused, Position.starting_at(first - DAY_MS), span=span)
        state.jobs.create(["refused"], JobSpec(*span, ("all",), again=True), first)
        unit = state.for_job(state.jobs.rows()[0], shares_ledger=False)
        unit.commit("refused", refused[:20], Position.starting_at(span[0]), span=span)
        known: list[EventKey] = []
        for day in range(22):
            now[0] = first + day * DAY_MS
            of_day = keys(200, now[0] // MINUTE_MS, f"day {day}")
            known += of_day
            state.commit("a", of_day, Position.starting_at(now[0] - 60_000), span=(now[0] - MINUTE_MS, now[0] + 1))
            state.prune("a", now[0] - (keep - 1) * DAY_MS)
            state.flush(["a"])
            keep_days(state._database, now[0], keep)
            assert len(self.days(state_url, admin)) <= keep + 2, day
            kept_from = state.kept_from_ms("a") // MINUTE_MS
            asked = [each for each in known if each.minute >= kept_from]
            assert state.delivered("a", asked) == set(asked)
            assert state.delivered("refused", refused) == set(refused), day
            assert unit.delivered("refused", refused) == set(refused[:20]), day
        assert state.delivered("a", known[:200]) == set()
        assert state.ids() < 200 * (keep + 2) + 2 * len(refused)
        state.close()

    def test_a_cursor_that_is_no_text_of_the_server(self, state_url: StateSettings) -> None:
        """PostgreSQL refuses a NUL in JSON that it reads; the days are looked after all the same."""
        window = Window(start_ms=5, end_ms=9, services=("all",), limit=10, cursor='["\\u0000",1]')
        with open_store(state_url) as state:
            state.commit("a", keys(5, MINUTE), Position(origin_ms=5, watermark_ms=5, window=window))
            assert keep_days(state._database, NOW_MS + 60 * DAY_MS, 4) == [MINUTE // DAY_MINUTES]
            assert state.delivered("a", keys(5, MINUTE)) == set(keys(5, MINUTE))

    def test_the_process_does_it_by_itself(self, state_url: StateSettings, admin: psycopg.Connection) -> None:
        """Soon after the start the days of a month ago are gone, and tomorrow has a partition."""
        with open_store(state_url, NOW_MS - 30 * DAY_MS) as state:
            state.commit("a", keys(5, MINUTE - 30 * DAY_MINUTES), LATER)
        with open_store(state_url) as state:
            state.keep(4 * DAY_MS)
            wait_until(lambda: min(self.days(state_url, admin)) >= NOW_MS // DAY_MS)
            assert NOW_MS // DAY_MS + 1 in self.days(state_url, admin)
            assert state.ids() == 0

    def test_a_day_that_is_gone_is_made_again(self, state_url: StateSettings, admin: psycopg.Connection) -> None:
        """As after the failover to a replica that lacks the last transactions: the repeated commit works."""
        with open_store(state_url) as state:
            state.commit("a", keys(5, MINUTE), LATER)
            for day in self.days(state_url, admin):
                admin.execute(f'DROP TABLE "{state_url.schema}".ledger_{day}')
            commit = partial(state.commit, "a", keys(7, MINUTE), LATER)
            with pytest.raises(StateUnavailable):
                commit()
            commit()
            assert state.ids() == 7

    def test_a_member_whose_clock_is_ahead(self, state_url: StateSettings, admin: psycopg.Connection) -> None:
        """By a hundred days: what the others have delivered stays known to them."""
        with open_store(state_url) as state:
            state.commit("a", keys(5, MINUTE), LATER)
            before = set(self.days(state_url, admin))
            with open_store(state_url, NOW_MS + 100 * DAY_MS) as ahead:
                ahead._upkeep._look_after()
                assert set(self.days(state_url, admin)) == before | {NOW_MS // DAY_MS, NOW_MS // DAY_MS + 1}
                keep_days(ahead._database, NOW_MS + 100 * DAY_MS, 4)  # not even if the server's is too
            assert state.delivered("a", keys(7, MINUTE)) == set(keys(5, MINUTE))

    def test_a_position_of_another_program(self, state_url: StateSettings, admin: psycopg.Connection) -> None:
        """The days are looked after all the same."""
        with open_store(state_url) as state:
            state.commit("a", keys(5, MINUTE), LATER)
            admin.execute(f"UPDATE \"{state_url.schema}\".stream SET position = '{{}}'")  # noqa: S608 - our own
            keep_days(state._database, NOW_MS + 60 * DAY_MS, 4)
            assert state.ids() == 5

    def test_a_clock_that_is_behind(self, state_url: StateSettings, admin: psycopg.Connection) -> None:
        """No id is in a partition that is older than its event: it would be dropped too early."""
        with open_store(state_url, NOW_MS - 300 * DAY_MS) as state:
            state.commit("a", keys(5, MINUTE), LATER, span=(NOW_MS - 2 * MINUTE_MS, NOW_MS + MINUTE_MS))
        rows = admin.execute(f'SELECT DISTINCT day FROM "{state_url.schema}".ledger').fetchall()  # noqa: S608 - our own
        assert rows == [(MINUTE // DAY_MINUTES,)]

    @staticmethod
    def days(settings: StateSettings, admin: psycopg.Connection) -> list[int]:
        """The days that have a partition."""
        query = "SELECT substr(tablename, 8)::int FROM pg_tables WHERE schemaname = %s AND tablename LIKE 'ledger_%%'"
        return sorted(day for (day,) in admin.execute(query, (settings.schema,)))


def lines(settings: StateSettings, *more: str) -> tuple[int, list[str]]:
    """The exit code of a command that opens the state for writing, and the lines of its errors."""
    options = ["-o", f"state.url={url_of(settings)}", "-o", f"state.schema={settings.schema}", *more]
    done = invoke("state", "import", *options, stdin=b"")
    return done.returncode, done.stderr.decode().splitlines()


class TestBadInput:
    """One clear line each, without the password."""

    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            ("postgresql:", "mysql:", "state.url: expected a URL such as postgresql://user@db.example.com/name"),
            ("/postgres", "/nowhere", 'database "nowhere" does not exist'),
            ("postgres:", "postgres:wrong", "password authentication failed"),
            ("postgres:", "unknown:", "password authentication failed"),
            ("127.0.0.1", "nowhere.invalid", "nowhere.invalid"),
            ("/postgres", "/postgres?sslmode=perhaps", "sslmode"),
            ("/postgres", "/postgres?colour=red", "colour"),
            ("/postgres", "/postgres?sslmode=require", "SSL"),
        ],
    )
    def test_wrong_urls(self, state_url: StateSettings, old: str, new: str, says: str) -> None:
        """A scheme, a database, a password, a user, a host and parameters that are wrong."""
        url = url_of(state_url)
        at = url.rindex(old) if old.startswith("/") else url.index(old, 0 if old.endswith("l:") else 13)
        wrong = url[:at] + new + url[at + len(old) :]
        code, found = lines(state_settings(wrong, state_url.schema))
        assert code in {1, 2}
        (line,) = found
        assert says in line
        assert url.split("@")[0].split(":")[-1] not in line

    def test_a_file_that_becomes_wrong(self, state_url: StateSettings, tmp_path: Path) -> None:
        """While the process runs, what was acknowledged waits until the file is right again."""
        (tmp_path / "url").write_text(url_of(state_url))
        given = DatabaseUrl.from_file(tmp_path / "url")
        with open_store(StateSettings(url=given, schema=state_url.schema)) as state:
            state.commit("a", keys(1, MINUTE), POSITION)
            (tmp_path / "url").write_text("postgresql://us@db.example/name?colour=red")
            state._database._connections.close()
            state._database._connections._closed = False
            with pytest.raises(StateUnavailable, match="colour"):
                state.commit("a", keys(2, MINUTE), LATER)
            (tmp_path / "url").write_text(url_of(state_url))
            state.commit("a", keys(2, MINUTE), LATER)
            assert state.ids() == 2

    def test_nothing_listens(self, state_url: StateSettings) -> None:
        """The refusal of the system is passed on."""
        url = url_of(state_url)
        code, (line,) = lines(state_settings(f"{url[: url.rindex(':')]}:{free_port()}/postgres"))
        assert (code, "Connection refused" in line) == (1, True)

    def test_a_newer_version(self, state_url: StateSettings, admin: psycopg.Connection) -> None:
        """It is refused once its tables are not for this program any more; before, both versions use them."""
        open_store(state_url).close()
        admin.execute(f'UPDATE "{state_url.schema}".identity SET version = 9')  # noqa: S608 - our own
        open_store(state_url).close()
        admin.execute(f'UPDATE "{state_url.schema}".identity SET reads_from = 8')  # noqa: S608 - our own
        code, (line,) = lines(state_url)
        assert code == 1
        assert (
            f"of version 9, newer than version {VERSION} of this program; upgrade in-jumpcloud, or set another" in line
        )

    def test_an_older_version(self, state_url: StateSettings, admin: psycopg.Connection) -> None:
        """What it has is kept: the tables are those of today."""
        with open_store(state_url) as state:
            state.commit("a", keys(3, MINUTE), LATER)
            state.record_error("b", "an error", 5)
            before = list(state.export())
        found = _columns(admin, state_url)
        for statement in to_version_1(state_url.schema):
            admin.execute(statement)
        with open_store(state_url) as state:
            assert list(state.export()) == before
        assert {each for each in _columns(admin, state_url) if each[0] != "budget"} == found

    def test_another_program(self, state_url: StateSettings, admin: psycopg.Connection) -> None:
        """Tables of another program are left alone."""
        admin.execute(f'CREATE SCHEMA "{state_url.schema}"')
        admin.execute(f'CREATE TABLE "{state_url.schema}".users (id int)')
        code, (line,) = lines(state_url)
        assert code == 1
        assert "has tables of another program, such as users; set another state.schema" in line

    @pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
    def test_another_encoding(self, state_url: StateSettings, admin: psycopg.Connection, encoding: str) -> None:
        """Names of organizations may have any character."""
        name = f"in_{encoding.lower()}"
        options = f"ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        admin.execute(f"CREATE DATABASE {name} {options}")
        try:
            server, _, _ = url_of(state_url).rpartition("/")
            code, (line,) = lines(state_settings(f"{server}/{name}"))
        finally:
            admin.execute(f"DROP DATABASE {name}")
        assert code == 2
        assert (
            f"the encoding of the database is {encoding}, which cannot hold every name; UTF8 is needed; create" in line
        )

    def test_an_old_server(self, state_url: StateSettings) -> None:
        """Versions before 13 are refused."""
        port = int(str(psycopg.conninfo.conninfo_to_dict(url_of(state_url))["port"]))
        with Proxy(port) as proxy:

            def older(data: bytes) -> bytes:
                place = data.find(b"server_version\0")
                return data if place < 0 else data[: place + 15] + b"12" + data[place + 17 :]

            proxy.to_client = older
            url = url_of(state_url).replace(f":{port}/", f":{proxy.port}/")
            code, (line,) = lines(state_settings(url, state_url.schema))
        assert code == 2
        assert "the server is PostgreSQL 12; version 13 or later is needed" in line

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ("NOSUPERUSER", "permission denied"),
            ("SUPERUSER", "it is a read-only replica; name the primary"),
        ],
    )
    def test_a_user_who_may_not(
        self, state_url: StateSettings, admin: psycopg.Connection, change: str, says: str
    ) -> None:
        """Without the right to create tables, and on a server that only reads, the line says what to do."""
        user = f"u_{state_url.schema}"
        admin.execute(f"CREATE USER {user} PASSWORD 'of-the-test' {change}")
        try:
            admin.execute(
                f"ALTER USER {user} SET default_transaction_read_only = {'on' if change[0] == 'S' else 'off'}"
            )
            host = url_of(state_url).partition("@")[2]
            code, (line,) = lines(state_settings(f"postgresql://{user}:of-the-test@{host}", state_url.schema))
        finally:
            admin.execute(f"DROP USER {user}")
        assert code in {1, 2}
        assert says in line

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            (["-o", "state.path=here.db"], "state.path: -o state.url is set too; remove one of the two"),
            (["-o", "state.password=another"], "state.password: state.url has a password too; remove one of the two"),
            (["-o", "state.schema=pg_x"], "state.schema: expected a name of at most 63 bytes"),
            (["-o", f"state.schema={'x' * 64}"], "state.schema: expected a name of at most 63 bytes"),
        ],
    )
    def test_contradictions(self, state_url: StateSettings, more: list[str], says: str) -> None:
        """Settings that contradict each other are refused before anything is opened."""
        code, (line,) = lines(state_url, *more)
        assert code == 2
        assert says in line

    def test_without_a_url(self) -> None:
        """What has no effect is a mistake."""
        done = invoke("state", "show", "-o", "state.password=x", "-o", "state.schema=y")
        assert done.returncode == 2
        assert [line.partition(": ")[2].partition(": ")[0] for line in done.stderr.decode().splitlines()]
        assert done.stderr.decode().count("has no effect without state.url; remove it") == 2

    def test_without_the_extra(self, state_url: StateSettings) -> None:
        """The line says what to install."""
        script = """
            sys.modules["psycopg"] = None
            from in_jumpcloud.cli import main
            sys.argv = ["in-jumpcloud", "state", "show", "-o", "state.url=" + sys.argv[1]]
            sys.stderr = sys.stdout
            main()
            """
        printed = run_python(script, url_of(state_url), check=False)
        assert printed.endswith("install it: pip install 'fluent-bit-in-jumpcloud[postgresql]'")
        assert len(printed.splitlines()) == 1
