"""`in-jumpcloud init`: a commented configuration, with what can be found out already in it."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import maxminddb

from in_jumpcloud.checks.receivers import check_receiver
from in_jumpcloud.cli import examples
from in_jumpcloud.config.schema import ForwardSettings, ServerSettings
from in_jumpcloud.config.types import Duration, Secret
from in_jumpcloud.errors import ConfigError

SERVERS = (ServerSettings(unix=Path("/run/fluent-bit/forward.sock")), ServerSettings(host="127.0.0.1"))
"""Where a Fluent Bit is looked for; the socket is the better one, for only this machine reaches it."""
DATABASES = (Path("/var/lib/GeoIP"), Path("/usr/share/GeoIP"))
"""Where geoipupdate and distributions put databases."""
_CITY = ("GeoIP2-Enterprise", "GeoIP2-City", "GeoLite2-City", "GeoIP2-Country", "GeoLite2-Country")
_ASN = ("GeoIP2-ISP", "GeoLite2-ASN")
_KEY = "JUMPCLOUD_API_KEY"


def init(
    path: Path,
    *,
    force: bool,
    region: str | None = None,
    organizations: Sequence[str] = (),
    provider_id: str | None = None,
    api_key_file: Path | None = None,
    server: str | None = None,
    servers: Sequence[ServerSettings] = SERVERS,
    databases: Sequence[Path] = DATABASES,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Write `path`, and tell what was found and what comes next. The key itself is not written, only where it is.

    Raises:
        ConfigError: `path` is there already (without `force`), or cannot be written; an option has not its form.
    """
    text = _template()
    found: list[tuple[str, str]] = []
    if region:
        text = _put(text, "jumpcloud.region", region)
    if organizations:
        text = _put(text, "jumpcloud.organizations", json.dumps(list(organizations)))
    if provider_id:
        text = _put(text, "jumpcloud.provider_id", json.dumps(provider_id))
    if api_key_file:
        text = _put(text, "jumpcloud.api_key", json.dumps(str(api_key_file.absolute())), as_key="api_key_file")
    found.append(_key(api_key_file, environ))

    chosen = _server(server) if server else next(filter(_listens, servers), None)
    if chosen:
        text = _with_server(text, chosen)
        told = "as you say" if server else "takes connections"
        if not server and (asks := _asked(chosen, None)):
            told = asks
            if not _asked(chosen, Secret("")):
                text, told = _put(text, "forward.shared_key", '""'), "has an empty shared key"
        found.append(("receiver", f"{chosen}: {told}"))
    else:
        looked = " or ".join(map(str, servers))
        found.append(("receiver", f"none at {looked}; start Fluent Bit, or correct forward.servers"))

    for name, stems in (("city", _CITY), ("asn", _ASN)):
        database = next((each for each in _candidates(databases, stems) if _opens(each)), None)
        text = _put(text, f"geoip.{name}", json.dumps(str(database)) if database else "null")
        none = f"none in {' or '.join(map(str, databases))}; off until geoip.{name} names one"
        found.append((f"geoip.{name}", str(database or none)))

    _write(path, text, force=force)
    click.echo(f"wrote {path}, which only you may read")
    for name, what in found:
        click.echo(f"  {name:10}  {what}")
    missing = not api_key_file and not environ.get(_KEY)
    first = f"export {_KEY}='your key'; " if missing else ""
    click.echo(f"\nnext: {first}in-jumpcloud check -c {shlex.quote(str(path))}")


def _template() -> str:
    """The commented configuration: within the installed package, or in the checkout that it is installed from."""
    package = Path(__file__).parents[1]
    installed = package / "jumpcloud.yaml"
    return (installed if installed.exists() else package.parents[1] / "conf" / "jumpcloud.yaml").read_text()


def _put(text: str, setting: str, value: str, *, as_key: str | None = None) -> str:
    """Exchange the value of `section.key`, and keep the comment behind it where it is."""
    section, key = setting.split(".")
    within = r"[^\n]*\n(?:(?:[ #][^\n]*)?\n)*?"
    line = re.compile(rf"(?m)(^{section}:{within}  )({key}:[^#\n]*)")

    def exchanged(match: re.Match[str]) -> str:
        written = f"{as_key or key}: {value}"
        commented = text[match.end() : match.end() + 1] == "#"
        return match[1] + (f"{written} ".ljust(len(match[2])) if commented else written)

    replaced, count = line.subn(exchanged, text, count=1)
    if not count:
        raise AssertionError(f"the template has no {setting}")
    return replaced


def _with_server(text: str, server: ServerSettings) -> str:
    """Exchange the one receiver of the template."""
    if server.unix:
        block = f"    - unix: {json.dumps(str(server.unix))}\n"
    else:
        block = f"    - host: {json.dumps(server.host)}\n      port: {server.port}\n"
    replaced, count = re.subn(r"(?m)(^  servers:.*\n)(?:    .*\n)+", lambda match: match[1] + block, text, count=1)
    if not count:
        raise AssertionError("the template has no forward.servers")
    return replaced


def _key(file: Path | None, environ: Mapping[str, str]) -> tuple[str, str]:
    if file:
        return "key", f"from the file {file}"
    is_set = "which is set" if environ.get(_KEY) else "which is not set"
    return "key", f"from the environment variable {_KEY}, {is_set}"


def _server(text: str) -> ServerSettings:
    """`HOST`, `HOST:PORT`, `[IPv6]:PORT`, or the path of a unix socket, with or without `unix:`."""
    path = text.removeprefix("unix:")
    if path.startswith("/"):
        return ServerSettings(unix=Path(path))
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:/\[\]]+))(?::(\d{1,5}))?", text)
    port = int((match and match[3]) or 24_224)
    if not match or not 1 <= port <= 65_535:  # noqa: PLR2004
        raise ConfigError(f"--server {text}: expected HOST, HOST:PORT or the path of a unix socket")
    return ServerSettings(host=match[1] or match[2], port=port)


def _listens(server: ServerSettings) -> bool:
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


def _asked(server: ServerSettings, key: Secret | None) -> str:
    """What it asks for that we have not, if we come with this shared key."""
    settings = ForwardSettings(servers=(server,), shared_key=key, ack_timeout=Duration(2))
    findings = check_receiver(server, settings, threading.Event(), probe=False)
    return next((each.found.removeprefix(f"{server}: ") for each in findings if each.mark == "FAILED"), "")


def _candidates(folders: Sequence[Path], stems: Sequence[str]) -> list[Path]:
    return [folder / f"{stem}.mmdb" for stem in stems for folder in folders]


def _opens(path: Path) -> bool:
    try:
        maxminddb.open_database(path).close()
    except (OSError, ValueError, maxminddb.InvalidDatabaseError):
        return False
    return True


def _write(path: Path, text: str, *, force: bool) -> None:
    """Make the file, open to nobody else from its first moment; one that is there is replaced as a whole, or left."""
    target = path.with_name(f".{path.name}.new") if force else path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if force:
            target.unlink(missing_ok=True)
        elif os.path.lexists(path):
            raise ConfigError(f"{path}: is there already; --force writes it anew, or name another file")
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123 - the mode
            file.write(text)
        if force:
            target.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


@click.command(
    "init",
    epilog=examples(
        "in-jumpcloud init",
        "in-jumpcloud init /etc/in-jumpcloud/jumpcloud.yaml --region eu --organization 5f1a",
        "in-jumpcloud init --api-key-file /run/secrets/key --server collector.example.com:24224",
    ),
)
@click.argument("path", metavar="[FILE]", default="jumpcloud.yaml", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--region", type=click.Choice(["us", "eu", "in"]), help="Where the tenant lives.")
@click.option("--organization", "organizations", multiple=True, metavar="ID", help="One of several; repeatable.")
@click.option("--provider-id", metavar="ID", help="Of a managed service provider.")
@click.option("--api-key-file", metavar="KEYFILE", type=click.Path(path_type=Path), help="Where the key lies.")
@click.option("--server", metavar="ADDRESS", help="The receiver: HOST:PORT, or the path of a unix socket.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def command(path: Path, **options: Any) -> None:
    """Write a commented configuration to FILE (jumpcloud.yaml), with what can be found out already in it.

    A Fluent Bit on this machine, GeoLite2 databases and JUMPCLOUD_API_KEY are looked for. The key is not written.
    """
    init(path, **options)
