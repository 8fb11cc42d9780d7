"""The limit of requests that a group shares."""

from __future__ import annotations

import signal
import time
from bisect import bisect_left

from support.cluster import Cluster
from tools.group_trial.trial import Trial

from in_jumpcloud.simulator.faults import Fault

_PER_SECOND = 20.0
_TOO_MANY = 429
_PAUSE = 20.0
"""Retry-After."""
_NOTICE = 1.0
"""How soon all members know of it."""
_SPAN = 10.0
_OVER = 1.05
_SETTLED = 5.0


def paused(trial: Trial) -> None:
    """S13. JumpCloud asks one member to wait 20 s: all wait. They keep the limit together while members come and go."""
    with trial.group(jumpcloud__requests_per_second=_PER_SECOND) as cluster:
        began, broken = time.monotonic(), 0
        for _ in range(trial.rounds):
            member = cluster.members[0]
            member.api.faults.once(Fault("status", status=_TOO_MANY, retry_after=f"{_PAUSE:g}"))
            seen = len(cluster.asked)
            refused_at = _refused_at(cluster, seen)
            time.sleep(max(0.0, refused_at + _PAUSE + _NOTICE - time.monotonic()))
            broken += sum(refused_at + _NOTICE < each.at < refused_at + _PAUSE for each in cluster.asked)
            _come_and_go(trial, cluster)
        trial.at_most("requests during a pause", broken, 0)
        busiest = _most_in(_SPAN, [each.at for each in cluster.asked if each.at > began])
        trial.at_most(f"requests in {_SPAN:g} s", busiest, _PER_SECOND * _SPAN * _OVER)
        trial.chunks = trial.rounds  # a member is killed


def _refused_at(cluster: Cluster, seen: int) -> float:
    """When the first request after those `seen` was refused with 429."""
    found: list[float] = []

    def is_refused() -> bool:
        found[:] = [each.at for each in cluster.asked[seen:] if each.status == _TOO_MANY]
        return bool(found)

    cluster.wait("no 429 is given", is_refused, 20)
    return found[0]


def _come_and_go(trial: Trial, cluster: Cluster) -> None:
    """A member joins, one leaves, one is killed."""
    cluster.add()
    trial.divided(cluster)
    time.sleep(_SETTLED)
    cluster.stop([each for each in cluster.members if each.is_alive][-1:])
    trial.divided(cluster)
    time.sleep(_SETTLED)
    member = cluster.members[1]
    member.signal(signal.SIGKILL)
    trial.taken_over(cluster, member)
    member.start()
    trial.divided(cluster)
    time.sleep(_SETTLED)


def _most_in(seconds: float, times: list[float]) -> int:
    """The most of these times within any span of so many seconds."""
    times = sorted(times)
    return max((bisect_left(times, at + seconds) - number for number, at in enumerate(times)), default=0)
