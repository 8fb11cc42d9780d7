"""Several organizations and a provider in one process: added, removed, and fair to each other."""

from __future__ import annotations

import time

from support.command import Command, wait_until

from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import rfc3339

NOW = time.time_ns() // 1_000_000
HOUR = 3_600_000


def _source(organization: str, *, per_minute: float = 10) -> EventSource:
    return EventSource(start_ms=NOW - 2 * HOUR, end_ms=NOW - 60_000, per_minute=per_minute, organization=organization)


def _count(source: EventSource) -> int:
    return source.count(0, NOW, now_ms=NOW)


def test_an_organization_is_added_removed_and_added_again(command: Command, receiver: SimulatedReceiver) -> None:
    """Each gets its history, and keeps its position while it is not in the configuration."""
    sources = {name: _source(name) for name in ("first", "second")}
    with SimulatedApi(sources) as api:

        def run(*organizations: str) -> None:
            settings = command.settings(api, receiver, jumpcloud__organizations=organizations)
            done = command("run", "--once", *settings)
            assert done.returncode == 0, done.stderr

        run("first")
        assert len(receiver.ids) == _count(sources["first"])
        run("first", "second")
        assert len(receiver.ids) == _count(sources["first"]) + _count(sources["second"])
        reached = command.positions()["organization first"]["watermark_ms"]
        run("second")
        assert command.positions()["organization first"]["watermark_ms"] == reached
        before = len(api.requests)
        run("first", "second")
        # Not later: JumpCloud's dates are whole seconds, and all of this may take less than one.
        assert command.positions()["organization first"]["watermark_ms"] >= reached
        assert "first" in {each.headers.get("x-org-id") for each in list(api.requests)[before:]}

    assert sum(receiver.ids.values()) == len(receiver.ids)


def test_a_provider_is_a_stream(command: Command, receiver: SimulatedReceiver) -> None:
    """The portal of a provider has its own events and position."""
    sources = {"first": _source("first"), "provider:msp": _source("provider")}
    with SimulatedApi(sources) as api:
        settings = command.settings(api, receiver, jumpcloud__organizations=["first"], jumpcloud__provider_id="msp")

        done = command("run", "--once", *settings)

        assert done.returncode == 0, done.stderr
    assert set(command.positions()) == {"organization first", "provider msp"}
    assert len(receiver.ids) == sum(_count(source) for source in sources.values())


def test_backfills_do_not_starve_a_stream_that_has_caught_up(command: Command, receiver: SimulatedReceiver) -> None:
    """While six organizations fetch their history at a low rate limit, another gets its new events soon."""
    sources = {f"backfill-{number}": _source(f"backfill-{number}", per_minute=100) for number in range(6)}
    live = EventSource(start_ms=NOW, organization="live", per_minute=0)
    with SimulatedApi({"live": live, **sources}) as api:
        common = {"jumpcloud__interval": "200ms", "jumpcloud__page_limit": 50}
        first = command("run", "--once", *command.settings(api, receiver, jumpcloud__organizations=["live"], **common))
        assert first.returncode == 0, first.stderr
        command.start(
            "run",
            *command.settings(
                api,
                receiver,
                jumpcloud__organizations=[*sources, "live"],
                jumpcloud__requests_per_second=10,
                **common,
            ),
        )
        assert receiver.wait_for(500, timeout=60), command.log.read_text()
        delays = []
        for number in range(4):
            now_ms = time.time_ns() // 1_000_000
            live.add({"id": f"live-{number}", "timestamp": rfc3339(now_ms)}, timestamp_ms=now_ms)
            wait_until(lambda number=number: f"live-{number}" in receiver.ids)  # type: ignore[misc]  # bound at once
            delays.append(time.time_ns() / 1e6 - now_ms)

        # Otherwise the backfills were already finished.
        assert len(receiver.ids) < sum(_count(source) for source in sources.values())
    assert max(delays) < 6000, delays
