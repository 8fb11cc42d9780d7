"""What a seed decides before a run: the settings, the events, and how long everything takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import msgspec
from simulation.jumpcloud import DAY, KEY, MINUTE, Event, Organization

from in_jumpcloud.config.schema import (
    Config,
    EcsSettings,
    ForwardSettings,
    GeoIPSettings,
    HttpSettings,
    JumpCloudSettings,
    ReconcileSettings,
    ServerSettings,
    StateSettings,
)
from in_jumpcloud.config.types import Duration, Secret, Size, Start

HOUR = 3_600_000
ORIGIN_MS = 1_788_000_000_000
"""The epoch milliseconds of the beginning of every run."""


@dataclass
class Plan:
    """One run. `seconds`: how long faults act; `calm`: how long all has to recover."""

    settings: Config
    organizations: list[Organization]
    seconds: float
    calm: float
    plan_ms: int
    start_ms: int
    poison: set[str]
    is_overloaded: bool
    """More polls are due than the rate limit allows."""
    counts: str
    """How the API counts for the whole run: `right`, `refused`, `zero` or `lower`."""


def draw(random: Random, folder: Path) -> Plan:
    """Draw a plan."""
    hours = 3 * 20 ** random.random()
    number = random.choice((1, 1, 2, 3))
    reach_hours = random.choice((36, 60, 96))
    start_hours = random.choice((0, 2, 20, 90))
    calm = 28 if reach_hours > 72 else 12
    interval = max(30.0, (hours + calm) * 3600 * number / 160)
    is_overloaded = random.random() < 0.1
    if is_overloaded:
        interval /= 4
    organizations = [Organization(f"org{each}") for each in range(number)]
    settings = Config(
        jumpcloud=JumpCloudSettings(
            url="https://simulated",
            api_key=Secret(KEY),
            organizations=tuple(each.name for each in organizations),
            start=Start(f"{start_hours}h") if start_hours else Start("now"),
            interval=Duration(interval),
            lag=Duration(random.choice((0, 0, 5, 300))),
            overlap=Duration(random.choice((60, 120, 600))),
            window=Duration(random.choice((4, 24)) * 3600),
            page_limit=1000 if is_overloaded else random.choice((1, 2, 3, 7, 50, 1000)),
            requests_per_second=0.8 * number / interval if is_overloaded else random.choice((0.2, 5, 50)),
            read_timeout=Duration(30),
        ),
        reconcile=ReconcileSettings(
            every=Duration(max(600, interval * (4 if is_overloaded else random.choice((1, 4))))),
            reach=Duration(reach_hours * 3600),
        ),
        ecs=EcsSettings(preserve_original_event=True, profile=random.choice(("elastic", "extended"))),
        geoip=GeoIPSettings(city=None),
        forward=ForwardSettings(
            servers=tuple(ServerSettings(host=f"receiver{each}") for each in range(random.choice((1, 1, 1, 2)))),
            balance=random.choice(("failover", "round_robin")),
            compress=random.choice(("none", "gzip")),
            ack_timeout=Duration(random.choice((5, 30, 60))),
            chunk_bytes=Size(random.choice((1500, 6000, 1_000_000))),
        ),
        state=StateSettings(path=folder / "state.db"),
        http=HttpSettings(listen=None, max_lag=Duration(max(900, 4 * interval))),
    )
    for organization in organizations:
        _add_events(organization, random, hours, start_hours, reach_hours)
    uids = [event.uid for each in organizations for event in each.events]
    plan = Plan(
        _with_pages_ahead(settings, Random(f"{interval} pages ahead")),  # of its own: the rest of each seed stays
        organizations,
        seconds=hours * 3600,
        calm=calm * 3600 * (2 if is_overloaded else 1),  # late events have every second turn only
        plan_ms=random.choice((90, 15, 7, 1)) * DAY,  # as JumpCloud sells them
        start_ms=ORIGIN_MS - start_hours * HOUR,
        is_overloaded=is_overloaded,
        counts=random.choice(("right",) * 9 + ("refused", "zero", "lower")),
        poison=set(random.sample(uids, min(len(uids), 1))),
    )
    if is_overloaded and plan.counts != "right":
        plan.calm *= 2  # whole spans are read again, in every second turn of a backlog
    return plan


def _with_pages_ahead(settings: Config, random: Random) -> Config:
    jumpcloud = msgspec.structs.replace(settings.jumpcloud, pages_ahead=random.choice((1, 2, 3, 8)))
    return msgspec.structs.replace(settings, jumpcloud=jumpcloud)


def vary(settings: Config, random: Random) -> Config:
    """Other settings that an operator may choose; some of the organizations may be gone for a while."""
    organizations = tuple(each for each in settings.jumpcloud.organizations if random.random() < 0.8)
    jumpcloud = msgspec.structs.replace(
        settings.jumpcloud,
        organizations=organizations or settings.jumpcloud.organizations,
        page_limit=random.choice((2, 5, 100)),
        window=Duration(random.choice((4, 24)) * 3600),
        overlap=Duration(random.choice((60, 120, 600))),
        lag=Duration(random.choice((0, 5, 300))),
    )
    forward = msgspec.structs.replace(settings.forward, chunk_bytes=Size(random.choice((2000, 100_000))))
    return msgspec.structs.replace(settings, jumpcloud=jumpcloud, forward=forward)


def _add_events(organization: Organization, random: Random, hours: float, start_hours: int, reach_hours: int) -> None:
    """Events of the whole run and of the time before it, in bursts and alone; some are late."""
    count = random.choice((5, 30, 120))
    end_ms = ORIGIN_MS + int(hours * HOUR)
    latest = (reach_hours - (26 if reach_hours > 72 else 3)) * HOUR
    late_share, ahead_share = random.choice((0, 0.1, 0.5)), random.choice((0, 0, 0.3))
    burst = 0
    for number in range(count):
        if not burst:
            at = random.randint(ORIGIN_MS - (start_hours + 3) * HOUR, end_ms)
            burst = random.choice((1, 1, 2, 12))
        burst -= 1
        at = min(end_ms, at + random.choice((0, 1, 300, 9000)))
        visible = at + random.choice((0, 0, 300, 20_000))
        if random.random() < late_share:
            visible = at + int(MINUTE * (latest / MINUTE) ** random.random())
        visible = max(at, min(visible, end_ms))
        counted = visible
        if random.random() < ahead_share:  # the counts know it before, or after, /events does
            counted = visible + random.choice((-4000, -MINUTE, -HOUR, -6 * HOUR, 4000, MINUTE, HOUR, 6 * HOUR))
            counted = max(at, min(counted, end_ms, at + latest))
        _add(organization, random, number, at, visible, counted)


def _add(organization: Organization, random: Random, number: int, at: int, visible: int, counted: int) -> None:
    uid = f"{organization.name}-{number}"
    event_id = uid
    if random.random() < 0.05:  # an id is used again now and then, for an event of another time
        events = organization.events
        near = [each.uid for each in events if 0 < abs(each.at - at) < MINUTE]
        taken = {json.loads(each.row)["id"] for each in events if each.at == at}
        event_id = random.choice(near) if near and taken.isdisjoint(near) else uid
    fields = {
        "id": event_id,
        "uid": uid,
        "timestamp": _rfc3339(at),
        "event_type": random.choice(("user_login", "sso_auth", "password_change")),
        "service": random.choice(("directory", "sso")),
        "organization": organization.name,
        "padding": "x" * random.choice((0, 0, 200, 3000)),
    }
    document = f"{random.getrandbits(64):016x}"
    organization.add(Event(uid, at, document, visible, counted, json.dumps(fields)))


def _rfc3339(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
