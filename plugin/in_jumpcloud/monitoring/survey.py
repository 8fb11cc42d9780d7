"""One quick look at every stream: counts over all of them, and which of them are shown in full.

With thousands of streams a full status of each would take seconds and megabytes at every scrape. So a stream is shown
if something is wrong with it, up to SHOWN_EACH of a kind, or if it is one of the BUSIEST.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from heapq import nlargest
from operator import attrgetter

import msgspec

from in_jumpcloud.collector import MAX_COMPARED_LAG, Collector
from in_jumpcloud.counters import Counters
from in_jumpcloud.errors import RequestRejected, StateUnavailable

BUSIEST = 100
"""So many streams, those with the most events since the start, are always shown; so are all, if there are not more."""
SHOWN_EACH = 25
"""Of each kind of trouble so many streams are shown: those that are most behind."""
LAG_BOUNDS = (30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21_600.0, 86_400.0, 604_800.0)
"""Upper bounds of the buckets of lags, in seconds."""
UP_TO_DATE = "up to date"
STATES = (UP_TO_DATE, "catching up", "lagging", "failing", "refused")
MAX_UNEXPECTED = 3
"""Unexpected errors in a row from which on a stream has a defect."""
TOTALS = tuple(
    each.name
    for each in fields(Counters)
    if each.type in {"int", "float"} and each.name not in {"poll_gap", "latest_seconds"}
)
"""The counters that are summed over all streams."""


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """All streams. `streams` is how many there are, `states` how many are in each state.

    `found` counts those with each of the reasons and warnings of health, by code. `lags` has the number of streams up
    to each of LAG_BOUNDS, and of all, `lag_sum` the sum of their lags, `max_lag` the largest. `totals` sums the
    counters by their field, `acknowledged` has that counter of each stream. `is_busy`: a worker runs a stream.
    """

    streams: int
    states: dict[str, int]
    found: dict[str, int]
    lags: Sequence[int]
    lag_sum: float
    max_lag: float
    totals: dict[str, float]
    acknowledged: dict[str, int]
    is_busy: bool


NOTHING = Survey(
    streams=0,
    states={},
    found={},
    lags=(0,) * (len(LAG_BOUNDS) + 1),
    lag_sum=0.0,
    max_lag=0.0,
    totals={},
    acknowledged={},
    is_busy=False,
)
"""The survey of no streams."""


class Limits(msgspec.Struct, frozen=True):
    """Limits of health in seconds: of the lag, and of the time without activity. `now` is on the monotonic clock."""

    max_lag: float
    max_silence: float
    now_ms: int
    now: float


def state_name(*, fails: bool, is_refused: bool, is_lagging: bool, is_backfilling: bool) -> str:
    """The state of a stream, one of STATES."""
    if fails:
        return "refused" if is_refused else "failing"
    if is_lagging:
        return "lagging"
    return "catching up" if is_backfilling else UP_TO_DATE


def take_survey(collectors: Sequence[Collector], limits: Limits) -> tuple[Survey, list[Collector]]:
    """The survey, and the streams that are shown, in their order."""
    states, found = Counter[str](), Counter[str]()
    kinds: dict[str, list[tuple[float, int]]] = {}
    lags, counters, names, is_busy = [], [], [], False
    newest_ms = limits.now_ms - round(1000 * limits.max_lag) if len(collectors) > BUSIEST else sys.maxsize
    oldest = limits.now - limits.max_silence
    for number, collector in enumerate(collectors):
        each = collector.counters
        counters.append(each)
        names.append(collector.stream.name)
        due_at = each.liveness.due_at
        is_busy |= due_at is None
        if collector.is_well and collector.reached_ms >= newest_ms and due_at is not None and due_at > oldest:
            lags.append(limits.now_ms - collector.reached_ms)  # nearly always
            continue
        lag, state, codes, others = _look(collector, limits)
        lags.append(round(1000 * lag))
        states[state] += 1
        found.update(codes)
        for kind in (state, *codes, *others):
            kinds.setdefault(kind, []).append((lag, number))
    states[UP_TO_DATE] += len(collectors) - states.total()
    kinds.pop(UP_TO_DATE, None)
    ordered = sorted(lags)
    below = [bisect_right(ordered, 1000 * bound) for bound in LAG_BOUNDS]
    survey = Survey(
        streams=len(collectors),
        states=states,
        found=found,
        lags=(*below, len(lags)),
        lag_sum=sum(lags) / 1000,
        max_lag=max(0, ordered[-1]) / 1000 if ordered else 0.0,
        totals={name: sum(map(attrgetter(name), counters)) for name in TOTALS},
        acknowledged=dict(zip(names, map(attrgetter("acknowledged"), counters), strict=True)),
        is_busy=is_busy,
    )
    return survey, _shown(collectors, kinds)


def _shown(collectors: Sequence[Collector], kinds: dict[str, list[tuple[float, int]]]) -> list[Collector]:
    if len(collectors) <= BUSIEST:
        return list(collectors)
    numbers = {number for each in kinds.values() for _, number in nlargest(SHOWN_EACH, each)}
    received = [each.counters.received for each in collectors]
    numbers.update(nlargest(BUSIEST, range(len(collectors)), key=received.__getitem__))
    return [collectors[number] for number in sorted(numbers)]


def _look(collector: Collector, limits: Limits) -> tuple[float, str, Sequence[str], Sequence[str]]:
    """The lag of a stream, its state, the codes of what is wrong with it, and for what else it is shown."""
    counters, position, late = collector.counters, collector.poller.position, collector.reconciler
    liveness, error = counters.liveness, collector.poller.error
    lag = (limits.now_ms - (position.watermark_ms if position.window is None else position.reached_ms)) / 1000
    lag = lag if lag > 0 else 0.0
    if counters.held_up and isinstance(counters.held_up[0], StateUnavailable):
        error = counters.held_up[0]
    due_at, touched_at, backfilling = liveness.due_at, liveness.touched_at, not liveness.caught_up_once
    is_lagging = lag > limits.max_lag and (not backfilling or limits.now - liveness.progress_at > limits.max_lag)
    is_refused = error is not None and isinstance(error, RequestRejected)
    codes: Sequence[str] = ()
    if is_refused:
        codes = ("refused",)
    elif is_lagging and not isinstance(error, StateUnavailable):
        codes = ("stalled" if backfilling else "lagging",)
    if counters.needs_attention:
        codes = (*codes, *_counted(counters))
    if late.error:
        if limits.now - late.error_since > limits.max_lag:
            codes = (*codes, "comparisons")
    elif not backfilling and late.lag_ms(position) > 1000 * (MAX_COMPARED_LAG + limits.max_lag):
        codes = (*codes, "comparisons")
    others: Sequence[str] = ()
    if limits.now - touched_at > limits.max_silence and (due_at is None or limits.now - due_at > limits.max_silence):
        others = ("silent" if due_at is None else "overdue",)
    if error is None and not is_lagging:
        return lag, "catching up" if backfilling else UP_TO_DATE, codes, others
    state = state_name(
        fails=error is not None, is_refused=is_refused, is_lagging=is_lagging, is_backfilling=backfilling
    )
    return lag, state, codes, others


def _counted(counters: Counters) -> Iterator[str]:
    """What was counted of a stream that needs attention."""
    for name in ("open_minutes", "given_up_minutes", "left_out", "parked"):
        if getattr(counters, name):
            yield name
    if counters.unavailable_seconds:
        yield "unavailable"
    if counters.unexpected_in_a_row >= MAX_UNEXPECTED:
        yield "defect"
