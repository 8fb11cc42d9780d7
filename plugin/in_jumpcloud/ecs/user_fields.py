r"""The people of an event: `user`, `user.target`, `user.changes` and `related.user` of its record.

An event may name three: the actor (`initiated_by`, `jc_initiated_by_*`), the account that it is about (`username`), and
the person that it affects, the target (a `resource`, an end of an `association`). None of them gets a value of another:

    actor  username  target | user           user.target
    -      -         -      | -              -
    -      -         yes    | -              the target
    -      yes       -      | the username   -
    -      yes       yes    | the username   the target
    yes    -         -      | the actor      -
    yes    -         yes    | the actor      the target
    yes    yes       -      | the username   -
    yes    yes       yes    | the username   the target

Two of them may be one person:

- `username` is the actor if it is the actor's name or address. In a login to the directory it may also be what is
  before the @ of the address of an actor without a name; on a device anyone may have an account of that name. An
  address, or what is before the @, is not the actor if it is the name of a target with another id and address. If it is
  the actor, `user` has the actor's values too. Case and a domain as in `CORP\ann` do not matter.
- The target of a login is the person who logs in, unless id, name or address, the first that both have, differ. Then
  `user` has the target's values too, and there is no `user.target`.

`source.user` is `initiated_by`, `related.user` has the ids, names and addresses of all three, and the new ones of a
person who is renamed. The actor in a list is the first object that names a person. An administrator without a name has
the address as `user.name`. The domain of a name is `user.domain`.
"""

from __future__ import annotations

from typing import Any

from in_jumpcloud.ecs.accessors import Names, copy_fields, first_naming, get_str
from in_jumpcloud.ecs.objects import PERSON, Named

ACTOR: Names = (("id", "id"), ("email", "email"), ("username", "name"))
"""Names of a person in `initiated_by`, and in `source.user`."""

_RESOURCE = (("id", "id"), ("name", "name"), ("recipient_email", "email"), ("username", "name"), ("email", "email"))
_ACCOUNT = (("user_id", "id"), ("account_identifier", "name"), ("account_email", "email"))
_NEWER_ACTOR = (("jc_initiated_by_id", "id"), ("jc_initiated_by_email", "email"))
_UPDATES = frozenset({"user_update", "systemuser_update", "user_update_provision", "admin_update"})
_CHANGED = {"email": "email", "username": "name", "displayname": "full_name"}
_ADMINISTRATORS = frozenset({"admin", "administrator"})
_DIRECTORY = frozenset({"directory", "ldap", "radius", "sso"})  # services where people log in to the directory
_LOCAL = frozenset({"", "."})  # domains that are the device itself

Person = dict[str, Any]
"""Any of `id`, `name`, `email`."""


def add_user_fields(body: dict[str, Any], data: dict[str, Any], objects: list[Named], *, login: bool) -> None:
    """Add the people in an event's `data` to `body`. `objects` are those that the event names, its `resource` first."""
    initiator = first_naming(data.get("initiated_by"), ACTOR)
    actor: Person = body["source"].get("user", {}) if initiator and "source" in body else {}
    roles = _roles(initiator) if actor else []
    related: list[Any] = []
    if "jc_initiated_by_id" in data or "jc_initiated_by_email" in data:
        newer = copy_fields(data, _NEWER_ACTOR, {})
        related += newer.values()
        actor = newer | actor if _may_be_same(newer, actor) else actor
    target, target_is_admin = _target(objects, related)
    is_actor, is_admin = True, False
    if "user" in body:
        account: Person = body["user"]
        shared = bool(target) and _shares_identity(target, actor)
        known, other = (target | actor, {}) if shared else (actor, target)
        to_directory = login and get_str(data, "service") in _DIRECTORY
        is_actor = bool(known) and _is_actor(account, known, other, to_directory=to_directory)
        user = actor | account if is_actor else account.copy()
        related += actor.values()
    else:
        user = actor.copy()
    if login and target and _may_be_same(user, target) and (is_actor or not _shares_identity(target, actor)):
        is_admin = target_is_admin and is_actor
        user, target = target | user, {}
    if is_admin or (is_actor and not _ADMINISTRATORS.isdisjoint(roles)):
        _add_login_name(user)
    if target and target_is_admin:
        _add_login_name(target)
    changes: dict[str, str] = {}
    if "changes" in data and get_str(data, "event_type") in _UPDATES:
        changes = _changes(data["changes"])
        related += changes.values()
    if "user_id" in initiator:
        related.append(initiator["user_id"])
    _add_related_users(body, [*user.values(), *target.values(), *related])

    if is_actor and roles:
        user["roles"] = roles
    if target:
        _add_domain(target)
        user["target"] = target
    if changes:
        user["changes"] = changes
    if user:
        _add_domain(user)
        body["user"] = user


def _add_related_users(body: dict[str, Any], values: list[Any]) -> None:
    """Add the texts among `values`, and those with a domain also without it."""
    related = body.get("related", {})
    texts = list(related.get("user", ()))
    for value in values:
        if type(value) is str and value not in texts:
            texts.append(value)
            if "\\" in value and (name := value.rpartition("\\")[2]) and name not in texts:
                texts.append(name)
    if texts:
        body["related"] = {**related, "user": texts}


def _target(objects: list[Named], others: list[Any]) -> tuple[Person, bool]:
    """The first person among `objects`, and whether an administrator. What names other people is added to `others`."""
    target: Person = {}
    is_admin = False
    for kind, places, values in objects:
        if "account_email" in values or "account_id" in values:
            person = copy_fields(values, _ACCOUNT, {})
            others.append(values.get("account_id"))
        elif PERSON in places:
            person = copy_fields(values, _RESOURCE, {})
        else:
            continue
        if target:
            others += person.values()
        else:
            target, is_admin = person, kind in _ADMINISTRATORS
    return target, is_admin


def _is_actor(account: Person, actor: Person, other: Person, *, to_directory: bool) -> bool:
    """Whether the account's name is that of the actor. `other` is a target that is not the actor, or empty."""
    name = _plain(account["name"])
    if account["name"] == actor.get("name") or name == _plain(actor.get("name")):
        return True
    address = _plain(get_str(actor, "email"))
    if not address or name == _plain(other.get("name")):
        return False
    return bool(name == address or (to_directory and "name" not in actor and name == address.partition("@")[0]))


def _shares_identity(one: Person, other: Person) -> bool:
    return ("id" in one and one["id"] == other.get("id")) or _same_address(one, other) is True


def _same_address(one: Person, other: Person) -> bool | None:
    """Whether both have the same address; None if one has none."""
    addresses = [_plain(person.get("email", _address(person))) for person in (one, other)]
    return None if None in addresses else bool(addresses[0] == addresses[1])


def _plain(name: Any) -> Any:
    return name.rpartition("\\")[2].casefold() if type(name) is str else name


def _may_be_same(one: Person, other: Person) -> bool:
    """Whether both can be one person, by the first of id, name and address that both have."""
    if "id" in one and "id" in other:
        return bool(one["id"] == other["id"])
    if "name" in one and "name" in other and _plain(one["name"]) == _plain(other["name"]):
        return True
    if (same := _same_address(one, other)) is not None:
        return same
    return not ("name" in one and "name" in other)


def _address(person: Person) -> str | None:
    """The name of a person, if it is an e-mail address."""
    name = get_str(person, "name")
    return name if "@" in name else None


def _add_login_name(person: Person) -> None:
    """Give an administrator without a name the e-mail address, which they log in with."""
    if "name" not in person and "email" in person:
        person["name"] = person["email"]


def _add_domain(person: Person) -> None:
    """Add `domain` to a person whose name contains one."""
    name = person.get("name")
    if type(name) is str and "\\" in name and (domain := name.rpartition("\\")[0]) not in _LOCAL:
        person["domain"] = domain


def _roles(initiator: dict[str, Any]) -> list[str]:
    kind = get_str(initiator, "type")
    roles = [kind] if kind else []
    if "administrator" in initiator and initiator["administrator"] is True and kind not in _ADMINISTRATORS:
        roles.append("admin")
    return roles


def _changes(changes: Any) -> dict[str, str]:
    """The new values of the fields that identify a person."""
    new_values: dict[str, str] = {}
    for change in changes if type(changes) is list else [changes]:
        if type(change) is dict and (name := _CHANGED.get(get_str(change, "field").lower())) and get_str(change, "to"):
            new_values[name] = change["to"]
    return new_values
