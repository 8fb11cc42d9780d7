"""`in-jumpcloud status`: how far each stream has come, from the state; beside a running plugin or without one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from in_jumpcloud import app
from in_jumpcloud.cli import config_option, examples, overrides_option
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config
from in_jumpcloud.errors import InJumpCloudError
from in_jumpcloud.monitoring import client
from in_jumpcloud.monitoring.health import format_duration
from in_jumpcloud.state.dead_letters import DeadLetterFile
from in_jumpcloud.state.store import StreamRow, open_readonly
from in_jumpcloud.timestamps import rfc3339

__all__ = ["format_duration", "show"]

_SIZES = ("B", "KiB", "MiB", "GiB")


def show(settings: Config, *, as_json: bool) -> None:
    """Print what the state and the file of dead letters say, and the running process where it can be asked.

    Raises:
        ConfigError: the state cannot be read.
        Failed: the file of dead letters cannot be read.
    """
    now_ms = time.time_ns() // 1_000_000
    found = _gather(settings, now_ms)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    state, letters = found["state"], found["dead_letter"]
    if state["exists"]:
        click.echo(f"state         {state['path']}, {_size(state['bytes'])}, {_held(state['held_by'])}")
    else:
        click.echo(f"state         {state['path']}, not there yet; the first `in-jumpcloud run` makes it")
    click.echo(f"dead letters  {letters['path']}, {_size(letters['bytes']) if letters['bytes'] else 'none'}")
    running = found["running"]
    for receiver in running["receivers"] if running else ():
        up = {True: "up", False: "down", None: "not tried yet"}[receiver["up"]]
        click.echo(f"receiver      {receiver['name']}, {up}")
    for stream in found["streams"]:
        click.echo(f"\n{stream['name']}" + ("" if stream["configured"] else "  (no longer configured)"))
        for name, value in _lines(stream):
            click.echo(f"  {name:12}  {value}")


def _gather(settings: Config, now_ms: int) -> dict[str, Any]:
    path = settings.state.path
    configured = [stream.name for stream in app.streams(settings)]
    rows: dict[str, StreamRow] = {}
    holder = None
    if path.exists():
        with open_readonly(path) as state:
            holder = state.holder
            rows = {row.name: row for row in state.streams()}
    names = [*configured, *(name for name in rows if name not in configured)]
    running = _running(settings) if holder else None
    rates = {each["name"]: each["events_per_minute"] for each in running["streams"]} if running else {}
    letters = DeadLetterFile(settings.dead_letter.path, max_bytes=settings.dead_letter.max_bytes)
    return {
        "state": {"path": str(path), "exists": path.exists(), "bytes": _bytes(path), "held_by": holder},
        "dead_letter": {"path": str(letters.path), "bytes": letters.size()},
        "running": running,
        "streams": [
            {
                "name": name,
                "configured": name in configured,
                **_facts(rows.get(name), now_ms),
                "events_per_minute": rates.get(name),
            }
            for name in names
        ],
    }


def _running(settings: Config) -> dict[str, Any] | None:
    """What the process says that has the state, without its history; None: it cannot be asked."""
    try:
        said = json.loads(client.get_page(settings.http.listen, "/status.json", timeout=2).body)
        if said["state"]["path"] != str(settings.state.path.resolve()):
            return None  # that of another plugin
        return {key: said[key] for key in ("pid", "version", "uptime_seconds", "not_ready", "receivers", "streams")}
    except (InJumpCloudError, ValueError, KeyError, TypeError):
        return None


def _facts(row: StreamRow | None, now_ms: int) -> dict[str, Any]:
    if row is None:
        return {"position": None}
    window = row.position.window
    return {
        "position": rfc3339(row.position.watermark_ms),
        "lag_seconds": max(0, now_ms - row.position.watermark_ms) // 1000,
        "window": window
        and {"start": rfc3339(window.start_ms), "end": rfc3339(window.end_ms), "cursor": window.cursor is not None},
        "acknowledged": row.acknowledged,
        "late": row.late,
        "dead_lettered": row.dead_lettered,
        "error": row.error,
        "error_time": row.error_ms and rfc3339(row.error_ms),
        "updated": row.updated_ms and rfc3339(row.updated_ms),
    }


def _lines(stream: dict[str, Any]) -> list[tuple[str, str]]:
    if stream["position"] is None:
        return [("position", "none yet: nothing was delivered")]
    window = stream["window"]
    under_way = "none under way"
    if window:
        pages = "its first pages are delivered" if window["cursor"] else "from its first page"
        under_way = f"{window['start']} to {window['end']} under way, {pages}"
    lines = [
        ("position", f"{stream['position']}, {format_duration(stream['lag_seconds'])} behind now"),
        ("window", under_way),
        ("acknowledged", str(stream["acknowledged"])),
        ("late", str(stream["late"])),
        ("dead letters", str(stream["dead_lettered"])),
        ("last error", f"{stream['error_time']}  {stream['error']}" if stream["error"] else "none"),
    ]
    if stream["events_per_minute"] is not None:
        lines.append(("rate", f"{stream['events_per_minute']:g} events a minute"))
    if stream["updated"]:
        lines.append(("last commit", stream["updated"]))
    return lines


def _bytes(path: Path) -> int:
    """Of the database and of what is not yet written back into it."""
    files = (path, path.with_name(f"{path.name}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def _size(count: float) -> str:
    for unit in _SIZES:
        if count < 1024 or unit == _SIZES[-1]:  # noqa: PLR2004
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def _held(holder: str | None) -> str:
    return f"in use by {holder}" if holder else "not in use"


@click.command(
    "status",
    epilog=examples(
        "in-jumpcloud status -c jumpcloud.yaml",
        "in-jumpcloud status -c jumpcloud.yaml --json | jq '.streams[].lag_seconds'",
    ),
)
@config_option()
@overrides_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(path: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show how far each stream has come, what was counted, and what went wrong last. Needs no key.

    All of it is read from the state, whether or not the plugin runs. Beside one that runs, and shows its status page,
    it tells the rates and the receivers too.
    """
    show(load_config(path, overrides, needs_key=False), as_json=as_json)
