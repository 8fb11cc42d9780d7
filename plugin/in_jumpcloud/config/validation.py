"""Checks that a single type cannot make: the form of URLs and ids, files, and settings that contradict each other."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from in_jumpcloud.config.addresses import is_loopback, parse_address
from in_jumpcloud.config.schema import (
    Config,
    DiscoverSettings,
    EcsSettings,
    ForwardSettings,
    JumpCloudSettings,
    MembersSettings,
    StateSettings,
    TlsSettings,
)
from in_jumpcloud.config.types import NamedFile, Start, fits_a_header
from in_jumpcloud.errors import Problem
from in_jumpcloud.tags import TagTemplate
from in_jumpcloud.timestamps import now_ms, rfc3339

_DAY_SECONDS = 86_400
_MAX_REACH_DAYS = 90
_MIN_LEASE_SECONDS, _MAX_LEASE_SECONDS = 5, 300
_MAX_NAMES_BYTES = 600
"""Of hostname and username: with both digests a PING must fit into the 1,023 bytes that Fluent Bit reads of it."""
_MAX_NAME_BYTES = 63
"""https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS"""
_EARLIEST_NOW_MS = 1_735_689_600_000
"""2025-01-01. A clock before that is wrong, and says nothing about a date."""
_INVALID_CHARACTER = "it contains whitespace or an invalid character"


def validate(config: Config) -> Iterator[Problem]:
    """Every problem of `config`."""
    yield from _validate_account(config.jumpcloud)
    yield from _validate_api(config.jumpcloud)
    yield from _validate_record(config.ecs)
    yield from _validate_receivers(config.forward)
    yield from _validate_handshake(config.forward)
    yield from _validate_tls(config.forward)
    if config.http.listen is not None:
        try:
            parse_address(config.http.listen)
        except ValueError as error:
            yield Problem("http.listen", str(error))
    for name, path in (("state.path", config.state.path), ("dead_letter.path", config.dead_letter.path)):
        if path and not path.name:
            yield Problem(name, f"expected the path of a file (got {path})")
    yield from _validate_state(config.state)
    yield from _validate_members(config)
    if not _DAY_SECONDS <= config.reconcile.reach <= _MAX_REACH_DAYS * _DAY_SECONDS:
        yield Problem("reconcile.reach", f"must be from 1d to {_MAX_REACH_DAYS}d")


def _validate_members(config: Config) -> Iterator[Problem]:
    settings = config.members
    if not _MIN_LEASE_SECONDS <= settings.lease <= _MAX_LEASE_SECONDS:
        yield Problem("members.lease", f"must be from {_MIN_LEASE_SECONDS}s to {_MAX_LEASE_SECONDS // 60}m")
    if settings != MembersSettings() and config.state.url is None:
        yield Problem("members", "needs state.url: only processes that share a state on a server are members")
    for name in ("name", "address"):
        text = getattr(settings, name)
        if text is not None and not (text.isprintable() and text.strip()):
            yield Problem(f"members.{name}", _INVALID_CHARACTER)
    yield from _validate_page_of_member(config)


def _validate_page_of_member(config: Config) -> Iterator[Problem]:
    """An address that others cannot reach is a mistake. One on this machine is for members that are all on it."""
    address, listen = config.members.address, config.http.listen
    if address is None or is_loopback(_host_of_address(address)):
        return
    try:
        is_reachable = listen is not None and not is_loopback(parse_address(listen)[0])
    except ValueError:
        return  # it has a problem of its own
    if not is_reachable:
        yield Problem("members.address", f"cannot be reached: http.listen is {listen or 'off'}; set it to 0.0.0.0:2021")


def _host_of_address(address: str) -> str:
    """The host, with or without `http://`; empty if that is not clear."""
    try:
        return urlsplit(address if "//" in address else f"//{address}").hostname or ""
    except ValueError:
        return ""


def _validate_account(settings: JumpCloudSettings) -> Iterator[Problem]:
    """Either a key, or a complete service account, whose secret never goes out unencrypted."""
    names = ("client_id", "client_secret")
    given = [name for name in names if getattr(settings, name) is not None]
    if settings.api_key is None and not given:
        text = "missing; set api_key, api_key_file or the variable JUMPCLOUD_API_KEY, or client_id and client_secret"
        yield Problem("jumpcloud.api_key", text)
    if settings.api_key is not None and given:
        yield Problem(f"jumpcloud.{given[0]}", "api_key is set too; use either the key or the service account")
    if len(given) == 1:
        missing = next(name for name in names if name not in given)
        yield Problem(f"jumpcloud.{missing}", f"missing; a service account needs it as well as {given[0]}")
    for name, secret in (("api_key", settings.api_key), ("client_secret", settings.client_secret)):
        if secret is not None and not secret.reveal():
            yield Problem(f"jumpcloud.{name}", "must not be empty", may_pass=secret.file is not None)
        elif secret is not None and not fits_a_header(secret.reveal()):
            text = f"is not a valid key: {_INVALID_CHARACTER}"
            yield Problem(f"jumpcloud.{name}", text, may_pass=secret.file is not None)
    if settings.client_id and (":" in settings.client_id or not fits_a_header(settings.client_id)):
        yield Problem(
            "jumpcloud.client_id", "is not a valid ID: it contains a colon, whitespace or an invalid character"
        )
    if given and not settings.organizations and not settings.is_discovered:
        text = "missing; list the organizations to poll: a service account has no organization by default"
        yield Problem("jumpcloud.organizations", text)
    if given and settings.provider_id:
        text = "a service account cannot read the events of a provider; use api_key instead"
        yield Problem("jumpcloud.provider_id", text)
    if given and settings.url and not settings.token_url:
        yield Problem("jumpcloud.token_url", "missing; with url set, it is not known where to get tokens")
    if not _host(settings.token_endpoint):
        text = "expected a URL such as https://admin-oauth.id.eu.jumpcloud.com/oauth2/token"
        yield Problem("jumpcloud.token_url", text)
    elif urlsplit(settings.token_endpoint).username is not None:
        yield Problem("jumpcloud.token_url", "expected a URL without a user and a password; use client_id")


def _validate_api(settings: JumpCloudSettings) -> Iterator[Problem]:
    if text := url_problem(settings.base_url):
        yield Problem("jumpcloud.url", text)
    yield from _validate_encryption(settings)
    yield from _validate_organizations(settings)
    yield from _validate_start("jumpcloud.start", settings.start)
    if settings.window <= settings.overlap:
        yield Problem("jumpcloud.window", "must be longer than jumpcloud.overlap, or windows would not advance")
    if settings.ca_file:
        yield from _validate_ca_file("jumpcloud.ca_file", settings.ca_file)
    if settings.proxy and not _host(settings.proxy.reveal()):
        yield Problem("jumpcloud.proxy", "expected a URL such as http://proxy.example.com:3128")


def _validate_organizations(settings: JumpCloudSettings) -> Iterator[Problem]:
    listed = () if settings.organizations == "all" else settings.organizations
    ids = [(f"organizations[{index}]", each) for index, each in enumerate(listed)]
    ids += [("provider_id", settings.provider_id)] if settings.provider_id else []
    for key, each in ids:
        if not fits_a_header(each):
            yield Problem(f"jumpcloud.{key}", f"{each!r} is not a valid ID: {_INVALID_CHARACTER}")
    seen = set()
    for index, each in enumerate(listed):
        if each in seen:
            yield Problem(f"jumpcloud.organizations[{index}]", f"duplicate ID {each!r}")
        seen.add(each)
    if settings.organizations and settings.organizations_file:
        yield Problem("jumpcloud.organizations_file", "organizations is set too; use one of the two")
    if settings.discover != DiscoverSettings() and settings.organizations != "all":
        yield Problem("jumpcloud.discover", "has no effect without organizations: all; remove it")
    for each, override in settings.overrides.items():
        at = f"jumpcloud.overrides.{each}"
        if not settings.is_discovered and each not in seen:
            yield Problem(at, f"{each!r} is not one of jumpcloud.organizations")
        if override.tag is not None:
            yield from _validate_tag(f"{at}.tag", override.tag)
        if override.start is not None:
            yield from _validate_start(f"{at}.start", override.start)
    if settings.interval_max is not None and settings.interval_max < settings.interval:
        yield Problem("jumpcloud.interval_max", "must be at least jumpcloud.interval")


def _validate_start(path: str, start: Start) -> Iterator[Problem]:
    now, start_ms = now_ms(), start.resolve(now_ms())
    if start_ms > now > _EARLIEST_NOW_MS:
        text = f"must not be in the future (got {rfc3339(start_ms)}; this machine's clock says {rfc3339(now)})"
        yield Problem(path, text)


def _validate_tag(path: str, tag: str) -> Iterator[Problem]:
    try:
        TagTemplate(tag)
    except ValueError as error:
        yield Problem(path, str(error))


def url_problem(url: str) -> str | None:
    """What is wrong with a base URL of the API, which is not shown, since it may contain a password."""
    if _host(url) and not _has_more_than_a_path(url):
        return None
    return "expected a base URL without a user and a query, such as https://api.eu.jumpcloud.com"


def _validate_encryption(settings: JumpCloudSettings) -> Iterator[Problem]:
    """Plain HTTP shows the key to everybody on the way, so it stays on this machine."""
    if settings.allow_plain_http:
        return
    advice = "use https:, or set jumpcloud.allow_plain_http: true if the network is trusted"
    plain = False
    for name, url in (("url", settings.base_url), ("token_url", settings.token_endpoint)):
        host = _host(url)
        if host and urlsplit(url).scheme == "http":
            plain = True
            if not is_loopback(host):
                yield Problem(f"jumpcloud.{name}", f"http: would send the key unencrypted to {host}; {advice}")
    proxy = _host(settings.proxy.reveal()) if settings.proxy and plain else None
    if proxy and not is_loopback(proxy):
        text = f"would receive the key unencrypted, because jumpcloud.url or token_url begins with http:; {advice}"
        yield Problem("jumpcloud.proxy", text)


def _validate_record(settings: EcsSettings) -> Iterator[Problem]:
    """What has no effect is a mistake: somebody expects the effect."""
    default = EcsSettings()
    of_others = ("preserve_original_event", "preserve_duplicate_custom_fields", "hash_original", "tags", "namespace")
    names = of_others if settings.profile == "raw" else ("raw_fields",)
    for name in names:
        if getattr(settings, name) != getattr(default, name):
            yield Problem(f"ecs.{name}", f"has no effect with ecs.profile: {settings.profile}; remove it")


def _validate_receivers(settings: ForwardSettings) -> Iterator[Problem]:
    for index, server in enumerate(settings.servers):
        path = f"forward.servers[{index}]"
        if (server.host is None) == (server.unix is None):
            yield Problem(path, "expected either host (and port) or unix")
        elif server in settings.servers[:index]:
            yield Problem(path, f"duplicate receiver {server}")
    yield from _validate_tag("forward.tag", settings.tag)
    if settings.chunk_bytes > settings.message_max_bytes:
        yield Problem("forward.chunk_bytes", "must be at most forward.message_max_bytes")


def _validate_handshake(settings: ForwardSettings) -> Iterator[Problem]:
    if (settings.username is None) != (settings.password is None):
        missing, given = ("username", "password") if settings.username is None else ("password", "username")
        yield Problem(f"forward.{missing}", f"missing; the receiver needs it as well as forward.{given}")
    if settings.shared_key is None and (settings.username or settings.self_hostname):
        text = 'missing; username and self_hostname need a shared key; "" is the empty one'
        yield Problem("forward.shared_key", text)
    if len(f"{settings.self_hostname}{settings.username}".encode()) > _MAX_NAMES_BYTES:
        text = f"must be at most {_MAX_NAMES_BYTES} bytes together with forward.self_hostname"
        yield Problem("forward.username", text)


def _validate_state(settings: StateSettings) -> Iterator[Problem]:
    """A URL is never shown: it may contain a password."""
    default = StateSettings()
    if not settings.url:
        for name in ("password", "schema"):
            if getattr(settings, name) != getattr(default, name):
                yield Problem(f"state.{name}", "has no effect without state.url; remove it")
        return
    if urlsplit(settings.url.reveal()).scheme not in {"postgresql", "postgres"}:
        text = "expected a URL such as postgresql://user@db.example.com/name?sslmode=verify-full"
        yield Problem("state.url", text, may_pass=settings.url.file is not None)
    if settings.password and settings.url.has_password:
        yield Problem("state.password", "state.url has a password too; remove one of the two")
    size = len(settings.schema.encode())
    if size > _MAX_NAME_BYTES or settings.schema.startswith("pg_"):
        text = f"expected a name of at most {_MAX_NAME_BYTES} bytes that does not begin with pg_"
        yield Problem("state.schema", text)


def _validate_tls(settings: ForwardSettings) -> Iterator[Problem]:
    tls = settings.tls
    files = [name for name in ("ca_file", "cert_file", "key_file") if getattr(tls, name)]
    if files and not tls.enabled:
        yield Problem("forward.tls.enabled", f"must be true when forward.tls.{files[0]} is set")
    if tls.key_file and not tls.cert_file:
        yield Problem("forward.tls.cert_file", "missing; key_file needs it")
    if tls.enabled and tls.verify and not tls.server_name and any(server.unix for server in settings.servers):
        text = "missing; set the name in the receiver's certificate, because a unix socket has no host name"
        yield Problem("forward.tls.server_name", text)
    if tls.ca_file:
        yield from _validate_ca_file("forward.tls.ca_file", tls.ca_file)
    yield from _validate_client_certificate(tls)


def _validate_ca_file(path: str, file: NamedFile) -> Iterator[Problem]:
    if not os.path.isfile(file):  # noqa: PTH113 - Path.is_file can raise PermissionError
        yield _no_such_file(path, file)
        return
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:  # an SSLError is one
        yield Problem(path, f"{file} does not contain usable certificates: {_reason(error)}", may_pass=True)


def _validate_client_certificate(tls: TlsSettings) -> Iterator[Problem]:
    files = {name: getattr(tls, name) for name in ("cert_file", "key_file") if getattr(tls, name)}
    missing = [name for name, file in files.items() if not os.path.isfile(file)]  # noqa: PTH113 - as above
    for name in missing:
        yield _no_such_file(f"forward.tls.{name}", files[name])
    if missing or not tls.cert_file:
        return
    try:
        # OpenSSL asks for a passphrase at the terminal, unless it is given one: an empty one is an error.
        ssl.create_default_context().load_cert_chain(tls.cert_file, tls.key_file, password=lambda: b"")
    except OSError as error:
        subject = f"{tls.cert_file} and {tls.key_file} do" if tls.key_file else f"{tls.cert_file} does"
        text = f"{subject} not contain a certificate and its key without a passphrase: {_reason(error)}"
        yield Problem("forward.tls.cert_file", text, may_pass=True)


def _no_such_file(path: str, file: NamedFile) -> Problem:
    return Problem(path, f"no such file: {file}", may_pass=not os.path.isdir(file))  # noqa: PTH112 - as above


def _has_more_than_a_path(url: str) -> bool:
    parts = urlsplit(url)
    return parts.username is not None or "?" in url or "#" in url


def _host(url: str) -> str | None:
    """The host of an http or https URL; None where it is not one."""
    try:
        parts = urlsplit(url)
        return parts.hostname if re.match(r"https?://\S+\Z", url) and parts.port != 0 else None
    except ValueError:
        return None


def _reason(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if reason else str(error.strerror or error)
