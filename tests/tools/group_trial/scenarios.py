"""All scenarios, by name."""

from __future__ import annotations

from collections.abc import Callable

from tools.group_trial import clocks, days, failovers, limits, members, server, sizes, soak, versions
from tools.group_trial.trial import Trial

SCENARIOS: dict[str, Callable[[Trial], None]] = {
    each.__name__: each
    for each in (
        *(members.kills, members.aimed_kills, members.frozen, members.busy_frozen, members.cut_off),
        *(members.slow_answers, members.rolling, members.lost_answers, members.unable),
        *(server.server_killed, server.server_frozen, failovers.failover),
        *(sizes.resized, clocks.clocks, limits.paused, versions.versions, days.ledger_days, sizes.many, soak.soak),
    )
}
