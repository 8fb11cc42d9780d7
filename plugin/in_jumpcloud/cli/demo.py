"""`in-jumpcloud demo`: the whole way of an event, without an account."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from in_jumpcloud import app
from in_jumpcloud.cli import examples
from in_jumpcloud.config.schema import (
    Config,
    DeadLetterSettings,
    ForwardSettings,
    GeoIPSettings,
    JumpCloudSettings,
    ServerSettings,
    StateSettings,
)
from in_jumpcloud.config.types import Duration, Secret, Start
from in_jumpcloud.errors import Fatal
from in_jumpcloud.simulator.api import SimulatedApi
from in_jumpcloud.simulator.events import EventSource
from in_jumpcloud.simulator.receiver import SimulatedReceiver

_EVENTS = 20_000
_DAYS = 2
_SHOWN = 3
_FLUENT_BIT = """
service: {{flush: 0.2, grace: 1, log_level: error, storage.path: {directory}/storage}}
pipeline:
  inputs:
    - {{name: forward, listen: 127.0.0.1, port: {port}, storage.type: filesystem}}
  outputs:
    - {{name: file, match: '*', path: {directory}, file: records, format: plain, retry_limit: no_limits}}
"""


def demo() -> None:
    """Simulated API → plugin → receiver; show records, a progress bar and a summary.

    The receiver is a real Fluent Bit where FLUENT_BIT names one or one is on PATH, else the simulated one.

    Raises:
        Failed: the records did not arrive.
    """
    logging.getLogger("in_jumpcloud").addHandler(logging.NullHandler())
    now_ms = time.time_ns() // 1_000_000
    source = EventSource(seed=1, start_ms=now_ms - _DAYS * 86_400_000, end_ms=now_ms, per_minute=_EVENTS / _DAYS / 1440)
    total = source.count(0, now_ms, now_ms=now_ms)
    binary = os.environ.get("FLUENT_BIT") or shutil.which("fluent-bit")
    name = f"Fluent Bit ({binary})" if binary else "a simulated receiver (no fluent-bit on PATH)"
    click.echo(f"A simulated JumpCloud with {total} events of the last {_DAYS} days → in_jumpcloud → {name}\n")
    with tempfile.TemporaryDirectory(prefix="in-jumpcloud-demo-") as directory, SimulatedApi(source) as api:
        receiver = _fluent_bit(binary, Path(directory)) if binary else _simulated()
        with receiver as (port, records):
            began = time.monotonic()
            plugin = _run(_settings(api.url, port, Path(directory)), total)
            seconds = time.monotonic() - began
            counters = plugin.collectors[0].counters
            arrived = _arrived(records, total)
            _show(arrived)
    click.echo(
        f"\nsent {counters.sent} events, acknowledged {counters.acknowledged}, "
        f"looked up {counters.looked_up} addresses, in {seconds:.1f} s "
        f"({counters.acknowledged / seconds:,.0f} events/s)\n"
        f"arrived {len(arrived)}, of them {len({each['event']['id'] for each in arrived})} different ids"
    )
    if counters.acknowledged != total or len(arrived) != total:
        raise Fatal(f"of {total} events {counters.acknowledged} were acknowledged and {len(arrived)} arrived")


def _settings(url: str, port: int, directory: Path) -> Config:
    return Config(
        jumpcloud=JumpCloudSettings(
            api_key=Secret("simulated-key"), url=url, start=Start(f"{_DAYS + 1}d"), requests_per_second=1000
        ),
        geoip=GeoIPSettings(city=_database("demo-city.mmdb"), asn=_database("demo-asn.mmdb")),
        forward=ForwardSettings(
            servers=(ServerSettings(host="127.0.0.1", port=port),),
            ack_timeout=Duration(10),
            connect_timeout=Duration(5),
        ),
        state=StateSettings(path=directory / "state.db"),
        dead_letter=DeadLetterSettings(path=directory / "dead-letter.ndjson"),
    )


def _database(name: str) -> Path:
    """A demo database: within the installed package, or in the checkout that it is installed from."""
    package = Path(__file__).parents[1]
    installed = package / "simulator" / name
    return installed if installed.exists() else package.parents[1] / "geoip" / name


def _run(settings: Config, total: int) -> app.App:
    with app.open_app(settings, once=True) as plugin:
        counters = plugin.collectors[0].counters
        result: list[Exception | None] = []

        def work() -> None:
            try:
                result.append(plugin.run())
            except Exception as error:  # noqa: BLE001 - raised below, in the thread that shows it
                result.append(error)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        with click.progressbar(length=total, label="delivered", show_pos=True, show_percent=True) as bar:
            while worker.is_alive():
                worker.join(timeout=0.1)
                bar.update(counters.acknowledged - bar.pos)
        if result[0]:
            raise result[0]
        return plugin


@contextmanager
def _simulated() -> Iterator[tuple[int, Callable[[], list[dict[str, Any]]]]]:
    with SimulatedReceiver() as receiver:
        yield receiver.port, lambda: [each.record for each in receiver.records]


@contextmanager
def _fluent_bit(binary: str, directory: Path) -> Iterator[tuple[int, Callable[[], list[dict[str, Any]]]]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = directory / "fluent-bit.yaml"
    settings.write_text(_FLUENT_BIT.format(directory=directory, port=port))
    said = directory / "fluent-bit.log"
    with said.open("wb") as file:
        process = subprocess.Popen([binary, "-c", str(settings)], stdout=file, stderr=file)  # noqa: S603 - the user's own

    def records() -> list[dict[str, Any]]:
        try:
            lines = (directory / "records").read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [msgspec.json.decode(line) for line in lines if line.endswith(b"\n")]

    try:
        _await(
            lambda: _answers(port),
            lambda: f"{binary} did not begin to listen; it said: {said.read_text()[-300:].strip()}",
        )
        yield port, records
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _await(condition: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        if time.monotonic() > deadline:
            raise Fatal(otherwise())
        time.sleep(0.05)


def _arrived(records: Callable[[], list[dict[str, Any]]], total: int) -> list[dict[str, Any]]:
    """What came out of the receiver, which flushes a moment after it acknowledged."""
    _await(lambda: len(records()) >= total, lambda: f"{len(records())} of {total} records came out of the receiver")
    return records()


def _show(records: list[dict[str, Any]]) -> None:
    """A few records with client.geo, of different services."""
    shown: dict[str, dict[str, Any]] = {}
    for record in records:
        if "geo" in record.get("client", {}):
            shown.setdefault(record["event"].get("module", ""), record)
    for record in list(shown.values())[:_SHOWN]:
        brief = {name: record[name] for name in ("@timestamp", "event", "client", "source", "user") if name in record}
        click.echo(f"\n{json.dumps(brief, indent=2, ensure_ascii=False)}")


@click.command(
    "demo",
    epilog=examples(
        "in-jumpcloud demo",
        "FLUENT_BIT=/opt/fluent-bit/bin/fluent-bit in-jumpcloud demo",
    ),
)
def command() -> None:
    """See it work, without an account: simulated JumpCloud, the plugin, a receiver."""
    demo()
