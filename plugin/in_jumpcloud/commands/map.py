"""`in-jumpcloud map`: raw events in, ECS records out, offline."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from in_jumpcloud import config
from in_jumpcloud.ecs.geo import opened
from in_jumpcloud.ecs.mapper import Mapper, new_id
from in_jumpcloud.errors import Failed, TryAgain
from in_jumpcloud.insights import page
from in_jumpcloud.insights.event import read


def map_events(settings: config.Config, files: Iterable[Path]) -> None:
    """Write the record of each event in `files` (none: standard input) to standard output, one JSON object a line.

    Raises:
        Failed: a file cannot be read, or is an array that breaks off.
        ConfigError: a database cannot be used.
    """
    geo = opened(settings)
    # The plugin keeps its id in its state; a look at a few events needs none, so it gets one for the occasion.
    mapper = Mapper(settings.ecs, geo, agent_id=new_id(), ephemeral_id=new_id())
    out = sys.stdout.buffer
    encode = msgspec.json.Encoder().encode
    for raw in _events(list(files)):
        out.write(encode(mapper.map(read(raw), time.time_ns()).body) + b"\n")
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
            raise Failed(f"{file}: cannot be read: {error.strerror}") from None


def _in_stream(stream: BinaryIO, name: str) -> Iterator[bytes | msgspec.Raw]:
    """A JSON array, one event a line, or one event over several lines."""
    first = b""
    for line in stream:
        first = line.strip().removeprefix(b"\xef\xbb\xbf")
        if first:
            break
    if first.startswith(b"["):
        try:
            yield from page.split(first + b"\n" + stream.read())
        except TryAgain as error:
            raise Failed(f"{name}: {error}") from None
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
