"""`in-jumpcloud state`: shows the state, and moves it from one database to another."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from in_jumpcloud.cli import examples, json_option, settings_options, show
from in_jumpcloud.cli.signals import held
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.counters import plural
from in_jumpcloud.errors import Fatal
from in_jumpcloud.state import opening


@click.group("state")
def command() -> None:
    """Show the state, or move it to another database."""


@command.command("show", epilog=examples("in-jumpcloud state show -c jumpcloud.yaml"))
@settings_options()
@json_option
def show_command(path: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show where the state is, who uses it, and how much is in it."""
    settings = load_config(path, overrides, needs_key=False)
    with opening.open_readonly(settings.state) as state:
        streams, jobs = state.streams(), state.jobs.rows(only_open=True)
        suspects = sum(1 for _ in state.dead_letters.letters("suspect"))
        facts: dict[str, Any] = {
            "where": opening.where(settings.state),
            "version": state.version,
            "agent_id": state.agent_id,
            "held_by": state.holder and state.holder.name,
            "bytes": opening.size(settings.state),
            "streams": len(streams),
            "ids": state.ids(),
            "dead_letters": state.dead_letters.count - suspects,
            "suspects": suspects,
            "open_backfills": len({row.number for row in jobs}),
        }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        show(f"{name.replace('_', ' '):14}  {'none' if value is None else value}")


@command.command(
    "export", epilog=examples("in-jumpcloud state export -c old.yaml | in-jumpcloud state import -c new.yaml")
)
@settings_options()
def export_command(path: Path | None, overrides: tuple[str, ...]) -> None:
    """Print all of the state as lines of JSON. No process may use it, and none can change it meanwhile.

    That is the positions, the ledger, the events that wait to be sent once more, the dead letters and the backfills.
    """
    settings = load_config(path, overrides, needs_key=False)
    with opening.open_alone(settings.state) as state:
        sys.stdout.buffer.writelines(state.export())
        sys.stdout.buffer.flush()


@command.command("import", epilog=examples("in-jumpcloud state import -c jumpcloud.yaml < state.ndjson"))
@settings_options()
def import_command(path: Path | None, overrides: tuple[str, ...]) -> None:
    """Fill an empty state with what `export` printed: all of it, or nothing."""
    settings = load_config(path, overrides, needs_key=False)
    if sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError("give it what `state export` printed on standard input")
    loaded = None
    try:
        with ExitStack() as stack:
            with held():
                state = stack.enter_context(opening.open_to_fill(settings.state))
            loaded = state.load(sys.stdin.buffer)
            where = state.where
    except KeyboardInterrupt:
        if loaded:
            raise
        raise Fatal("interrupted; nothing was imported") from None
    what = (
        *(
            plural(loaded.streams, "stream"),
            plural(loaded.ids, "id"),
            f"{plural(loaded.backfills, 'stream')} of backfills",
        ),
        plural(loaded.dead_letters, "refused event"),
    )
    show(f"{where}: imported {', '.join(what)}")


@command.command("migrate", epilog=examples("in-jumpcloud state migrate -c jumpcloud.yaml"))
@settings_options()
def migrate_command(path: Path | None, overrides: tuple[str, ...]) -> None:
    """Bring the tables of an older version up to date, as the next start of `run` does too."""
    settings = load_config(path, overrides, needs_key=False)
    with opening.open_alone(settings.state) as state:
        if state.version == state.newest_version:
            show(f"{state.where}: has version {state.version}, which is up to date")
        else:
            show(f"{state.where}: brought from version {state.version} to version {state.newest_version}")
