"""Which spans are compared when, and when a minute that differs is settled."""

from __future__ import annotations

import itertools

import pytest

from in_jumpcloud.insights.comparison import (
    PAUSES,
    Comparisons,
    Span,
    comparisons_per_day,
    is_credible,
    spans,
    tiers,
)
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS

NOW = 1_767_225_600_000
EVERY, REACH = 10 * MINUTE_MS, 15 * DAY_MS
TIERS = tiers(EVERY, REACH)
MINUTE = NOW // MINUTE_MS


def known(compared_ms: int = NOW) -> Comparisons:
    """A stream that was compared up to `compared_ms`."""
    return Comparisons(compared_ms=[compared_ms - tier.newest_ms for tier in TIERS], reread_ms=compared_ms)


def test_every_age_is_compared_again_and_again() -> None:
    """Over 20 days each moment is compared at each distance, the last time when it leaves the reach."""
    state, asked = known(NOW), []
    for step in range(20 * 24 * 6):
        now_ms = NOW + step * 10 * MINUTE_MS
        while span := state.due_span(now_ms, now_ms, TIERS):
            state.compared_ms[span.tier] = span.end_ms
            asked.append((now_ms, span))
    moment = NOW + 2 * DAY_MS
    ages = [now_ms - moment for now_ms, span in asked if span.start_ms <= moment < span.end_ms]
    gaps = [(age, later - age) for age, later in itertools.pairwise(ages)]

    assert all(gap <= 11 * MINUTE_MS for age, gap in gaps if age < DAY_MS - HOUR_MS)
    assert all(gap <= HOUR_MS for age, gap in gaps if age < 3 * DAY_MS - DAY_MS)
    assert all(gap <= DAY_MS for _, gap in gaps)
    assert ages[-1] >= REACH - DAY_MS
    requests = sum(-(-(span.end_ms - span.start_ms) // DAY_MS) for _, span in asked) / 20
    assert requests == pytest.approx(comparisons_per_day(EVERY, REACH), rel=0.02)


def test_after_a_long_stop_it_continues_where_it_was() -> None:
    """What appeared before or during a stop of 20 days is compared, from before the stop on."""
    state, now_ms = known(NOW), NOW + 20 * DAY_MS
    found = {}
    while span := state.due_span(now_ms, now_ms, TIERS):
        found[span.tier] = span
        state.compared_ms[span.tier] = span.end_ms
    assert found[0] == Span(NOW - DAY_MS, now_ms, 0)
    assert found[2].start_ms == NOW - REACH
    assert found[2].end_ms == now_ms - 3 * DAY_MS


def test_a_backfill_is_compared_by_days() -> None:
    """While a stream is far from now, each day that it has delivered is compared once, and again by its age later."""
    state = Comparisons.starting_at(NOW - 30 * DAY_MS, NOW, TIERS)
    assert state.due_span(NOW - 29 * DAY_MS - MINUTE_MS, NOW, TIERS) is None
    assert state.due_span(NOW - 29 * DAY_MS, NOW, TIERS) == Span(NOW - 30 * DAY_MS, NOW - 29 * DAY_MS)
    assert state.oldest_ms(TIERS) <= NOW - 30 * DAY_MS, "the ledger keeps what is not compared yet"
    state.compared_ms[0] = NOW - 29 * DAY_MS
    assert state.due_span(NOW - 28 * DAY_MS, NOW, TIERS) == Span(NOW - 29 * DAY_MS, NOW - 28 * DAY_MS)


def test_a_minute_is_settled_by_agreement_or_by_a_re_read_that_returns_what_is_counted() -> None:
    """Counts that agree settle a minute. So does a re-read of as many events as were counted before and after it."""
    state, span = known(), Span(NOW, NOW + 3 * MINUTE_MS)
    assert state.differ({MINUTE: 5, MINUTE + 1: 2, MINUTE + 2: 3}, {MINUTE: 4, MINUTE + 1: 3, MINUTE + 2: 2}) == [
        MINUTE,
        MINUTE + 1,
        MINUTE + 2,
    ]
    # The first agrees now. The second was read whole: an event was deleted. The third still misses one.
    given_up = state.settle(
        span,
        {MINUTE: 5, MINUTE + 1: 2, MINUTE + 2: 2},
        {MINUTE: 5, MINUTE + 1: 2, MINUTE + 2: 3},
        {MINUTE: 5, MINUTE + 1: 3, MINUTE + 2: 2},
    )
    assert given_up == []
    assert list(state.open) == [MINUTE + 2]
    assert state.differ({MINUTE: 5, MINUTE + 1: 2, MINUTE + 2: 3}, {MINUTE: 5, MINUTE + 1: 3, MINUTE + 2: 2}) == []
    assert state.differ({MINUTE: 5, MINUTE + 1: 3, MINUTE + 2: 3}, {MINUTE: 5, MINUTE + 1: 3, MINUTE + 2: 3}) == []
    assert not state.open


def test_a_minute_that_never_settles_is_given_up_at_the_end_of_the_reach() -> None:
    """The pauses grow from seconds to hours; the last try is before the minute leaves the reach."""
    state, span = known(), Span(NOW, NOW + MINUTE_MS)
    state.differ({MINUTE: 5}, {MINUTE: 4})
    pauses, given_up = [], []
    while MINUTE in state.open:
        pauses.append(state.pause(MINUTE, NOW, REACH))
        given_up = state.settle(span, {MINUTE: 4}, {MINUTE: 5}, {MINUTE: 4})
    assert pauses == [*PAUSES, (REACH - 6 * HOUR_MS) / 1000]
    assert given_up == [MINUTE]
    assert state.differ({MINUTE: 5}, {MINUTE: 4}) == [], "it is not opened again"
    assert state.differ({MINUTE: 6}, {MINUTE: 4}) == [MINUTE], "unless the count changes"
    state.open[MINUTE].tries = len(PAUSES)
    assert state.differ({MINUTE: 7}, {MINUTE: 4}) == [MINUTE], "an event may have appeared"
    assert state.pause(MINUTE, NOW, REACH) == 1800


def test_counts_that_are_lower_in_most_minutes_are_not_believed() -> None:
    """An empty or shifted answer is wrong; one lower minute proves nothing; a missing minute is zero."""
    ours = {MINUTE + number: 3 for number in range(10)}
    assert not is_credible({}, ours)
    assert not is_credible({minute + 60: count for minute, count in ours.items()}, ours)
    assert is_credible({**ours, MINUTE: 2}, ours)
    assert is_credible({minute: count for minute, count in ours.items() if minute > MINUTE + 4}, ours)
    assert is_credible({}, {MINUTE: 1})
    assert is_credible({MINUTE: 1}, {})


def test_spans() -> None:
    """Minutes that are close are read in one span, of at most a day."""
    assert spans([MINUTE + 9, MINUTE, MINUTE + 3]) == [
        Span(NOW, NOW + 4 * MINUTE_MS),
        Span(NOW + 9 * MINUTE_MS, NOW + 10 * MINUTE_MS),
    ]
    day = spans(range(MINUTE, MINUTE + 3000))
    assert [each.end_ms - each.start_ms for each in day] == [DAY_MS, DAY_MS, 120 * MINUTE_MS]
