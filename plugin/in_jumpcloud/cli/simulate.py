"""`in-jumpcloud simulate`: the simulators, for trying things out by hand."""

from __future__ import annotations

import errno
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click
import msgspec

from in_jumpcloud.cli import examples
from in_jumpcloud.config.types import Duration
from in_jumpcloud.errors import ConfigError, Fatal
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.faults import Fault, Faults
from in_jumpcloud.simulator.receiver import SimulatedReceiver


def api(
    *,
    host: str,
    port: int,
    api_key: str,
    seed: int,
    per_minute: float,
    since: str,
    late: float,
    organizations: Sequence[str],
    faults: Sequence[str],
) -> None:
    """Serve a simulated Directory Insights API until the process is asked to end.

    Raises:
        ConfigError: an option's value has not its form.
        Failed: the port is in use.
    """
    try:
        start_ms = time.time_ns() // 1_000_000 - Duration.parse(since).ms
    except ValueError as error:
        raise ConfigError(f"--since: {error}") from None
    what = {"seed": seed, "start_ms": start_ms, "per_minute": per_minute, "late": late}
    sources: EventSource | dict[str, EventSource] = EventSource(**what)  # type: ignore[arg-type]  # one type each
    if organizations:
        sources = {each: EventSource(**what, organization=each) for each in organizations}  # type: ignore[arg-type]
    simulated = SimulatedApi(
        sources, host=host, port=port, api_key=api_key, faults=_faults(faults, seed), allow_remote=True
    )
    with _listening(simulated, f"{host}:{port}"):
        click.echo(f"JumpCloud is simulated at {simulated.url}, with the key {api_key}. Ctrl-C ends it.", err=True)
        _until_asked_to_end()
    click.echo(f"{len(simulated.requests)} requests, {simulated.events_served} events served", err=True)


def receiver(
    *,
    host: str,
    port: int,
    unix: Path | None,
    quiet: bool,
    shared_key: str | None,
    users: Sequence[str],
    self_hostname: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
) -> None:
    """Receive and acknowledge records until the process is asked to end, and print them, a line each.

    Raises:
        ConfigError: an option's value has not its form, lacks another option, or names a file that cannot be used.
        Failed: the port is in use.
    """
    if users and shared_key is None:
        raise ConfigError('--user needs --shared-key, which may be ""')
    encode = msgspec.json.Encoder().encode
    out = sys.stdout.buffer

    def show(_tag: str, records: list[tuple[int, dict[str, Any]]]) -> None:
        for _, record in records:
            out.write(encode(record) + b"\n")
        out.flush()

    simulated = SimulatedReceiver(
        host=host,
        port=port,
        unix_path=str(unix) if unix else None,
        on_records=None if quiet else show,
        keep=False,
        allow_remote=True,
        shared_key=shared_key,
        users=dict(map(_user, users)),
        self_hostname=self_hostname,
        tls=_tls(tls_cert, tls_key, tls_client_ca),
    )
    with _listening(simulated, str(unix) if unix else f"{host}:{port}"):
        click.echo(f"receiving at {unix or f'{host}:{simulated.port}'}. Ctrl-C ends it.", err=True)
        _until_asked_to_end()
    click.echo(f"{simulated.received} records in {simulated.messages} chunks, {len(simulated.ids)} ids", err=True)


def _user(text: str) -> tuple[str, str]:
    name, colon, password = text.partition(":")
    if not name or not colon:
        # The text may be a password.
        raise ConfigError("--user: expected NAME:PASSWORD")
    return name, password


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        if key or client_ca:
            raise ConfigError(f"{'--tls-key' if key else '--tls-client-ca'} needs --tls-cert")
        return None
    for option, path in {"--tls-cert": certificate, "--tls-key": key, "--tls-client-ca": client_ca}.items():
        try:
            if path is not None:
                path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{option} {path}: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password of our own, OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError:
        where = f"{certificate} and --tls-key {key}" if key else f"{certificate}"
        raise ConfigError(
            f"--tls-cert {where}: expected a certificate and its key, without a password, as PEM"
        ) from None
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError:
            raise ConfigError(f"--tls-client-ca {client_ca}: expected certificates as PEM") from None
    return context


def _listening(simulated: SimulatedApi | SimulatedReceiver, address: str) -> AbstractContextManager[Any]:
    try:
        return simulated.start()
    except OSError as error:
        use = "it is in use; choose another with --port" if error.errno == errno.EADDRINUSE else error.strerror
        raise Fatal(f"cannot listen at {address}: {use}") from None


def _until_asked_to_end() -> None:
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    asked.wait()


def _faults(orders: Sequence[str], seed: int) -> Faults:
    """`KIND[:VALUE]=PROBABILITY`; the value is the status of `status`, the seconds of `delay`."""
    faults = Faults()
    for order in orders:
        name, _, probability = order.partition("=")
        kind, _, value = name.partition(":")
        try:
            faults.random(_FAULTS[kind](value), float(probability), seed)
        except (KeyError, ValueError):
            raise ConfigError(
                f"--fault {order}: expected KIND=PROBABILITY, such as status:503=0.1, delay:2=0.1 or cut=0.05; "
                f"the kinds are {', '.join(_FAULTS)}"
            ) from None
    return faults


_FAULTS: dict[str, Callable[[str], Fault]] = {
    "status": lambda value: Fault("status", status=int(value or 503)),
    "delay": lambda value: Fault("delay", seconds=float(value or 1)),
    "cut": lambda _: Fault("cut"),
    "bad_json": lambda _: Fault("bad_json"),
    "wrong_count": lambda _: Fault("wrong_count"),
    "repeat_cursor": lambda _: Fault("repeat_cursor"),
    "drop": lambda _: Fault("drop"),
    "redirect": lambda _: Fault("redirect"),
}


@click.group("simulate")
def command() -> None:
    """Stand in for JumpCloud or for the receiver, to try things out without either."""


@command.command(
    "api",
    epilog=examples(
        "in-jumpcloud simulate api --per-minute 600 --fault status:503=0.1",
        "in-jumpcloud run -c jumpcloud.yaml -o jumpcloud.url=http://127.0.0.1:8080",
    ),
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535))
@click.option("--api-key", default="simulated-key", show_default=True, help="The only key that is let in.")
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same events.")
@click.option("--per-minute", default=60.0, show_default=True, help="Events a minute.")
@click.option("--since", default="1d", show_default=True, help="How far back there are events.")
@click.option("--late", default=0.0, show_default=True, help="The share of events that appear late, 0 to 1.")
@click.option("--organization", "organizations", multiple=True, help="An organization's id; repeatable.")
@click.option(
    "--fault", "faults", multiple=True, metavar="KIND=PROBABILITY", help="Such as status:503=0.1; repeatable."
)
def api_command(**options: Any) -> None:
    """A Directory Insights API with realistic events."""
    api(**options)


@command.command(
    "receiver",
    epilog=examples(
        "in-jumpcloud simulate receiver | jq .event.action",
        "in-jumpcloud simulate receiver --unix /tmp/forward.sock --shared-key secret",
    ),
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=24224, show_default=True, type=click.IntRange(0, 65535))
@click.option("--unix", type=click.Path(path_type=Path), help="Listen at this unix socket instead.")
@click.option("--quiet", is_flag=True, help="Only count the records.")
@click.option("--shared-key", metavar="TEXT", help='Ask senders for this key; "" is one too.')
@click.option("--user", "users", multiple=True, metavar="NAME:PASSWORD", help="Ask for a user as well; repeatable.")
@click.option(
    "--self-hostname", default="localhost", show_default=True, help="The name told to those who know the key."
)
@click.option("--tls-cert", metavar="FILE", type=click.Path(path_type=Path), help="Speak TLS, with this certificate.")
@click.option("--tls-key", metavar="FILE", type=click.Path(path_type=Path), help="Its key, if it is in another file.")
@click.option(
    "--tls-client-ca", metavar="FILE", type=click.Path(path_type=Path), help="Ask senders for a certificate of this CA."
)
def receiver_command(**options: Any) -> None:
    """A forward receiver that acknowledges, and prints each record as a line of JSON."""
    receiver(**options)
