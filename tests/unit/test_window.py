"""Windows of time: no gap, nothing from before the beginning or the future, and always on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from in_jumpcloud.insights.window import Position, Window, plan_window
from in_jumpcloud.timestamps import rfc3339

ALL = ("all",)
NOW = 1_790_000_000_000
MOMENTS = st.integers(0, 253_402_300_799_999)  # 1970 to 9999
WINDOWS = st.builds(
    Window,
    start_ms=MOMENTS,
    end_ms=MOMENTS,
    services=st.lists(st.text(), min_size=1).map(tuple),
    limit=st.integers(1, 10_000),
    cursor=st.none() | st.text(),
)


def plan_at(position: Position, now_ms: int, **changes: Any) -> Window | None:
    """Plan with settings that a test does not care about."""
    settings: dict[str, Any] = {"length_ms": 86_400_000, "overlap_ms": 120_000, "lag_ms": 0}
    return plan_window(position, now_ms, **{"services": ALL, "limit": 1000, **settings, **changes})


@st.composite
def polls(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, int, int]]]:
    """Where a stream begins, and for each poll: now, and the length, overlap and lag that hold at that time."""
    now = draw(st.integers(10**12, 2 * 10**12))
    origin = now - draw(st.integers(-(10**6), 10**9))
    steps = []
    for _ in range(draw(st.integers(1, 10))):
        now += draw(st.integers(-(10**7), 10**8) | st.just(0))  # clocks are also set back
        overlap = draw(st.integers(0, 10**7))
        length = overlap + draw(st.integers(1, 10**9))
        steps.append((now, length, overlap, draw(st.integers(0, 10**7) | st.just(0))))
    return origin, steps


@given(polls())
def test_windows_cover_everything(drawn: tuple[int, list[tuple[int, int, int, int]]]) -> None:
    """Whatever clock and settings do, the windows cover [origin, last end) without a gap and never reach outside."""
    origin, steps = drawn
    position = Position.starting_at(origin)
    covered = origin  # [origin, covered) was asked for
    for now, length, overlap, lag in steps:
        window = plan_at(position, now, length_ms=length, overlap_ms=overlap, lag_ms=lag)
        start = max(origin, min(position.watermark_ms, now - lag) - overlap)
        if window is None:
            assert start >= now - lag, "there was something to ask"
            continue
        assert origin <= window.start_ms <= covered, "a gap"
        assert window.start_ms == start, "the overlap was not asked again"
        assert window.start_ms < window.end_ms <= now - lag
        assert window.end_ms - window.start_ms <= length
        covered = max(covered, window.end_ms)
        position = position.with_window(window).past(window)
        assert position == Position(origin_ms=origin, watermark_ms=covered)


@given(polls())
def test_windows_make_progress(drawn: tuple[int, list[tuple[int, int, int, int]]]) -> None:
    """While there is time left to ask for, each window moves the watermark, until it comes up to now less lag."""
    origin, steps = drawn
    now, length, overlap, lag = steps[-1]
    length = max(length, overlap + 10**8)
    position = Position.starting_at(origin)
    while position.watermark_ms < now - lag:
        window = plan_at(position, now, length_ms=length, overlap_ms=overlap, lag_ms=lag)
        assert window is not None
        before, position = position.watermark_ms, position.past(window)
        assert position.watermark_ms >= min(now - lag, before + length - overlap) > before
    assert position.watermark_ms == max(origin, now - lag)


@given(st.integers(0, 10**9), st.integers(0, 10**7), st.integers(-(10**9) + 1, 10**9))
def test_window_under_way_is_resumed(began: int, overlap: int, moved: int) -> None:
    """A window under way is taken up as it was frozen, cursor and all, whatever clock, limit and lengths now say."""
    window = Window(start_ms=NOW - 10**9, end_ms=NOW, services=ALL, limit=7, cursor='[1,"x"]')
    position = Position.starting_at(NOW - began).with_window(window)
    assert plan_at(position, NOW + moved, limit=10_000, length_ms=1, overlap_ms=overlap, lag_ms=5) is window


def test_a_window_ahead_of_the_clock_is_planned_anew() -> None:
    """What was frozen while the clock was wrong is not asked for hours on end once it is right."""
    window = Window(start_ms=NOW + 1000, end_ms=NOW + 2000, services=ALL, limit=7)
    position = Position(origin_ms=0, watermark_ms=NOW + 1000, window=window)
    planned = plan_at(position, NOW, limit=7, length_ms=10**6, overlap_ms=100, lag_ms=0)
    assert planned is not None
    assert (planned.start_ms, planned.end_ms) == (NOW - 100, NOW)


def test_other_services_ask_anew() -> None:
    """When the configuration names other services, the span is asked anew with them, from its first page."""
    position = Position.starting_at(NOW - 5000)
    first = plan_at(position, NOW)
    assert first is not None
    position = position.with_window(first.after('[1,"x"]'))
    second = plan_at(position, NOW + 1, services=("sso",))
    assert second == Window(start_ms=NOW - 5000, end_ms=NOW + 1, services=("sso",), limit=1000)


def test_nothing_to_ask() -> None:
    """Before the beginning, and while lag hides everything, nothing is asked: start ≥ end would be a 400."""
    assert plan_at(Position.starting_at(NOW), NOW) is None
    assert plan_at(Position.starting_at(NOW + 1), NOW) is None
    assert plan_at(Position.starting_at(NOW - 5000), NOW, lag_ms=5000) is None
    assert plan_at(Position.starting_at(NOW - 5000), NOW, lag_ms=4999) is not None


def test_watermark_never_goes_back() -> None:
    """A window that was planned after the clock had been set back does not take the watermark back with it."""
    position = Position(origin_ms=0, watermark_ms=NOW)
    window = plan_at(position, NOW - 60_000)
    assert window is not None
    assert position.past(window).watermark_ms == NOW


@given(MOMENTS)
def test_rfc3339(ms: int) -> None:
    """A moment goes out with exactly three fraction digits in UTC, and reads back as the same millisecond."""
    text = rfc3339(ms)
    assert len(text) == len("2026-09-21T14:13:20.000Z")
    assert text.endswith("Z")
    assert round((datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000) == ms


@given(MOMENTS, MOMENTS, st.none() | WINDOWS)
def test_position_is_kept_as_json(origin: int, watermark: int, window: Window | None) -> None:
    """A position that was written down reads back as the same, window and cursor included."""
    position = Position(origin_ms=origin, watermark_ms=watermark, window=window)
    assert msgspec.json.decode(msgspec.json.encode(position), type=Position) == position


def test_query() -> None:
    """A query is what the API documents: inclusive start, end, services as given, ascending, the cursor as an array."""
    window = Window(start_ms=NOW, end_ms=NOW + 1, services=("sso", "new one"), limit=5)
    first = {
        "service": ["sso", "new one"],
        "start_time": "2026-09-21T14:13:20.000Z",
        "end_time": "2026-09-21T14:13:20.001Z",
        "limit": 5,
        "sort": "ASC",
    }
    assert window.query() == first
    assert window.after('[1576181718000,"DZrPyW8B"]').query() == first | {"search_after": [1576181718000, "DZrPyW8B"]}


@given(WINDOWS, st.text())
def test_pages_share_the_query(window: Window, cursor: str) -> None:
    """The window behind a cursor differs in nothing else: `search_after` holds only for the identical query."""
    assume(cursor != window.cursor)
    behind = window.after(cursor)
    assert behind.cursor == cursor
    assert behind.after(window.cursor) == window


def test_window_is_frozen() -> None:
    """Nobody can change a window in place."""
    window = Window(start_ms=0, end_ms=1, services=ALL, limit=1)
    with pytest.raises(AttributeError):
        window.limit = 2  # type: ignore[misc]
