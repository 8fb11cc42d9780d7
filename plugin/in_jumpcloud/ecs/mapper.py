"""From a raw event to a record: profile `elastic`, field for field what Elastic's JumpCloud integration makes."""

from __future__ import annotations

import socket
import uuid
from typing import Any, NamedTuple

from in_jumpcloud import __version__, config
from in_jumpcloud.ecs import fields
from in_jumpcloud.ecs.geo import GeoIP
from in_jumpcloud.ecs.typed import clean
from in_jumpcloud.insights.event import Event
from in_jumpcloud.insights.window import rfc3339

ECS_VERSION = "8.11.0"

_CATEGORIES = {
    **dict.fromkeys(("ldap_bind", "user_login_attempt", "sso_auth", "admin_login_attempt"), "authentication"),
    **dict.fromkeys(
        ("user_password_warning_email", "user_password_reset_request", "user_activation_email", "user_unlocked"), "iam"
    ),
}

# Fields of the event that the record holds elsewhere: below jumpcloud.event, and below one of its objects.
_DUPLICATES = (
    "version",
    "timestamp",
    "client_ip",
    "src_ip",
    "id",
    "message",
    "username",
    "useragent",
    "event_type",
    "service",
    "process_name",
)
_INNER_DUPLICATES = {"system": ("id", "hostname"), "initiated_by": ("id", "email", "username")}


class Record(NamedTuple):
    """What is sent: `time_ns` since the epoch, and `body`, which must not be changed: its parts are shared.

    `looked_up` tells that an address in it was found in the city database.
    """

    time_ns: int
    body: dict[str, Any]
    looked_up: bool


class Mapper:
    """Maps event after event; several threads may share one."""

    def __init__(self, settings: config.Ecs, geo: GeoIP, *, agent_id: str, ephemeral_id: str) -> None:
        self._geo = geo
        self._keep_original = settings.preserve_original_event
        self._keep_duplicates = settings.preserve_duplicate_custom_fields
        self._declared = fields.declared()
        tags = list(settings.tags)
        if self._keep_duplicates:
            tags.insert(0, "preserve_duplicate_custom_fields")
        if self._keep_original:
            tags.insert(0, "preserve_original_event")
        self._tags = tags
        self._tags_of_a_problem = tags if self._keep_original else [*tags, "preserve_original_event"]
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
        self._created = (-1, "")

    def map(self, event: Event, received_ns: int) -> Record:
        """The record of an event whose page was received at `received_ns`. Never raises, never drops."""
        created = self._time_of_collection(received_ns)
        problems = [event.problem] if event.problem else []
        about: dict[str, Any] = {"created": created, "dataset": "jumpcloud.events"}
        body: dict[str, Any] = {"@timestamp": created, **self._constant, "event": about}
        if event.data is not None:
            self._fill(body, about, self._cleaned(event.data, event, problems), event, problems)
        if problems:
            about["kind"] = "pipeline_error"
            body["error"] = {"message": problems}
        if problems or self._keep_original:
            about["original"] = bytes(event.raw).decode(errors="replace")
        body["tags"] = self._tags_of_a_problem if problems else self._tags
        looked_up = "geo" in body.get("client", ()) or "geo" in body.get("source", ())
        return Record(received_ns if event.time_ns is None else event.time_ns, body, looked_up)

    def _cleaned(self, data: dict[str, Any], event: Event, problems: list[str]) -> dict[str, Any]:
        told = len(problems)
        try:
            return clean(data, self._declared, problems, strict=event.strict)
        except RecursionError:
            del problems[told:]
        cleaned: dict[str, Any] = {}
        for name, value in data.items():  # one is nested too deeply even to be written as text; the others are sound
            try:
                cleaned |= clean({name: value}, self._declared, problems, strict=event.strict)
            except RecursionError:
                problems.append(f"jumpcloud.event.{name!r:.60}: nested too deeply to be mapped; see event.original")
        return cleaned

    def _fill(
        self, body: dict[str, Any], about: dict[str, Any], data: dict[str, Any], event: Event, problems: list[str]
    ) -> None:
        timestamp = data.get("timestamp")
        if event.time_ns is not None:
            body["@timestamp"] = _timestamp(timestamp, event.time_ns)
        elif "timestamp" in data:
            problems.append(
                f"timestamp: {timestamp!r:.60} is not a readable time; the time of collection stands for it"
            )

        action = data.get("event_type")
        category = _CATEGORIES.get(action) if type(action) is str else None
        if category:
            about["category"], about["type"] = [category], ["info"]
        _copy(data, (("id", "id"), ("event_type", "action"), ("service", "module")), about)
        success = data.get("success", data.get("sso_token_success"))
        about["outcome"] = "success" if success is True else "failure" if success is False else "unknown"

        client = self._address(data, "client_ip", problems)
        if client:
            body["client"] = client
        source = self._address(data, "src_ip", problems)
        actor = _copy(_object(data.get("initiated_by")), (("id", "id"), ("email", "email"), ("username", "name")), {})
        if actor:
            source["user"] = actor
        if source:
            body["source"] = source
        host = _copy(_object(data.get("system")), (("id", "id"), ("hostname", "hostname")), {})
        if host:
            body["host"] = host
        _copy(data, (("message", "message"),), body)
        if "username" in data:
            body["user"] = {"name": data["username"]}
        if "process_name" in data:
            body["process"] = {"name": data["process_name"]}
        agent = _user_agent(_object(data.get("useragent")))
        if agent:
            body["user_agent"] = agent

        if not self._keep_duplicates:
            _remove_duplicates(data)
        if data:
            body["jumpcloud"] = {"event": data}

    def _address(self, data: dict[str, Any], name: str, problems: list[str]) -> dict[str, Any]:
        text = data.get(name)
        if text is None:
            return {}
        found = self._geo.lookup(text) if type(text) is str else None
        if found is None:
            problems.append(f"{name}: {text!r:.60} is not an IP address")
            return {}
        address: dict[str, Any] = {"ip": text}
        if found.geo:
            address["geo"] = found.geo
        if found.as_:
            address["as"] = found.as_
        return address

    def _time_of_collection(self, received_ns: int) -> str:
        created = self._created  # read once: another thread may exchange it
        if created[0] != received_ns:
            created = self._created = (received_ns, rfc3339(received_ns // 1_000_000))
        return created[1]


def new_id() -> str:
    """An id for `agent.id` and `agent.ephemeral_id`."""
    return str(uuid.uuid4())


def _object(value: Any) -> dict[str, Any]:
    """`value` where it is an object; the first object where it is a list of them."""
    if type(value) is list:
        value = next((each for each in value if type(each) is dict), None)
    return value if type(value) is dict else {}


def _copy(source: dict[str, Any], names: tuple[tuple[str, str], ...], target: dict[str, Any]) -> dict[str, Any]:
    for name, new_name in names:
        if name in source:
            target[new_name] = source[name]
    return target


def _user_agent(said: dict[str, Any]) -> dict[str, Any]:
    if not said:
        return said
    agent = _copy(said, (("name", "name"), ("version", "version")), {})
    system = _copy(said, (("os_name", "name"), ("os_full", "full"), ("os_version", "version")), {})
    if system:
        agent["os"] = system
    if "device" in said:
        agent["device"] = {"name": said["device"]}
    return agent


def _remove_duplicates(data: dict[str, Any]) -> None:
    for name in _DUPLICATES:
        data.pop(name, None)
    for name, inner_names in _INNER_DUPLICATES.items():
        inner = data.get(name)
        if type(inner) is dict:
            for inner_name in inner_names:
                inner.pop(inner_name, None)
            if not inner:
                del data[name]


def _timestamp(text: Any, time_ns: int) -> str:
    """Exactly three fraction digits; most events have them already."""
    if type(text) is str and len(text) == 24 and text[10] == "T" and text[-1] == "Z":  # noqa: PLR2004
        return text
    return rfc3339(time_ns // 1_000_000)
