"""What each setting by itself may be, and together they may not."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from in_jumpcloud.config import addresses
from in_jumpcloud.tags import TagTemplate

if TYPE_CHECKING:
    from in_jumpcloud.config.schema import Config, ForwardSettings, JumpCloudSettings
    from in_jumpcloud.config.types import Secret


def validate(config: Config, *, offline: bool) -> Iterable[str]:
    """What contradicts itself or the world, a line each with its path; `offline` leaves out what a connection needs."""
    if not offline:
        yield from _in_jumpcloud(config.jumpcloud)
        yield from _in_forward(config.forward)
        try:
            addresses.parse_address(config.http.listen or "localhost:0")
        except ValueError as error:
            yield f"http.listen: {error}"
    for path in _MORE_THAN_NOTHING:
        section, name = path.split(".")
        if getattr(getattr(config, section), name) <= 0:
            yield f"{path}: must be more than nothing"
    if config.ledger.keep < config.reconcile.window + config.jumpcloud.overlap + _HOUR:
        yield "ledger.keep: must be an hour longer than reconcile.window, or what was delivered would seem missing"
    if config.reconcile.window > _LONGEST_COMPARISON:
        yield "reconcile.window: must be at most 30d, which is as many minutes as JumpCloud can count at a time"


_HOUR = 3600
_LONGEST_NAMES = 600
"""Bytes: with both digests a PING has to fit into the 1,023 bytes that Fluent Bit reads of it."""
_LONGEST_COMPARISON = 30 * 24 * _HOUR
_MORE_THAN_NOTHING = (
    "reconcile.every",
    "jumpcloud.interval",
    "jumpcloud.window",
    "jumpcloud.page_bytes",
    "jumpcloud.connect_timeout",
    "jumpcloud.read_timeout",
    "forward.connect_timeout",
    "forward.ack_timeout",
    "forward.chunk_bytes",
    "dead_letter.max_bytes",
    "http.max_lag",
)


def _in_jumpcloud(settings: JumpCloudSettings) -> Iterable[str]:
    yield from _who_asks(settings)
    if not re.match(r"https?://[^/\s]", settings.base_url):
        yield f"jumpcloud.url: expected a base such as https://api.eu.jumpcloud.com, got {settings.base_url!r}"
    ids = [("organizations", each) for each in settings.organizations]
    ids += [("provider_id", settings.provider_id)] if settings.provider_id else []
    for key, each in ids:
        if not _fits_a_header(each):
            yield f"jumpcloud.{key}: {each!r} is no id: it holds a blank or a letter that no id has"
    for organization in sorted({each for each in settings.organizations if settings.organizations.count(each) > 1}):
        yield f"jumpcloud.organizations: {organization} stands twice"
    if settings.window <= settings.overlap:
        yield "jumpcloud.window: must be longer than jumpcloud.overlap, or a window would never advance"
    if settings.ca_file and not settings.ca_file.is_file():
        yield f"jumpcloud.ca_file: no such file: {settings.ca_file}"
    elif settings.ca_file:
        try:
            ssl.create_default_context(cafile=settings.ca_file)
        except OSError as error:  # an SSLError is one
            yield f"jumpcloud.ca_file: {settings.ca_file} holds no certificates that can be read: {_why(error)}"
    if settings.proxy and not _host(settings.proxy):  # not shown: it may hold a password
        yield "jumpcloud.proxy: expected such as http://proxy.example.com:3128"


def _who_asks(settings: JumpCloudSettings) -> Iterable[str]:
    names = ("client_id", "client_secret")
    given = [name for name in names if getattr(settings, name) is not None]
    if settings.api_key is None and not given:
        yield "jumpcloud.api_key: missing; set it, or api_key_file, or client_id and client_secret"
    if settings.api_key is not None and given:
        yield f"jumpcloud.{given[0]}: api_key is given too; keep the key or the service account"
    if len(given) == 1:
        missing = next(name for name in names if name not in given)
        yield f"jumpcloud.{missing}: missing; {given[0]} is given, and a service account has both"
    for name in ("api_key", "client_secret"):
        secret: Secret | None = getattr(settings, name)
        if secret and not _fits_a_header(secret.reveal()):
            yield f"jumpcloud.{name}: is empty, or holds a blank, a line break or a letter that no key has"
    if settings.client_id and (":" in settings.client_id or not _fits_a_header(settings.client_id)):
        yield "jumpcloud.client_id: holds a colon, a blank or a letter that no id has"
    if given and not settings.organizations:
        yield "jumpcloud.organizations: missing; a service account sees only the organizations that are named"
    if given and settings.provider_id:
        yield "jumpcloud.provider_id: a service account has no access to a provider's events; set api_key instead"
    if given and settings.url and not settings.token_url:
        yield "jumpcloud.token_url: missing; url is set, so its tokens may come from elsewhere than the region's"
    host = _host(settings.token_endpoint)
    if not host:
        yield "jumpcloud.token_url: expected such as https://admin-oauth.id.eu.jumpcloud.com/oauth2/token"
    elif settings.token_endpoint.startswith("http:") and not re.fullmatch(r"localhost|127\.[0-9.]+|::1", host):
        yield "jumpcloud.token_url: must be https, or anyone on the way could read the secret"


def _fits_a_header(text: str) -> bool:
    return re.fullmatch(r"[\x21-\x7e]+", text) is not None


def _host(url: str) -> str | None:
    """The host of an http URL; None where it is none."""
    try:
        parts = urlsplit(url)
        return parts.hostname if re.match(r"https?://\S+\Z", url) and parts.port != 0 else None
    except ValueError:
        return None


def _in_forward(settings: ForwardSettings) -> Iterable[str]:
    if not settings.servers:
        yield "forward.servers: expected at least one receiver"
    for index, server in enumerate(settings.servers):
        if (server.host is None) == (server.unix is None):
            yield f"forward.servers[{index}]: expected either host (and port) or unix"
        elif server in settings.servers[:index]:
            yield f"forward.servers[{index}]: {server} stands twice"
        if server.monitor and not _host(server.monitor):  # not shown: it may hold a password
            yield f"forward.servers[{index}].monitor: expected such as http://127.0.0.1:2020"
    try:
        TagTemplate(settings.tag)
    except ValueError as error:
        yield f"forward.tag: {error}"
    yield from _in_handshake(settings)
    yield from _in_tls(settings)
    if settings.chunk_bytes > settings.message_max_bytes:
        yield "forward.chunk_bytes: must be at most forward.message_max_bytes"


def _in_handshake(settings: ForwardSettings) -> Iterable[str]:
    if (settings.username is None) != (settings.password is None):
        missing = "username" if settings.username is None else "password"
        yield f"forward.{missing}: missing; a receiver asks for both"
    if settings.shared_key is None and (settings.username or settings.self_hostname):
        yield 'forward.shared_key: missing; without it there is no handshake; "" where the receiver has an empty one'
    if len(f"{settings.self_hostname}{settings.username}".encode()) > _LONGEST_NAMES:
        yield f"forward.username: is longer than {_LONGEST_NAMES} bytes, together with forward.self_hostname"


def _in_tls(settings: ForwardSettings) -> Iterable[str]:
    tls = settings.tls
    files = [name for name in ("ca_file", "cert_file", "key_file") if getattr(tls, name)]
    if files and not tls.enabled:
        yield f"forward.tls.enabled: is false, while forward.tls.{files[0]} is given"
    if tls.key_file and not tls.cert_file:
        yield "forward.tls.cert_file: missing; a key alone is no use"
    missing = [name for name in files if not getattr(tls, name).is_file()]
    for name in missing:
        yield f"forward.tls.{name}: no such file: {getattr(tls, name)}"
    if not tls.enabled or missing:
        return
    if tls.verify and not tls.server_name and any(server.unix for server in settings.servers):
        yield "forward.tls.server_name: missing; a unix socket has no name to check a certificate against"
    try:
        ssl.create_default_context(cafile=tls.ca_file)
    except OSError as error:  # an SSLError is one
        yield f"forward.tls.ca_file: {tls.ca_file} holds no certificates that can be read: {_why(error)}"
    try:
        if tls.cert_file:
            # A key with a passphrase would ask for it at the terminal: an empty one makes that an error.
            ssl.create_default_context().load_cert_chain(tls.cert_file, tls.key_file, password=lambda: b"")
    except OSError as error:
        what = "no certificate with its key, without a passphrase"
        yield f"forward.tls.cert_file: {tls.cert_file} and its key_file hold {what}: {_why(error)}"


def _why(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if reason else str(error.strerror or error)
