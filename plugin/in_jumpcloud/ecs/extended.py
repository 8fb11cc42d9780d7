"""Profile `extended`: what it adds to a finished record of the base mapping. Pure; of plain values.

It only adds: what the base mapping says stays, but for one thing. A challenge for a second factor within a single
sign-on comes as a failure, and is none.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from in_jumpcloud.ecs import event_types
from in_jumpcloud.ecs.accessors import first_object, get_str
from in_jumpcloud.ecs.entity_fields import ALERTS, add_entity_fields
from in_jumpcloud.ecs.user_fields import add_user_fields

CONSTANT = {"observer": {"vendor": "JumpCloud", "product": "Directory Insights"}}
"""Of every record; shared, not to be changed."""

CONSTANT_OF_EVENT = {"kind": "event", "provider": "jumpcloud"}
"""Of `event` of every record."""

# The numbers that Elastic's detection rules have for these words.
_SEVERITIES = {"info": 0, "informational": 0, "low": 21, "medium": 47, "high": 73, "critical": 99}

# Of a device's answers, NotNow and Idle are neither.
_DONE = frozenset({"acknowledged", "success", "successful", "succeeded", "ok", "completed"})
_FAILED = frozenset({"error", "commandformaterror", "failed", "failure", "fail", "unsuccessful"})

_CHALLENGE = ["info"]  # in the place of info and start: it starts nothing


class KnownType(NamedTuple):
    """What the catalogue says of an event type, as a record holds it. The lists are shared, not to be changed."""

    categories: list[str]
    types: list[str]
    subject: str | None
    login: bool


@lru_cache(maxsize=1024)
def known_type(service: str | None, event_type: str) -> KnownType | None:
    """An event type's entry in the catalogue; None: it has none."""
    found = event_types.lookup(service, event_type)
    if found is None:
        return None
    login = "authentication" in found.categories and "start" in found.types
    return KnownType(list(found.categories), list(found.types), found.subject, login)


def extend(body: dict[str, Any], data: dict[str, Any], entry: KnownType | None) -> None:
    """Add to `body`, the record by the base mapping, all else that an event's `data` tells.

    `data` is clean and of its declared types; `entry` is what the catalogue says of the event's type.
    """
    about = body["event"]
    if data.get("event_type") == "alert_created":
        about["kind"] = "alert"
    if entry is not None:
        if entry.categories:
            about["category"] = entry.categories
        if entry.types:
            about["type"] = entry.types
    if reason := get_str(data, "error_message") or ("outer" in data and _outer_reason(first_object(data["outer"]))):
        about["reason"] = reason
    if type(code := data.get("error_code")) is int:
        about["code"] = str(code)
    if "success" not in data:
        _judge(about, data)
    if "severity" in data and get_str(data, "service") in ALERTS and (severity := get_str(data, "severity").lower()):
        body["log"] = {"level": severity}
        if severity in _SEVERITIES:
            about["severity"] = _SEVERITIES[severity]
    resource = first_object(data.get("resource"))
    kind = (get_str(resource, "type") or (entry and entry.subject) or "").lower()
    add_user_fields(body, data, resource, kind, login=entry is not None and entry.login)
    add_entity_fields(body, data, resource, kind)


def _outer_reason(outer: dict[str, Any]) -> str:
    """Why the authentication outside the tunnel failed; JumpCloud sends it in either of two places."""
    return get_str(outer, "error_message") or get_str(first_object(outer.get("outer")), "error_message")


def _judge(about: dict[str, Any], data: dict[str, Any]) -> None:
    """The outcome of an event that does not say `success`."""
    if "sso_token_success" in data:
        if data["sso_token_success"] is False and data.get("event_type") == "sso_auth" and "error_message" not in data:
            about["outcome"] = "unknown"
            about["type"] = _CHALLENGE
        return
    for name in ("status", "result"):
        if name in data and (said := get_str(data, name).split(maxsplit=1)):
            word = said[0].lower()
            if word in _DONE or word in _FAILED:
                about["outcome"] = "success" if word in _DONE else "failure"
                return
