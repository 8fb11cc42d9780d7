"""What happens to members: they are killed, frozen, stopped, cut off, or cannot deliver."""

from __future__ import annotations

import random
import signal
import time
from contextlib import AbstractContextManager

from support.cluster import Cluster
from support.member import Member
from tools.group_trial.trial import Trial

_KILL_EVERY = 10.0
_BUSY_STREAMS, _BUSY_EVENTS = 6, 1200.0
"""Events per second, of all streams: what a stream has in three seconds is a chunk of about 1 MB."""
_UNABLE_SECONDS = 32.0
"""A receiver may be away for half a minute, before that a delivery may be under way."""
_UNOWNED_SECONDS = 2.0
"""How long a stream may be without an owner after a SIGTERM."""
_ORPHAN_SECONDS = 2.0
"""Two turns: then a member runs what it was given in an answer that was lost."""
_DROPPED = 5
"""Of so many answers one is lost."""


def kills(trial: Trial) -> None:
    """S1. A member is killed and started again: the others have its streams within a lease. A chunk may come twice."""
    with trial.group() as cluster:
        for _ in range(trial.rounds):
            began = time.monotonic()
            member = random.choice(cluster.members)
            member.signal(signal.SIGKILL)
            trial.taken_over(cluster, member)
            member.start()
            trial.divided(cluster)
            time.sleep(max(0.0, began + _KILL_EVERY - time.monotonic()) if trial.rounds > 1 else 0.0)
        trial.chunks = trial.rounds


def aimed_kills(trial: Trial) -> None:
    """S2. As `kills`, with chunks of 1 MB, each time between an ack and its commit: that chunk comes twice."""
    workers = 4
    with trial.group(
        streams=_BUSY_STREAMS, every=_BUSY_STREAMS / _BUSY_EVENTS, interval=3.0, workers=workers
    ) as cluster:
        for _ in range(trial.rounds):
            member = random.choice(cluster.members)
            member.signal(signal.SIGTERM)
            member.start_to_kill(f"{random.randint(1, 5)}:after deliver")
            member.wait()
            trial.taken_over(cluster, member)
            member.start()
            trial.divided(cluster)
        trial.chunks = trial.rounds * cluster.workers
        trial.note(f"chunks of up to {cluster.biggest_chunk} records")
        trial.expect(f"{cluster.duplicate_chunks} chunks were aimed at", cluster.duplicate_chunks > 0)


def freeze(trial: Trial, cluster: Cluster, seconds: float) -> None:
    """Stop a member until the others have its streams, and for so long after that."""
    member = random.choice(cluster.members)
    member.signal(signal.SIGSTOP)
    trial.taken_over(cluster, member)
    time.sleep(seconds)
    member.signal(signal.SIGCONT)


def cut(trial: Trial, cluster: Cluster) -> None:
    """Swallow what a member sends to the server, until the others have its streams."""
    member = random.choice(cluster.members)
    forward = member.proxy.to_server
    member.proxy.to_server = lambda _: b""
    trial.taken_over(cluster, member)
    member.proxy.to_server = forward
    member.proxy.cut()


def frozen(trial: Trial) -> None:
    """S3. A member is stopped for longer than its lease, and continued: what it was about to write is refused."""
    with trial.group() as cluster:
        for _ in range(trial.rounds):
            freeze(trial, cluster, cluster.lease if trial.seconds is None else trial.seconds)
            trial.divided(cluster)
        trial.chunks = trial.rounds


def busy_frozen(trial: Trial) -> None:
    """S3. As `frozen`, with chunks of 1 MB under way all the time: writes are refused, a chunk may come twice."""
    with _busy(trial) as cluster:
        for _ in range(trial.rounds):
            time.sleep(random.uniform(0, cluster.interval))
            freeze(trial, cluster, cluster.lease if trial.seconds is None else trial.seconds)
            trial.divided(cluster)
        trial.chunks = trial.rounds
        name = "in_jumpcloud_group_refused_commits_total"
        fenced = sum(each.metrics(name)[name] for each in cluster.members)
        trial.expect(f"{fenced:.0f} commits refused, at least 1", fenced > 0)


def cut_off(trial: Trial) -> None:
    """S6. What one member sends to the server is swallowed: it sends no more, and the others take its streams."""
    with trial.group() as cluster:
        for _ in range(trial.rounds):
            cut(trial, cluster)
            trial.divided(cluster)
        trial.chunks = trial.rounds * cluster.workers


def slow_answers(trial: Trial) -> None:
    """S6. Every answer of the server to one member comes 2 s late: it may lose its streams, and nothing is lost."""
    with trial.group() as cluster:
        for _ in range(trial.rounds):
            member = random.choice(cluster.members)
            forward = member.proxy.to_client

            def late(data: bytes) -> bytes:
                time.sleep(2)
                return data

            member.proxy.to_client = late
            time.sleep(4 * cluster.lease if trial.seconds is None else trial.seconds)
            member.proxy.to_client = forward
            trial.divided(cluster)
        trial.chunks = trial.rounds * cluster.workers


def rolling(trial: Trial) -> None:
    """S7. Each member is stopped with SIGTERM and started again, one after the other: nothing is sent twice."""
    with trial.group() as cluster:
        before, unowned = cluster.moves(), 0.0
        for _ in range(trial.rounds):
            for member in cluster.members:
                member.signal(signal.SIGTERM)
                took = cluster.wait("not taken", lambda member=member: cluster.taken_over(member.name), 30)  # type: ignore[misc]
                unowned = max(unowned, took)
                member.start()
                trial.divided(cluster)
        trial.at_most("seconds without owner", unowned, _UNOWNED_SECONDS + trial.slack)
        trial.at_most("streams moved", cluster.moves() - before, 2 * trial.rounds * cluster.streams)


def lost_answers(trial: Trial) -> None:
    """S11. Connections end while answers are under way: what was owned without an answer is run, commits count once."""
    with trial.group() as cluster:
        for _ in range(trial.rounds):
            for member in cluster.members:
                losing_answers(cluster, member)
            trial.divided(cluster)
            began, most = time.monotonic(), _ORPHAN_SECONDS + 2 * cluster.interval + trial.slack
            took = cluster.wait("a stream is not run", lambda began=began: cluster.polled_since(began), 60)  # type: ignore[misc]
            trial.at_most("seconds until each stream is polled", took, most)


def _busy(trial: Trial) -> AbstractContextManager[Cluster]:
    return trial.group(streams=_BUSY_STREAMS, every=_BUSY_STREAMS / _BUSY_EVENTS, interval=3.0, workers=4)


def losing_answers(cluster: Cluster, member: Member) -> None:
    """End connections of a member with answers under way, several times."""
    seen = 0

    def drop(data: bytes) -> bytes | None:
        nonlocal seen
        seen += 1
        return None if seen % _DROPPED == 0 else data

    forward, member.proxy.to_client = member.proxy.to_client, drop
    cluster.wait("no answer is dropped", lambda: seen > 6 * _DROPPED, 60)
    member.proxy.to_client = forward


def unable(trial: Trial) -> None:
    """S12. The receiver of one member is away for 5 minutes: the others have its streams; later it has its share."""
    with trial.group() as cluster:
        for _ in range(trial.rounds):
            member = random.choice(cluster.members)
            forward, member.way.to_server = member.way.to_server, lambda _: None
            began = time.monotonic()
            most = _UNABLE_SECONDS + cluster.lease + trial.slack
            took = cluster.wait("it keeps its streams", lambda: cluster.taken_over(member.name), 3 * most)  # noqa: B023
            trial.at_most("taken over in", took, most)
            time.sleep(max(0.0, began + (300.0 if trial.seconds is None else trial.seconds) - time.monotonic()))
            member.way.to_server = forward
            trial.note(f"has its share {trial.divided(cluster):.1f} s after its return")
        trial.chunks = trial.rounds
