"""Events of synthetic organizations, no two of them alike.

Each event is one of the simulator's, of the person who did it: with their own name, address, browser and devices. What
else it names has an id of its own.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from random import Random
from typing import Any, NamedTuple

import msgspec

from in_jumpcloud.simulator.events import EventSource, Item

SIZES = (100, 1000, 5000)
"""People of the organizations; a third of the events is of each."""

_OFFICE_SHARE = 0.3
_IPV4_NETWORKS = ("192.0.2.0", "198.51.100.0", "203.0.113.0", "89.160.20.0", "81.2.69.0")
_BROWSERS = (
    ("Chrome", "Mac", "Mac OS X", ("10.15.7", "14.2.1", "14.4")),
    ("Firefox", "Other", "Windows", ("10", "11")),
    ("Edge", "Other", "Windows", ("10", "11")),
    ("Mobile Safari", "iPhone", "iOS", ("16.7.2", "17.2.1", "17.4")),
    ("Chrome Mobile", "Pixel 8", "Android", ("13", "14")),
)


class Person(NamedTuple):
    """A person, with the objects that events have of them."""

    name: str
    user: dict[str, str]
    addresses: tuple[str, str]
    browser: dict[str, str]
    system: dict[str, str]
    phone: dict[str, str]


class Organization:
    """An organization: people with their devices, browsers and addresses."""

    def __init__(self, people: int) -> None:
        random = Random(people)
        self.id = _id(random)
        office = _address(random)
        self.people = [_person(random, number, office) for number in range(people)]


def events(count: int, start_ms: int, end_ms: int) -> Iterator[tuple[int, bytes]]:
    """`count` events of organizations of SIZES, in the order of time, in `[start_ms, end_ms)`: epoch ms, and JSON."""
    random, organizations = Random(count), [Organization(size) for size in SIZES]
    minutes = (end_ms - start_ms) / 60_000
    source = EventSource(seed=1, start_ms=start_ms, end_ms=end_ms, per_minute=(count + 1) / minutes)
    step_ms, number = 3_600_000, 0
    for step in range(start_ms, end_ms, step_ms):
        for item in source.between(step, step + step_ms, now_ms=end_ms):
            if number == count:
                return
            yield item.timestamp_ms, _of_person(item, random.choice(organizations), random)
            number += 1


def _of_person(item: Item, organization: Organization, random: Random) -> bytes:
    """The event as one of somebody in this organization."""
    event: dict[str, Any] = msgspec.json.decode(item.raw)
    actor, other = random.choice(organization.people), random.choice(organization.people)
    before = event.get("username") or "\0"
    event = _replaced(event, random, {before: actor.name})
    event["id"], event["organization"] = item.event_id, organization.id
    for name in ("useragent", "user_agent"):
        if name in event:
            event[name] = actor.browser
    address = actor.addresses[random.random() < _OFFICE_SHARE]
    for name in ("client_ip", "src_ip"):
        if name in event:
            event[name] = address
    if "username" in event:
        event["username"] = actor.name
    _update(event.get("initiated_by"), actor.user)
    _update(event.get("resource"), (actor if "auth_method" in event and "mfa" in event else other).user, kind="user")
    _update(event.get("system"), actor.system)
    if "auth_context" in event:
        _update(event["auth_context"].get("system"), actor.system)
        _update(event["auth_context"].get("jumpcloud_protect_device"), actor.phone)
    return msgspec.json.encode(event)


def _update(values: Any, own: dict[str, str], kind: str | None = None) -> None:
    """Give an object of an event the person's values of the names that it has."""
    if type(values) is dict and (kind is None or values.get("type") == kind):
        values.update({name: own[name] for name in values if name in own})


def _replaced(value: Any, random: Random, names: dict[str, str]) -> Any:
    """`value` with other ids, and other names in its texts."""
    if type(value) is dict:
        return {name: _id(random) if _is_id(each) else _replaced(each, random, names) for name, each in value.items()}
    if type(value) is list:
        return [_replaced(each, random, names) for each in value]
    if type(value) is str:
        for before, after in names.items():
            value = value.replace(before, after)
    return value


def _is_id(value: Any) -> bool:
    return type(value) is str and len(value) == 24 and value.isalnum() and value.islower()


def _person(random: Random, number: int, office: str) -> Person:
    name = f"{random.choice(('ada', 'bela', 'cleo', 'dara', 'edda', 'finn', 'gwen', 'hugo'))}.{number:04d}"
    browser, device, os, versions = random.choice(_BROWSERS)
    major, version = str(random.randrange(100, 130)), random.choice(versions)
    os_parts = [*version.split("."), "", ""]
    patch = str(random.randrange(1000, 7000))
    return Person(
        name=name,
        user={"id": _id(random), "username": name, "email": f"{name}@example.com"},
        addresses=(_address(random), office),
        browser={
            "device": device,
            "major": major,
            "minor": "0",
            "name": browser,
            "os": os,
            "os_full": f"{os} {version}",
            "os_major": os_parts[0],
            "os_minor": os_parts[1],
            "os_name": os,
            "os_patch": os_parts[2],
            "os_version": version,
            "patch": patch,
            "version": f"{major}.0.{patch}.{random.randrange(200)}",
        },
        system={"id": _id(random), "hostname": f"LAPTOP-{random.getrandbits(24):06X}", "displayName": f"{name} laptop"},
        phone={"id": _id(random), "ip": _address(random), "user_id": _id(random), "username": name},
    )


def _address(random: Random) -> str:
    """One of the networks of the demo databases, or a private one."""
    kind = random.random()
    if kind < 0.6:
        return str(IPv4Address(random.choice(_IPV4_NETWORKS)) + random.randrange(1, 255))
    if kind < 0.9:
        return str(IPv6Address("2001:db8::") + random.getrandbits(64))
    return str(IPv4Address("10.0.0.0") + random.randrange(2**24))


def _id(random: Random) -> str:
    return uuid.UUID(int=random.getrandbits(128)).hex[:24]
