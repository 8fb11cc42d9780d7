"""How far a backfill has come, how fast it is, when it ends; and what is logged of it."""

from __future__ import annotations

import logging
import threading

import pytest

from in_jumpcloud.catch_up import CatchUp
from in_jumpcloud.errors import CountsUnavailable
from in_jumpcloud.progress import Pace, Progress, share_done
from in_jumpcloud.timestamps import HOUR_MS


def test_share() -> None:
    """Of the events, if they were counted; else of the time. Never more than all."""
    assert share_done(30, 120, 0, (0, 100)) == 0.25
    assert share_done(130, 120, 0, (0, 100)) == 1
    assert [share_done(5, expected, 75, (50, 150)) for expected in (None, 0)] == [0.25, 0.25]
    assert [share_done(5, None, at, (50, 150)) for at in (0, 200)] == [0, 1]
    assert share_done(0, None, 50, (50, 50)) == 0


def test_pace() -> None:
    """Over the time that was observed, at most a minute. Nothing is known at the first moment."""
    pace = Pace()
    assert pace.progress(7, None) == Progress(0, 0, None, 0, None)
    pace.note(0, 0, 0.0)
    assert pace.progress(0, 1000).per_second == 0
    pace.note(0.1, 50, 0.05)
    first = pace.progress(0.5, 1000)
    assert (first.share, first.events, first.expected, first.per_second) == (0.05, 50, 1000, 100)
    assert first.seconds_left == pytest.approx(9.5)
    for second in range(1, 200):
        pace.note(second, 50 + second, 0.05 + second / 1000)
    assert pace.progress(199, 1000).per_second == pytest.approx(1, rel=0.05)
    assert len(pace._samples) < 70
    stopped = pace.progress(199 + 60, 1000)
    assert stopped.per_second == pytest.approx(0.5, rel=0.05)
    assert stopped.seconds_left == pytest.approx(2 * 751, rel=0.05)


def test_catching_up(caplog: pytest.LogCaptureFixture) -> None:
    """One line a minute, with the share of the events once they were counted, else of the time."""
    caplog.set_level(logging.INFO)
    now, stop, counted = [0.0], threading.Event(), [(0, 0)]

    def count(start_ms: int, end_ms: int, _: threading.Event) -> int:
        counted.append((start_ms, end_ms))
        if len(counted) > 2:
            raise CountsUnavailable("no counts")
        return 900

    catch_up = CatchUp("default", count, lambda: now[0])
    assert not catch_up.progress
    for second in range(601):
        now[0] = second
        catch_up.note(second * HOUR_MS, 1000 * HOUR_MS, 1000 + second, stop)
    assert counted[1:] == [(9 * HOUR_MS, 1000 * HOUR_MS)], "not with the tenth page"
    assert [record.getMessage() for record in caplog.records][:2] == [
        "default: catching up, at 1970-01-03T12:00:00.000Z: 7%, 60 of 909 events, 1 events/s, 14m 9s left",
        "default: catching up, at 1970-01-06T00:00:00.000Z: 13%, 120 of 909 events, 1 events/s, 13m 9s left",
    ]
    assert len(caplog.records) == 10
    now[0] = 609
    catch_up.note(609 * HOUR_MS, 1000 * HOUR_MS, 1609, stop)
    progress = catch_up.progress or Progress(0, 0, 0, 0, None)
    assert (progress.expected, progress.share) == (None, 0.609)
    catch_up.end()
    assert not catch_up.progress
    catch_up.note(700 * HOUR_MS, 1000 * HOUR_MS, 2000, stop)
    again: Progress | None = catch_up.progress
    assert again == Progress(0, 0, None, 0, None)
    for page in range(9):
        now[0] += 1000
        catch_up.note((701 + page) * HOUR_MS, 1000 * HOUR_MS, 2000, stop)
        assert len(counted) == 3 + (page == 8), "a count must not take the place of a page"
