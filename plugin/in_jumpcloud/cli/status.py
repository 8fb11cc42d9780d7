"""`in-jumpcloud status`: the streams as the state has them, whether the plugin is running or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from in_jumpcloud.cli import examples, json_option, settings_options, show
from in_jumpcloud.cli.job_progress import backfill_facts, backfill_text, progress_text
from in_jumpcloud.cli.status_group import group_facts, group_lines, owner_facts
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config
from in_jumpcloud.errors import InJumpCloudError
from in_jumpcloud.monitoring import client
from in_jumpcloud.state import opening
from in_jumpcloud.state.group import GroupReport
from in_jumpcloud.state.jobs import JobRow
from in_jumpcloud.state.notes import as_of_ms
from in_jumpcloud.state.reader import StreamRow
from in_jumpcloud.streams import known_streams
from in_jumpcloud.text import format_duration, shown
from in_jumpcloud.timestamps import DAY_MS, now_ms, rfc3339

_RUNNING_KEYS = (
    "pid",
    "version",
    "uptime_seconds",
    "not_ready",
    "warnings",
    "receivers",
    "streams",
    "backfills",
    "states",
    "polls",
)
_LIVE_KEYS = ("events_per_minute", "backfill", "error_since", "late_error", "late_error_since")
"""What only the process knows of a stream."""
MAX_SHOWN = 100
"""So many streams are shown for people."""


@click.command(
    "status",
    epilog=examples(
        "in-jumpcloud status -c jumpcloud.yaml",
        "in-jumpcloud status -c jumpcloud.yaml --json | jq '.streams[].lag_seconds'",
    ),
)
@settings_options()
@json_option
def command(path: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show the position, counters and last error of each stream.

    Reads the state, whether the plugin is running or not. If it is running and has a status page, also shows rates
    and receivers. Of processes that share the state, shows them all, and which of them has each stream. Needs no key.
    """
    status = _collect(load_config(path, overrides, needs_key=False))
    if as_json:
        click.echo(json.dumps(status, indent=2))
        return
    state, letters, running = status["state"], status["dead_letters"], status["running"]
    if state["exists"]:
        usage = f"in use by {state['held_by']}" if state["held_by"] else "not in use"
        show(f"state         {state['path']}, {_format_size(state['bytes'])}, {usage}")
    else:
        show(f"state         {state['path']}, does not exist yet; `in-jumpcloud run` creates it")
    show(f"dead letters  {letters['count'] or 'none'}")
    for name, text in group_lines(status["group"]) if "group" in status else ():
        show(f"{name:12}  {text}")
    for receiver in running["receivers"] if running else ():
        up = {True: "up", False: "down", None: "not tried yet"}[receiver["up"]]
        show(f"receiver      {receiver['name']}, {up}{_since(receiver)}")
    for word, key in (("not ready", "not_ready"), ("warning", "warnings")) if running else ():
        for reason in running[key]:
            show(f"{word:12}  {reason['code']}: {'; '.join(filter(None, (reason['text'], reason['advice'])))}")
    for backfill in status["backfills"]:
        show(f"backfill      {backfill_text(backfill)}")
    if running:
        states = ", ".join(f"{count} {state}" for state, count in running["states"].items())
        show(f"streams       {states if running['streams'] or 'group' not in status else 'none at this member'}")
        show(f"polls         {running['polls']['text']}")
    for stream in _most_behind(status["streams"]):
        click.echo()
        show(f"{stream['name']}" + ("" if stream["configured"] else "  (no longer configured)"))
        for name, value in _stream_lines(stream):
            show(f"  {name:12}  {value}")


def _most_behind(streams: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most MAX_SHOWN streams: first those with an error, then those that are most behind."""
    if len(streams) <= MAX_SHOWN:
        return streams
    click.echo()
    show(f"{MAX_SHOWN} of {len(streams)} streams: those with an error, and those most behind; --json has all")
    return sorted(streams, key=lambda each: (not each.get("error"), -each.get("lag_seconds", 0)))[:MAX_SHOWN]


def _collect(settings: Config) -> dict[str, Any]:
    """What `--json` prints.

    Raises:
        ConfigError: the state cannot be read.
        StateCorrupt, StateUnavailable: it is damaged, or an older program wrote it.
    """
    now = now_ms()
    configured = [stream.name for stream in known_streams(settings)]
    rows: dict[str, StreamRow] = {}
    holder = None
    letters = {"count": 0, "bytes": 0}
    services: dict[str, dict[str, int]] = {}
    backfills: list[JobRow] = []
    report = None
    exists = opening.exists(settings.state)
    if exists:
        with opening.open_readonly(settings.state) as state:
            holder, report = state.holder and state.holder.name, state.group_report()
            rows = {row.name: row for row in state.streams()}
            backfills = [row for row in state.jobs.rows() if row.condition == "open" or now - row.updated_ms < DAY_MS]
            services = state.all_services()
            letters = {"count": state.dead_letters.count, "bytes": state.dead_letters.bytes}
    is_configured = set(configured)
    names = [*configured, *(name for name in rows if name not in is_configured)]
    running = _ask_process(settings, report) if holder else None
    live = {each["name"]: each for each in running["streams"]} if running else {}
    progresses = {(each["number"], each["stream"]): each for each in running["backfills"]} if running else {}
    return {
        "state": {
            "path": settings.state.place,
            "exists": exists,
            "bytes": opening.size(settings.state),
            "held_by": holder,
        },
        "dead_letters": letters,
        **({"group": group_facts(report, running["member_id"] if running else None)} if report else {}),
        "running": running,
        "backfills": [
            {**backfill_facts(row), "progress": progresses.get((row.number, row.stream))} for row in backfills
        ],
        "streams": [
            {
                "name": name,
                "configured": name in is_configured,
                **_stream_facts(rows.get(name), services.get(name, {}), now, is_held=holder is not None),
                **_live_position(live.get(name) if name in rows else None, now),
                **{key: live[name][key] if name in live else None for key in _LIVE_KEYS},
                **_live_error(live.get(name)),
                **(owner_facts(report, name) if report else {}),
            }
            for name in names
        ],
    }


def _ask_process(settings: Config, report: GroupReport | None) -> dict[str, Any] | None:
    """The status of the process that holds the state, without its history; None if it does not answer.

    In a group, of the member that listens there; its id is `member_id`.
    """
    try:
        page = json.loads(client.get_page(settings.http.listen, "/status.json", timeout=2).body)
        if page["state"]["path"] != shown(opening.where(settings.state)):
            return None  # another process listens there
        running = {key: page[key] for key in _RUNNING_KEYS}
        if report is None:
            return running
        (this,) = (each["id"] for each in page["group"]["members"] if each["this"])
        return {**running, "member_id": this} if this in {shown(each.id) for each in report.view.members} else None
    except (InJumpCloudError, ValueError, KeyError, TypeError):
        return None


def _stream_facts(row: StreamRow | None, services: dict[str, int], now: int, *, is_held: bool) -> dict[str, Any]:
    """What the state has of a stream. `is_held`: a process is running, which may know a later position.

    `position` moves with each window, `reached` with each page. `lag_seconds` is how far the latter was behind at
    `lag_time`.
    """
    if row is None:
        return {"position": None}
    window = row.position.window
    lag_at = as_of_ms(row.updated_ms, now, is_held=is_held)
    return {
        "position": rfc3339(row.position.watermark_ms),
        "reached": rfc3339(row.position.reached_ms),
        "lag_seconds": max(0, lag_at - row.position.reached_ms) // 1000,
        "lag_time": rfc3339(lag_at),
        "window": window
        and {"start": rfc3339(window.start_ms), "end": rfc3339(window.end_ms), "cursor": window.cursor is not None},
        "services_since": {name: rfc3339(since_ms) for name, since_ms in services.items()},
        "acknowledged": row.acknowledged,
        "late": row.late,
        "dead_lettered": row.dead_lettered,
        "error": row.error,
        "error_time": row.error_ms and rfc3339(row.error_ms),
        "updated": row.updated_ms and rfc3339(row.updated_ms),
    }


def _live_position(live: dict[str, Any] | None, now: int) -> dict[str, Any]:
    """The position that the process has now."""
    keys = ("position", "reached", "lag_seconds")
    return {**{key: live[key] for key in keys}, "lag_time": rfc3339(now)} if live else {}


def _live_error(live: dict[str, Any] | None) -> dict[str, Any]:
    """The error that the process has now: it cannot store that the state cannot be written."""
    return {"error": live["error"], "error_time": live["error_since"]} if live and live["error"] else {}


def _stream_lines(stream: dict[str, Any]) -> list[tuple[str, str]]:
    if stream["position"] is None:
        return [*_member_line(stream), ("position", "none yet: nothing has been delivered")]
    window = "none in progress"
    if stream["window"]:
        pages = "first pages delivered" if stream["window"]["cursor"] else "no page delivered yet"
        window = f"{stream['window']['start']} to {stream['window']['end']} in progress, {pages}"
    behind = "at the last commit" if stream["lag_time"] == stream["updated"] else "now"
    reached = "" if stream["reached"] == stream["position"] else f"; its window has reached {stream['reached']}"
    lines = [
        *_member_line(stream),
        ("position", f"{stream['position']}{reached}, {format_duration(stream['lag_seconds'])} behind {behind}"),
        ("window", window),
        *_service_lines(stream["services_since"]),
        ("acknowledged", str(stream["acknowledged"])),
        ("late", str(stream["late"])),
        ("dead letters", str(stream["dead_lettered"])),
        ("last error", f"{stream['error_time']}  {stream['error']}" if stream["error"] else "none"),
        *([("since", stream["error_since"])] if stream["error_since"] else []),
        *([("late events", f"{stream['late_error_since']}  {stream['late_error']}")] if stream["late_error"] else []),
    ]
    if stream["events_per_minute"] is not None:
        lines.append(("rate", f"{stream['events_per_minute']:g} events a minute"))
    if stream["backfill"]:
        lines.append(("catching up", progress_text(stream["backfill"])))
    if stream["updated"]:
        lines.append(("last commit", stream["updated"]))
    return lines


def _member_line(stream: dict[str, Any]) -> list[tuple[str, str]]:
    return [("member", stream["member"] or "none")] if "member" in stream else []


def _since(receiver: dict[str, Any]) -> str:
    return f" since {receiver['error_since']}: {receiver['error']}" if receiver["error"] else ""


def _service_lines(since: dict[str, str]) -> list[tuple[str, str]]:
    """The services that were added later than the first."""
    first = min(since.values(), default="")
    return [("service", f"{name}, polled from {start} on") for name, start in sorted(since.items()) if start > first]


def _format_size(size: int) -> str:
    return f"{size / 1024:,.1f} KiB"
