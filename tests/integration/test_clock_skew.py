"""A clock that is wrong: told once, with the difference, and once when it is right again."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
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


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged."""
    with caplog.at_level(logging.INFO, "in_jumpcloud"):
        yield caplog


def lines(said: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Each line's level and text."""
    return [(record.levelname, record.getMessage()) for record in said.records if record.name == LOGGER]


@pytest.mark.parametrize(("skew", "words"), [(-3723, "ahead of"), (3723, "behind")])
def test_wrong_clock_is_told(
    client: Client, api: SimulatedApi, said: pytest.LogCaptureFixture, skew: float, words: str
) -> None:
    """One warning names the difference and what to do; when the clock is right, one line says so."""
    one = client(api.url)
    fetch(one)
    assert lines(said) == []
    api.date_skew = skew
    for _ in range(3):
        fetch(one)
    (level, text), *others = lines(said)
    assert (level, others) == ("WARNING", [])
    told = re.fullmatch(rf"this machine's clock is (1:02:0\d|1:01:5\d) {words} JumpCloud's: set it \(NTP\), .*", text)
    assert told, text
    api.date_skew = 0
    for _ in range(3):
        fetch(one)
    assert lines(said)[1:] == [("INFO", "this machine's clock agrees with JumpCloud's again")]


def test_also_of_errors(client: Client, api: SimulatedApi, said: pytest.LogCaptureFixture) -> None:
    """An answer that is an error tells the time too: a wrong clock may be its very cause."""
    api.date_skew = 900
    api.faults.once(Fault("status", status=400))
    failure(client(api.url))
    assert [level for level, _ in lines(said)] == ["WARNING"]


@pytest.mark.parametrize("skew", [-290, 0, 290])
def test_small_differences_are_none(
    client: Client, api: SimulatedApi, said: pytest.LogCaptureFixture, skew: float
) -> None:
    """Less than five minutes is nobody's business."""
    api.date_skew = skew
    fetch(client(api.url))
    assert lines(said) == []


@pytest.mark.parametrize("date", ["", "soon", "Mon, 45 Jan 2026 00:00:00 GMT", "9" * 5000, "0", "Mon", ",", "\x80"])
def test_dates_that_are_none(client: Client, serve: Serve, said: pytest.LogCaptureFixture, date: str) -> None:
    """A header that is no date is no reason to say anything, or to fail."""
    fetch(client(serve(answer(headers={"Date": date})).url))
    assert lines(said) == []


def dated(seconds: float) -> str:
    """A header so many seconds from MOMENT."""
    return format_datetime(MOMENT + timedelta(seconds=seconds), usegmt=True)


def test_once_an_hour(said: pytest.LogCaptureFixture) -> None:
    """While it stays wrong, or comes and goes, the warning is repeated after an hour and not before."""
    now = [50.0]
    watch = ClockSkewMonitor(clock=lambda: now[0])
    for at, off in [(0, 900), (60, 900), (1000, 0), (1060, 900), (3599, 900), (3600, 900), (7199, 900)]:
        now[0] = 50.0 + at
        watch.compare(dated(off), MOMENT_NS, MOMENT_NS)
    assert [level for level, _ in lines(said)] == ["WARNING", "INFO", "WARNING"]


def test_a_slow_answer_is_not_a_wrong_clock(said: pytest.LogCaptureFixture) -> None:
    """An answer may have been dated at any time between the request and its arrival."""
    watch = ClockSkewMonitor()
    sent_ns, received_ns = MOMENT_NS - 600 * 10**9, MOMENT_NS
    for off in (-600 - 299, -600, -301, 0, 299):
        watch.compare(dated(off), sent_ns, received_ns)
    assert lines(said) == []
    watch.compare(dated(301), sent_ns, received_ns)
    assert "0:05:01 behind" in lines(said)[0][1]


def test_days(said: pytest.LogCaptureFixture) -> None:
    """A clock that is off by years is told in days."""
    ClockSkewMonitor().compare(dated(0), MOMENT_NS + 400 * 86_400 * 10**9, MOMENT_NS + 400 * 86_400 * 10**9)
    assert "400 days, 0:00:00 ahead of" in lines(said)[0][1]


def test_date_of_a_header() -> None:
    """Dates are read with and without a zone; what none is, is None."""
    assert parse_http_date(dated(0)) == MOMENT
    assert parse_http_date("Mon, 23 Nov 2026 05:00:00 -0000") == MOMENT
    assert parse_http_date("Mon, 23 Nov 2026 07:00:00 +0200") == MOMENT
    assert parse_http_date(None) is None
