"""A replica that lacks the last transactions takes the place of the server."""

from __future__ import annotations

import contextlib
import copy
import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import psycopg
from support.cluster import Cluster
from support.fluent_bit import free_port
from support.member import Asked
from support.postgres import Server, programs, started
from support.proxy import Proxy
from tools.group_trial.trial import Skipped, Trial

_BEHIND = 2.0
"""The replica lacks the transactions of so many seconds."""
_TURN = 1.0
_REPLAY_SECONDS = 0.2


def failover(trial: Trial) -> None:
    """S9. The server dies, and a replica that lacks its last 2 s takes its place: those are sent again, nothing more.

    In every other round a member leaves in the time that is lost, so that streams have moved in it.
    """
    if programs() is None:
        raise Skipped("no PostgreSQL of our own")
    with contextlib.ExitStack() as stack:
        server, port = stack.enter_context(started()), free_port()
        ports, allowed = (port, server.port), 0
        with trial.group(server=server, standby_port=port, counts_are_exact=False) as cluster:
            for number in range(trial.rounds):
                allowed += _fail_over(trial, cluster, stack, ports[number % 2], leaves=bool(number % 2))
            trial.duplicates = allowed


def _fail_over(trial: Trial, cluster: Cluster, stack: contextlib.ExitStack, port: int, *, leaves: bool) -> int:
    """The server dies, and one at the port takes its place. Returns how many events may be sent again."""
    link = stack.enter_context(Proxy(cluster.server.port))
    standby = stack.enter_context(started(primary=_through(cluster.server, link), port=port))
    written = _ask(cluster.server, "SELECT pg_current_wal_lsn()::text")
    has_all = f"SELECT pg_last_wal_replay_lsn() >= '{written}'"
    cluster.wait("the replica does not follow", lambda: bool(_ask(standby, has_all)), 30)
    tokens = cluster.tokens()
    link.to_client = lambda _: b""
    leaving = random.choice(cluster.members) if leaves else None
    if leaving:
        leaving.signal(signal.SIGTERM)
    time.sleep(_BEHIND)
    moved = sum(token != tokens[name] for name, token in cluster.tokens().items())
    cluster.server.kill()
    cluster.wait("the replica replays for ever", lambda: _has_replayed(standby), 30)
    undone = len(cluster.receiver.ids) - _ask(standby, "SELECT count(*) FROM in_jumpcloud.ledger")
    _ask(standby, "SELECT pg_promote()")
    promoted, time_there = time.monotonic(), _ask(standby, "SELECT clock_timestamp()::text")
    cluster.server = standby
    if leaving:
        leaving.start()
        has_joined = f"SELECT count(*) FROM in_jumpcloud.member WHERE started_at > '{time_there}'"  # noqa: S608 - our own
        cluster.wait("it does not join", lambda: bool(_ask(standby, has_joined)), 30)
    took = trial.divided(cluster)
    trial.note(f"{undone} events and {moved} moves undone, divided again {took:.1f} s later")
    time.sleep(cluster.lease)
    asked = [each for each in cluster.asked if each.at > promoted - _BEHIND]
    by_two = run_by_two(asked, cluster.interval)
    trial.at_most("seconds in which two ran a stream", by_two, _TURN + cluster.interval + trial.slack)
    return int(undone) + moved * cluster.biggest_chunk


def _through(server: Server, link: Proxy) -> Server:
    """The server as it is reached through a proxy."""
    found = copy.copy(server)
    found.port = link.port
    return found


def _has_replayed(standby: Server) -> bool:
    """Whether it has applied all that it can: the last record that it has received may not be whole."""
    before = _ask(standby, "SELECT pg_last_wal_replay_lsn()::text")
    time.sleep(_REPLAY_SECONDS)
    return bool(before == _ask(standby, "SELECT pg_last_wal_replay_lsn()::text"))


def _ask(server: Server, query: str) -> Any:
    """The only value of a query."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        ((value,),) = connection.execute(query.encode()).fetchall()
        return value


def run_by_two(asked: Iterable[Asked], interval: float) -> float:
    """The longest time for which two members asked for the same stream by turns, in seconds."""
    by_stream: dict[str, list[Asked]] = defaultdict(list)
    for each in asked:
        by_stream[each.stream].append(each)
    longest = 0.0
    for requests in by_stream.values():
        switches = [b.at for a, b in pairwise(sorted(requests)) if a.member != b.member]
        began = 0.0
        for before, at in pairwise(switches):
            began = began if at - before <= 2 * interval and began else before
            longest = max(longest, at - began if at - before <= 2 * interval else 0.0)
            began = began if at - before <= 2 * interval else 0.0
    return longest
