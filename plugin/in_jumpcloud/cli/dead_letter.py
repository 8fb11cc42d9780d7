"""`in-jumpcloud dead-letter`: lists the events that the receiver refused, and delivers them again."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import click

from in_jumpcloud.cli import NAME, examples, printable, settings_options, stop_on_signals
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
_MAX_TRIES = 2  # the connection may break while the receiver would accept the record


@click.group("dead-letter")
def command() -> None:
    """List or replay events that the receiver refused."""


@command.command(
    "list",
    epilog=examples(
        "in-jumpcloud dead-letter list -c jumpcloud.yaml",
        "in-jumpcloud dead-letter list -c jumpcloud.yaml --format json | jq -r .reason",
    ),
)
@settings_options()
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="json prints one object per line, with the event as JumpCloud sent it.",
)
def list_command(path: Path, overrides: tuple[str, ...], output_format: str) -> None:
    """List the refused events: time, stream, id, reason."""
    settings = load_config(path, overrides, needs_key=False)
    letters = _dead_letter_file(settings).letters()
    if output_format == "json":
        sys.stdout.buffer.writelines(letter.line() for letter in letters)
        sys.stdout.buffer.flush()
        return
    rows = [tuple(printable(getattr(letter, column)) for column in _COLUMNS) for letter in letters]
    if not rows:
        click.echo(f"no dead letters in {settings.dead_letter.path}")
        return
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    for row in (_COLUMNS, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@command.command("replay", epilog=examples("in-jumpcloud dead-letter replay -c jumpcloud.yaml"))
@settings_options()
def replay_command(path: Path, overrides: tuple[str, ...]) -> None:
    """Map the refused events again and deliver them.

    An acknowledged event is removed from the file, any other stays. Exit code 1 if some stay.
    """
    settings = load_config(path, overrides, needs_key=False)
    file = _dead_letter_file(settings)
    if not file.size():
        click.echo(f"no dead letters in {settings.dead_letter.path}")
        return
    stop = stop_on_signals()
    with ExitStack() as resources:
        replayer = _Replayer(settings, resources, stop)
        try:
            replayed = file.replay(replayer.deliver)
        except Stopped:
            raise Fatal("interrupted; events that were not delivered stay in the file") from None
        finally:
            click.echo(f"dead letters delivered: {replayer.delivered}")
    if replayed.kept:
        raise Fatal(f"dead letters that stay in {settings.dead_letter.path}: {replayed.kept}")


class _Replayer:
    """Delivers dead letters, each in a chunk of its own."""

    def __init__(self, settings: Config, resources: ExitStack, stop: threading.Event) -> None:
        """Open what it needs; `resources` closes it.

        Raises:
            ReceiverDown: no receiver can be reached.
            ConfigError: a database cannot be used.
        """
        self.delivered = 0
        self._settings = settings.forward
        self._stop = stop
        databases = geoip.open_databases(settings)
        resources.callback(databases.close)
        self._mapper = Mapper(settings.ecs, databases, agent_id=_agent_id(settings), ephemeral_id=new_id())
        self._tag = TagTemplate(settings.forward.tag)
        self._receivers = Failover(settings.forward)
        resources.callback(self._receivers.close)
        self._receivers.connect(stop)

    def deliver(self, letter: DeadLetter) -> bool:
        """Whether the receiver acknowledged the event; if it refuses only this one, prints why.

        Raises:
            ReceiverDown: the receiver accepts nothing.
            Stopped: the process was asked to stop.
        """
        received_ns = parse_rfc3339(letter.time) or time.time_ns()
        record = self._mapper.map(parse_event(letter.event), received_ns)
        tag = self._tag.of(record.service, record.organization)
        refusal = self._send(tag, wire.pack_entry(record.time_ns, record.body))
        if refusal:
            click.echo(f"{NAME}: {letter.stream}: event {printable(letter.id)} stays: {refusal}", err=True)
            return False
        self.delivered += 1
        return True

    def _send(self, tag: str, packed: bytes) -> str | None:
        """Send one record. Returns None if it is acknowledged, else why the receiver refuses it but not others."""
        if wire.message_bytes(tag, len(packed)) > self._settings.message_max_bytes:
            return f"its record of {len(packed)} bytes is larger than forward.message_max_bytes"
        chunk = wire.build_chunk(tag, packed, 1, compress=self._settings.compress)
        refusal = ""
        for _ in range(_MAX_TRIES):
            try:
                self._receivers.deliver(chunk, self._stop)
            except ReceiverDown as error:
                if not (error.reached and self._receivers.probe(error.reached, self._stop)):
                    raise
                refusal = str(error)
            else:
                return None
        return refusal


def _dead_letter_file(settings: Config) -> DeadLetterFile:
    return DeadLetterFile(settings.dead_letter.path, max_bytes=settings.dead_letter.max_bytes)


def _agent_id(settings: Config) -> str:
    """The id in the plugin's state, or a new one if there is no state yet."""
    try:
        with open_readonly(settings.state.path) as state:
            return state.agent_id
    except (ConfigError, StateCorrupt):
        return new_id()
