"""What the ingest pipeline of Elastic's JumpCloud integration 1.22 makes of an event, without GeoIP.

Facts from packages/jumpcloud of https://github.com/elastic/integrations, as a table. It shares nothing with the mapper.
"""

from __future__ import annotations

import copy
from typing import Any

COPIES = {
    "client_ip": "client.ip",
    "src_ip": "source.ip",
    "id": "event.id",
    "event_type": "event.action",
    "service": "event.module",
    "message": "message",
    "system.id": "host.id",
    "system.hostname": "host.hostname",
    "initiated_by.id": "source.user.id",
    "initiated_by.email": "source.user.email",
    "initiated_by.username": "source.user.name",
    "username": "user.name",
    "process_name": "process.name",
    "useragent.device": "user_agent.device.name",
    "useragent.name": "user_agent.name",
    "useragent.version": "user_agent.version",
    "useragent.os_name": "user_agent.os.name",
    "useragent.os_full": "user_agent.os.full",
    "useragent.os_version": "user_agent.os.version",
}
"""The field of a record that has the value of a field of the event."""

REMOVED = (
    *("version", "timestamp", "client_ip", "src_ip", "id", "message", "system.id", "system.hostname", "username"),
    *("initiated_by.id", "initiated_by.email", "initiated_by.username", "useragent", "event_type", "service"),
    "process_name",
)
"""The fields of the event that are removed then."""

CATEGORIES = {
    "authentication": ("ldap_bind", "user_login_attempt", "sso_auth", "admin_login_attempt"),
    "iam": ("user_password_warning_email", "user_password_reset_request", "user_activation_email", "user_unlocked"),
}
RELATED = {"ip": ("jumpcloud.event.jumpcloud_protect_device.ip", "source.ip"), "user": ("source.user.name",)}


def at(body: Any, path: str) -> Any:
    """The value at a dotted path; None if there is none."""
    for name in path.split("."):
        body = body.get(name) if isinstance(body, dict) else None
    return body


def put(body: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path."""
    *parents, leaf = path.split(".")
    for name in parents:
        body = body.setdefault(name, {})
    body[leaf] = value


def without_empty(value: Any) -> Any:
    """A value without what is null or empty; None if nothing is left."""
    if isinstance(value, dict):
        value = {
            name: each
            for name, each in ((name, without_empty(each)) for name, each in value.items())
            if each is not None
        }
    elif isinstance(value, list):
        value = [each for each in map(without_empty, value) if each is not None]
    return None if value in ("", {}, []) and not isinstance(value, bool | int | float) else value


def pipeline(event: dict[str, Any]) -> dict[str, Any]:
    """The document of an event that the pipeline does not reject; `@timestamp` as the event has it."""
    event = without_empty(copy.deepcopy(event)) or {}
    body: dict[str, Any] = {"ecs": {"version": "8.11.0"}}
    if "@version" in event:
        event["version"] = event.pop("@version")
    if "timestamp" in event:
        body["@timestamp"] = event["timestamp"]
    for name, target in COPIES.items():
        if (value := at(event, name)) is not None:
            put(body, target, value)
    for category, event_types in CATEGORIES.items():
        if event.get("event_type") in event_types:
            put(body, "event.category", [category])
            put(body, "event.type", ["info"])
    success = event.get("success", event.get("sso_token_success"))
    put(body, "event.outcome", "success" if success is True else "failure" if success is False else "unknown")
    for name, sources in RELATED.items():
        values = [value for source in sources if (value := at({**body, "jumpcloud": {"event": event}}, source))]
        if values:
            put(body, f"related.{name}", list(dict.fromkeys(values)))
    for name in REMOVED:
        parent, _, leaf = name.rpartition(".")
        inner = at(event, parent) if parent else event
        if isinstance(inner, dict):
            inner.pop(leaf, None)
    if event := {name: value for name, value in event.items() if value != {}}:
        body["jumpcloud"] = {"event": event}
    return body
