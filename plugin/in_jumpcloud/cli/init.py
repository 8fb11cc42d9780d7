"""`in-jumpcloud init`: writes a short configuration with what it detects on this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import click

from in_jumpcloud.cli import ParsedType, examples, show
from in_jumpcloud.config.schema import ForwardSettings, ServerSettings
from in_jumpcloud.config.types import Duration, Secret
from in_jumpcloud.config.validation import url_problem
from in_jumpcloud.ecs.geoip_account import DEFAULT_DIRECTORY, DEFAULT_EDITIONS
from in_jumpcloud.ecs.geoip_search import DIRECTORIES, find_database
from in_jumpcloud.errors import ConfigError, HandshakeRejected, ReceiverDown, ReceiverPaused
from in_jumpcloud.file_access import open_private, package_file
from in_jumpcloud.forward.sender import AckSender

SERVERS = (ServerSettings(unix=Path("/run/fluent-bit/forward.sock")), ServerSettings(host="127.0.0.1"))
"""Where to look for a receiver: the socket first, because only this machine can reach it."""
_KEY_VARIABLE = "JUMPCLOUD_API_KEY"
_HELO_SECONDS = 2
"""How long a receiver may take to begin a handshake, before it counts as one without a shared key."""

_TEMPLATE = Template("""\
# yaml-language-server: $$schema=$schema
# Configuration of in_jumpcloud, written by `in-jumpcloud init`. Test it with `in-jumpcloud check`.
# A key that is not here has its default. Every key, with its default and an explanation, is in
# $documentation

jumpcloud:
  # An administrator's key: api_key, or api_key_file with the path of a file that contains it.
  $key
  # us, eu or in: where the tenant is. A key works only in its own region.
  region: $region
  # Base URL of the API. null: the region's.
  url: $url
  # IDs of organizations, for a key with access to several. all: every one, found by itself. Empty: the key's own.
  organizations: $organizations
  # ID of a managed service provider, to collect its own events too.
  provider_id: $provider_id
  # Where a new stream begins: a duration before now, a date, or now.
  start: 15d

forward:
  # The receivers, in order of preference: host and port, or unix with the path of a socket.
  servers:
    - $server
  # null: no handshake. "": an empty key. Or shared_key_file.
  shared_key: $shared_key
  tag: jumpcloud.events

# MaxMind databases. null: no lookup. `in-jumpcloud geoip update` downloads them.
geoip:
  # A City or Country database, for client.geo. By default one with test addresses only.
  $city
  # An ASN database, for client.as. By default none.
  $asn

# Positions, the IDs of delivered events, and events that the receiver refuses. Keep it on persistent storage.
state:
  # null: in-jumpcloud.db in $$STATE_DIRECTORY, which systemd sets; else state/in-jumpcloud.db next to this file.
  path: null
""")


def _parse_server(text: str) -> ServerSettings:
    """A receiver from `HOST`, `HOST:PORT`, `[IPv6]:PORT`, or the path of a unix socket with or without `unix:`."""
    path = text.removeprefix("unix:")
    if path.startswith("/"):
        return ServerSettings(unix=Path(path))
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:/\[\]]+))(?::(\d{1,5}))?", text)
    port = int((match and match[3]) or 24_224)
    if not match or not 1 <= port <= 65_535:  # noqa: PLR2004
        raise ValueError(f"expected HOST, HOST:PORT or the path of a unix socket (got {text})")
    return ServerSettings(host=match[1] or match[2], port=port)


def _parse_url(text: str) -> str:
    problem = url_problem(text)
    if problem:
        raise ValueError(problem)
    return text


_SERVER = ParsedType("ADDRESS", _parse_server)


class _Receiver(NamedTuple):
    """A receiver to write to the file; `note` says what is known of it."""

    server: ServerSettings
    note: str
    shared_key: str | None = None


@click.command(
    "init",
    epilog=examples(
        "in-jumpcloud init",
        "in-jumpcloud init /etc/in-jumpcloud/jumpcloud.yaml --region eu --organization 5f1a",
        "in-jumpcloud init --api-key-file /run/secrets/key --server collector.example.com:24224",
        "in-jumpcloud init --url http://127.0.0.1:8080    # `in-jumpcloud simulate api`",
    ),
)
@click.argument("path", metavar="[FILE]", default="jumpcloud.yaml", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--region", type=click.Choice(["us", "eu", "in"]), help="JumpCloud region of the tenant.")
@click.option("--url", type=ParsedType("URL", _parse_url), help="Base URL of the API, such as that of `simulate api`.")
@click.option("--organization", "organizations", multiple=True, metavar="ID", help="ID of an organization. Repeatable.")
@click.option("--all-organizations", is_flag=True, help="Collect every organization of the key, or of the provider.")
@click.option("--provider-id", metavar="ID", help="ID of a managed service provider.")
@click.option("--api-key-file", metavar="KEYFILE", type=click.Path(path_type=Path), help="File containing the API key.")
@click.option("--server", type=_SERVER, help="The receiver: HOST:PORT, or the path of a unix socket.")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def command(path: Path, force: bool, **options: Any) -> None:
    """Write a configuration file with what is detected.

    Writes FILE (jumpcloud.yaml), readable only by you. Looks for a receiver on this machine, for GeoLite2 and GeoIP2
    databases, and for the environment variable JUMPCLOUD_API_KEY. The key itself is not written.
    """
    write_configuration(path, force=force, **options)


def write_configuration(
    path: Path,
    *,
    force: bool,
    region: str | None = None,
    url: str | None = None,
    organizations: Sequence[str] = (),
    all_organizations: bool = False,
    provider_id: str | None = None,
    api_key_file: Path | None = None,
    server: ServerSettings | None = None,
    servers: Sequence[ServerSettings] = SERVERS,
    database_directories: Sequence[Path] = DIRECTORIES,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Write `path`, and print what was detected and what to do next.

    Raises:
        ConfigError: `path` exists (without `force`) or cannot be written.
    """
    if organizations and all_organizations:
        raise ConfigError("--all-organizations cannot be used together with --organization")
    receiver = _Receiver(server, "as given") if server else _find_receiver(servers)
    city = find_database("geoip.city", database_directories)
    asn = find_database("geoip.asn", database_directories)
    key = f"api_key: ${{{_KEY_VARIABLE}}}"
    if api_key_file:
        key = f"api_key_file: {json.dumps(str(api_key_file.absolute()))}"
    values = {
        "documentation": package_file("jumpcloud.yaml", "conf/jumpcloud.yaml"),
        "key": key,
        "schema": package_file("jumpcloud.schema.json", "conf/jumpcloud.schema.json"),
        "region": region or "us",
        "url": json.dumps(url),
        "organizations": "all" if all_organizations else json.dumps(list(organizations)),
        "provider_id": json.dumps(provider_id),
        "server": _server_yaml(receiver.server if receiver else SERVERS[-1]),
        "shared_key": json.dumps(receiver.shared_key if receiver else ""),  # "" is for the shipped fluent-bit.yaml
        "city": _database_yaml("city", city, DEFAULT_EDITIONS[0]),
        "asn": _database_yaml("asn", asn, DEFAULT_EDITIONS[1]),
    }
    _write_file(path, _TEMPLATE.substitute(values), force=force)

    show(f"wrote {path}, readable only by you")
    has_key = api_key_file or environ.get(_KEY_VARIABLE)
    key_note = f"from the environment variable {_KEY_VARIABLE}, which is {'set' if has_key else 'not set'}"
    _print_detected("key", f"from the file {api_key_file}" if api_key_file else key_note)
    if receiver:
        _print_detected("receiver", f"{receiver.server}: {receiver.note}")
    else:
        _print_detected("receiver", f"none at {_join(servers)}; start Fluent Bit, or change forward")
    for name, database in (("city", city), ("asn", asn)):
        none = f"none in {_join(database_directories)}; `in-jumpcloud geoip update` gets one, then set geoip.{name}"
        _print_detected(f"geoip.{name}", str(database or none))
    export = "" if has_key else f"export {_KEY_VARIABLE}='your key'; "
    click.echo()
    show(f"next: {export}in-jumpcloud check -c {shlex.quote(str(path))}")


def _print_detected(name: str, text: str) -> None:
    show(f"  {name:10}  {text}")


def _join(places: Sequence[object]) -> str:
    return " or ".join(map(str, places))


def _server_yaml(server: ServerSettings) -> str:
    if server.unix:
        return f"unix: {json.dumps(str(server.unix))}"
    return f"host: {json.dumps(server.host)}\n      port: {server.port}"


def _database_yaml(name: str, found: Path | None, edition: str) -> str:
    """The setting; without a database a comment with the place where `geoip update` puts it."""
    return f"{name}: {json.dumps(str(found))}" if found else f"# {name}: {DEFAULT_DIRECTORY / edition}.mmdb"


def _find_receiver(servers: Sequence[ServerSettings]) -> _Receiver | None:
    server = next(filter(_accepts_connections, servers), None)
    return _detect_shared_key(server) if server else None


def _accepts_connections(server: ServerSettings) -> bool:
    try:
        if server.unix:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(str(server.unix))
        else:
            socket.create_connection((str(server.host), server.port), 1).close()
    except OSError:
        return False
    return True


def _detect_shared_key(server: ServerSettings) -> _Receiver:
    """Try an empty shared key: only a receiver with a shared key begins a handshake."""
    note = ""
    settings = ForwardSettings(servers=(server,), shared_key=Secret(""), ack_timeout=Duration(_HELO_SECONDS))
    sender = AckSender(server, settings)
    try:
        # The first closed connection proves nothing: the sender reports a rejection only at the second.
        for _ in range(2):
            try:
                sender.connect(threading.Event())
            except ReceiverPaused:
                return _Receiver(server, "accepts connections")
            except HandshakeRejected:
                return _Receiver(server, "requires a shared key; set forward.shared_key")
            except ReceiverDown as error:
                note = str(error)
            else:
                return _Receiver(server, "has an empty shared key", shared_key="")
    finally:
        sender.close()
    return _Receiver(server, note)


def _write_file(path: Path, text: str, *, force: bool) -> None:
    """Create the file with mode 0600 from the start; replace an existing one as a whole, and only with `force`."""
    target = path.with_name(f".{path.name}.new") if force else path
    try:
        if force:
            target.unlink(missing_ok=True)
        elif os.path.lexists(path):
            raise ConfigError(f"{path}: already exists; use --force to overwrite")
        with os.fdopen(open_private(target, create=True, exclusive=True), "w") as file:
            file.write(text)
        if force:
            target.replace(path)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no directory {path.parent}; create it first: mkdir -p {shlex.quote(str(path.parent))}"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
