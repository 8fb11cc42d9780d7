"""`in-jumpcloud simulate`: serves the simulated API or receiver, to try things out."""

from __future__ import annotations

import errno
import math
import signal
import ssl
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from in_jumpcloud.cli import examples
from in_jumpcloud.config.types import Duration
from in_jumpcloud.errors import ConfigError, Fatal
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault, Faults
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import now_ms

_PORT = click.IntRange(0, 65_535)
_FILE = click.Path(path_type=Path)


@click.group("simulate")
def command() -> None:
    """Simulate JumpCloud or a receiver, to try things out."""


# The API


@command.command(
    "api",
    epilog=examples(
        "in-jumpcloud simulate api --per-minute 600 --fault status:503=0.1",
        "in-jumpcloud run -c jumpcloud.yaml -o jumpcloud.url=http://127.0.0.1:8080",
    ),
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=_PORT, help="Port to listen on; 0 takes a free one.")
@click.option("--api-key", default="simulated-key", show_default=True, help="The only accepted key.")
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same events.")
@click.option("--per-minute", default=60.0, show_default=True, help="Events per minute, 0 or more.")
@click.option("--since", default="1d", show_default=True, metavar="DURATION", help="How far back there are events.")
@click.option("--late", default=0.0, show_default=True, help="Share of events that appear late, from 0 to 1.")
@click.option("--organization", "organizations", metavar="ID", multiple=True, help="ID of an organization. Repeatable.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND=PROBABILITY",
    help="A fault of some requests, such as status:503=0.1. Repeatable.",
)
def api_command(
    host: str,
    port: int,
    api_key: str,
    seed: int,
    per_minute: float,
    since: str,
    late: float,
    organizations: tuple[str, ...],
    faults: tuple[str, ...],
) -> None:
    """Serve a Directory Insights API with realistic events."""
    if not api_key:
        raise ConfigError("--api-key: must not be empty")
    if not 0 <= per_minute < math.inf:
        raise ConfigError(f"--per-minute: must be 0 or more (got {per_minute:g})")
    if not 0 <= late <= 1:
        raise ConfigError(f"--late: must be between 0 and 1 (got {late:g})")
    for organization in organizations:
        if not organization or organizations.count(organization) > 1:
            raise ConfigError(f"--organization: {'duplicate' if organization else 'empty'} ID {organization!r}")
    events: dict[str, Any] = {"seed": seed, "start_ms": _parse_since(since), "per_minute": per_minute, "late": late}
    sources: EventSource | dict[str, EventSource] = EventSource(**events)
    if organizations:
        sources = {each: EventSource(**events, organization=each) for each in organizations}
    simulated = SimulatedApi(
        sources, host=host, port=port, api_key=api_key, faults=_parse_faults(faults, seed), allow_remote=True
    )
    with _listen(simulated, f"{host}:{port}"):
        click.echo(f"simulating JumpCloud at {simulated.url}, key {api_key}; press Ctrl-C to stop", err=True)
        _wait_for_signal()
    click.echo(f"{len(simulated.requests)} requests, {simulated.events_served} events served", err=True)


def _parse_since(text: str) -> int:
    """Epoch milliseconds of the first event, not before 1970."""
    try:
        return max(0, now_ms() - Duration.parse(text).ms)
    except ValueError as error:
        raise ConfigError(f"--since: {error}") from None


def _status(value: str) -> Fault:
    status = int(value or 503)
    if not 400 <= status <= 599:  # noqa: PLR2004
        raise ValueError
    return Fault("status", status=status)


def _delay(value: str) -> Fault:
    seconds = float(value or 1)
    if not 0 <= seconds < threading.TIMEOUT_MAX:
        raise ValueError
    return Fault("delay", seconds=seconds)


_FAULTS: dict[str, Callable[[str], Fault] | Fault] = {
    "status": _status,
    "delay": _delay,
    "cut": Fault("cut"),
    "bad_json": Fault("bad_json"),
    "wrong_count": Fault("wrong_count"),
    "repeat_cursor": Fault("repeat_cursor"),
    "drop": Fault("drop"),
    "redirect": Fault("redirect"),
}
"""The kinds of faults, with a function for those that take a value: a status of 400 to 599, or seconds."""


def _parse_faults(options: Sequence[str], seed: int) -> Faults:
    """Faults from `KIND[:VALUE]=PROBABILITY`."""
    faults = Faults()
    for option in options:
        name, _, probability_text = option.partition("=")
        kind, colon, value = name.partition(":")
        try:
            fault, probability = _FAULTS[kind], float(probability_text)
            if not 0 <= probability <= 1 or (colon and isinstance(fault, Fault)):
                raise ValueError  # noqa: TRY301 - explained below, as every other one
            faults.random(fault if isinstance(fault, Fault) else fault(value), probability, seed)
        except (KeyError, ValueError):
            raise ConfigError(
                f"--fault {option}: expected KIND=PROBABILITY, such as status:503=0.1, delay:2=0.1 or cut=0.05; "
                f"the kinds are {', '.join(_FAULTS)}, the probability is from 0 to 1"
            ) from None
    return faults


# The receiver


@command.command(
    "receiver",
    epilog=examples(
        "in-jumpcloud simulate receiver | jq .event.action",
        "in-jumpcloud simulate receiver --unix /tmp/forward.sock --shared-key secret",
    ),
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=24_224, show_default=True, type=_PORT, help="Port to listen on; 0 takes a free one.")
@click.option("--unix", metavar="FILE", type=_FILE, help="Listen on this unix socket instead.")
@click.option("--quiet", is_flag=True, help="Do not print records, only count them.")
@click.option("--shared-key", metavar="TEXT", help='Require this shared key, which may be "".')
@click.option("--user", "users", multiple=True, metavar="NAME:PASSWORD", help="Require a user too. Repeatable.")
@click.option(
    "--self-hostname", metavar="NAME", default="localhost", show_default=True, help="Its own name in the handshake."
)
@click.option("--tls-cert", metavar="FILE", type=_FILE, help="Use TLS, with this certificate.")
@click.option("--tls-key", metavar="FILE", type=_FILE, help="The certificate's key, if it is in another file.")
@click.option("--tls-client-ca", metavar="FILE", type=_FILE, help="Require client certificates of this CA.")
def receiver_command(
    host: str,
    port: int,
    unix: Path | None,
    quiet: bool,
    shared_key: str | None,
    users: tuple[str, ...],
    self_hostname: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
) -> None:
    """Serve a forward receiver that acknowledges and prints records.

    Prints one JSON object per line.
    """
    given = _given_options()
    for option, needed in _NEEDED_OPTIONS.items():
        if option in given and needed not in given:
            raise ConfigError(f"{option} needs {needed}")
    for option in ("--host", "--port"):
        if {option, "--unix"} <= given:
            raise ConfigError(f"{option} cannot be used together with --unix")
    encode = msgspec.json.Encoder().encode
    output = sys.stdout.buffer

    def print_records(_tag: str, records: list[tuple[int, dict[str, Any]]]) -> None:
        for _, record in records:
            output.write(encode(record) + b"\n")
        output.flush()

    simulated = SimulatedReceiver(
        host=host,
        port=port,
        unix_path=str(unix) if unix else None,
        on_records=None if quiet else print_records,
        keep=False,
        allow_remote=True,
        shared_key=shared_key,
        users=_parse_users(users),
        self_hostname=self_hostname,
        tls=_tls_context(tls_cert, tls_key, tls_client_ca) if tls_cert else None,
    )
    with _listen(simulated, str(unix) if unix else f"{host}:{port}"):
        click.echo(f"receiving at {unix or f'{host}:{simulated.port}'}; press Ctrl-C to stop", err=True)
        _wait_for_signal()
    click.echo(f"{simulated.received} records in {simulated.messages} chunks, {len(simulated.ids)} ids", err=True)


_NEEDED_OPTIONS = {
    "--user": "--shared-key",
    "--self-hostname": "--shared-key",
    "--tls-key": "--tls-cert",
    "--tls-client-ca": "--tls-cert",
}


def _given_options() -> set[str]:
    """The options on the command line, without those that have their default."""
    context = click.get_current_context()
    return {
        parameter.opts[0]
        for parameter in context.command.params
        if context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    }


def _parse_users(texts: Sequence[str]) -> dict[str, str]:
    users: dict[str, str] = {}
    for text in texts:
        name, colon, password = text.partition(":")
        if not name or not colon:  # the text is not shown: it may be a password
            raise ConfigError("--user: expected NAME:PASSWORD")
        if name in users:
            raise ConfigError(f"--user: duplicate name {name!r}")
        users[name] = password
    return users


def _tls_context(certificate: Path, key: Path | None, client_ca: Path | None) -> ssl.SSLContext:
    for option, path in {"--tls-cert": certificate, "--tls-key": key, "--tls-client-ca": client_ca}.items():
        try:
            if path is not None:
                path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{option} {path}: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # OpenSSL asks for a passphrase at the terminal, unless it is given one.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError:
        files = f"{certificate} --tls-key {key}" if key else f"{certificate}"
        raise ConfigError(f"--tls-cert {files}: expected a certificate and its key as PEM, no passphrase") from None
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError:
            raise ConfigError(f"--tls-client-ca {client_ca}: expected certificates as PEM") from None
    return context


# Both


def _listen(simulated: SimulatedApi | SimulatedReceiver, address: str) -> AbstractContextManager[Any]:
    try:
        return simulated.start()
    except OSError as error:
        in_use = "already in use; choose another one with --port"
        raise Fatal(
            f"cannot listen on {address}: {in_use if error.errno == errno.EADDRINUSE else error.strerror}"
        ) from None


def _wait_for_signal() -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
