"""Profile `extended`: the fields that it adds to a record of the base mapping. Without I/O.

Few values of the base mapping change: conf/from-elastic.md lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from in_jumpcloud.ecs import event_type_guess, event_types, objects
from in_jumpcloud.ecs.accessors import first_object, get_str
from in_jumpcloud.ecs.entity_fields import add_entity_fields
from in_jumpcloud.ecs.message_fields import add_message_fields
from in_jumpcloud.ecs.user_fields import add_user_fields

CONSTANT = {"observer": {"vendor": "JumpCloud", "product": "Directory Insights"}}
"""Fields of every record. Shared: do not change them."""

CONSTANT_OF_EVENT = {"kind": "event", "provider": "jumpcloud"}
"""Fields of `event` in every record."""

_ALERTS = frozenset({"alerts", "alert"})
"""The service of alerts and their rules: both of its names."""


class EventTypeInfo(NamedTuple):
    """A row of the table of event types, as a record holds it. The lists are shared: do not change them.

    `guessed`: the table has no such row.
    """

    categories: list[str]
    types: list[str]
    subject: str
    is_login: bool
    guessed: bool = False


@lru_cache(maxsize=1024)
def event_type_info(service: str | None, event_type: str) -> EventTypeInfo | None:
    """The row of an event type; None if the table has none."""
    row = event_types.lookup(service, event_type)
    return _info(row.categories, row.types, row.subject) if row else None


@lru_cache(maxsize=1024)
def guessed_info(event_type: str, resource_type: str) -> EventTypeInfo | None:
    """What the words of an event type without a row, and of the type of its `resource`, say; None if nothing."""
    guess = event_type_guess.guess(event_type, resource_type)
    return _info(guess.categories, guess.types, guess.subject)._replace(guessed=True) if guess else None


def _info(categories: tuple[str, ...], types: tuple[str, ...], subject: str) -> EventTypeInfo:
    is_login = "authentication" in categories and "start" in types
    return EventTypeInfo(list(categories), list(types), subject, is_login)


def extend(body: dict[str, Any], data: dict[str, Any], info: EventTypeInfo | None) -> None:
    """Add the fields of this profile to `body`, the record of the base mapping.

    `data` is the event with its declared types (see coercion); `info` describes its event type.
    """
    event_fields, service = body["event"], get_str(data, "service")
    if data.get("event_type") == "alert_created":
        event_fields["kind"] = "alert"
    if info is not None:
        if info.categories:
            event_fields["category"] = info.categories
        if info.types:
            event_fields["type"] = info.types
    named = [objects.resource(data, info.subject if info else "")]
    if "association" in data:
        named += objects.associated(data)
        if info is not None and info.subject == "association":
            _set_type_of_association(event_fields, data, named)
    if is_alert := service in _ALERTS:
        named.append(objects.alert_source(named[0][2]))
    add_message_fields(body, data, is_alert=is_alert)
    add_user_fields(body, data, named, login=info is not None and info.is_login)
    add_entity_fields(body, data, named, service, is_alert=is_alert)
    if type(path := data.get("process_name")) is str and (path[:1] == "/" or path[1:3] == ":\\"):
        body["process"]["executable"] = path


def name_organization(body: dict[str, Any], names: Mapping[str, str]) -> None:
    """Add the name of the organization, if `names` has it by its ID and the event does not say it itself."""
    organization = body.get("organization", {})
    if "name" not in organization and (name := names.get(get_str(organization, "id"))):
        body["organization"] = {**organization, "name": name}


def _set_type_of_association(event_fields: dict[str, Any], data: dict[str, Any], named: list[objects.Named]) -> None:
    """Set category and type by what is connected: a group, else a person, else parts of the configuration."""
    places = {place for _, its_places, _ in named for place in its_places}
    sudo = first_object(first_object(first_object(data["association"]).get("attributes")).get("sudo"))
    admin = ["admin"] if sudo.get("enabled") is True else []
    if objects.GROUP in places:
        event_fields["type"] = ["group", *admin, "change"]
    elif objects.PERSON in places:
        event_fields["type"] = ["user", *admin, "change"]
    elif places:
        event_fields["category"], event_fields["type"] = ["configuration"], ["change"]
