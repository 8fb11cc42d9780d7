"""`related` of the base mapping, as the pipeline of Elastic's integration makes it."""

from __future__ import annotations

from typing import Any

from in_jumpcloud.ecs import ip_address
from in_jumpcloud.ecs.accessors import distinct, first_object, get_str


def add_related_fields(body: dict[str, Any], data: dict[str, Any]) -> None:
    """Add the addresses of a phone and of the source, and the name of the actor."""
    source = body.get("source", {})
    related: dict[str, Any] = {}
    if "jumpcloud_protect_device" in data:
        address = ip_address.parse_ip(get_str(first_object(data["jumpcloud_protect_device"]), "ip"))
        if ips := distinct(address and address.ip, source.get("ip")):
            related["ip"] = ips
    elif "ip" in source:
        related["ip"] = [source["ip"]]
    if "user" in source and type(name := source["user"].get("name")) is str:
        related["user"] = [name]
    if related:
        body["related"] = related
