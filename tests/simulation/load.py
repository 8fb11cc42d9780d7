"""`make simulation-load`: how many organizations one process polls in time, in simulated time.

For each number of organizations and each latency of the API: the time between polls at the default settings, whether
overload is said where that is longer than it should be, and how many events that appear late are found.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple

from requests.structures import CaseInsensitiveDict
from simulation.faults import NAMES, Faults
from simulation.jumpcloud import MINUTE, Event, JumpCloud, Organization
from simulation.plan import HOUR, ORIGIN_MS
from simulation.receiver import Delivery, Receiver
from simulation.runtime import SimRuntime
from simulation.scheduler import Group, Scheduler
from simulation.seams import SimNetwork
from simulation.world import quiet

from in_jumpcloud.app import App, open_app
from in_jumpcloud.config.schema import (
    Config,
    EcsSettings,
    ForwardSettings,
    GeoIPSettings,
    HttpSettings,
    JumpCloudSettings,
    ServerSettings,
    StateSettings,
)
from in_jumpcloud.config.types import Secret, Start
from in_jumpcloud.insights.http_exchange import HttpResponse
from in_jumpcloud.resources import Outside

ORGANIZATIONS = (1, 20, 100, 200, 500)
LATENCIES = (0.05, 0.3, 1.0)
MINUTES = 60
_MEASURED_MINUTES = 20
_LATE_MINUTES = 10
_SHM = Path("/dev/shm")  # noqa: S108 - memory, if there is such a file system


class Cell(NamedTuple):
    """One cell of the matrix. `interval` is the mean time between two polls of an organization, in seconds."""

    organizations: int
    latency: float
    interval: float
    overload: bool
    late: int
    found: int
    duplicates: int
    requests_per_day: float

    @property
    def holds(self) -> bool:
        """The interval is kept, or overload is said; every late event is found, once."""
        in_time = self.interval <= 30 * 1.25 + 1
        return (in_time or self.overload) and self.late == self.found and not self.duplicates

    def __str__(self) -> str:
        said = "overload is said" if self.overload else "interval kept" if self.holds else "NOT SAID"
        return (
            f"{self.organizations:5} organizations, {self.latency * 1000:5.0f} ms: polls every {self.interval:6.1f} s, "
            f"{said:16}; late events {self.found} of {self.late}; {self.requests_per_day:6.0f} requests per day each"
        )


class _Clock:
    """Clocks that are right."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def wall_ns(self) -> int:
        return ORIGIN_MS * 1_000_000 + int(self._scheduler.now * 1e9)

    def monotonic(self) -> float:
        return 1000 + self._scheduler.now


class _Exchange:
    """HTTP with one latency."""

    def __init__(self, scheduler: Scheduler, api: JumpCloud, latency: float) -> None:
        self._scheduler = scheduler
        self._api = api
        self._latency = latency
        self.polls: dict[str, list[float]] = defaultdict(list)
        self.sent: list[float] = []

    def __call__(self, url: str, body: bytes, headers: Any, auth: Any) -> HttpResponse:
        """Answer after the latency."""
        request = auth(SimpleNamespace(headers=dict(headers)))
        now = self._scheduler.now
        self.sent.append(now)
        if url.endswith("/events") and b"search_after" not in body:
            self.polls[request.headers["x-org-id"]].append(now)
        self._scheduler.wait(self._latency)
        answer = self._api.answer(url, body, request.headers, self._scheduler.now)
        return HttpResponse(answer.status, "", CaseInsensitiveDict(answer.headers), bytes(answer.body), request.headers)

    def close(self) -> None:
        """Nothing to close."""


def measure(organizations: int, latency: float) -> Cell:
    """Simulate MINUTES at the default settings."""
    with tempfile.TemporaryDirectory(prefix="simulation-", dir=_SHM if _SHM.is_dir() else None) as folder, quiet():
        return _measure(organizations, latency, Path(folder))


def _measure(count: int, latency: float, folder: Path) -> Cell:
    scheduler = Scheduler(Random(count))
    faults = Faults("load", MINUTES * 60, NAMES)
    organizations = [_organization(f"org{number}") for number in range(count)]
    api = JumpCloud(organizations, faults, origin_ms=ORIGIN_MS, plan_ms=90 * 24 * HOUR)
    receiver = Receiver("receiver", faults, lambda seconds, call: scheduler.at(scheduler.now + seconds, call))
    deliveries: list[Delivery] = receiver.deliveries
    group = Group()
    runtime = SimRuntime(scheduler, group, _Clock(scheduler), Random(1), lambda _: None)
    exchange = _Exchange(scheduler, api, latency)
    world = SimpleNamespace(scheduler=scheduler, receivers=[receiver], faults=faults, now=0.0, trace=lambda *_: None)
    process = SimpleNamespace(
        world=world, runtime=runtime, point=lambda _: None, sleep=scheduler.wait, unsettled={}, group=group
    )
    opened: list[App] = []

    def run() -> None:
        outside = Outside(exchange=exchange, network=SimNetwork(process))  # type: ignore[arg-type]
        with ExitStack() as stack:
            plugin = stack.enter_context(open_app(_settings(count, folder), runtime=runtime, outside=outside))
            opened.append(plugin)
            plugin.run()

    scheduler.start(run, "main", group)
    scheduler.run(MINUTES * 60)
    (plugin,) = opened
    load = plugin.load()
    plugin.end()
    scheduler.run(MINUTES * 60 + 60)
    since = (MINUTES - _MEASURED_MINUTES) * 60
    polls = sum(sum(moment >= since for moment in moments) for moments in exchange.polls.values())
    sent = sum(moment >= since for moment in exchange.sent)
    arrived = [uid for delivery in deliveries for uid in delivery.uids]
    return Cell(
        count,
        latency,
        interval=_MEASURED_MINUTES * 60 * count / max(1, polls),
        overload=load.is_too_high,
        late=count,
        found=len({uid for uid in arrived if uid.endswith("-late")}),
        duplicates=len(arrived) - len(set(arrived)),
        requests_per_day=sent * 1440 / _MEASURED_MINUTES / count,
    )


def _organization(name: str) -> Organization:
    """A few events before the start, and one that appears while the process runs."""
    organization = Organization(name)
    for number in range(3):
        at = ORIGIN_MS - HOUR + number * 10 * MINUTE
        organization.add(
            Event(f"{name}-{number}", at, f"{number:016x}", at, at, event_row(f"{name}-{number}", name, at))
        )
    at, visible = ORIGIN_MS - 30 * MINUTE, ORIGIN_MS + _LATE_MINUTES * MINUTE
    late = f"{name}-late"
    organization.add(Event(late, at, f"{9:016x}", visible, visible, event_row(late, name, at)))
    return organization


def event_row(uid: str, organization: str, at: int) -> str:
    """The JSON of an event."""
    timestamp = datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"id": uid, "uid": uid, "timestamp": timestamp, "organization": organization, "service": "sso"})


def _settings(count: int, folder: Path) -> Config:
    return Config(
        jumpcloud=JumpCloudSettings(
            url="https://simulated",
            api_key=Secret("jca_simulated_key_0123456789abcdef012345"),
            organizations=tuple(f"org{number}" for number in range(count)),
            start=Start("2h"),
        ),
        ecs=EcsSettings(preserve_original_event=True),  # the receiver reads the uid from it
        geoip=GeoIPSettings(city=None),
        forward=ForwardSettings(servers=(ServerSettings(host="receiver"),)),
        state=StateSettings(path=folder / "state.db"),
        http=HttpSettings(listen=None),
    )


def main() -> int:
    """Print the matrix."""
    holds = True
    for count in ORGANIZATIONS:
        for latency in LATENCIES:
            cell = measure(count, latency)
            holds &= cell.holds
            sys.stdout.write(f"{cell}\n")
            sys.stdout.flush()
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
