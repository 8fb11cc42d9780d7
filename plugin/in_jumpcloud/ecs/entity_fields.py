"""The entities of an event: groups, hosts, devices, software, files, rules, and `related`."""

from __future__ import annotations

from typing import Any

from in_jumpcloud.ecs import ip_address
from in_jumpcloud.ecs.accessors import association_ends, copy_fields, distinct, first_object, get_str

ALERTS = frozenset({"alerts", "alert"})
"""The service of alerts and their rules: both of its names."""

_ID_AND_NAME = (("id", "id"), ("name", "name"))
_END = (("object_id", "id"), ("name", "name"))
_ASSOCIATION = (("id", "id"),)
_AGENT = (("name", "name"), ("version", "version"))
_AGENT_OS = (("os_name", "name"), ("os_full", "full"), ("os_version", "version"))
_HOST = (("id", "id"), ("hostname", "hostname"), ("hostname", "name"), ("displayName", "name"))
_HOST_RESOURCE = (("name", "name"), *_HOST)
_HOST_OS = (("os", "name"), ("version", "version"))
_PACKAGE = (("name", "name"), ("version", "version"), ("path", "path"))
_FILE = (("object_storage_item_version_name", "name"), ("object_storage_item_version_size", "size"))
_SHA256 = "object_storage_item_version_sha_256_sum"
_MDM_DEVICE = (("windows_device_uuid", "id"), ("device_object_id", "id"), ("mdm_device_id", "id"))
_PHONE = (("id", "id"), ("make", "manufacturer"))


def add_entity_fields(body: dict[str, Any], data: dict[str, Any], resource: dict[str, Any], kind: str) -> None:
    """Add the entities in an event's `data` to `body`. `kind` is the type of its `resource`, in lower case."""
    service = get_str(data, "service")
    if "organization" in data:
        body["organization"] = {"id": data["organization"]}
    if group := _group(data, resource, kind):
        body["group"] = group
    if host := _host(data, resource, kind):
        body["host"] = host
    if "user_agent" not in body and (agent := _other_user_agent(data)):
        body["user_agent"] = agent
    if "application" in data:
        _add_application(body, first_object(data["application"]), service, get_str(data, "event_type"))
    if service == "object_storage" and (file := _file(data)):
        body["file"] = file

    phone: dict[str, Any] = {}
    if "auth_context" in data:
        context = first_object(data["auth_context"])
        phone = first_object(context.get("jumpcloud_protect_device"))
        if "policies_applied" in context and (rule := _policies(context["policies_applied"])):
            body["rule"] = rule
    if "auth_meta" in data:
        phone = phone or first_object(first_object(data["auth_meta"]).get("jumpcloud_protect_device"))
    if service in ALERTS and (rule := _rule(data, resource, kind)):
        body["rule"] = rule
    if device := copy_fields(data, _MDM_DEVICE, {}) or _device(phone):
        body["device"] = device
    _add_related(body, phone)


def user_agent(value: dict[str, Any]) -> dict[str, Any]:
    """`user_agent` of a record, from the event's object."""
    agent = copy_fields(value, _AGENT, {})
    if system := copy_fields(value, _AGENT_OS, {}):
        agent["os"] = system
    if "device" in value:
        agent["device"] = {"name": value["device"]}
    return agent


def _other_user_agent(data: dict[str, Any]) -> dict[str, Any]:
    """The user agent under its other name, or nested in an object of the same name."""
    if "user_agent" in data:
        return user_agent(first_object(data["user_agent"]))
    if "useragent" in data:
        return user_agent(first_object(first_object(data["useragent"]).get("useragent")))
    return {}


def _group(data: dict[str, Any], resource: dict[str, Any], kind: str) -> dict[str, Any]:
    """The group in an event: its resource, or an end of its association. Types are `user_group`, `system_group` etc."""
    if kind.endswith("group"):
        return copy_fields(resource, _ID_AND_NAME, {})
    if "association" in data:
        for end in association_ends(data):
            if get_str(end, "type").lower().endswith("group"):
                return copy_fields(end, _END, {})
        association = first_object(data["association"])
        if get_str(association, "type").lower().endswith("group"):
            return copy_fields(association, _ASSOCIATION, {})
    return {}


def _host(data: dict[str, Any], resource: dict[str, Any], kind: str) -> dict[str, Any]:
    """The system that the event happened on; otherwise the system that is its resource."""
    if "system" in data and (system := first_object(data["system"])):
        host = copy_fields(system, _HOST, {})
        if os := copy_fields(system, _HOST_OS, {}):
            host["os"] = os
        return host
    return copy_fields(resource, _HOST_RESOURCE, {}) if kind == "system" else {}


def _add_application(body: dict[str, Any], application: dict[str, Any], service: str, action: str) -> None:
    """Depending on the service, an application is a single sign-on application or software on a device."""
    if service == "sso" or action == "sso_auth":
        if label := copy_fields(application, (("name", "name"), ("display_label", "name")), {}):
            body["service"] = label
    elif (service == "software" or action.startswith("software_")) and (
        package := copy_fields(application, _PACKAGE, {})
    ):
        body["package"] = package
    if "sso_url" in application:
        body["url"] = {"full": application["sso_url"]}


def _file(data: dict[str, Any]) -> dict[str, Any]:
    file = copy_fields(data, _FILE, {})
    if _SHA256 in data:
        file["hash"] = {"sha256": data[_SHA256]}
    return file


def _policies(applied: Any) -> dict[str, Any]:
    """The conditional access policies that applied to a login; lists of values if there are several."""
    policies = [policy for policy in applied if type(policy) is dict] if type(applied) is list else [applied]
    if len(policies) == 1:
        return copy_fields(policies[0], _ID_AND_NAME, {})
    rule = {name: distinct(*[policy.get(name) for policy in policies]) for name in ("id", "name")}
    return {name: values for name, values in rule.items() if values}


def _rule(data: dict[str, Any], resource: dict[str, Any], kind: str) -> dict[str, Any]:
    """The rule that was created, changed or deleted, or that raised an alert."""
    if kind == "rule":
        return copy_fields(resource, _ID_AND_NAME, {})
    return copy_fields(
        data, (("rule_id", "id"),), copy_fields(first_object(data.get("correlation")), (("id", "id"),), {})
    )


def _device(phone: dict[str, Any]) -> dict[str, Any]:
    """The phone that confirmed a login."""
    device = copy_fields(phone, _PHONE, {})
    if "model" in phone:
        device["model"] = {"name": phone["model"]}
    return device


def _add_related(body: dict[str, Any], phone: dict[str, Any]) -> None:
    related: dict[str, Any] = body.get("related", {})
    ips = [body[side]["ip"] for side in ("client", "source") if side in body and "ip" in body[side]]
    if phone and (address := ip_address.parse_ip(get_str(phone, "ip"))):
        ips.append(address.ip)
    if ips:
        related["ip"] = distinct(*ips)
    if "host" in body:
        host = body["host"]
        if hosts := distinct(host.get("id"), host.get("hostname"), host.get("name")):
            related["hosts"] = hosts
    if "file" in body and "hash" in body["file"] and (hashes := distinct(body["file"]["hash"]["sha256"])):
        related["hash"] = hashes
    if related:
        body["related"] = related
