"""`in-jumpcloud dead-letter`: what the receiver refused for good, and another try at it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import click

from in_jumpcloud.cli import config_option, examples, overrides_option
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config
from in_jumpcloud.ecs import geoip
from in_jumpcloud.ecs.mapper import Mapper, new_id
from in_jumpcloud.errors import ConfigError, Fatal, ReceiverDown, StateCorrupt, Stopped
from in_jumpcloud.forward import wire
from in_jumpcloud.forward.failover import Failover
from in_jumpcloud.insights.event import parse_event
from in_jumpcloud.state.dead_letters import DeadLetter, DeadLetterFile
from in_jumpcloud.state.store import open_readonly
from in_jumpcloud.tags import TagTemplate
from in_jumpcloud.timestamps import parse_rfc3339

_COLUMNS = ("time", "stream", "id", "reason")
_TRIES = 2  # a connection may break while a chunk is under way that the receiver would take


def show(settings: Config, form: str) -> None:
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


def replay(settings: Config) -> None:
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
    with ExitStack() as resources:
        replayer = _Replayer(settings, resources, stop)
        try:
            replayed = file.replay(replayer.deliver)
        except Stopped:
            raise Fatal("asked to end; what was not delivered stays") from None
        finally:
            click.echo(f"dead letters delivered: {replayer.delivered}")
    if replayed.kept:
        raise Fatal(f"dead letters that stay in {settings.dead_letter.path}: {replayed.kept}")


class _Replayer:
    """Delivers dead letters, one chunk each."""

    def __init__(self, settings: Config, resources: ExitStack, stop: threading.Event) -> None:
        """Open what it needs; `rooms` closes it.

        Raises:
            ReceiverDown, ConfigError: it cannot be opened.
        """
        self.delivered = 0
        self._settings = settings.forward
        self._stop = stop
        databases = geoip.open_databases(settings)
        resources.callback(databases.close)
        self._mapper = Mapper(settings.ecs, databases, agent_id=_agent_id(settings), ephemeral_id=new_id())
        self._tag = TagTemplate(settings.forward.tag)
        self._servers = Failover(settings.forward)
        resources.callback(self._servers.close)
        self._servers.connect(stop)

    def deliver(self, letter: DeadLetter) -> bool:
        """Whether the receiver has acknowledged it; where it refuses just this one, that is told.

        Raises:
            ReceiverDown: the receiver takes nothing at all.
            Stopped: somebody asked for the end.
        """
        received_ns = parse_rfc3339(letter.time) or time.time_ns()
        record = self._mapper.map(parse_event(letter.event), received_ns)
        tag = self._tag.of(record.service, record.organization)
        refusal = self._send(tag, wire.pack_entry(record.time_ns, record.body))
        if refusal:
            click.echo(f"in-jumpcloud: {letter.stream}: event {_printable(letter.id)} stays: {refusal}", err=True)
            return False
        self.delivered += 1
        return True

    def _send(self, tag: str, packed: bytes) -> str | None:
        """None once it is acknowledged; else why not, where the receiver takes other chunks."""
        if wire.message_bytes(tag, len(packed)) > self._settings.message_max_bytes:
            return f"its record of {len(packed)} bytes is larger than forward.message_max_bytes"
        chunk = wire.build_chunk(tag, packed, 1, compress=self._settings.compress)
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


def _file(settings: Config) -> DeadLetterFile:
    return DeadLetterFile(settings.dead_letter.path, max_bytes=settings.dead_letter.max_bytes)


def _agent_id(settings: Config) -> str:
    """The plugin's own, where it has one already."""
    try:
        with open_readonly(settings.state.path) as state:
            return state.agent_id
    except (ConfigError, StateCorrupt):
        return new_id()


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


@click.group("dead-letter")
def command() -> None:
    """See what the receiver refused for good, and try it again."""


@command.command(
    "list",
    epilog=examples(
        "in-jumpcloud dead-letter list -c jumpcloud.yaml",
        "in-jumpcloud dead-letter list -c jumpcloud.yaml --format json | jq -r .reason",
    ),
)
@config_option()
@overrides_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="json: one object a line, with the event as JumpCloud sent it.",
)
def list_command(path: Path, overrides: tuple[str, ...], form: str) -> None:
    """Show each event that was refused: when, of which stream, its id, and why."""
    show(load_config(path, overrides, needs_key=False), form)


@command.command(
    "replay",
    epilog=examples(
        "in-jumpcloud dead-letter replay -c jumpcloud.yaml",
    ),
)
@config_option()
@overrides_option
def replay_command(path: Path, overrides: tuple[str, ...]) -> None:
    """Map each of them anew and deliver it. What is acknowledged is taken out of the file, the rest stays."""
    replay(load_config(path, overrides, needs_key=False))
