"""What happens to the server: it is killed, or answers nothing."""

from __future__ import annotations

import random
import signal
import time

from tools.group_trial.trial import Trial


def server_killed(trial: Trial) -> None:
    """S4. The server is killed and started again: nothing moves, and nothing is sent twice."""
    with trial.group() as cluster:
        before = cluster.moves()
        for _ in range(trial.rounds):
            time.sleep(random.uniform(0.5, 2))
            cluster.server.kill()
            time.sleep(0.5)
            cluster.server.start()
            time.sleep(1)
        trial.at_most("streams moved", cluster.moves() - before, 0)


def server_frozen(trial: Trial) -> None:
    """S5. The server answers nothing for longer than a lease: nothing moves, and nothing is sent twice."""
    with trial.group() as cluster:
        before = cluster.moves()
        for _ in range(trial.rounds):
            cluster.server.signal(signal.SIGSTOP)
            time.sleep(cluster.lease + 6)
            cluster.server.signal(signal.SIGCONT)
            trial.divided(cluster)
        trial.at_most("streams moved", cluster.moves() - before, 0)
