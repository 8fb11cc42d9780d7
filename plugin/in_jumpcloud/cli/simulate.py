"""`in-jumpcloud simulate`: serves the simulated API or receiver, to try things out."""

from __future__ import annotations

import errno
import math
import ssl
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import click
import msgspec
from click.core import ParameterSource

from in_jumpcloud.cli import DURATION, ParsedType, examples
from in_jumpcloud.cli.signals import stop_on_signals
from in_jumpcloud.config.types import Duration
from in_jumpcloud.errors import ConfigError, Fatal
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import WITH_SECONDS, Fault, FaultKind
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.text import printable_json, shown
from in_jumpcloud.timestamps import now_ms

_PORT = click.IntRange(0, 65_535)


class _NumberRange(click.FloatRange):
    """A range that does not contain `nan`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


@click.group("simulate")
def command() -> None:
    """Simulate JumpCloud or a receiver, to try things out."""


# The API


class _FaultOption(msgspec.Struct):
    kind: FaultKind
    probability: Annotated[float, msgspec.Meta(ge=0, le=1)]
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 503
    seconds: Annotated[float, msgspec.Meta(ge=0, le=threading.TIMEOUT_MAX)] = 1


def _parse_fault(text: str) -> tuple[Fault, float]:
    """A fault and its probability, from `KIND[:VALUE]=PROBABILITY`."""
    name, _, probability = text.partition("=")
    kind, _, value = name.partition(":")
    options = {"kind": kind, "probability": probability}
    if value:
        options["seconds" if kind in WITH_SECONDS else "status"] = value
    try:
        option = msgspec.convert(options, _FaultOption, strict=False)
    except msgspec.ValidationError:
        raise ValueError(
            f"expected KIND=PROBABILITY, such as status:503=0.1, delay:2=0.1 or cut=0.05 (got {text}); "
            f"the kinds are {', '.join(get_args(FaultKind))}, the probability is from 0 to 1"
        ) from None
    return Fault(option.kind, status=option.status, seconds=option.seconds), option.probability


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
@click.option(
    "--per-minute", default=60.0, show_default=True, type=_NumberRange(0, 1_000_000), help="Events per minute."
)
@click.option("--since", default="1d", show_default=True, type=DURATION, help="How far back there are events.")
@click.option("--late", default=0.0, show_default=True, type=_NumberRange(0, 1), help="Share of late events.")
@click.option("--organization", "organizations", metavar="ID", multiple=True, help="ID of an organization. Repeatable.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    type=ParsedType("KIND=PROBABILITY", _parse_fault),
    help="A fault of some requests, such as status:503=0.1. Repeatable.",
)
def api_command(
    host: str,
    port: int,
    api_key: str,
    since: Duration,
    organizations: tuple[str, ...],
    faults: tuple[tuple[Fault, float], ...],
    **events: Any,
) -> None:
    """Serve a Directory Insights API with realistic events."""
    events["start_ms"] = max(0, now_ms() - since.ms)
    sources: EventSource | dict[str, EventSource] = EventSource(**events)
    if organizations:
        sources = {each: EventSource(**events, organization=each) for each in organizations}
    simulated = SimulatedApi(sources, host=host, port=port, api_key=api_key)
    for fault, probability in faults:
        simulated.faults.random(fault, probability, events["seed"])
    _serve(simulated, f"{host}:{port}", lambda: f"simulating JumpCloud at {simulated.url}, key {api_key}")
    click.echo(f"{len(simulated.requests)} requests, {simulated.events_served} events served", err=True)


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
@click.option("--unix", metavar="FILE", type=click.Path(path_type=Path), help="Listen on this unix socket instead.")
@click.option("--quiet", is_flag=True, help="Do not print records, only count them.")
@click.option("--shared-key", metavar="TEXT", help='Require this shared key, which may be "".')
@click.option(
    "--tls-cert",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Use TLS, with the certificate and the key in this PEM file.",
)
def receiver_command(
    host: str,
    port: int,
    unix: Path | None,
    quiet: bool,
    shared_key: str | None,
    tls_cert: Path | None,
) -> None:
    """Serve a forward receiver that acknowledges and prints records.

    Prints one JSON object per line.
    """
    context = click.get_current_context()
    for option in ("host", "port"):
        if unix and context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            raise ConfigError(f"--{option} cannot be used together with --unix")
    encode = msgspec.json.Encoder().encode
    output = sys.stdout.buffer

    def print_records(_tag: str, records: list[tuple[int, dict[str, Any]]]) -> None:
        for _, record in records:
            output.write(printable_json(encode(record)) + b"\n")
        output.flush()

    simulated = SimulatedReceiver(
        host=host,
        port=port,
        unix_path=str(unix) if unix else None,
        on_records=None if quiet else print_records,
        keep=False,
        allow_remote=True,
        shared_key=shared_key,
        tls=_tls_context(tls_cert) if tls_cert else None,
    )
    _serve(simulated, str(unix or f"{host}:{port}"), lambda: f"receiving at {unix or f'{host}:{simulated.port}'}")
    click.echo(f"{simulated.received} records in {simulated.messages} chunks, {len(simulated.ids)} ids", err=True)


def _tls_context(file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # OpenSSL asks for a passphrase at the terminal, unless it is given one.
        context.load_cert_chain(file, password="")
    except ssl.SSLError:
        raise ConfigError(f"--tls-cert {file}: expected a certificate and its key as PEM, no passphrase") from None
    return context


# Both


def _serve(simulated: SimulatedApi | SimulatedReceiver, address: str, describe: Callable[[], str]) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    stop = stop_on_signals()
    try:
        simulated.start()
    except OSError as error:
        in_use = "already in use; choose another one with --port"
        reason = in_use if error.errno == errno.EADDRINUSE else error.strerror
        raise Fatal(f"cannot listen on {address}: {reason}") from None
    with simulated:
        click.echo(f"{shown(describe())}; press Ctrl-C to stop", err=True)
        stop.wait()
