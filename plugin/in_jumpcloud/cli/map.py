"""`in-jumpcloud map`: raw events in, ECS records out, offline."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from in_jumpcloud.cli import config_option, examples, overrides_option
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config
from in_jumpcloud.ecs.geoip import open_databases
from in_jumpcloud.ecs.mapper import Mapper, new_id
from in_jumpcloud.errors import Fatal, Retryable
from in_jumpcloud.insights import pages
from in_jumpcloud.insights.event import parse_event


def map_events(settings: Config, files: Iterable[Path]) -> None:
    """Write the record of each event in `files` (none: standard input) to standard output, one JSON object a line.

    Raises:
        Failed: a file cannot be read, or is an array that breaks off.
        ConfigError: a database cannot be used.
    """
    geo = open_databases(settings)
    # The plugin keeps its id in its state; a look at a few events needs none, so it gets one for the occasion.
    mapper = Mapper(settings.ecs, geo, agent_id=new_id(), ephemeral_id=new_id())
    out = sys.stdout.buffer
    encode = msgspec.json.Encoder().encode
    for raw in _events(list(files)):
        out.write(encode(mapper.map(parse_event(raw), time.time_ns()).body) + b"\n")
    out.flush()
    geo.close()


def _events(files: list[Path]) -> Iterator[bytes | msgspec.Raw]:
    if not files:
        yield from _in_stream(sys.stdin.buffer, "standard input")
    for file in files:
        try:
            with file.open("rb") as stream:
                yield from _in_stream(stream, str(file))
        except OSError as error:
            raise Fatal(f"{file}: cannot be read: {error.strerror}") from None


def _in_stream(stream: BinaryIO, name: str) -> Iterator[bytes | msgspec.Raw]:
    """A JSON array, one event a line, or one event over several lines."""
    first = b""
    for line in stream:
        first = line.strip().removeprefix(b"\xef\xbb\xbf")
        if first:
            break
    if first.startswith(b"["):
        try:
            yield from pages.split_page(first + b"\n" + stream.read())
        except Retryable as error:
            raise Fatal(f"{name}: {error}") from None
        return
    if first and not _is_json(first):
        whole = first + b"\n" + stream.read()
        if _is_json(whole):
            yield whole.strip()
            return
        lines: Iterable[bytes] = whole.splitlines()
    else:
        lines = itertools.chain([first], stream)
    for line in lines:
        if line.strip():
            yield line.strip()


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


@click.command(
    "map",
    epilog=examples(
        "in-jumpcloud map events.json | jq .",
        "in-jumpcloud map -c jumpcloud.yaml < events.ndjson > records.ndjson",
    ),
)
@config_option(required=False)
@overrides_option
@click.argument("files", nargs=-1, type=click.Path(dir_okay=False, path_type=Path), metavar="[FILE]...")
def command(path: Path | None, overrides: tuple[str, ...], files: tuple[Path, ...]) -> None:
    """Map raw events to ECS records, one JSON object a line. Offline: needs no key and no receiver.

    FILE holds a JSON array of events, or one event a line; without FILE standard input is read.
    """
    map_events(load_config(path, overrides, offline=True), files)
