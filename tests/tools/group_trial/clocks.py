"""Members whose clocks are wrong."""

from __future__ import annotations

import time
from pathlib import Path

from tools.group_trial.trial import Skipped, Trial

_LIBRARIES = tuple(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
"""https://github.com/wolfcw/libfaketime, as Debian has it: for programs with threads."""
_SECONDS = 20.0


def clocks(trial: Trial) -> None:
    """S10. The clock of one member is 10 minutes ahead, that of another behind: none takes another for dead.

    Positions move by the earlier of the clocks of a member and of JumpCloud. So what belongs to the one that is behind
    arrives late: at the latest once it has ended, and the others have its streams.
    """
    if not _LIBRARIES:
        raise Skipped("libfaketime is not installed")
    with trial.group(1) as cluster:
        for offset in ("+10m", "-10m"):
            cluster.add(
                environ={"LD_PRELOAD": str(_LIBRARIES[0]), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
            )
        trial.divided(cluster)
        before = cluster.moves()
        time.sleep(_SECONDS * trial.rounds if trial.seconds is None else trial.seconds)
        trial.at_most("streams moved", cluster.moves() - before, 0)
        judged = sum(each.log.count("took over") + each.log.count("silent for") for each in cluster.members)
        trial.at_most("lines about silent members", judged, 0)
        cluster.stop([cluster.members[-1]])
