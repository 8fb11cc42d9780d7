"""`related` of the base mapping, as the pipeline of Elastic's integration makes it."""

from __future__ import annotations

from typing import Any

from in_jumpcloud.ecs import ip_address
from in_jumpcloud.ecs.accessors import distinct, first_object, get_str


def add_related_fields(body: dict[str, Any], data: dict[str, Any]) -> None:
    """Add the addresses of a phone and of the source, and the name of the actor, before what `related` has already."""
    phone = first_object(data.get("jumpcloud_protect_device"))
    address = ip_address.parse_ip(get_str(phone, "ip")) if phone else None
    source = body.get("source", {})
    added = {"ip": [address and address.ip, source.get("ip")], "user": [source.get("user", {}).get("name")]}
    related = body.get("related", {})
    for name, values in added.items():
        if all_values := distinct(*values, *related.get(name, ())):
            related[name] = all_values
    if related:
        body["related"] = related
