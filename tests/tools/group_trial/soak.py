"""All faults, at random, for a long time."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

from support.cluster import Cluster
from support.member import Member
from tools.group_trial.members import cut, freeze, losing_answers
from tools.group_trial.trial import Trial

_SECONDS = 3600.0
_WARM_SHARE = 0.2
"""Memory is compared with that after this share of the time."""
_GROWTH = 1.10


def soak(trial: Trial) -> None:
    """S20. An hour of kills, freezes, cuts, restarts and lost answers, of members and of the server.

    The first member is neither killed nor stopped, so that its memory can be compared.
    """
    seconds = _SECONDS if trial.seconds is None else trial.seconds
    with trial.group() as cluster:
        began, kept, warm = time.monotonic(), cluster.members[0], 0.0
        done: dict[str, int] = {}
        while (passed := time.monotonic() - began) < seconds:
            if not warm and passed > _WARM_SHARE * seconds:
                warm = kept.rss_mib
            fault = random.choice(_FAULTS)
            trial.chunks += fault(trial, cluster)
            trial.divided(cluster)
            done[fault.__name__] = done.get(fault.__name__, 0) + 1
        trial.note(", ".join(f"{number} {name.lstrip('_')}" for name, number in sorted(done.items())))
        trial.at_most("growth of memory", kept.rss_mib / warm if warm else 1.0, _GROWTH)
        trial.note(f"{kept.rss_mib:.0f} MiB")


def _kill(trial: Trial, cluster: Cluster) -> int:
    member = _any_but_first(cluster)
    member.signal(signal.SIGKILL)
    trial.taken_over(cluster, member)
    member.start()
    return cluster.workers


def _freeze(trial: Trial, cluster: Cluster) -> int:
    freeze(trial, cluster, random.uniform(0, cluster.lease))
    return cluster.workers


def _cut(trial: Trial, cluster: Cluster) -> int:
    cut(trial, cluster)
    return cluster.workers


def _restart(trial: Trial, cluster: Cluster) -> int:
    del trial
    member = _any_but_first(cluster)
    member.signal(signal.SIGTERM)
    member.start()
    return 0


def _lose_answers(trial: Trial, cluster: Cluster) -> int:
    del trial
    losing_answers(cluster, random.choice(cluster.members))
    return 0


def _kill_server(trial: Trial, cluster: Cluster) -> int:
    del trial
    cluster.server.kill()
    time.sleep(random.uniform(0, 2))
    cluster.server.start()
    return 0


def _freeze_server(trial: Trial, cluster: Cluster) -> int:
    del trial
    cluster.server.signal(signal.SIGSTOP)
    time.sleep(cluster.lease + 6)
    cluster.server.signal(signal.SIGCONT)
    return 0


def _any_but_first(cluster: Cluster) -> Member:
    return random.choice(cluster.members[1:])


_FAULTS: tuple[Callable[[Trial, Cluster], int], ...] = (
    *(_kill, _freeze, _cut, _restart, _lose_answers, _kill_server, _freeze_server),
)
"""Each returns how many chunks may come twice after it."""
