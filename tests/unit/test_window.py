"""Windows of time: no gap, nothing before the origin or in the future, and steady progress."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from in_jumpcloud.insights.window import Position, Window, WindowLength, plan_ahead, plan_window
from in_jumpcloud.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, rfc3339

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
    """Plan with default settings and the given changes."""
    settings: dict[str, Any] = {"length_ms": 86_400_000, "overlap_ms": 120_000, "lag_ms": 0}
    return plan_window(position, now_ms, **{"services": ALL, "limit": 1000, **settings, **changes})


@st.composite
def polls(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, int, int]]]:
    """The origin of a stream, and for each poll: now, and the length, overlap and lag at that time."""
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
    """However clock and settings change, the windows cover [origin, last end) without a gap, and nothing else."""
    origin, steps = drawn
    position = Position.starting_at(origin)
    covered = origin  # [origin, covered) was requested
    for now, length, overlap, lag in steps:
        window = plan_at(position, now, length_ms=length, overlap_ms=overlap, lag_ms=lag)
        start = max(origin, min(position.watermark_ms, now - lag) - overlap)
        if window is None:
            assert start >= now - lag, "there was something to request"
            continue
        assert origin <= window.start_ms <= covered, "a gap"
        assert window.start_ms == start, "the overlap was not requested again"
        assert window.start_ms < window.end_ms <= now - lag
        assert window.end_ms - window.start_ms <= length
        covered = max(covered, window.end_ms)
        position = position.with_window(window).past(window)
        assert position == Position(origin_ms=origin, watermark_ms=covered)


@given(polls())
def test_windows_make_progress(drawn: tuple[int, list[tuple[int, int, int, int]]]) -> None:
    """While there is time to request, each window moves the watermark, until it reaches now less lag."""
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
def test_current_window_is_resumed(began: int, overlap: int, moved: int) -> None:
    """A window that is being paged is resumed unchanged, with its cursor, even if clock, limit and lengths differ."""
    window = Window(start_ms=NOW - 10**9, end_ms=NOW, services=ALL, limit=7, cursor='[1,"x"]')
    position = Position.starting_at(NOW - began).with_window(window)
    assert plan_at(position, NOW + moved, limit=10_000, length_ms=1, overlap_ms=overlap, lag_ms=5) is window


def test_clock_that_was_wrong() -> None:
    """A position in the future is taken back with its window; a clock set back does not move the watermark."""
    window = Window(start_ms=NOW + 1000, end_ms=NOW + 2000, services=ALL, limit=7)
    position = Position(origin_ms=0, watermark_ms=NOW + 1000, window=window).not_after(NOW)
    planned = plan_at(position, NOW, limit=7, length_ms=10**6, overlap_ms=100, lag_ms=0)
    assert planned is not None
    assert (planned.start_ms, planned.end_ms) == (NOW - 100, NOW)

    position = Position(origin_ms=0, watermark_ms=NOW)
    earlier = plan_at(position, NOW - 60_000)
    assert earlier is not None
    assert position.past(earlier).watermark_ms == NOW


def test_other_services() -> None:
    """When the configuration names other services, the span is requested again with those, from its first page."""
    position = Position.starting_at(NOW - 5000)
    first = plan_at(position, NOW)
    assert first is not None
    position = position.with_window(first.after('[1,"x"]'))
    second = plan_at(position, NOW + 1, services=("sso",))
    assert second == Window(start_ms=NOW - 5000, end_ms=NOW + 1, services=("sso",), limit=1000)


def test_nothing_to_request() -> None:
    """Before the origin, and while lag hides everything, nothing is requested: start ≥ end would be a 400."""
    assert plan_at(Position.starting_at(NOW), NOW) is None
    assert plan_at(Position.starting_at(NOW + 1), NOW) is None
    assert plan_at(Position.starting_at(NOW - 5000), NOW, lag_ms=5000) is None
    assert plan_at(Position.starting_at(NOW - 5000), NOW, lag_ms=4999) is not None


@given(MOMENTS)
def test_rfc3339(ms: int) -> None:
    """A moment is written with exactly three fraction digits in UTC, and reads back as the same millisecond."""
    text = rfc3339(ms)
    assert len(text) == len("2026-09-21T14:13:20.000Z")
    assert text.endswith("Z")
    assert round((datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000) == ms


@given(MOMENTS, MOMENTS, st.none() | WINDOWS)
def test_position_as_json(origin: int, watermark: int, window: Window | None) -> None:
    """A position that is stored as JSON reads back as the same, window and cursor included."""
    position = Position(origin_ms=origin, watermark_ms=watermark, window=window)
    assert msgspec.json.decode(msgspec.json.encode(position), type=Position) == position


def test_query() -> None:
    """A query has the documented form: start, end, services, ascending order, and the cursor as an array."""
    window = Window(start_ms=NOW, end_ms=NOW + 1, services=("sso", "new one"), limit=5)
    first = {
        "service": ["sso", "new one"],
        "start_time": "2026-09-21T14:13:20.000Z",
        "end_time": "2026-09-21T14:13:20.001Z",
        "limit": 5,
        "sort": "ASC",
    }
    assert window.query() == first
    following = window.after('[1576181718000,"DZrPyW8B"]')
    assert following.query() == first | {"search_after": [1576181718000, "DZrPyW8B"]}
    assert following.after(None) == window


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, DAY_MS)), max_size=20), st.integers(1, 10_000))
def test_any_window_has_a_length(pages: list[tuple[int, int]], limit: int) -> None:
    """Whatever pages had, a window is a minute long at least, and jumpcloud.window at most."""
    length = WindowLength(DAY_MS)
    for events, span_ms in pages:
        length.note(events, span_ms)
        assert MINUTE_MS <= length.ms(limit) <= DAY_MS


def test_windows_fill_most_of_a_page() -> None:
    """An hour at first; then by the density, which a burst changes at once; empty spans make them grow quickly."""
    length = WindowLength(DAY_MS)
    assert length.ms(3000) == HOUR_MS
    for _ in range(6):
        span_ms = length.ms(3000)
        length.note(span_ms // 10_000, span_ms)  # an event every 10 s
    assert length.ms(3000) == 2400 * 10_000
    assert length.ms(300) == 240 * 10_000
    length.note(3000, HOUR_MS)
    assert length.ms(3000) < 4 * HOUR_MS

    length = WindowLength(DAY_MS)
    lengths = []
    for _ in range(4):
        lengths.append(length.ms(3000))
        length.note(0, lengths[-1])
    assert lengths == sorted(lengths)
    assert lengths[-1] == DAY_MS
    length.note(3000, HOUR_MS)
    assert length.ms(3000) == 48 * MINUTE_MS, "the time before the first event says nothing"


def test_windows_ahead_follow_without_a_gap() -> None:
    """Each begins where the one before ends, and none ends after the moment given."""
    window = Window(start_ms=NOW - HOUR_MS, end_ms=NOW - 30 * MINUTE_MS, services=ALL, limit=7)
    until_ms, ends = NOW - 5 * MINUTE_MS, []
    while following := plan_ahead(window, limit=9, length_ms=20 * MINUTE_MS, until_ms=until_ms):
        assert (following.start_ms, following.limit, following.cursor) == (window.end_ms, 9, None)
        window = following
        ends.append((NOW - window.end_ms) // MINUTE_MS)
    assert ends == [10], "one that is cut short costs a request"


def test_a_position_moves_with_each_page() -> None:
    """A cursor begins with the moment of its event; one that does not, or not in the window, says nothing."""
    window = Window(start_ms=NOW - 1000, end_ms=NOW, services=ALL, limit=7)
    position = Position.starting_at(NOW - 900)
    cases = {None: NOW - 900, f'[{NOW - 10},"x"]': NOW - 10, f'["{NOW - 10}","x"]': NOW - 10, f'[{NOW},"x"]': NOW - 900}
    for cursor, reached_ms in {**cases, "[]": NOW - 900, '["x"]': NOW - 900}.items():
        assert position.with_window(window.after(cursor)).reached_ms == reached_ms
