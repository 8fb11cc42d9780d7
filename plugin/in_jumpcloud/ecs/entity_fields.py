"""The entities of an event: groups, hosts, devices, software, services, files, rules, and `related`.

Where an event names several things for one place, the first of these has it: what the event itself calls `system`,
`application` or `rule_id`; its `resource`; the ends of its `association`; the phone, the device and the policies of the
login. Two ends of the same kind are lists of ids and names. `related.hosts` has every host and device that is named.
"""

from __future__ import annotations

from typing import Any

from in_jumpcloud.ecs import ip_address
from in_jumpcloud.ecs.accessors import Names, copy_fields, copy_texts, distinct, first_object, get_str
from in_jumpcloud.ecs.objects import Named

_ID_AND_NAME = (("id", "id"), ("name", "name"))
_AGENT = (("name", "name"), ("version", "version"))
_AGENT_OS = (("os_name", "name"), ("os_full", "full"), ("os_version", "version"))
_HOST = (
    *(("id", "id"), ("host_name", "hostname"), ("hostname", "hostname")),
    *(("host_name", "name"), ("hostname", "name"), ("displayName", "name")),
)
_HOST_OS = (("os", "name"), ("version", "version"))
_APPLICATION = (("id", "id"), ("name", "name"), ("display_label", "name"))
_PACKAGE = (("name", "name"), ("version", "version"), ("path", "path"), ("package_manager", "type"))
_FILE = (("object_storage_item_version_name", "name"), ("object_storage_item_version_size", "size"))
_SHA256 = "object_storage_item_version_sha_256_sum"
_MDM_DEVICE = (("windows_device_uuid", "id"), ("device_object_id", "id"), ("mdm_device_id", "id"))
_MODEL = (("product_name", "identifier"), ("model", "name"), ("model_name", "name"))
_SYSTEM_GROUP = (("object_id", "id"), ("name", "name"))
_PHONE = (("id", "id"), ("make", "manufacturer"))
_PORTALS = (("type", "name"), ("id", "id"), ("name", "name"))

# The names in an object, by its place in the record; a later name has precedence.
_PLACES: dict[str, Names] = {
    "group": _ID_AND_NAME,
    "host": (("name", "name"), *_HOST),
    "rule": (("policy_id", "id"), ("id", "id"), ("policy_name", "name"), ("name", "name")),
    "service": (
        *(("id", "id"), ("app_id", "id"), ("application_id", "id"), ("name", "name"), ("app_name", "name")),
        *(("application_name", "name"), ("displayName", "name"), ("display_name", "name"), ("displayLabel", "name")),
    ),
    "package": (*_PACKAGE, ("displayName", "name"), ("display_name", "name")),
    "device": (("id", "id"), ("serial", "id"), ("manufacturer", "manufacturer")),
    "file": (("name", "name"),),
}
_SERVICE_OF_ACCOUNT = (("application_id", "id"), ("application_name", "name"))
_HOST_NAMES = ("id", "serial", "hostname", "host_name", "name", "displayName")


def add_entity_fields(
    body: dict[str, Any], data: dict[str, Any], objects: list[Named], service: str, *, is_alert: bool
) -> None:
    """Add the entities in an event's `data`, of this `service`, to `body`.

    `objects` are those that the event names, its `resource` first; `is_alert`: the service is that of alerts.
    """
    if "organization" in data:
        body["organization"] = {"id": data["organization"]}
    hosts = _add_objects(body, objects)
    if "system" in data:
        _add(body, "host", _host(first_object(data["system"])))
    elif "system_object_id" in data and "host" not in body:
        body["host"] = {"id": data["system_object_id"]}
    if "system_group" in data and "group" not in body:
        _add(body, "group", copy_fields(first_object(data["system_group"]), _SYSTEM_GROUP, {}))
    if "user_agent" not in body and ("user_agent" in data or "useragent" in data):
        _add(body, "user_agent", _other_user_agent(data))
    if "application" in data:
        _add_application(body, first_object(data["application"]), service, get_str(data, "event_type"))
    if "target_resource" in data and "service" not in body:
        _add(body, "service", copy_texts(first_object(data["target_resource"]), _PORTALS, {}))
    if service == "object_storage":
        _add(body, "file", _file(data))
    if is_alert and objects[0][0] != "rule":
        rule = copy_fields(first_object(data.get("correlation")), (("id", "id"),), {})
        _add(body, "rule", copy_fields(data, (("rule_id", "id"),), rule))

    phone: dict[str, Any] = {}
    login_from: dict[str, Any] = {}
    if "auth_context" in data:
        context = first_object(data["auth_context"])
        if "policies_applied" in context and "rule" not in body:
            _add(body, "rule", _policies(context["policies_applied"]))
        phone = first_object(context.get("jumpcloud_protect_device"))
        login_from = first_object(context.get("system"))
        if login_from:
            hosts += (login_from.get("id"), login_from.get("hostname"), login_from.get("displayName"))
    if "auth_meta" in data and not phone:
        phone = first_object(first_object(data["auth_meta"]).get("jumpcloud_protect_device"))
    _add_device(body, data, phone, login_from)
    _add_related(body, phone, hosts)


def user_agent(value: dict[str, Any]) -> dict[str, Any]:
    """`user_agent` of a record, from the event's object."""
    agent = copy_fields(value, _AGENT, {})
    if system := copy_fields(value, _AGENT_OS, {}):
        agent["os"] = system
    if "device" in value:
        agent["device"] = {"name": value["device"]}
    return agent


def _add(body: dict[str, Any], name: str, fields: dict[str, Any]) -> None:
    if fields:
        body[name] = fields


def _other_user_agent(data: dict[str, Any]) -> dict[str, Any]:
    """The user agent under its other name, or nested in an object of the same name."""
    if "user_agent" in data:
        return user_agent(first_object(data["user_agent"]))
    return user_agent(first_object(first_object(data["useragent"]).get("useragent")))


def _add_objects(body: dict[str, Any], objects: list[Named]) -> list[Any]:
    """Give each object its places; returns the ids and names of hosts and devices among them."""
    hosts: list[Any] = []
    shared: set[str] = set()  # places of objects that are not the resource
    for number, (kind, places, values) in enumerate(objects):
        for place in places:
            if place in {"host", "device"}:
                hosts += [values.get(name) for name in _HOST_NAMES]
            if place == "host.name":
                if "host" not in body and (name := get_str(values, "name")):
                    body["host"] = {"name": name}
            elif place == "organization":
                organization = body.get("organization", {})
                if values.get("id") == organization.get("id") and (name := get_str(values, "name")):
                    body["organization"] = {**organization, "name": name}
            elif place in _PLACES:
                names = _SERVICE_OF_ACCOUNT if (kind, place) == ("account", "service") else _PLACES[place]
                fields = copy_texts(values, names, {})
                if place == "device" and (model := copy_texts(values, _MODEL, {})):
                    fields["model"] = model
                if place not in body:
                    _add(body, place, fields)
                    if number:
                        shared.add(place)
                elif place in shared:
                    body[place] = _both(body[place], fields)
    return hosts


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The values of two objects: a list where they differ."""
    values = {name: distinct(*_listed(one.get(name)), other.get(name)) for name in {**one, **other}}
    return {name: each if len(each) > 1 else each[0] for name, each in values.items()}


def _listed(value: Any) -> list[Any]:
    return value if type(value) is list else [value]


def _host(system: dict[str, Any]) -> dict[str, Any]:
    """The system that the event happened on."""
    host = copy_fields(system, _HOST, {})
    if os := copy_fields(system, _HOST_OS, {}):
        host["os"] = os
    return host


def _add_application(body: dict[str, Any], application: dict[str, Any], service: str, action: str) -> None:
    """An application is software on a device where the event is about software, or else what people sign in to."""
    if service == "software" or action.startswith("software_"):
        _add(body, "package", copy_texts(application, _PACKAGE, {}))
    else:
        _add(body, "service", copy_texts(application, _APPLICATION, {}))
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


def _add_device(body: dict[str, Any], data: dict[str, Any], phone: dict[str, Any], login_from: dict[str, Any]) -> None:
    """Add the managed mobile device; or else the phone that confirmed a login, or the device that it came from."""
    device = copy_fields(data, _MDM_DEVICE, {})
    if "query_responses" in data:
        answers = first_object(data["query_responses"])
        if model := copy_texts(answers, _MODEL, {}):
            device["model"] = model
        if "host" not in body:
            _add(body, "host", copy_texts(answers, (("device_name", "name"),), {}))
    elif device or "device" in body:
        pass
    elif phone:
        device = copy_fields(phone, _PHONE, {})
        if "model" in phone:
            device["model"] = {"name": phone["model"]}
    elif "id" in login_from:
        device = {"id": login_from["id"]}
    _add(body, "device", device)


def _add_related(body: dict[str, Any], phone: dict[str, Any], hosts: list[Any]) -> None:
    related: dict[str, Any] = body.get("related", {})
    ips: list[str] = [*related["ip"]] if "ip" in related else []
    for side in ("client", "source"):
        if side in body and "ip" in (address := body[side]):
            ips.append(address["ip"])
            if "address" in address:
                ips += [each.ip for each in ip_address.parse_ips(address["address"])]
    if phone and (parsed := ip_address.parse_ip(get_str(phone, "ip"))):
        ips.append(parsed.ip)
    if ips:
        related["ip"] = [*dict.fromkeys(ips)]
    if "host" in body:
        host = body["host"]
        hosts = [host.get("id"), host.get("hostname"), host.get("name"), *hosts]
    if hosts and (names := distinct(*related.get("hosts", ()), *hosts)):
        related["hosts"] = names
    if "file" in body and "hash" in body["file"] and (hashes := distinct(body["file"]["hash"]["sha256"])):
        related["hash"] = hashes
    if related:
        body["related"] = related
