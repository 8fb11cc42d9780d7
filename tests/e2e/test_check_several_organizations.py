"""`in-jumpcloud check` finds out whether one request can ask for several organizations. It is information only."""

from __future__ import annotations

from typing import Literal

import pytest
from support.checks import Report
from support.command import Command

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import HOUR_MS, now_ms, whole_minute

SAYS = "ok       organizations  several organizations in one request: "


def source(organization: str, per_minute: float = 1) -> EventSource:
    """Events of an hour, of which none is new."""
    start_ms = whole_minute(now_ms() - 3 * HOUR_MS)
    return EventSource(start_ms=start_ms, end_ms=start_ms + HOUR_MS, per_minute=per_minute, organization=organization)


def report(command: Command, api: SimulatedApi, receiver: SimulatedReceiver, *names: str) -> Report:
    """Of a check of these organizations."""
    return Report(command("check", *command.settings(api, receiver, jumpcloud__organizations=names)))


def line(found: Report) -> str:
    """What it says; the check passes in any case."""
    assert (found.code, found.failures) == (0, [])
    (text,) = (each for each in found.lines if each.startswith(SAYS))
    return text.removeprefix(SAYS)


@pytest.mark.parametrize(
    ("several", "says"),
    [
        ("together", "possible: 60 and 120 events alone, 180 together, in 24 h"),
        ("first", "not possible: 60 and 120 events alone, 60 together, in 24 h"),
        ("refused", "not possible: JumpCloud answered 400: x-org-id: only one organization at a time"),
    ],
)
def test_what_jumpcloud_does(
    command: Command, receiver: SimulatedReceiver, several: Literal["together", "first", "refused"], says: str
) -> None:
    """Each of two that have events is counted alone, and both together: the header is sent once for each of them."""
    sources = {
        "empty": source("empty", 0),
        "one": source("one"),
        "three": source("three", 2),
        "fourth": source("fourth"),
    }
    with SimulatedApi(sources) as api:
        api.several = several
        assert line(report(command, api, receiver, *sources)).startswith(says)
        together = [each for each in api.requests if len(each.organizations) > 1]
    assert [(each.path.rpartition("/")[2], each.organizations) for each in together] == [("count", ("one", "three"))]


def test_it_cannot_always_be_tested(command: Command, receiver: SimulatedReceiver) -> None:
    """With one organization there is nothing to say; without events, or counts, it says why. It never fails."""
    sources = {"one": source("one"), "empty": source("empty", 0)}
    with SimulatedApi(sources) as api:
        alone = report(command, api, receiver, "one")
        assert (alone.code, "several" in alone.text) == (0, False)
        assert line(report(command, api, receiver, *sources)) == (
            "not tested: 1 of 2 had events in the 24 h until 15 minutes ago, two are needed"
        )
        api.faults.always(Fault("status", status=503, path="/insights/directory/v1/events/count"))
        assert line(report(command, api, receiver, *sources)).startswith("not tested: JumpCloud answered 503")
