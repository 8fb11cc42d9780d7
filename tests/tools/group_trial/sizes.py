"""Groups that grow and shrink."""

from __future__ import annotations

import threading
import time
from collections import Counter

from support.postgres import started
from tools.group_trial.trial import Trial

_JOIN_SECONDS = 3.0
_PAGE_SECONDS = 2.0
"""What a page and its delivery may take, after which a stream is given back."""
_SIZES = (3, 10, 2)


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
