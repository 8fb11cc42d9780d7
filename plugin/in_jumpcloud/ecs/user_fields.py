"""The people of an event: `user`, `user.target`, `user.changes` and `related.user` of its record."""

from __future__ import annotations

from typing import Any

from in_jumpcloud.ecs.accessors import association_ends, copy_fields, distinct, first_object, get_str

PERSONS = frozenset({"user", "systemuser", "system_user", "admin", "administrator"})
"""Types of JumpCloud objects that are people, in lower case."""

_RESOURCE = (("id", "id"), ("name", "name"), ("recipient_email", "email"), ("username", "name"), ("email", "email"))
_END = (("object_id", "id"), ("name", "name"))
_ASSOCIATION = (("id", "id"), ("email", "email"))
_NEWER_ACTOR = (("jc_initiated_by_id", "id"), ("jc_initiated_by_email", "email"))
_UPDATES = frozenset({"user_update", "systemuser_update", "user_update_provision", "admin_update"})
_CHANGED = {"email": "email", "username": "name", "displayname": "full_name"}


def add_user_fields(
    body: dict[str, Any], data: dict[str, Any], resource: dict[str, Any], kind: str, *, login: bool
) -> None:
    """Add the people in an event's `data` to `body`. `kind` is the type of its `resource`, in lower case.

    The resource of a `login` is the person who logs in, unless the event names another one. The resource of all other
    events is their target.
    """
    person = copy_fields(resource, _RESOURCE, {}) if kind in PERSONS else {}
    if not person and not login and "association" in data:
        person = _associated_person(data)
    initiator = first_object(data.get("initiated_by"))
    actor: dict[str, Any] = body["source"].get("user", {}) if initiator and "source" in body else {}
    named = body.get("user", {})
    user = copy_fields(data, _NEWER_ACTOR, {}) | actor
    if login and _may_be_same(named | user, person):
        user, person = person | user, {}
    related = distinct(*user.values(), *named.values(), initiator.get("user_id"), *person.values())

    user |= named  # the name of the base mapping has precedence
    if actor and (roles := _roles(initiator)):
        user["roles"] = roles
    if person:
        user["target"] = person
    if "changes" in data and get_str(data, "event_type") in _UPDATES and (changes := _changes(data["changes"])):
        user["changes"] = changes
    if user:
        body["user"] = user
    if related:
        body["related"] = {"user": related}


def _associated_person(data: dict[str, Any]) -> dict[str, Any]:
    """The person that was connected or disconnected."""
    for end in association_ends(data):
        if get_str(end, "type").lower() in PERSONS:
            return copy_fields(end, _END, {})
    association = first_object(data["association"])
    return copy_fields(association, _ASSOCIATION, {}) if get_str(association, "type").lower() in PERSONS else {}


def _may_be_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether both can be one person, by the first of id, name and email that both have."""
    for key in ("id", "name", "email"):
        if key in one and key in other:
            return bool(one[key] == other[key])
    return True


def _roles(initiator: dict[str, Any]) -> list[str]:
    kind = get_str(initiator, "type")
    if initiator.get("administrator") is True and kind not in {"admin", "administrator"}:
        return [kind, "admin"] if kind else ["admin"]
    return [kind] if kind else []


def _changes(changes: Any) -> dict[str, str]:
    """The new values of the fields that identify a person."""
    new_values: dict[str, str] = {}
    for change in changes if type(changes) is list else [changes]:
        if type(change) is dict and (name := _CHANGED.get(get_str(change, "field").lower())) and get_str(change, "to"):
            new_values[name] = change["to"]
    return new_values
