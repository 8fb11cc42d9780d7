"""What an event of every service says: templates, and the JSON that is made from them.

In a template a tuple stands for one of its elements, a function for what it returns, and the mapping under a key that
begins with "*" is merged into the event.
"""

from __future__ import annotations

import base64
import functools
import json
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_address
from itertools import accumulate
from random import Random
from typing import Any
from uuid import UUID

import msgspec

# Different bodies of a service: people and devices recur. A prime, so that what else varies is independent.
VARIANTS = 509
WHOLE_SECONDS = frozenset({"radius", "ldap"})
NANOSECONDS = frozenset({"sso", "mdm"})

_PROVIDERS = ("null", '""', '"5e160715b7782848e073301e"')
_ZONES = tuple(timezone(timedelta(minutes=minutes)) for minutes in (-480, -300, 0, 60, 330, 570))
_NAMES = ("ada", "arlo", "bela", "brix", "cleo", "dara", "edda", "finn", "gwen", "hugo", "ines", "juno", "kian", "lena")
_SURNAMES = ("alder", "birch", "cedar", "elm", "fern", "gorse", "hazel", "ivy", "juniper", "larch", "maple", "rowan")
_USERS = tuple(f"{name}.{surname}" for name in _NAMES for surname in _SURNAMES)
_GEO = ("continent_code", "country_code", "latitude", "longitude", "region_code", "region_name", "timezone")
_LONDON = dict(zip(_GEO, ("EU", "GB", 51.5142, -0.0931, "ENG", "England", "Europe/London"), strict=True))
_NETWORKS: tuple[tuple[str, int, tuple[Any, ...] | None], ...] = (
    # first address, how many are used, and what JumpCloud itself says of their place
    ("81.2.69.144", 16, tuple(_LONDON.values())),
    ("89.160.20.112", 16, ("EU", "SE", 58.4167, 15.6167, "E", "Östergötland County", "Europe/Stockholm")),
    ("216.160.83.56", 8, ("NA", "US", 47.2513, -122.3149, "WA", "Washington", "America/Los_Angeles")),
    ("192.0.2.1", 64, ("NA", "US", 39.7388, -104.9868, "CO", "Colorado", "America/Denver")),
    ("198.51.100.1", 64, ("OC", "AU", -27.658, 152.8915, "QLD", "Queensland", "Australia/Brisbane")),
    ("203.0.113.1", 64, ("AS", "JP", 35.6893, 139.6899, "13", "Tokyo", "Asia/Tokyo")),
    ("2001:db8::1", 64, ("EU", "DE", 52.5196, 13.4069, "BE", "Land Berlin", "Europe/Berlin")),
    ("10.1.2.1", 64, None),
    ("192.168.7.1", 64, None),
)
_AGENT = ("device", "major", "minor", "name", "os", "os_full", "os_major", "os_minor", "os_name", "os_patch",
          "os_version", "patch", "version")  # fmt: skip
_AGENTS = tuple(
    dict(zip(_AGENT, line.split("|"), strict=True))
    for line in (
        "Mac|109|0|Chrome|Mac OS X|Mac OS X 10.15.7|10|15|Mac OS X|7|10.15.7|0|109.0.0.0",
        "Other|121|0|Firefox|Windows|Windows 10|10||Windows||10||121.0",
        "iPhone|17|2|Mobile Safari|iOS|iOS 17.2.1|17|2|iOS|1|17.2.1|1|17.2.1",
        "Other|120|0|Edge|Windows|Windows 10|10||Windows||10|2210|120.0.2210",
        "Pixel 8|120|0|Chrome Mobile|Android|Android 14|14||Android||14|6099|120.0.6099",
    )
)

Maker = Callable[[Random], Any]


def _plan(template: Any) -> Any:
    """A template as a function of a Random or, if it never varies, as a ready value: objects as their JSON."""
    if isinstance(template, tuple):
        options = [_plan(option) for option in template]
        return lambda random: _made(options[int(random.random() * len(options))], random)
    if isinstance(template, list):
        plans = [_plan(element) for element in template]
        return (lambda random: [_made(plan, random) for plan in plans]) if any(map(callable, plans)) else template
    if not isinstance(template, dict):
        return template
    fields: dict[str, Any] = {}
    for key, value in template.items():
        merged = key.startswith("*") and isinstance(value, dict)
        fields |= {name: _plan(part) for name, part in value.items()} if merged else {key: _plan(value)}
    if any(map(callable, fields.values())):
        return lambda random: _filled(fields, random)
    return msgspec.Raw(msgspec.json.encode(fields))


def _made(plan: Any, random: Random) -> Any:
    return plan(random) if callable(plan) else plan


def _filled(fields: dict[str, Any], random: Random) -> dict[str, Any]:
    filled: dict[str, Any] = {}
    for key, plan in fields.items():
        value = _made(plan, random)
        if key[0] == "*":
            filled |= value if isinstance(value, dict) else msgspec.json.decode(value)
        else:
            filled[key] = value
    return filled


def _digits(length: int) -> Maker:
    return lambda random: f"{random.getrandbits(4 * length):0{length}x}"


def _number(low: int, high: int) -> Maker:
    return lambda random: low + int(random.random() * (high - low + 1))


def _blob(size: int) -> Maker:
    return lambda random: base64.b64encode(random.randbytes(int(size * (0.5 + random.random())))).decode()


def _uuid(random: Random) -> str:
    return str(UUID(int=random.getrandbits(128), version=4))


def _name(random: Random) -> str:
    return _USERS[int(random.random() * len(_USERS))]


def _mail(random: Random) -> str:
    return f"{_name(random)}@example.com"


def _origins() -> Iterator[tuple[dict[str, Any], ...]]:
    """For each network, every `client_ip` with the place that belongs to it, where it has one."""
    for first, size, place in _NETWORKS:
        geo = {"geoip": _plan(dict(zip(_GEO, place, strict=True)))} if place else {}
        yield tuple({"client_ip": str(ip_address(first) + offset), **geo} for offset in range(size))


_id = _digits(24)
_ORIGINS = tuple(_origins())


def _origin(random: Random) -> dict[str, Any]:
    network = _ORIGINS[int(random.random() * len(_ORIGINS))]
    return network[int(random.random() * len(network))]


def _address(random: Random) -> str:
    return str(_origin(random)["client_ip"])


def _user(random: Random) -> dict[str, Any]:
    """A user as actor and as the target of the same event."""
    name, object_id = _name(random), _id(random)
    return {
        "initiated_by": {"id": object_id, "type": "user", "username": name},
        "resource": {"id": object_id, "type": "user", "username": name, "email": f"{name}@example.com"},
    }


def _principal(random: Random) -> dict[str, Any]:
    """A user who is known by name only."""
    name = _name(random)
    return {"initiated_by": {"type": "user", "username": name}, "username": name}


def _device_login(random: Random) -> dict[str, Any]:
    """A login on a device, worded as its agent does."""
    who, source = _principal(random), _address(random)
    process = ("sshd", "login", "winlogon.exe", "loginwindow")[int(random.random() * 4)]
    done = random.random() < 0.9  # noqa: PLR2004
    did = "logged in" if done else "failed to log in"
    message = f"User {who['username']} {did} from {source}, process name: {process}"
    return {"message": message, **who, "src_ip": source, "process_name": process, "success": done}


def _ldap_user(random: Random) -> dict[str, Any]:
    who = _principal(random)
    return {"dn": f"uid={who['username']},ou=Users,o=5a2af2a82cf2b0010053ea41,dc=jumpcloud,dc=com", **who}


# fmt: off
# Every JSON type occurs as the value of a change, and either side may be missing.
_CHANGES = tuple(_plan(change) for change in (
    {"field": "lastname", "from": _SURNAMES, "to": _SURNAMES},
    {"field": "activated", "from": False, "to": True},
    {"field": "unix_uid", "from": 5001, "to": _number(5002, 9999)},
    {"field": "quota", "from": 0.5, "to": 1.25},
    {"field": "managedAppleId", "from": None, "to": _mail},
    {"field": "mfa", "from": {"configured": False}, "to": {"configured": True, "exclusion": False}},
    {"field": "emails", "to": [{"primary": True, "type": "work", "value": _mail}]},
    {"field": "schemas", "to": ["urn:ietf:params:scim:schemas:core:2.0:User"]},
    {"field": "password"},
    {"field": "displayName", "from": "Åsa “Ace” Lindqvist 李", "to": ""},
))


def _changes(random: Random) -> list[Any]:
    return [_made(change, random) for change in random.sample(_CHANGES, 1 + int(random.random() * 6))]


_ADMIN = {"id": _id, "type": "admin", "email": _mail}
_SYSTEM = {"id": _id, "hostname": ("build-07", "LAPTOP-4F2K", "macbook-ines"), "displayName": ("Build 7", "Kiosk", "")}
_OUTCOME = ({"success": True, "error_message": None}, {"success": True, "error_message": ""},
            {"success": False, "error_message": ("invalid password", "account locked", "denied by access policy")})
_METHODS = {"password": {"success": True}, "totp": {"success": (True, False)}, "webauthn": {"success": False},
            "jumpcloud_protect": {"success": (True, False)}, "duo": {"success": False}}
_POLICY = {"id": (_id, ""), "name": ("Require MFA", "Block unknown networks", "Global Policy"),
           "metadata": {"action": ("ALLOW", "DENY", "ALLOW_WITH_MFA"), "resource_type": "USER_PORTAL"}}
_PHONE = {"id": _id, "app_version": "2.1.4", "ip": _address, "make": "samsung", "model": "SM-S911B", "os": "android",
          "os_version": "14", "user_id": _id, "username": _name, "geoip": _LONDON}
_CONTEXT = {"auth_methods": (_METHODS, {}), "policies_applied": [_POLICY], "system": _SYSTEM,
            "jumpcloud_protect_device": _PHONE}
_WHERE = {"*origin": _origin, "useragent": _AGENTS}
_LOGIN = {"*origin": _origin, "useragent": _AGENTS, "*outcome": _OUTCOME, "auth_method": ("session", "password"),
          "mfa": (True, False), "mfa_meta": {"type": ("totp", "webauthn", "push", "none", "")},
          "auth_context": _CONTEXT}
_EDIT = {"initiated_by": _ADMIN, "*origin": _origin, "useragent": _AGENTS, "auth_method": ("session", "api-key"),
         "mfa": (True, False), "success": True}
_PORTAL = {"initiated_by": _ADMIN, "*origin": _origin, "user_agent": _AGENTS}
_TARGET = {"type": "user", "id": _id, "username": _name, "email": _mail}
_LINK = {"op": ("add", "remove"), "action_source": "jumpcloud:admin-portal",
         "connection": {"from": {"type": "user_group", "object_id": _id, "name": ("Engineering", "Sales")},
                        "to": {"type": "user", "object_id": _id, "name": _name}}}
_DEVICE = {"system": _SYSTEM, "*origin": _origin, "*login": _device_login}
_BIND = {"*by": _ldap_user, "*outcome": _OUTCOME, "*origin": _origin, "connection_id": _blob(32)}

# service: its share of all events, and its events, each as often as it is written here
_CATALOG: dict[str, tuple[float, tuple[Any, ...]]] = {
    "directory": (38, (
        {"event_type": "user_login_attempt", "*by": _user, "*login": _LOGIN},
        {"event_type": "user_login_attempt", "*by": _user, "*login": _LOGIN},
        {"event_type": "admin_login_attempt", "initiated_by": _ADMIN, "*login": _LOGIN},
        {"event_type": "user_update", "resource": _TARGET, "changes": _changes, "*edit": _EDIT},
        {"event_type": "user_create", "resource": _TARGET, "changes": _changes, "*edit": _EDIT},
        {"event_type": "user_delete", "resource": _TARGET, "*edit": _EDIT},
        {"event_type": "group_update", "resource": {"type": "user_group", "id": _id, "name": ("Engineering", "Sales")},
         "changes": _changes, "*edit": _EDIT},
        {"event_type": "association_change", "association": _LINK, "*edit": _EDIT},
        {"event_type": "user_password_change", "*by": _user, "changes": [{"field": "password"}], "*where": _WHERE,
         "success": True},
        {"event_type": "user_lockout", "resource": _TARGET, "message": "Locked out after 6 failures", "success": True},
        {"event_type": "command_run", "resource": {"type": "command", "id": _id, "name": "rotate logs"},
         "system": _SYSTEM, "*edit": _EDIT},
        {"event_type": "policy_update", "resource": {"type": "policy", "id": _id, "name": "Disk encryption"},
         "changes": _changes, "*edit": _EDIT},
    )),
    "sso": (20, ({
        "event_type": "sso_auth", "*by": _user, "*where": _WHERE, "idp_initiated": (True, False),
        "*token": ({"sso_token_success": True}, {"sso_token_success": True}, {"sso_token_success": False},
                   {"sso_token_success": False, "error_message": "user is not assigned to this application"}),
        "application": {"id": _id, "name": ("saml2", "oidc", "google", ""), "display_label": ("Wiki", "Payroll", ""),
                        "sso_url": "https://sso.jumpcloud.com/saml2/wiki"},
        "auth_context": _CONTEXT, "mfa": (True, False)},)),
    "systems": (12, (
        {"event_type": "login_attempt", "*device": _DEVICE},
        {"event_type": "user_login", "*device": _DEVICE,
         "windows_meta": {"elevated": (True, False), "logon_type": ("2", "5", "10")}},
        {"event_type": "user_lockout", "system": _SYSTEM, "*origin": _origin, "resource": _TARGET, "success": True},
    )),
    "radius": (7, ({
        "event_type": "radius_auth_attempt", "*outcome": _OUTCOME, "*by": _principal, "*origin": _origin,
        "auth_type": ("eap", "pap"), "nas_mfa_state": ("DISABLED", "ENABLED", "REQUIRED", "ALWAYS"),
        "eap_type": "MSCHAPv2", "mfa": (True, False), "mfa_meta": {"type": ("none", "totp", "push")},
        "outer": {"error_message": (None, "eap_peap: the session was rejected"), "eap_type": "PEAP",
                  "username": _name}},)),
    "ldap": (8, (
        {"event_type": "ldap_bind", "*bind": _BIND, "operation_number": _number(0, 9), "auth_method": ("128", "163"),
         "mech": "SIMPLE", "start_tls": (True, False), "tls_established": (True, False), "error_code": (0, 0, 49),
         "auth_meta": {"auth_methods": {"password": {"success": True}}}},
        {"event_type": "ldap_srch", "*bind": _BIND, "operation_number": _number(1, 99),
         "operation_type": "SEARCH RESULT", "base": "ou=Users,o=5a2af2a82cf2b0010053ea41,dc=jumpcloud,dc=com",
         "scope": 2, "deref": (0, 3), "filter": "(&(objectClass=inetOrgPerson)(uid=*))", "attr": "uid mail memberOf",
         "number_of_results": _number(0, 500), "error_code": 0},
    )),
    "mdm": (4, ({
        "event_type": "mdm_command_result", "mdm_type": "apple", "mdm_device_id": _id, "mdm_device_manager_id": _id,
        "command_uuid": _uuid, "status": ("Acknowledged", "Error", "NotNow"),
        "command": {"request_type": ("DeviceInformation", "ProfileList", "SecurityInfo"), "payload": _blob(2400)},
        "error_chain": (None, [{"error_code": 12021, "error_domain": "MCMDMErrorDomain",
                                "localized_description": "unknown command", "us_english_description": ""}]),
        "profile_list": [{"payload_identifier": "com.example.wifi", "payload_uuid": _uuid, "payload_verion": 1}]},)),
    "software": (4, ({
        "event_type": ("software_add", "software_change", "software_remove"), "system": {"id": _id, "type": "system"},
        "application": {"name": ("Firefox", "Slate Editor", "Zeta VPN"), "version": ("121.0", "96.1", "4.2.0"),
                        "publisher": "Example Software", "path": "/Applications/Example.app",
                        "package_manager": ("", "winget", "brew")},
        "changes": [{"field": "version", "from": "96.0", "to": "96.1"}], "resource": {"id": _id, "type": "system"}},)),
    "password_manager": (2, ({
        "event_type": ("passwordmanager_item_reveal", "passwordmanager_folder_create"), "*portal": _PORTAL,
        "success": True, "resource": {"type": "folder", "id": _id, "name": "Shared"}, "error_message": ""},)),
    "object_storage": (0.7, ({
        "event_type": ("object_storage_create", "object_storage_delete"), "result": "Success",
        "referrer_object_id": _id, "referrer_type": "SOFTWARE_APP", "object_storage_item_object_id": _id,
        "object_storage_item_version_name": "Example.pkg", "object_storage_item_version_size": _number(10**5, 10**9),
        "object_storage_item_version_sha_256_sum": _digits(64), "total_software_item_count": _number(1, 500),
        "total_space_used": _number(10**9, 10**12), "system_object_id": _id},)),
    "access_management": (0.7, ({
        "event_type": "access_management_access_request", "*portal": _PORTAL, "pid": _uuid, "access_request_id": _id,
        "success": True, "resource": _TARGET,
        "workflow": {"type": "access-workflow", "id": _id, "name": "Payroll access"}},)),
    "notifications": (0.7, ({
        "event_type": "notification_channel_created", "initiated_by": _ADMIN, "*origin": _origin, "name": "on call",
        "type": "email", "description": "tells the administrator", "channel_object_id": _id,
        "config": [{"name": _name, "email": _mail}], "success": True},)),
    "alerts": (0.7, ({
        "event_type": ("alert_created", "alert_status_updated"), "*origin": _origin,
        "initiated_by": (_ADMIN, [{"field": "Status", "to": "Open"}]), "category": ("System", "Directory"),
        "severity": ("Low", "Medium", "High"), "correlation": ({"id": _id}, {}), "success": True,
        "resource": {"id": _id, "context": "{}", "source_id": _id, "source_type": "device"}},)),
    "saas_app_management": (0.7, ({
        "event_type": ("saas_management_application_discover", "saas_management_login_event"), "*by": _principal,
        "*origin": _origin, "detail": "Application found.",
        "resource": {"application_id": "wiki", "application_name": "Wiki", "application_category": "Knowledge"}},)),
    "asset_management": (0.7, ({
        "event_type": "asset_management_asset_update", "*by": _principal, "*origin": _origin,
        "resource": {"id": _id, "type": "DEVICE"}, "detail": "An asset has been updated.",
        "changes": [{"field": "Name", "from": "Desktop-01", "to": "Desktop-02"}]},)),
    "reports": (0.7, ({
        "event_type": ("report_run", "report_export"), "*portal": _PORTAL, "auth_method": "session",
        "resource": {"id": _id, "name": "users to devices", "resources": ["users", "devices"]}},)),
}
# fmt: on
SERVICES = tuple(_CATALOG)
_WRITERS: dict[str, Maker] = {service: _plan(events) for service, (_, events) in _CATALOG.items()}
_CUMULATIVE = tuple(accumulate(share for share, _ in _CATALOG.values()))


def draw_service(random: Random) -> str:
    """A service, each as often as its share."""
    return random.choices(SERVICES, cum_weights=_CUMULATIVE)[0]


def render(service: str, timestamp_ms: int, *, doc_id: str, event_id: str, organization: str) -> bytes:
    """An event's JSON; all that its service leaves open is decided by `doc_id`."""
    chance = zlib.crc32(doc_id.encode())
    second, milliseconds = divmod(timestamp_ms, 1000)
    moment = datetime.fromtimestamp(second, UTC)
    fraction, local = f".{milliseconds:03d}", ""
    if service in WHOLE_SECONDS:
        fraction = ""
    elif service in NANOSECONDS:
        fraction = f"{fraction}{chance * 7919 % 10**6:06d}".rstrip("0").rstrip(".")
    elif service == "systems":
        local = f'"system_timestamp":"{moment.astimezone(_ZONES[chance % len(_ZONES)]).isoformat()}",'
    tail = (
        f',"provider":{_provider(service)},"organization":{json.dumps(organization)},'
        f'"service":"{service}","@version":"1","id":"{event_id}",{local}'
        f'"timestamp":"{moment.isoformat()[:19]}{fraction}Z"}}'
    )
    return _body(service, chance % VARIANTS) + tail.encode()


@functools.cache
def _provider(service: str) -> str:
    """An organization's provider never changes; each service has its own way to say that there is none."""
    return _PROVIDERS[zlib.crc32(service.encode()) % len(_PROVIDERS)]


@functools.cache
def _body(service: str, variant: int) -> bytes:
    """What an event says, as JSON up to the fields that every event has, which come last."""
    return msgspec.json.encode(_WRITERS[service](Random(f"{service}:{variant}")))[:-1]
