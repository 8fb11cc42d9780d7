"""Map a raw event to a record.

Profile `elastic` makes the same fields as Elastic's JumpCloud integration. Profile `extended` adds to them: see
extended.py. Profile `raw` maps nothing: see raw.py.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import uuid
from collections import Counter
from collections.abc import Mapping
from random import Random
from types import MappingProxyType
from typing import Any

from in_jumpcloud import __version__
from in_jumpcloud.config.schema import EcsSettings
from in_jumpcloud.ecs import extended, fields, ip_address
from in_jumpcloud.ecs.accessors import copy_fields, first_naming, first_object, get_str
from in_jumpcloud.ecs.coercion import coerce
from in_jumpcloud.ecs.entity_fields import user_agent
from in_jumpcloud.ecs.event_timestamp import timestamp
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.raw import RawMapper
from in_jumpcloud.ecs.record import Record
from in_jumpcloud.ecs.related_fields import add_related_fields
from in_jumpcloud.ecs.user_fields import ACTOR
from in_jumpcloud.insights.event import RawEvent, decode_event
from in_jumpcloud.timestamps import rfc3339

ECS_VERSION = "8.11.0"
OTHER = "other"
"""The name under which unknown event types are counted once there are too many names."""
GUESSED = "guessed_event_type"
"""The tag of a record whose category and type are guessed, because the table of event types lacks its event type."""

_MAX_UNKNOWN_TYPES = 100
_MAX_NAME_LENGTH = 100  # characters

_CATEGORIES = {
    **dict.fromkeys(("ldap_bind", "user_login_attempt", "sso_auth", "admin_login_attempt"), "authentication"),
    **dict.fromkeys(
        ("user_password_warning_email", "user_password_reset_request", "user_activation_email", "user_unlocked"), "iam"
    ),
}

_EVENT_FIELDS = (("id", "id"), ("event_type", "action"), ("service", "module"))
_HOST = (("id", "id"), ("hostname", "hostname"))

# Fields below jumpcloud.event, and below its objects, whose values are elsewhere in the record.
_DUPLICATES = {
    *("version", "timestamp", "client_ip", "src_ip", "id", "message"),
    *("username", "useragent", "event_type", "service", "process_name"),
}
_INNER_DUPLICATES = (("system", ("id", "hostname")), ("initiated_by", ("id", "email", "username")))


class Mapper:
    """Maps events. Thread-safe.

    `unknown_types` counts events whose type is not in the table of event types (profile `extended`), by type: at most
    100 names, the rest under OTHER.
    """

    def __init__(
        self,
        settings: EcsSettings,
        geo: GeoIPLookup,
        *,
        agent_id: str,
        ephemeral_id: str,
        organizations: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`organizations` has the names of organizations by their IDs; it may change (profile `extended`)."""
        self._organizations = organizations
        self.unknown_types: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._geo = geo
        self._extended = settings.profile == "extended"
        self._raw = RawMapper(geo, settings.raw_fields) if settings.profile == "raw" else None
        self._hash_original = self._extended and settings.hash_original
        self._keep_original = settings.preserve_original_event
        self._keep_duplicates = settings.preserve_duplicate_custom_fields
        self._declared = fields.declared(extended=self._extended)
        tags = list(settings.tags)
        if self._keep_duplicates:
            tags.insert(0, "preserve_duplicate_custom_fields")
        if self._keep_original:
            tags.insert(0, "preserve_original_event")
        self._tags = tags
        self._tags_with_error = tags if self._keep_original else [*tags, "preserve_original_event"]
        self._tags_with_guess, self._tags_with_both = [*tags, GUESSED], [*self._tags_with_error, GUESSED]
        self._constant = {
            "ecs": {"version": ECS_VERSION},
            "data_stream": {"type": "logs", "dataset": "jumpcloud.events", "namespace": settings.namespace},
            "input": {"type": "in_jumpcloud"},
            "agent": {
                "type": "in_jumpcloud",
                "name": socket.gethostname(),
                "version": __version__,
                "id": agent_id,
                "ephemeral_id": ephemeral_id,
            },
        }
        self._constant_of_event = {"dataset": "jumpcloud.events"}
        if self._extended:
            self._constant |= extended.CONSTANT
            self._constant_of_event |= extended.CONSTANT_OF_EVENT
        self._created = (-1, "")

    def map(self, event: RawEvent, received_ns: int) -> Record:
        """The record of an event whose page was received at `received_ns`. Never raises, drops no event."""
        created = self._created_at(received_ns)
        if self._raw:
            return self._raw.map(event, received_ns, created)
        data, problem, strict = decode_event(event.raw)
        service, organization = (data.get("service"), data.get("organization")) if data else (None, None)
        problems = [problem] if problem else []
        guessed = False
        event_fields: dict[str, Any] = {"created": created, **self._constant_of_event}
        body: dict[str, Any] = {"@timestamp": created, **self._constant, "event": event_fields}
        if data is not None:
            data = coerce(data, self._declared, problems, strict=strict)
            self._add_base_fields(body, event_fields, data, event, problems)
            add_related_fields(body, data)
            if self._extended:
                info = self._event_type_info(data)
                guessed = info is not None and info.guessed
                extended.extend(body, data, info)
                extended.name_organization(body, self._organizations)
            if not self._keep_duplicates:
                _remove_duplicates(data)
            if data:
                body["jumpcloud"] = {"event": data}
        if problems:
            event_fields["kind"] = "pipeline_error"
            body["error"] = {"message": problems}
        if problems or self._keep_original:
            event_fields["original"] = bytes(event.raw).decode(errors="replace")
        if self._hash_original:
            event_fields["hash"] = hashlib.sha256(event.raw).hexdigest()
        if guessed:
            body["tags"] = self._tags_with_both if problems else self._tags_with_guess
        else:
            body["tags"] = self._tags_with_error if problems else self._tags
        geo_found = "geo" in body.get("client", ()) or "geo" in body.get("source", ())
        time_ns = received_ns if event.time_ns is None else event.time_ns
        return Record(time_ns, body, service, organization, geo_found, bool(problems))

    def _created_at(self, received_ns: int) -> str:
        """`event.created`: the time of collection, the same for all events of a page."""
        created = self._created  # read once: another thread may replace it
        if created[0] != received_ns:
            created = self._created = (received_ns, rfc3339(received_ns // 1_000_000))
        return created[1]

    def _add_base_fields(
        self,
        body: dict[str, Any],
        event_fields: dict[str, Any],
        data: dict[str, Any],
        event: RawEvent,
        problems: list[str],
    ) -> None:
        body["@timestamp"] = timestamp(event, data, event_fields["created"], problems)
        action = data.get("event_type")
        category = _CATEGORIES.get(action) if type(action) is str else None
        if category:
            event_fields["category"], event_fields["type"] = [category], ["info"]
        copy_fields(data, _EVENT_FIELDS, event_fields)
        success = data.get("success", data.get("sso_token_success"))
        event_fields["outcome"] = "success" if success is True else "failure" if success is False else "unknown"

        client = self._address(data, "client_ip", problems) if "client_ip" in data else {}
        if client:
            body["client"] = client
        source = self._address(data, "src_ip", problems) if "src_ip" in data else {}
        if self._extended and client:
            source = _complete(client, source, data)
        initiator = data.get("initiated_by")
        if actor := copy_fields(
            first_naming(initiator, ACTOR) if self._extended else first_object(initiator), ACTOR, {}
        ):
            source["user"] = actor
        if source:
            body["source"] = source
        # Profile extended makes the whole host itself.
        if "system" in data and not self._extended and (host := copy_fields(first_object(data["system"]), _HOST, {})):
            body["host"] = host
        if "message" in data:
            body["message"] = data["message"]
        if "username" in data:
            body["user"] = {"name": data["username"]}
        if "process_name" in data:
            body["process"] = {"name": data["process_name"]}
        if "useragent" in data and (agent := user_agent(first_object(data["useragent"]))):
            body["user_agent"] = agent

    def _address(self, data: dict[str, Any], name: str, problems: list[str]) -> dict[str, Any]:
        ip = text = data[name]
        port = None
        if self._extended and (parsed := ip_address.first_ip(text)):
            ip, port = parsed
        result = self._geo.lookup(ip) if type(ip) is str else None
        if result is None:
            problems.append(f"{name}: {text!r:.60} is not an IP address")
            return {}
        address: dict[str, Any] = {"ip": ip}
        if ip != text:
            address["address"] = text
        if port is not None:
            address["port"] = port
        if result.geo:
            address["geo"] = result.geo
        if result.as_:
            address["as"] = result.as_
        return address

    def _event_type_info(self, data: dict[str, Any]) -> extended.EventTypeInfo | None:
        """The row of an event's type; a type without one is counted and guessed."""
        service, action = data.get("service"), data.get("event_type")
        if type(action) is not str:
            return None
        service = service if type(service) is str and len(service) <= _MAX_NAME_LENGTH else None
        info = extended.event_type_info(service, action) if len(action) <= _MAX_NAME_LENGTH else None
        if info is not None:
            return info
        name = action[:_MAX_NAME_LENGTH]
        with self._counting:
            by_name = name in self.unknown_types or len(self.unknown_types) < _MAX_UNKNOWN_TYPES
            self.unknown_types[name if by_name else OTHER] += 1
        resource_type = get_str(first_object(data.get("resource")), "type")
        return extended.guessed_info(name, resource_type[:_MAX_NAME_LENGTH])


def new_id(random: Random) -> str:
    """A new id for `agent.id` or `agent.ephemeral_id`."""
    return str(uuid.UUID(int=random.getrandbits(128), version=4))


def _complete(client: dict[str, Any], source: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """The source of profile `extended`: the client if there is no other. What only the event knows is added to it."""
    if "as" not in client and (system := _own_system(data)):
        client["as"] = system
    return source if "src_ip" in data else client.copy()


def _own_system(data: dict[str, Any]) -> dict[str, Any]:
    """The autonomous system of the client that the event itself has."""
    asn = first_object(data.get("asn")) or first_object(first_object(data.get("geoip")).get("asn"))
    system = copy_fields(asn, (("number", "number"),), {})
    if "organization" in asn:
        system["organization"] = {"name": asn["organization"]}
    return system


def _remove_duplicates(data: dict[str, Any]) -> None:
    for name in _DUPLICATES & data.keys():
        del data[name]
    for name, inner_names in _INNER_DUPLICATES:
        if name in data and type(inner := data[name]) is dict:
            for inner_name in inner_names:
                if inner_name in inner:
                    del inner[inner_name]
            if not inner:
                del data[name]
