"""Groups that grow and shrink, and one with many streams."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import median

from support.cluster import Cluster
from support.member import Member
from support.postgres import Server, started
from tools.group_trial.trial import Trial

_JOIN_SECONDS = 3.0
_PAGE_SECONDS = 2.0
"""What a page and its delivery may take, after which a stream is given back."""
_SIZES = (3, 10, 2)
_INTERVAL = 30.0
_SECONDS = 600.0
_SCRAPES = 9


def resized(trial: Trial) -> None:
    """S8. 1, then 3, then 10, then 2 members: soon each has its share, and no stream moves twice for one change."""
    with started("-cmax_connections=300") as server, trial.group(1, server=server) as cluster:
        for size in _SIZES * trial.rounds:
            before, had = cluster.tokens(), sum(each.is_alive for each in cluster.members)
            if size > had:
                together = threading.Barrier(size - had)
                names = {cluster.add(together=together).name for _ in range(size - had)}
                cluster.wait("not all have joined", lambda names=names: names <= {*cluster.joined()}, 60)  # type: ignore[misc]
            else:
                cluster.stop([each for each in cluster.members if each.is_alive][size:])
            took = trial.divided(cluster)
            most = _JOIN_SECONDS + _PAGE_SECONDS + trial.slack
            trial.at_most(f"{had} to {size} members: divided in", took, most)
            time.sleep(_JOIN_SECONDS)  # what moves afterwards counts too
            times = Counter(token - before[name] for name, token in cluster.tokens().items())
            twice = sum(number for moves, number in times.items() if moves > 1)
            trial.expect(f"{times.total() - times[0]} streams moved, {twice} of them twice", twice == 0)


def many(trial: Trial) -> None:
    """S18. With `--streams 10000`: each is polled in time, and members and server cost little, for 10 minutes."""
    with trial.group(
        every=60.0, interval=_INTERVAL, lease=15.0, jumpcloud__requests_per_second=2000, workers=16
    ) as cluster:
        first = [
            min(each.at for each in cluster.asked if each.member == member.name) - member.started_at
            for member in cluster.members
        ]
        began, cpu = time.monotonic(), _cpu_seconds(cluster.server)
        time.sleep(_SECONDS if trial.seconds is None else trial.seconds)
        now = time.monotonic()
        load = (_cpu_seconds(cluster.server) - cpu) / (now - began)
        trial.at_most("seconds to the first poll", max(first), 5 + trial.slack)
        trial.at_most("seconds between polls (p99)", _gap(cluster, began, now), 1.5 * _INTERVAL)
        trial.at_most("MiB of a member", max(each.rss_mib for each in cluster.members), 96)
        trial.at_most("cores of PostgreSQL", load, 0.3)
        pages = [_timed(each, "/metrics") for each in cluster.members]
        trial.at_most("MB of /metrics", max(size for size, _ in pages) / 1e6, 1)
        trial.at_most("seconds of /metrics", max(seconds for _, seconds in pages), 0.1 + trial.slack)


def _timed(member: Member, path: str) -> tuple[int, float]:
    """The bytes of a page, and the median of the seconds that it takes."""
    sizes, times = [], []
    for _ in range(_SCRAPES):
        began = time.perf_counter()
        sizes.append(len(member.page(path)))
        times.append(time.perf_counter() - began)
    return max(sizes), median(times)


def _gap(cluster: Cluster, began: float, now: float) -> float:
    """The time between two polls of a stream, in seconds, that 99 % of all keep."""
    last: dict[str, float] = {}
    gaps: list[float] = []
    for each in sorted(cluster.asked):
        if each.is_poll:
            if each.stream in last and each.at > began:
                gaps.append(each.at - last[each.stream])
            last[each.stream] = each.at
    gaps += [now - at for at in last.values() if now - at > _INTERVAL]
    return sorted(gaps)[int(0.99 * len(gaps))]


def _cpu_seconds(server: Server) -> float:
    """The processor time of all processes of a server, also of those that have ended."""
    assert server.pid is not None
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    ticks = sum(map(int, _stat(server.pid)[13:17]))
    for child in children:
        with contextlib.suppress(OSError):
            ticks += sum(map(int, _stat(int(child))[13:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """As proc(5) numbers them, from 0, without a space in the name."""
    text = Path(f"/proc/{pid}/stat").read_text()
    before, _, after = text.rpartition(") ")
    return [*before.partition(" (")[::2], *after.split()]
