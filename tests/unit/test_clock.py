"""Positions move by the earlier of two clocks, ours and JumpCloud's."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from in_jumpcloud.insights.clock import EarlierClock
from in_jumpcloud.runtime import Runtime

TRUE = 1_767_225_600.0


class Times(Runtime):
    """A machine that has been running for `passed` seconds, and whose clock is `ahead` seconds ahead."""

    passed = 0.0
    ahead = 0.0

    def now_ns(self) -> int:
        """The wall clock."""
        return round((TRUE + self.passed + self.ahead) * 1e9)

    def monotonic(self) -> float:
        """The clock that is never set."""
        return 1000 + self.passed

    def date(self, wrong: float = 0.0) -> str:
        """JumpCloud's date now, off by `wrong` seconds."""
        return format_datetime(datetime.fromtimestamp(TRUE + self.passed + wrong, UTC), usegmt=True)


@pytest.fixture
def times() -> Times:
    """Clocks that the test moves."""
    return Times()


@pytest.fixture
def clock(times: Times) -> EarlierClock:
    """The clock by which positions move."""
    return EarlierClock(times)


def behind(clock: EarlierClock, times: Times) -> float:
    """How far the clock is behind the true time, in seconds."""
    return TRUE + times.passed - clock.now_ms() / 1000


def test_two_dates_that_agree_are_trusted(clock: EarlierClock, times: Times) -> None:
    """A machine that is ahead does not move positions once two answers in a row agree, whatever it is set to later."""
    times.ahead = 4 * 86_400
    clock.observe(times.date(), authenticated=True)
    assert clock.skew_seconds is None
    times.passed += 30
    clock.observe(times.date(), authenticated=True)
    assert clock.confirmed
    for times.ahead in (4 * 86_400, 0.5, 400 * 86_400):
        times.passed += 3600
        assert 0 <= behind(clock, times) <= 1
    assert clock.skew_seconds == pytest.approx(400 * 86_400, abs=2)
    times.ahead = -3600
    assert behind(clock, times) == pytest.approx(3600)


def test_one_wrong_date_changes_nothing(clock: EarlierClock, times: Times) -> None:
    """A date from a cache, a proxy's refusal, or an answer without a date is not believed alone."""
    for wrong in (0, 0, -86_400, 0):
        clock.observe(times.date(wrong), authenticated=True)
        times.passed += 60
    for _ in range(5):
        clock.observe(times.date(-86_400), authenticated=False)
    clock.observe(None, authenticated=True)
    clock.observe(times.date(), authenticated=True)
    assert 0 <= behind(clock, times) <= 1


def test_after_a_suspension_the_next_answers_correct_it(clock: EarlierClock, times: Times) -> None:
    """The monotonic clock may not count a suspension. Two answers later all is right again."""
    for _ in range(2):
        clock.observe(times.date(), authenticated=True)
    times.ahead = 7200
    for _ in range(2):
        clock.observe(times.date(7200), authenticated=True)
    assert clock.skew_seconds == pytest.approx(0, abs=2)


def test_slow_answers_agree(clock: EarlierClock, times: Times) -> None:
    """An answer that takes long was dated at some moment of that time. It corrects a clock that is ahead too."""
    times.ahead = 3600
    for took, age in [(40, 38), (8, 1), (60, 30), (20, 19)] * 3:
        times.passed += 60
        clock.observe(times.date(-age), authenticated=True, took=took)
    assert clock.confirmed
    assert 0 <= behind(clock, times) <= 2
    clock.observe(times.date(40), authenticated=True, took=10)
    assert 0 <= behind(clock, times) <= 2


@pytest.mark.parametrize("dates", [[None, None], [0, -600, 600] * 4])
def test_without_a_usable_date_ours_counts(
    dates: list[float | None], clock: EarlierClock, times: Times, caplog: pytest.LogCaptureFixture
) -> None:
    """No date, or dates that never agree: this machine's clock is used, which is logged once."""
    caplog.set_level(logging.INFO)
    for each in dates * 2:
        clock.observe(None if each is None else times.date(each), authenticated=True)
        times.passed += 30
    assert clock.confirmed
    assert clock.skew_seconds is None
    assert clock.now_ms() == times.now_ms()
    assert [record.message for record in caplog.records if "no usable date" in record.message] != []
    assert len(caplog.records) == 1


def test_a_refusal_says_which_moment_to_ask_for(clock: EarlierClock, times: Times) -> None:
    """The date of any answer is good enough for a question."""
    times.ahead = 86_400
    clock.observe(times.date(), authenticated=False)
    assert clock.probable_ms() == pytest.approx(TRUE * 1000, abs=1000)
    assert clock.now_ms() == times.now_ms()


def test_a_wrong_clock_is_logged_once_an_hour(
    clock: EarlierClock, times: Times, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the difference; one line says that the clock is right again."""
    caplog.set_level(logging.INFO)
    times.ahead = 3723
    for _ in range(100):
        clock.observe(times.date(), authenticated=True)
        times.passed += 60
    times.ahead = 0
    clock.observe(times.date(), authenticated=True)
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "WARNING", "INFO"]
    assert "1:02:0" in caplog.records[0].message
    assert "ahead of" in caplog.records[0].message
