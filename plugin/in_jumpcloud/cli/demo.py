"""`in-jumpcloud demo`: from a simulated JumpCloud through the plugin to a receiver."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from in_jumpcloud import app
from in_jumpcloud.cli import examples
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config
from in_jumpcloud.errors import Fatal
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver
from in_jumpcloud.timestamps import DAY_MS, now_ms

_EVENTS = 20_000
_DAYS = 2
_SHOWN_RECORDS = 3
_TIMEOUT_SECONDS = 15
_ReadRecords = Callable[[], list[dict[str, Any]]]
_FLUENT_BIT = """
service: {{flush: 0.2, grace: 1, log_level: error, storage.path: {directory}/storage}}
pipeline:
  inputs:
    - {{name: forward, listen: 127.0.0.1, port: {port}, empty_shared_key: on, storage.type: filesystem}}
  outputs:
    - {{name: file, match: '*', path: {directory}, file: records, format: plain, retry_limit: no_limits}}
"""


@click.command(
    "demo",
    epilog=examples(
        "in-jumpcloud demo",
        "FLUENT_BIT=/opt/fluent-bit/bin/fluent-bit in-jumpcloud demo",
    ),
)
def command() -> None:
    """Show the plugin at work, without an account.

    Simulates JumpCloud, and runs the plugin until all events have arrived. The receiver is Fluent Bit if FLUENT_BIT or
    PATH has one, else it is simulated too.
    """
    logging.getLogger("in_jumpcloud").addHandler(logging.NullHandler())
    now = now_ms()
    source = EventSource(seed=1, start_ms=now - _DAYS * DAY_MS, end_ms=now, per_minute=_EVENTS / _DAYS / 1440)
    total = source.count(0, now, now_ms=now)
    binary = os.environ.get("FLUENT_BIT") or shutil.which("fluent-bit")
    name = f"Fluent Bit ({binary})" if binary else "a simulated receiver (no fluent-bit on PATH)"
    click.echo(f"A simulated JumpCloud with {total} events of the last {_DAYS} days → in_jumpcloud → {name}\n")
    with tempfile.TemporaryDirectory(prefix="in-jumpcloud-demo-") as directory, SimulatedApi(source) as api:
        receiver = _fluent_bit(binary, Path(directory)) if binary else _simulated_receiver()
        with receiver as (port, read_records):
            started = time.monotonic()
            plugin = _run_plugin(_settings(api.url, port, Path(directory)), total)
            seconds = time.monotonic() - started
            counters = plugin.collectors[0].counters
            # The receiver writes records shortly after it acknowledged them.
            _wait_for(
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


@contextmanager
def _simulated_receiver() -> Iterator[tuple[int, _ReadRecords]]:
    with SimulatedReceiver(shared_key="") as receiver:
        yield receiver.port, lambda: [each.record for each in receiver.records]


@contextmanager
def _fluent_bit(binary: str, directory: Path) -> Iterator[tuple[int, _ReadRecords]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings, log, output = (directory / name for name in ("fluent-bit.yaml", "fluent-bit.log", "records"))
    settings.write_text(_FLUENT_BIT.format(directory=directory, port=port))
    output.touch()
    with log.open("wb") as file:
        process = subprocess.Popen([binary, "-c", str(settings)], stdout=file, stderr=file)  # noqa: S603 - the user's own

    def is_listening() -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", port)) == 0

    def read_records() -> list[dict[str, Any]]:
        lines = output.read_bytes().splitlines(keepends=True)
        return [msgspec.json.decode(line) for line in lines if line.endswith(b"\n")]

    try:
        _wait_for(
            is_listening,
            lambda: f"{binary} does not accept connections; its log ends with: {log.read_text()[-300:].strip()}",
        )
        yield port, read_records
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(condition: Callable[[], bool], describe_failure: Callable[[], str]) -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise Fatal(describe_failure())
        time.sleep(0.05)


def _print_some(records: list[dict[str, Any]]) -> None:
    """Print a few records of different services that have client.geo."""
    by_service: dict[str, dict[str, Any]] = {}
    for record in records:
        if "geo" in record.get("client", {}):
            by_service.setdefault(record["event"].get("module", ""), record)
    for record in list(by_service.values())[:_SHOWN_RECORDS]:
        brief = {name: record[name] for name in ("@timestamp", "event", "client", "source", "user") if name in record}
        click.echo(f"\n{json.dumps(brief, indent=2)}")
