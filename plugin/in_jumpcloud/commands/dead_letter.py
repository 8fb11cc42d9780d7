"""`in-jumpcloud dead-letter`: what the receiver refused for good, and another try at it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import ExitStack

import click

from in_jumpcloud import config
from in_jumpcloud.deadletter import DeadLetter, DeadLetterFile
from in_jumpcloud.ecs import geo
from in_jumpcloud.ecs.mapper import Mapper, new_id
from in_jumpcloud.errors import ConfigError, Failed, ReceiverDown, Stopped
from in_jumpcloud.forward import wire
from in_jumpcloud.forward.servers import Servers
from in_jumpcloud.forward.tags import Tag
from in_jumpcloud.insights.event import parse_timestamp, read
from in_jumpcloud.state import reading

_COLUMNS = ("time", "stream", "id", "reason")
_TRIES = 2  # a connection may break while a chunk is under way that the receiver would take


def show(settings: config.Config, form: str) -> None:
    """Print the dead letters as a `table`, or as the `json` lines that they are.

    Raises:
        Failed: the file cannot be read.
    """
    letters = _file(settings).letters()
    if form == "json":
        sys.stdout.buffer.writelines(letter.line() for letter in letters)
        sys.stdout.buffer.flush()
        return
    rows = [tuple(_printable(getattr(letter, column)) for column in _COLUMNS) for letter in letters]
    if not rows:
        click.echo(f"no dead letters in {settings.dead_letter.path}")
        return
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    for row in (_COLUMNS, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def replay(settings: config.Config) -> None:
    """Map each dead letter anew and deliver it; what is acknowledged is taken out of the file.

    Raises:
        ReceiverDown: the receiver is not there, or takes nothing; the rest stays.
        Failed: some are refused again, and stay; or the file cannot be used.
        ConfigError: a database cannot be used.
    """
    file = _file(settings)
    if not file.size():
        click.echo(f"no dead letters in {settings.dead_letter.path}")
        return
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as rooms:
        replayer = _Replayer(settings, rooms, stop)
        try:
            replayed = file.replay(replayer.deliver)
        except Stopped:
            raise Failed("asked to end; what was not delivered stays") from None
        finally:
            click.echo(f"dead letters delivered: {replayer.delivered}")
    if replayed.kept:
        raise Failed(f"dead letters that stay in {settings.dead_letter.path}: {replayed.kept}")


class _Replayer:
    """Delivers dead letters, one chunk each."""

    def __init__(self, settings: config.Config, rooms: ExitStack, stop: threading.Event) -> None:
        """Open what it needs; `rooms` closes it.

        Raises:
            ReceiverDown, ConfigError: it cannot be opened.
        """
        self.delivered = 0
        self._settings = settings.forward
        self._stop = stop
        geoip = geo.opened(settings)
        rooms.callback(geoip.close)
        self._mapper = Mapper(settings.ecs, geoip, agent_id=_agent_id(settings), ephemeral_id=new_id())
        self._tag = Tag(settings.forward.tag)
        self._servers = Servers(settings.forward)
        rooms.callback(self._servers.close)
        self._servers.connect(stop)

    def deliver(self, letter: DeadLetter) -> bool:
        """Whether the receiver has acknowledged it; where it refuses just this one, that is told.

        Raises:
            ReceiverDown: the receiver takes nothing at all.
            Stopped: somebody asked for the end.
        """
        received_ns = parse_timestamp(letter.time) or time.time_ns()
        record = self._mapper.map(read(letter.event), received_ns)
        tag = self._tag.of(record.service, record.organization)
        refusal = self._send(tag, wire.packed_entry(record.time_ns, record.body))
        if refusal:
            click.echo(f"in-jumpcloud: {letter.stream}: event {_printable(letter.id)} stays: {refusal}", err=True)
            return False
        self.delivered += 1
        return True

    def _send(self, tag: str, packed: bytes) -> str | None:
        """None once it is acknowledged; else why not, where the receiver takes other chunks."""
        if wire.message_bytes(tag, len(packed)) > self._settings.message_max_bytes:
            return f"its record of {len(packed)} bytes is larger than forward.message_max_bytes"
        chunk = wire.chunk(tag, packed, 1, compress=self._settings.compress)
        refusal = ""
        for _ in range(_TRIES):
            try:
                self._servers.deliver(chunk, self._stop)
            except ReceiverDown as error:
                if not (error.reached and self._servers.probe(error.reached, self._stop)):
                    raise
                refusal = str(error)
            else:
                return None
        return refusal


def _file(settings: config.Config) -> DeadLetterFile:
    return DeadLetterFile(settings.dead_letter.path, max_bytes=settings.dead_letter.max_bytes)


def _agent_id(settings: config.Config) -> str:
    """The plugin's own, where it has one already."""
    try:
        with reading(settings.state.path) as state:
            return state.agent_id
    except ConfigError:
        return new_id()


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
