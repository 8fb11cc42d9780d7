"""Profile `extended`: the fields that it adds to a record of the base mapping. Without I/O.

It only adds fields, with one exception: a single sign-on that waits for a second factor is sent as a failure, and its
outcome becomes `unknown`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from in_jumpcloud.ecs import event_types
from in_jumpcloud.ecs.accessors import first_object, get_str
from in_jumpcloud.ecs.entity_fields import ALERTS, add_entity_fields
from in_jumpcloud.ecs.user_fields import add_user_fields

CONSTANT = {"observer": {"vendor": "JumpCloud", "product": "Directory Insights"}}
"""Fields of every record. Shared: do not change them."""

CONSTANT_OF_EVENT = {"kind": "event", "provider": "jumpcloud"}
"""Fields of `event` in every record."""

# The numbers that Elastic's detection rules use for these words.
_SEVERITIES = {"info": 0, "informational": 0, "low": 21, "medium": 47, "high": 73, "critical": 99}

# First words of `status` and `result`. A device also answers NotNow or Idle, which are neither.
_SUCCESS = frozenset({"acknowledged", "success", "successful", "succeeded", "ok", "completed"})
_FAILURE = frozenset({"error", "commandformaterror", "failed", "failure", "fail", "unsuccessful"})

_CHALLENGE_TYPE = ["info"]  # without start: no session starts


class EventTypeInfo(NamedTuple):
    """A row of the table of event types, as a record holds it. The lists are shared: do not change them."""

    categories: list[str]
    types: list[str]
    subject: str
    is_login: bool


@lru_cache(maxsize=1024)
def event_type_info(service: str | None, event_type: str) -> EventTypeInfo | None:
    """The row of an event type; None if the table has none."""
    row = event_types.lookup(service, event_type)
    if row is None:
        return None
    is_login = "authentication" in row.categories and "start" in row.types
    return EventTypeInfo(list(row.categories), list(row.types), row.subject, is_login)


def extend(body: dict[str, Any], data: dict[str, Any], info: EventTypeInfo | None) -> None:
    """Add the fields of this profile to `body`, the record of the base mapping.

    `data` is the event with its declared types (see coercion); `info` describes its event type.
    """
    event_fields = body["event"]
    if data.get("event_type") == "alert_created":
        event_fields["kind"] = "alert"
    if info is not None:
        if info.categories:
            event_fields["category"] = info.categories
        if info.types:
            event_fields["type"] = info.types
    if reason := get_str(data, "error_message") or ("outer" in data and _outer_reason(first_object(data["outer"]))):
        event_fields["reason"] = reason
    if type(code := data.get("error_code")) is int:
        event_fields["code"] = str(code)
    if "success" not in data:
        _set_outcome(event_fields, data)
    if "severity" in data and get_str(data, "service") in ALERTS and (severity := get_str(data, "severity").lower()):
        body["log"] = {"level": severity}
        if severity in _SEVERITIES:
            event_fields["severity"] = _SEVERITIES[severity]
    resource = first_object(data.get("resource"))
    kind = (get_str(resource, "type") or (info.subject if info else "")).lower()
    add_user_fields(body, data, resource, kind, login=info is not None and info.is_login)
    add_entity_fields(body, data, resource, kind)


def _outer_reason(outer: dict[str, Any]) -> str:
    """Why the authentication outside the tunnel failed; JumpCloud sends it in one of two places."""
    return get_str(outer, "error_message") or get_str(first_object(outer.get("outer")), "error_message")


def _set_outcome(event_fields: dict[str, Any], data: dict[str, Any]) -> None:
    """Set the outcome of an event without `success`."""
    if "sso_token_success" in data:
        if data["sso_token_success"] is False and data.get("event_type") == "sso_auth" and "error_message" not in data:
            event_fields["outcome"] = "unknown"
            event_fields["type"] = _CHALLENGE_TYPE
        return
    for name in ("status", "result"):
        if name in data and (words := get_str(data, name).split(maxsplit=1)):
            word = words[0].lower()
            if word in _SUCCESS or word in _FAILURE:
                event_fields["outcome"] = "success" if word in _SUCCESS else "failure"
                return
