"""Profile `extended`: what it adds to the base mapping, row by row."""

from __future__ import annotations

import json
from typing import Any

import pytest

from in_jumpcloud.config.schema import EcsSettings
from in_jumpcloud.ecs.geoip import GeoIPLookup
from in_jumpcloud.ecs.mapper import Mapper
from in_jumpcloud.insights.event import parse_event

MAPPER = Mapper(EcsSettings(), GeoIPLookup(None, None), agent_id="a", ephemeral_id="b")
ABSENT = "(absent)"


def at(body: dict[str, Any], path: str) -> Any:
    """What a record holds at a dotted path."""
    value: Any = body
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return ABSENT
        value = value[name]
    return value


ADMIN = {"id": "a1", "type": "admin", "email": "root@example.com"}
ANN = {"type": "user", "id": "u1", "username": "ann", "email": "ann@example.com"}
POLICY = {"id": "p1", "name": "Require MFA"}
PHONE = {"id": "d1", "ip": "192.0.2.9", "make": "samsung", "model": "SM-S911B"}


def linked(start: dict[str, str], end: dict[str, str]) -> dict[str, Any]:
    """An event that associates two objects."""
    return {"event_type": "association_change", "association": {"connection": {"from": start, "to": end}}}


ENGINEERS = {"type": "user_group", "object_id": "g1", "name": "Engineering"}
ANNS_END = {"type": "user", "object_id": "u1", "name": "ann"}
SHA256 = "65d860160bdc9b98abf72407e14ca40b609417de7939897d3b58d55787aaef69"
STORED = {
    "service": "object_storage",
    "object_storage_item_version_name": "a.pkg",
    "object_storage_item_version_size": "178398259",
    "object_storage_item_version_sha_256_sum": SHA256,
}
SYSTEM = {"id": "h1", "hostname": "build-07", "displayName": "Build 7"}
APPLICATION = {"name": "saml2", "display_label": "Wiki", "version": "1.2", "path": "/opt/x", "sso_url": "https://x/y"}

ROWS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("kind", {"event_type": "user_create"}, {"event.kind": "event", "event.provider": "jumpcloud"}),
    ("kind of an alert", {"event_type": "alert_created"}, {"event.kind": "alert", "event.category": ABSENT}),
    ("kind of its update", {"event_type": "alert_updated"}, {"event.kind": "event"}),
    ("observer", {}, {"observer": {"vendor": "JumpCloud", "product": "Directory Insights"}}),
    ("reason", {"error_message": "denied", "outer": {"error_message": "x"}}, {"event.reason": "denied"}),
    ("outer reason", {"error_message": "", "outer": {"error_message": "rejected"}}, {"event.reason": "rejected"}),
    ("nested reason", {"outer": {"outer": {"error_message": "rejected"}}}, {"event.reason": "rejected"}),
    ("no reason", {"outer": {"username": "x"}}, {"event.reason": ABSENT}),
    ("code", {"error_code": "49"}, {"event.code": "49"}),
    ("code 0", {"error_code": 0}, {"event.code": "0"}),
    *(
        (f"severity {word}", {"service": "alerts", "severity": word}, {"event.severity": number, "log.level": level})
        for word, number, level in [
            ("Low", 21, "low"),
            ("MEDIUM", 47, "medium"),
            ("high", 73, "high"),
            ("Critical", 99, "critical"),
            ("Informational", 0, "informational"),
            ("Odd", ABSENT, "odd"),
        ]
    ),
    ("severity of no alert", {"service": "mdm", "severity": "High"}, {"event.severity": ABSENT, "log": ABSENT}),
    ("organization", {"organization": "o1"}, {"organization": {"id": "o1"}}),
    ("actor", {"initiated_by": ADMIN}, {"user": {"id": "a1", "email": "root@example.com", "roles": ["admin"]}}),
    ("actor in a list", {"initiated_by": [{"id": "1"}, {"id": "2"}]}, {"user": {"id": "1"}, "source.user.id": "1"}),
    (
        "newer actor",
        {"jc_initiated_by_email": "ann@example.com", "jc_initiated_by_id": "u1", "username": "ann"},
        {"user": {"id": "u1", "email": "ann@example.com", "name": "ann"}},
    ),
    (
        "older actor wins",
        {
            "initiated_by": {"id": "1", "email": "1@example.com"},
            "jc_initiated_by_email": "2",
            "jc_initiated_by_id": "2",
        },
        {"user": {"id": "1", "email": "1@example.com"}},
    ),
    ("newer fills", {"initiated_by": {"id": "1"}, "jc_initiated_by_email": "e"}, {"user": {"id": "1", "email": "e"}}),
    (
        "username wins",
        {"initiated_by": {"username": "ann", "id": "u1"}, "username": "root"},
        {"user": {"id": "u1", "name": "root"}, "source.user.name": "ann", "related.user": ["u1", "ann", "root"]},
    ),
    (
        "two roles",
        {"initiated_by": {"id": "1", "type": "user", "administrator": True}},
        {"user.roles": ["user", "admin"]},
    ),
    ("roles of nobody", {"initiated_by": {"type": "system"}}, {"user": ABSENT}),
    (
        "target",
        {"event_type": "user_delete", "initiated_by": ADMIN, "resource": ANN},
        {
            "user.id": "a1",
            "user.target": {"id": "u1", "name": "ann", "email": "ann@example.com"},
            "related.user": ["a1", "root@example.com", "u1", "ann", "ann@example.com"],
        },
    ),
    *(
        (f"target {kind}", {"event_type": "x", "resource": {"type": kind, "id": "u1"}}, {"user.target.id": "u1"})
        for kind in ("user", "systemuser", "SYSTEM_USER", "admin", "Administrator")
    ),
    ("target without type", {"event_type": "user_lockout", "resource": {"id": "u1"}}, {"user.target": {"id": "u1"}}),
    (
        "target of an e-mail",
        {"resource": {"type": "systemuser", "name": "ann", "recipient_email": "e"}},
        {"user.target": {"name": "ann", "email": "e"}},
    ),
    ("no person", {"event_type": "user_lockout", "resource": {"type": "application", "id": "1"}}, {"user": ABSENT}),
    (
        "login",
        {"event_type": "user_login_attempt", "initiated_by": {"id": "u1", "username": "ann"}, "resource": ANN},
        {"user": {"id": "u1", "name": "ann", "email": "ann@example.com"}},
    ),
    (
        "old login",
        {"event_type": "admin_login_attempt", "resource": {**ADMIN}},
        {"user.id": "a1", "user.target": ABSENT},
    ),
    (
        "login of another",
        {"event_type": "login_attempt", "initiated_by": {"id": "x"}, "resource": {"type": "user", "id": "u1"}},
        {"user": {"id": "x", "target": {"id": "u1"}}},
    ),
    (
        "login by another name",
        {"event_type": "login_attempt", "username": "vagrant", "resource": ANN},
        {"user.name": "vagrant", "user.id": ABSENT, "user.target.id": "u1"},
    ),
    (
        "login by two names",
        {"event_type": "login_attempt", "username": "a", "initiated_by": {"id": "u1"}, "resource": ANN},
        {
            "user": {"name": "a", "id": "u1", "email": "ann@example.com"},
            "related.user": ["u1", "ann", "ann@example.com", "a"],
        },
    ),
    (
        "changes",
        {
            "event_type": "user_update",
            "changes": [
                {"field": "email", "from": "a", "to": "b"},
                {"field": "username", "to": "c"},
                {"field": "displayName", "to": "d"},
                {"field": "activated", "to": True},
                {"field": "lastname", "to": "e"},
            ],
        },
        {"user.changes": {"email": "b", "name": "c", "full_name": "d"}},
    ),
    ("changes elsewhere", {"event_type": "x", "changes": [{"field": "email", "to": "b"}]}, {"user": ABSENT}),
    ("changes of no text", {"event_type": "user_update", "changes": [{"field": "email", "to": 1}]}, {"user": ABSENT}),
    ("group", {"resource": {"type": "user_group", "id": "g1", "name": "G"}}, {"group": {"id": "g1", "name": "G"}}),
    ("group by its event", {"event_type": "group_update", "resource": {"id": "g1"}}, {"group": {"id": "g1"}}),
    ("group at one end", linked(ENGINEERS, ANNS_END), {"group": {"id": "g1", "name": "Engineering"}}),
    ("group at the other", linked(ANNS_END, ENGINEERS), {"group.id": "g1", "user.target": {"id": "u1", "name": "ann"}}),
    ("no group", linked(ANNS_END, {"type": "application", "object_id": "1"}), {"group": ABSENT}),
    (
        "association of a person",
        {"association": {"type": "admin", "id": "a1", "email": "e"}},
        {"user.target": {"id": "a1", "email": "e"}},
    ),
    (
        "host",
        {"system": {**SYSTEM, "os": "Windows", "version": "10.0"}},
        {
            "host": {
                "id": "h1",
                "hostname": "build-07",
                "name": "Build 7",
                "os": {"name": "Windows", "version": "10.0"},
            },
            "related.hosts": ["h1", "build-07", "Build 7"],
        },
    ),
    (
        "host without name",
        {"system": {"hostname": "h"}},
        {"host": {"hostname": "h", "name": "h"}, "related.hosts": ["h"]},
    ),
    ("host acted on", {"resource": {"type": "system", "id": "h1", "name": "H"}}, {"host": {"id": "h1", "name": "H"}}),
    ("host not acted on", {"system": "", "resource": {"type": "policy", "id": "1"}}, {"host": ABSENT}),
    ("mobile device", {"mdm_device_id": "m1", "device_object_id": "m2"}, {"device": {"id": "m1"}}),
    ("mobile device, documented", {"device_object_id": "m2", "windows_device_uuid": "m3"}, {"device": {"id": "m2"}}),
    (
        "phone",
        {"client_ip": "192.0.2.1", "auth_context": {"jumpcloud_protect_device": PHONE}},
        {
            "device": {"id": "d1", "manufacturer": "samsung", "model": {"name": "SM-S911B"}},
            "related.ip": ["192.0.2.1", "192.0.2.9"],
        },
    ),
    (
        "phone of a bind",
        {"auth_meta": {"jumpcloud_protect_device": PHONE}},
        {"device.id": "d1", "related.ip": ["192.0.2.9"]},
    ),
    ("phone nowhere", {"auth_context": {"jumpcloud_protect_device": {"ip": "300.1.1.1"}}}, {"related": ABSENT}),
    (
        "application of sso",
        {"service": "sso", "application": APPLICATION},
        {"service": {"name": "Wiki"}, "package": ABSENT, "url": {"full": "https://x/y"}},
    ),
    ("connector of sso", {"event_type": "sso_auth", "application": {"name": "oidc"}}, {"service": {"name": "oidc"}}),
    (
        "application of software",
        {"service": "software", "application": {"name": "Firefox", "version": "121.0", "path": "/x", "publisher": "M"}},
        {"service": ABSENT, "package": {"name": "Firefox", "version": "121.0", "path": "/x"}},
    ),
    (
        "software elsewhere",
        {"service": "directory", "event_type": "software_add_request", "application": {"name": "Firefox"}},
        {"package": {"name": "Firefox"}},
    ),
    ("application elsewhere", {"application": {"name": "aws"}}, {"service": ABSENT, "package": ABSENT}),
    (
        "file",
        STORED,
        {"file": {"name": "a.pkg", "size": 178398259, "hash": {"sha256": SHA256}}, "related.hash": [SHA256]},
    ),
    ("policy", {"auth_context": {"policies_applied": [POLICY]}}, {"rule": POLICY}),
    (
        "policies",
        {"auth_context": {"policies_applied": [POLICY, {"id": "", "name": "Block"}, {"id": "p2", "name": "Block"}]}},
        {"rule": {"id": ["p1", "p2"], "name": ["Require MFA", "Block"]}},
    ),
    ("rule of an alert", {"service": "alerts", "correlation": {"id": "r1"}}, {"rule": {"id": "r1"}}),
    ("newer rule", {"service": "alert", "rule_id": "r2", "correlation": {"id": "r1"}}, {"rule": {"id": "r2"}}),
    (
        "rule itself",
        {"service": "alerts", "event_type": "rule_created", "resource": {"id": "r1", "name": "R"}},
        {"rule": {"id": "r1", "name": "R"}},
    ),
    ("correlation elsewhere", {"service": "directory", "correlation": {"id": "c1"}}, {"rule": ABSENT}),
    (
        "other user agent",
        {"user_agent": {"name": "Chrome", "os_name": "Mac OS X", "device": "Other"}},
        {"user_agent": {"name": "Chrome", "os": {"name": "Mac OS X"}, "device": {"name": "Other"}}},
    ),
    ("nested user agent", {"useragent": {"useragent": {"name": "Firefox"}}}, {"user_agent": {"name": "Firefox"}}),
    ("first user agent", {"useragent": {"name": "A"}, "user_agent": {"name": "B"}}, {"user_agent": {"name": "A"}}),
    ("related addresses once", {"client_ip": "192.0.2.1", "src_ip": "192.0.2.1"}, {"related.ip": ["192.0.2.1"]}),
    *(
        (f"outcome {said}", {"service": "mdm", name: said}, {"event.outcome": outcome})
        for name, said, outcome in [
            ("status", "Acknowledged", "success"),
            ("status", "Error", "failure"),
            ("status", "CommandFormatError", "failure"),
            ("status", "NotNow", "unknown"),
            ("result", "Success", "success"),
            ("result", "successful enrollment of device", "success"),
            ("result", "FAILED", "failure"),
            ("result", "in progress", "unknown"),
        ]
    ),
    ("success wins", {"success": False, "result": "Success"}, {"event.outcome": "failure"}),
    (
        "challenge",
        {"event_type": "sso_auth", "sso_token_success": False, "error_message": None},
        {"event.outcome": "unknown", "event.type": ["info"], "event.category": ["authentication"]},
    ),
    (
        "no challenge",
        {"event_type": "sso_auth", "sso_token_success": False, "error_message": "no"},
        {"event.outcome": "failure", "event.type": ["info", "start"]},
    ),
    ("success and no challenge", {"event_type": "sso_auth", "success": False}, {"event.outcome": "failure"}),
]


@pytest.mark.parametrize(("event", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_row(event: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each row of the extended mapping holds, and none of these events is reported as faulty."""
    body = MAPPER.map(parse_event(json.dumps(event).encode()), 0).body
    assert {path: at(body, path) for path in expected} == expected
    assert "error" not in body
