"""`in-jumpcloud map`: maps raw events to ECS records, offline."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import msgspec

from in_jumpcloud.cli import NAME, ParsedType, examples, settings_options
from in_jumpcloud.cli.event_files import read_events
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.ecs.geoip import open_databases
from in_jumpcloud.ecs.mapper import Mapper, new_id
from in_jumpcloud.errors import Fatal
from in_jumpcloud.insights.event import parse_event
from in_jumpcloud.runtime import SYSTEM
from in_jumpcloud.text import printable_json, shown
from in_jumpcloud.timestamps import parse_rfc3339

_MAX_REPORTS = 20


def _parse_time(text: str) -> int:
    if (time_ns := parse_rfc3339(text)) is None:
        raise ValueError("expected a time such as 2026-01-31T12:00:00Z")
    return time_ns


@click.command(
    "map",
    epilog=examples(
        "in-jumpcloud map events.json | jq .",
        "in-jumpcloud map -c jumpcloud.yaml < events.ndjson > records.ndjson",
        "zcat events.json.gz | in-jumpcloud map --agent-id a --created 2026-01-01T00:00:00Z -",
    ),
)
@settings_options()
@click.option(
    "--agent-id",
    metavar="ID",
    help="agent.id and agent.ephemeral_id, instead of random ones: so that output can be compared.",
)
@click.option(
    "--created",
    type=ParsedType("TIME", _parse_time),
    help="event.created, such as 2026-01-31T12:00:00Z, instead of now.",
)
@click.argument(
    "files", nargs=-1, type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), metavar="[FILE]..."
)
def command(
    path: Path | None, overrides: tuple[str, ...], agent_id: str | None, created: int | None, files: tuple[Path, ...]
) -> None:
    """Map raw events to ECS records, offline.

    FILE holds events as JSON: one per line, arrays, or indented objects; plain or compressed with gzip, in UTF-8 or
    UTF-16. Without FILE, or with -, standard input is read. Prints one JSON object per line. Needs no key and no
    receiver.

    What is not JSON is reported with its line and left out, and the exit code is 1.
    """
    settings = load_config(path, overrides, offline=True)
    databases = open_databases(settings)
    # The plugin's own id is in its state, which is not needed here.
    ids = (agent_id or new_id(SYSTEM.random), agent_id or new_id(SYSTEM.random))
    mapper = Mapper(settings.ecs, databases, agent_id=ids[0], ephemeral_id=ids[1])
    reports = 0

    def report(text: str) -> None:
        nonlocal reports
        reports += 1
        if reports <= _MAX_REPORTS:
            click.echo(f"{NAME}: {shown(text)}", err=True)

    output = sys.stdout.buffer
    encode = msgspec.json.Encoder().encode
    for raw in read_events(files, report):
        received_ns = time.time_ns() if created is None else created
        output.write(printable_json(encode(mapper.map(parse_event(raw), received_ns).body)) + b"\n")
    output.flush()
    databases.close()
    if reports:
        raise Fatal(f"not everything could be read (errors: {reports}); what could be read was mapped")
