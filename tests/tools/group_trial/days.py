"""The ledger over days, with as many ids as a large group has."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from statistics import median

import psycopg
from support.postgres import started, state_settings
from tools.group_trial.trial import Trial

from in_jumpcloud.insights.event import EventKey
from in_jumpcloud.insights.window import Position, Window
from in_jumpcloud.state.postgresql.days import keep_days
from in_jumpcloud.state.postgresql.store import PostgresStore
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, now_ms

_DAYS = 4
_KEEP = 2
_PER_DAY = 2_000_000
_STREAMS = 10
_COMMIT = 1000
_WINDOW = 5000
"""So many ids of the window that is under way when its stream begins to be refused; half of them are delivered."""


def ledger_days(trial: Trial) -> None:
    """S15. 4 days of 2 million ids, with one stream that is refused since the first: old days go, its ids stay known.

    The days are those of the clock of the state; `--events` is how many ids each has.
    """
    first_ms, per_day = now_ms() - _DAYS * DAY_MS, trial.events or _PER_DAY
    clock, commits, upkeep, most = [first_ms], [], [], 0
    with started() as server, psycopg.connect(server.url, autocommit=True) as admin:
        settings = state_settings(server.url)
        with PostgresStore(settings, new_agent_id="the trial", now_ms=lambda: clock[0]) as state:
            of_window = list(_keys(_WINDOW, first_ms))
            window = Window(start_ms=first_ms, end_ms=first_ms + HOUR_MS, services=("all",), limit=_WINDOW // 2)
            position = Position(origin_ms=first_ms - DAY_MS, watermark_ms=first_ms, window=window.after('["5",1]'))
            state.commit("refused", of_window[: _WINDOW // 2], position, span=window.span)
            state.record_error("refused", "403", first_ms)
            for day in range(_DAYS + 1):
                for place in range(0, per_day if day < _DAYS else _COMMIT, _COMMIT):
                    clock[0] = first_ms + day * DAY_MS + place * DAY_MS // per_day
                    began = time.perf_counter()
                    _commit(state, f"stream {place // _COMMIT % _STREAMS}", clock[0])
                    commits.append(time.perf_counter() - began)
                for number in range(_STREAMS):
                    state.prune(f"stream {number}", clock[0] - (_KEEP - 1) * DAY_MS)
                state.flush([f"stream {number}" for number in range(_STREAMS)])
                began = time.perf_counter()
                keep_days(state._database, clock[0], _KEEP)
                upkeep.append(time.perf_counter() - began)
                most = max(most, _partitions(admin))
        with PostgresStore(settings, new_agent_id="the trial", now_ms=lambda: clock[0]) as state:
            found = state.delivered("refused", of_window)
            duplicates = _WINDOW // 2 - len(found.intersection(of_window[: _WINDOW // 2]))
            lost = len(found.intersection(of_window[_WINDOW // 2 :]))
            ids = state.ids()
        ((size,),) = admin.execute("SELECT pg_database_size(current_database())").fetchall()
    trial.at_most("partitions", most, _KEEP + 2)
    trial.expect(f"lost {lost}, duplicates {duplicates} of the refused stream", lost == duplicates == 0)
    trial.note(f"{len(commits)} commits of {_COMMIT} ids, {1000 * median(commits):.1f} ms each (median)")
    trial.note(f"a day dropped in at most {max(upkeep):.2f} s; {ids} ids left, {size / 1e6:.0f} MB")


def _commit(state: PostgresStore, stream: str, at_ms: int) -> None:
    span = (at_ms - 5 * MINUTE_MS, at_ms)
    keys = list(_keys(_COMMIT, span[0]))
    state.commit(stream, keys, Position.starting_at(at_ms), span=span)


def _keys(count: int, start_ms: int) -> Iterator[EventKey]:
    """Of events of four minutes."""
    minute = start_ms // MINUTE_MS + 1
    for number in range(count):
        yield EventKey(minute + number % 4, os.urandom(16))


def _partitions(admin: psycopg.Connection) -> int:
    query = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'in_jumpcloud.ledger'::regclass"
    ((number,),) = admin.execute(query).fetchall()
    return int(number)
