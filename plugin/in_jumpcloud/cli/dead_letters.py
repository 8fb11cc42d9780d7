"""`in-jumpcloud dead-letters`: shows the events that the receiver refused, delivers them again, or drops them."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from in_jumpcloud.cli import NAME, examples, settings_options, show
from in_jumpcloud.cli.signals import stop_on_signals
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config
from in_jumpcloud.counters import plural
from in_jumpcloud.ecs import geoip
from in_jumpcloud.ecs.mapper import Mapper, new_id
from in_jumpcloud.errors import Fatal, ReceiverDown, StateMissing, Stopped
from in_jumpcloud.forward import wire
from in_jumpcloud.forward.failover import Failover
from in_jumpcloud.insights.event import decode_event, parse_event
from in_jumpcloud.runtime import SYSTEM
from in_jumpcloud.state import dead_letters, opening
from in_jumpcloud.state.dead_letters import DeadLetter
from in_jumpcloud.state.reader import StateReader
from in_jumpcloud.streams import tag_of_stream
from in_jumpcloud.tags import TagTemplate
from in_jumpcloud.text import shown
from in_jumpcloud.timestamps import rfc3339

_COLUMNS = ("time", "stream", "id", "reason")
_MAX_TRIES = 2  # the connection may break while the receiver would accept the record
_Command = TypeVar("_Command", bound=Callable[..., Any])


def _selection(command: _Command) -> _Command:
    """`--id` and `--reason`, passed as `ids` and `reason`."""
    by_id = click.option("--id", "ids", metavar="ID", multiple=True, help="Only the event with this id. Repeatable.")
    by_reason = click.option("--reason", metavar="TEXT", help="Only events whose reason contains this text.")
    return by_id(by_reason(command))


def _chosen(state: StateReader, ids: tuple[str, ...], reason: str | None) -> Iterator[DeadLetter]:
    for letter in state.dead_letters.letters():
        if (not ids or letter.refused.id in ids) and (reason is None or reason in letter.refused.reason):
            yield letter


def _show_none(state: StateReader | None) -> None:
    """Say why nothing was chosen."""
    count = sum(1 for _ in state.dead_letters.letters()) if state else 0
    click.echo(f"none of {plural(count, 'dead letter')} matches --id and --reason" if count else "no dead letters")


@click.group("dead-letters")
def command() -> None:
    """Show, replay or drop events that the receiver refused.

    They are in the state. Every command works while the plugin is running.
    """


@command.command("list", epilog=examples("in-jumpcloud dead-letters list -c jumpcloud.yaml --reason larger"))
@settings_options()
@_selection
def list_command(path: Path | None, overrides: tuple[str, ...], ids: tuple[str, ...], reason: str | None) -> None:
    """List the refused events: time, stream, id, reason."""
    rows = []
    with _reading(load_config(path, overrides, needs_key=False)) as state:
        for letter in _chosen(state, ids, reason) if state else ():
            refused = letter.refused
            rows.append(tuple(map(shown, (rfc3339(refused.time_ms), letter.stream, refused.id, refused.reason))))
        if not rows:
            _show_none(state)
            return
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    for row in (_COLUMNS, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@command.command("show", epilog=examples("in-jumpcloud dead-letters show -c jumpcloud.yaml --id 5f1b3c0a"))
@settings_options()
@_selection
def show_command(path: Path | None, overrides: tuple[str, ...], ids: tuple[str, ...], reason: str | None) -> None:
    """Show the refused events with all their fields."""
    with _reading(load_config(path, overrides, needs_key=False)) as state:
        found = False
        for letter in _chosen(state, ids, reason) if state else ():
            refused, found = letter.refused, True
            values = (rfc3339(refused.time_ms), letter.stream, refused.id, refused.reason)
            for name, value in (*zip(_COLUMNS, values, strict=True), ("size", f"{len(refused.event)} bytes")):
                show(f"{name:8}{value}")
            for line in _pretty(refused.event).splitlines():
                show(f"  {line}")
            click.echo()
        if not found:
            _show_none(state)


@command.command("export", epilog=examples("in-jumpcloud dead-letters export -c jumpcloud.yaml > refused.ndjson"))
@settings_options()
@_selection
def export_command(path: Path | None, overrides: tuple[str, ...], ids: tuple[str, ...], reason: str | None) -> None:
    """Print one JSON object per line.

    It has the time, stream, id and reason, and the event as JumpCloud sent it.
    """
    with _reading(load_config(path, overrides, needs_key=False)) as state:
        sys.stdout.buffer.writelines(letter.line() for letter in (_chosen(state, ids, reason) if state else ()))
        sys.stdout.buffer.flush()


@command.command("drop", epilog=examples("in-jumpcloud dead-letters drop -c jumpcloud.yaml --id 5f1b3c0a"))
@settings_options()
@_selection
@click.option("--all", "everything", is_flag=True, help="Drop all of them.")
def drop_command(
    path: Path | None, overrides: tuple[str, ...], ids: tuple[str, ...], reason: str | None, everything: bool
) -> None:
    """Remove refused events for good. They are never delivered."""
    if not (ids or reason or everything):
        raise click.UsageError("name the events with --id or --reason, or give --all")
    with _changing(load_config(path, overrides, needs_key=False)) as state:
        dropped = 0
        for letter in _chosen(state, ids, reason) if state else ():
            dropped += state.dead_letters.remove(letter.number) if state else 0
    click.echo(f"dead letters dropped: {dropped}")


@command.command("replay", epilog=examples("in-jumpcloud dead-letters replay -c jumpcloud.yaml"))
@settings_options()
@_selection
def replay_command(path: Path | None, overrides: tuple[str, ...], ids: tuple[str, ...], reason: str | None) -> None:
    """Map the refused events again and deliver them.

    An acknowledged event is removed, any other stays. Exit code 1 if some stay. A replay that is killed delivers at
    most one event again the next time.
    """
    settings = load_config(path, overrides, needs_key=False)
    stop = stop_on_signals()
    with _changing(settings) as state, ExitStack() as resources:
        chosen = [letter.number for letter in _chosen(state, ids, reason)] if state else []
        if not state or not chosen:
            _show_none(state)
            return
        replayer = _Replayer(settings, state, resources, stop)
        try:
            kept = dead_letters.replay(state.dead_letters, chosen, replayer.deliver)
        except Stopped:
            raise Fatal("interrupted; events that were not delivered stay dead letters") from None
        finally:
            click.echo(f"dead letters delivered: {replayer.delivered}")
    if kept:
        raise Fatal(f"{plural(kept, 'dead letter')} not delivered; see `in-jumpcloud dead-letters list`")


def _reading(settings: Config) -> AbstractContextManager[StateReader | None]:
    """The state, to read; None if there is none yet."""
    return _or_none(opening.open_readonly(settings.state))


def _changing(settings: Config) -> AbstractContextManager[StateReader | None]:
    """The state, to change its dead letters; None if there is none yet."""
    return _or_none(opening.changing_dead_letters(settings.state))


@contextlib.contextmanager
def _or_none(opened: AbstractContextManager[StateReader]) -> Iterator[StateReader | None]:
    with ExitStack() as stack:
        state = None
        with contextlib.suppress(StateMissing):
            state = stack.enter_context(opened)
        yield state


def _pretty(event: bytes) -> str:
    data = decode_event(event).data
    return msgspec.json.format(msgspec.json.encode(data)).decode() if data else event.decode(errors="replace")


class _Replayer:
    """Delivers dead letters, each in a chunk of its own."""

    def __init__(self, settings: Config, state: StateReader, resources: ExitStack, stop: threading.Event) -> None:
        """Open what it needs; `resources` closes it.

        Raises:
            ReceiverDown: no receiver can be reached.
            ConfigError: a database cannot be used.
        """
        self.delivered = 0
        self._settings = settings
        self._stop = stop
        databases = geoip.open_databases(settings)
        resources.callback(databases.close)
        ids = {"agent_id": state.agent_id, "ephemeral_id": new_id(SYSTEM.random)}
        names = state.organization_names() if settings.jumpcloud.organizations == "all" else {}
        self._mapper = Mapper(settings.ecs, databases, organizations=names, **ids)
        self._tags: dict[str, TagTemplate] = {}
        self._receivers = Failover(settings.forward)
        resources.callback(self._receivers.close)
        self._receivers.connect(stop)

    def deliver(self, letter: DeadLetter) -> bool:
        """Whether the receiver acknowledged the event; if it refuses only this one, prints why.

        Raises:
            ReceiverDown: the receiver accepts nothing.
            Stopped: the process was asked to stop.
        """
        if self._stop.is_set():
            raise Stopped
        refused = letter.refused
        if not refused.event:
            return self._keep(letter, "it was too large to be received")
        record = self._mapper.map(parse_event(refused.event), refused.time_ms * 1_000_000 or time.time_ns())
        template = tag_of_stream(self._settings, letter.stream)
        tag = self._tags.setdefault(template, TagTemplate(template)).of(record.service, record.organization)
        refusal = self._send(tag, wire.pack_entry(record.time_ns, record.body))
        if refusal:
            return self._keep(letter, refusal)
        self.delivered += 1
        return True

    @staticmethod
    def _keep(letter: DeadLetter, why: str) -> bool:
        click.echo(shown(f"{NAME}: {letter.stream}: event {letter.refused.id} stays: {why}"), err=True)
        return False

    def _send(self, tag: str, packed: bytes) -> str | None:
        """Send one record. Returns None if it is acknowledged, else why the receiver refuses it but not others."""
        if wire.message_bytes(tag, len(packed)) > self._settings.forward.message_max_bytes:
            return f"its record of {len(packed)} bytes is larger than forward.message_max_bytes"
        chunk = wire.build_chunk(tag, packed, 1, compress=self._settings.forward.compress)
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
