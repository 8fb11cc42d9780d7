"""No person of an event gets a value of another: every combination of actor, username and target."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from in_jumpcloud.config.schema import EcsSettings
from in_jumpcloud.ecs import user_fields
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.insights.event import parse_event

ACTOR = {"id": "actor-id", "name": "actor", "email": "actor@example.com"}
TARGET = {"id": "target-id", "name": "target", "email": "target@example.com"}
USERNAME = {"name": "username"}
PEOPLE = {"-": None, "the actor": ACTOR, "the target": TARGET, "the username": USERNAME}
# Where JumpCloud names an actor, and a target.
ACTORS: list[dict[str, Any]] = [
    {"initiated_by": {"type": "user", "id": "actor-id", "username": "actor", "email": "actor@example.com"}},
    {
        "initiated_by": [
            {"field": "x"},
            {"type": "user", "id": "actor-id", "username": "actor", "email": ACTOR["email"]},
        ]
    },
    {
        "initiated_by": {"type": "user", "id": "actor-id", "username": "actor"},
        "jc_initiated_by_email": "actor@example.com",
    },
]
TARGETS: list[dict[str, Any]] = [
    {"resource": {"type": kind, "id": "target-id", "username": "target", "email": "target@example.com"}}
    for kind in ("user", "systemuser", "admin")
]
CHANGES = ("user_update", "user_lockout", "admin_update", "an event type of tomorrow")
LOGINS = ("login_attempt", "user_login_attempt", "radius_auth_attempt", "ldap_bind", "sso_auth")


def rows() -> dict[tuple[bool, bool, bool], tuple[str, str]]:
    """The table in the module's docstring: `user` and `user.target` by who is named."""
    found = re.findall(r"^    (-|yes) +(-|yes) +(-|yes) +\| (.+?)  +(.+)$", user_fields.__doc__ or "", re.MULTILINE)
    return {(one == "yes", two == "yes", three == "yes"): (user, target) for one, two, three, user, target in found}


def map_event(event: dict[str, Any]) -> dict[str, Any]:
    """The body of the record of an event."""
    mapper = Mapper(EcsSettings(), GeoIPLookup(None, None), agent_id="a", ephemeral_id="b")
    return mapper.map(parse_event(json.dumps(event).encode()), 0).body


def person(fields: dict[str, Any]) -> dict[str, Any]:
    """What identifies a person."""
    return {name: value for name, value in fields.items() if name in {"id", "name", "email"}}


def test_the_table_has_every_combination() -> None:
    """Each of the three is named or not."""
    assert set(rows()) == set(itertools.product((False, True), repeat=3))
    assert {name for row in rows().values() for name in row} == set(PEOPLE)


@pytest.mark.parametrize("named", sorted(rows()), ids=lambda named: "".join("-y"[each] for each in named))
def test_every_combination(named: tuple[bool, bool, bool]) -> None:
    """`user` and `user.target` are who the table says, with values of no one else, wherever JumpCloud names them."""
    has_actor, has_username, has_target = named
    expected = [PEOPLE[name] for name in rows()[named]]
    everyone = [
        value
        for who, there in zip((ACTOR, USERNAME, TARGET), named, strict=True)
        for value in (who.values() if there else ())
    ]
    checked = 0
    for action, actor, target in itertools.product(
        CHANGES, ACTORS if has_actor else [{}], TARGETS if has_target else [{}]
    ):
        event = {"event_type": action, **actor, **target, **({"username": "username"} if has_username else {})}
        body = map_event(event)
        user = body.get("user", {})
        assert [person(user) or None, user.get("target")] == expected, event
        assert set(body.get("related", {}).get("user", [])) == set(everyone), event
        source = body.get("source", {}).get("user", {})
        assert source == {name: value for name, value in ACTOR.items() if name in source}, event
        assert bool(source) is has_actor, event
        assert ("roles" in user) is (expected[0] is ACTOR), event
        checked += 1
    assert checked >= len(CHANGES)


@pytest.mark.parametrize("action", LOGINS)
def test_logins(action: str) -> None:
    """A login has the values of two only if they are one person."""
    target, actor = TARGETS[0], ACTORS[0]
    assert map_event({"event_type": action, **target})["user"] == TARGET

    different = map_event({"event_type": action, **actor, **target, "username": "username"})["user"]
    assert different == {"name": "username", "target": TARGET}

    by_the_target = map_event({"event_type": action, **actor, **target, "username": "TARGET"})["user"]
    assert by_the_target == {**TARGET, "name": "TARGET"}

    by_the_actor = map_event({"event_type": action, **actor, **target, "username": r"CORP\actor"})["user"]
    assert by_the_actor == {**ACTOR, "name": r"CORP\actor", "domain": "CORP", "roles": ["user"], "target": TARGET}


ANN = {"id": "a1", "type": "user", "username": "ann.lee", "email": "ann.lee@c.ex"}
BEN = {"id": "a1", "type": "admin", "email": "ben@msp.example"}  # without a name
OTHER_BEN = {"type": "user", "id": "u1", "username": "ben", "email": "ben@corp.example"}


@pytest.mark.parametrize("resource", [None, {"type": "user", "id": "a1", "username": "ann.lee"}], ids=["-", "target"])
@pytest.mark.parametrize("name", ["ann.lee@c.ex", r"CORP\Ann.Lee@c.ex"])
def test_username_is_the_address_of_an_actor_with_a_name(name: str, resource: dict[str, Any] | None) -> None:
    """Who logs in with the own address is one person; what is before the @ does not name one who has a name."""
    event = {"service": "radius", "event_type": "radius_auth_attempt", "username": name, "initiated_by": ANN}
    user = map_event({**event, **({"resource": resource} if resource else {})})["user"]
    assert (person(user), user["roles"], "target" in user) == (
        {"id": "a1", "name": name, "email": "ann.lee@c.ex"},
        ["user"],
        False,
    )
    named_otherwise = {**event, "username": "ann.lee", "initiated_by": {**ANN, "username": "alee"}}
    assert map_event(named_otherwise)["user"] == {"name": "ann.lee"}


@pytest.mark.parametrize(
    ("service", "action", "same"),
    [
        ("directory", "user_login_attempt", True),
        ("sso", "sso_auth", True),
        ("radius", "radius_auth_attempt", True),
        ("ldap", "ldap_bind", True),
        ("systems", "login_attempt", False),
        ("systems", "user_login", False),
        ("systems", "user_login_attempt", False),
        ("directory", "user_unlocked", False),
        ("tomorrow", "login_attempt", False),
    ],
)
def test_username_is_before_the_at_of_an_actor_without_a_name(service: str, action: str, same: bool) -> None:
    """That is the actor in a login to the directory only, and never where the event says whose username it is."""
    event = {"service": service, "event_type": action, "username": "ben", "initiated_by": BEN}
    alone = {"id": "a1", "name": "ben", "email": "ben@msp.example", "roles": ["admin"]} if same else {"name": "ben"}
    assert map_event(event)["user"] == alone

    body = map_event({**event, "resource": OTHER_BEN})
    target = {"id": "u1", "name": "ben", "email": "ben@corp.example"}
    is_login = action != "user_unlocked"
    assert body["user"] == (target if is_login else {"name": "ben", "target": target})
    assert body["source"]["user"] == {"id": "a1", "email": "ben@msp.example"}


def test_username_is_the_whole_address_and_the_name_of_another() -> None:
    """An address that the event gives to another as the user name is not the actor."""
    named = {"type": "user", "id": "u1", "username": "ben@msp.example", "email": "ben@corp.example"}
    event = {"event_type": "user_unlocked", "username": "ben@msp.example", "initiated_by": BEN, "resource": named}
    assert person(map_event(event)["user"]) == {"name": "ben@msp.example"}
    same = map_event({**event, "resource": {"type": "admin", "id": "a1", "email": "BEN@msp.example"}})["user"]
    assert person(same) == {"id": "a1", "name": "ben@msp.example", "email": "ben@msp.example"}
