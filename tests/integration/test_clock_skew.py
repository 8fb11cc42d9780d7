"""A wrong clock is reported once, with the difference, and once more when it is right again."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from support.insights import Client, Serve, answer, failure, fetch

from in_jumpcloud.insights.clock_skew import ClockSkewMonitor
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.timestamps import parse_http_date

LOGGER = "in_jumpcloud.insights.clock_skew"
MOMENT = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
MOMENT_NS = int(MOMENT.timestamp()) * 10**9

Lines = Callable[[], list[tuple[str, str]]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """The level and text of each line that is logged about the clock."""
    caplog.set_level(logging.INFO, "in_jumpcloud")
    return lambda: [(record.levelname, record.getMessage()) for record in caplog.records if record.name == LOGGER]


def test_wrong_clock(client: Client, api: SimulatedApi, lines: Lines) -> None:
    """One warning names the difference and what to do; one line says that the clock is right again.

    The date of an error counts too: a wrong clock may be its cause.
    """
    for skew, words in ((-3723, "ahead of"), (3723, "behind")):
        insights, before = client(api.url), len(lines())
        fetch(insights)
        assert len(lines()) == before
        api.date_skew = skew
        api.faults.once(Fault("status", status=400))
        failure(insights)
        for _ in range(3):
            fetch(insights)
        (level, text), *others = lines()[before:]
        assert (level, others) == ("WARNING", [])
        assert re.fullmatch(
            rf"this machine's clock is (1:02:0\d|1:01:5\d) {words} JumpCloud's; set it \(NTP\), .*", text
        )
        api.date_skew = 0
        for _ in range(3):
            fetch(insights)
        assert lines()[before + 1 :] == [("INFO", "this machine's clock agrees with JumpCloud's again")]


def test_nothing_to_report(client: Client, api: SimulatedApi, serve: Serve, lines: Lines) -> None:
    """A difference of less than five minutes is not reported, and an unreadable date is ignored."""
    for skew in (-290, 0, 290):
        api.date_skew = skew
        fetch(client(api.url))
    for date in ("", "soon", "Mon, 45 Jan 2026 00:00:00 GMT", "9" * 5000, "0", "Mon", ",", "\x80"):
        fetch(client(serve(answer(headers={"Date": date})).url))
    assert lines() == []


def dated(seconds: float) -> str:
    """A Date header for `seconds` after MOMENT."""
    return format_datetime(MOMENT + timedelta(seconds=seconds), usegmt=True)


def test_once_an_hour(lines: Lines) -> None:
    """While the clock stays wrong, or is wrong at times, the warning is repeated once an hour."""
    now = [50.0]
    monitor = ClockSkewMonitor(clock=lambda: now[0])
    for at, skew in [(0, 900), (60, 900), (1000, 0), (1060, 900), (3599, 900), (3600, 900), (7199, 900)]:
        now[0] = 50.0 + at
        monitor.compare(dated(skew), MOMENT_NS, MOMENT_NS)
    assert [level for level, _ in lines()] == ["WARNING", "INFO", "WARNING"]


def test_slow_response(lines: Lines) -> None:
    """A slow response is not a wrong clock: it may have been dated at any time between request and arrival."""
    monitor = ClockSkewMonitor()
    sent_ns, received_ns = MOMENT_NS - 600 * 10**9, MOMENT_NS
    for skew in (-600 - 299, -600, -301, 0, 299):
        monitor.compare(dated(skew), sent_ns, received_ns)
    assert lines() == []
    monitor.compare(dated(301), sent_ns, received_ns)
    assert "0:05:01 behind" in lines()[0][1]
    ClockSkewMonitor().compare(dated(0), MOMENT_NS + 400 * 86_400 * 10**9, MOMENT_NS + 400 * 86_400 * 10**9)
    assert "400 days, 0:00:00 ahead of" in lines()[1][1]


def test_http_date() -> None:
    """Dates are read with and without a zone."""
    for text in (dated(0), "Mon, 23 Nov 2026 05:00:00 -0000", "Mon, 23 Nov 2026 07:00:00 +0200"):
        assert parse_http_date(text) == MOMENT
    assert parse_http_date(None) is None
