"""`in-jumpcloud map`: maps raw events to ECS records, offline."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from in_jumpcloud.cli import examples, settings_options
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.ecs.geoip import open_databases
from in_jumpcloud.ecs.mapper import Mapper, new_id
from in_jumpcloud.errors import Fatal, Retryable
from in_jumpcloud.insights import pages
from in_jumpcloud.insights.event import parse_event
from in_jumpcloud.runtime import SYSTEM
from in_jumpcloud.text import printable_json


@click.command(
    "map",
    epilog=examples(
        "in-jumpcloud map events.json | jq .",
        "in-jumpcloud map -c jumpcloud.yaml < events.ndjson > records.ndjson",
    ),
)
@settings_options(required=False)
@click.argument("files", nargs=-1, type=click.Path(dir_okay=False, path_type=Path), metavar="[FILE]...")
def command(path: Path | None, overrides: tuple[str, ...], files: tuple[Path, ...]) -> None:
    """Map raw events to ECS records, offline.

    FILE holds a JSON array of events, or one event per line. Without FILE, standard input is read. Prints one JSON
    object per line. Needs no key and no receiver.
    """
    settings = load_config(path, overrides, offline=True)
    databases = open_databases(settings)
    # The plugin's own id is in its state, which is not needed here.
    mapper = Mapper(settings.ecs, databases, agent_id=new_id(SYSTEM.random), ephemeral_id=new_id(SYSTEM.random))
    output = sys.stdout.buffer
    encode = msgspec.json.Encoder().encode
    for raw in _read_files(files):
        output.write(printable_json(encode(mapper.map(parse_event(raw), time.time_ns()).body)) + b"\n")
    output.flush()
    databases.close()


def _read_files(files: Sequence[Path]) -> Iterator[bytes | msgspec.Raw]:
    """The events in the files, or in standard input if there are none.

    Raises:
        Fatal: a file cannot be read, or is an incomplete array.
    """
    if not files:
        if sys.stdin is None:
            raise Fatal("standard input is closed")
        yield from _read_stream(sys.stdin.buffer, "standard input")
    for file in files:
        try:
            with file.open("rb") as stream:
                yield from _read_stream(stream, str(file))
        except OSError as error:
            raise Fatal(f"{file}: cannot be read: {error.strerror}") from None


def _read_stream(stream: BinaryIO, name: str) -> Iterator[bytes | msgspec.Raw]:
    """The events of a JSON array, of one event per line, or one event on several lines."""
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
