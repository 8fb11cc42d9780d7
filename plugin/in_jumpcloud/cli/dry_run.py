"""`run --dry-run`: everything but sending and committing. Shows what would have been sent, open backfills included."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import click

from in_jumpcloud.app import App
from in_jumpcloud.cli import show
from in_jumpcloud.cli.destinations import Destination, json_line
from in_jumpcloud.counters import plural
from in_jumpcloud.errors import InJumpCloudError
from in_jumpcloud.forward.local_receiver import LocalReceiver
from in_jumpcloud.forward.wire import Chunk, read_chunk
from in_jumpcloud.resources import Outside
from in_jumpcloud.state.dead_letters import DeadLetter
from in_jumpcloud.state.jobs import JobRow
from in_jumpcloud.state.opening import open_trial
from in_jumpcloud.text import shown
from in_jumpcloud.timestamps import rfc3339

_MAX_TYPES = 1000
_OTHER = "other types"
_NO_TYPE = "no type"


class DryRun(Destination):
    """Sends nothing, and shows at the end what would have been sent."""

    is_trial = True

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json
        self._chunks = self._bytes = 0
        self._counts: Counter[str] = Counter()
        self._first: dict[str, dict[str, Any]] = {}
        self._positions: dict[str, int] = {}
        self._jobs: list[JobRow] = []
        self._last_letter = 0
        self.outside = Outside(
            receivers=LocalReceiver("none: nothing is sent", self._take), open_state=partial(open_trial, copies=True)
        )

    def began(self, plugin: App) -> None:
        """Note what the state has."""
        state = plugin.resources.state
        self._positions = {row.name: row.position.watermark_ms for row in state.streams()}
        self._jobs = state.jobs.rows(only_open=True)
        self._last_letter = max((letter.number for letter in _letters(plugin)), default=0)

    def ended(self, plugin: App, error: InJumpCloudError | None) -> InJumpCloudError | None:
        """Show what would have been sent. Dead letters that would be made are no failure."""
        report = self._report(plugin)
        if self._as_json:
            click.echo(json.dumps(report, indent=2))
        else:
            _print(report)
        return None if report["complete"] else error

    def _take(self, chunk: Chunk) -> None:
        self._chunks += 1
        self._bytes += len(chunk.message)
        for record in read_chunk(chunk):
            name = _event_type(record)
            name = name if name in self._first or len(self._first) < _MAX_TYPES else _OTHER
            self._counts[name] += 1
            self._first.setdefault(name, record)

    def _report(self, plugin: App) -> dict[str, Any]:
        collectors = plugin.collectors
        letters = [letter for letter in _letters(plugin) if letter.number > self._last_letter]
        return {
            "complete": all(each.counters.liveness.caught_up_once for each in collectors) and not plugin.backfills,
            "records": self._counts.total(),
            "chunks": self._chunks,
            "bytes": self._bytes,
            "streams": [
                {
                    "name": each.stream.name,
                    "from": rfc3339(self._positions.get(each.stream.name, each.position.origin_ms)),
                    "until": rfc3339(each.position.watermark_ms),
                    "received": each.counters.received,
                    "duplicates": each.counters.duplicates,
                    "records": each.counters.acknowledged,
                    "late": each.counters.late,
                    "dead_letters": each.counters.dead_lettered,
                    "error": shown(each.error) if each.error else None,
                }
                for each in collectors
            ],
            "backfills": list(self._backfills(plugin)),
            "dead_letters": [
                {
                    "stream": letter.stream,
                    "id": shown(letter.refused.id),
                    "reason": shown(letter.refused.reason),
                    "bytes": len(letter.refused.event),
                }
                for letter in letters
            ],
            "event_types": [
                {"name": shown(name), "records": count, "first": self._first[name]}
                for name, count in self._counts.most_common()
            ],
        }

    def _backfills(self, plugin: App) -> Iterator[dict[str, Any]]:
        """What would be done of each that is open: those of the copy of the state, before and after."""
        after = {row.unit: row for row in plugin.resources.state.jobs.rows()}
        for before in self._jobs:
            row = after[before.unit]
            yield {
                "name": row.name,
                "since": rfc3339(row.spec.since_ms),
                "until": rfc3339(row.spec.until_ms),
                "received": row.read - before.read,
                "records": row.acknowledged - before.acknowledged,
                "dead_letters": row.dead_lettered - before.dead_lettered,
                "complete": row.condition == "done",
                "error": shown(row.error) if row.error else None,
            }


def _letters(plugin: App) -> list[DeadLetter]:
    return list(plugin.resources.state.dead_letters.letters())


def _event_type(record: dict[str, Any]) -> str:
    """The type of the event: of an ECS record, or of the event itself, as profile `raw` sends it."""
    event = record.get("event")
    name = record.get("event_type") or (event.get("action") if isinstance(event, dict) else None)
    return name if isinstance(name, str) else _NO_TYPE


def _print(report: dict[str, Any]) -> None:
    for stream in report["streams"]:
        show(stream["name"])
        show(f"  span          {stream['from']} to {stream['until']}")
        show(f"  received      {plural(stream['received'], 'event')}")
        show(f"  known         {plural(stream['duplicates'], 'duplicate')}, left out")
        show(f"  would send    {plural(stream['records'], 'record')}, {stream['late']} of them late")
        show(f"  dead letters  {stream['dead_letters'] or 'none'}")
        if stream["error"]:
            show(f"  error         {stream['error']}")
        click.echo()
    for backfill in report["backfills"]:
        show(backfill["name"])
        show(f"  span          {backfill['since']} to {backfill['until']}")
        show(f"  received      {plural(backfill['received'], 'event')}")
        show(f"  would send    {plural(backfill['records'], 'record')}")
        show(f"  dead letters  {backfill['dead_letters'] or 'none'}")
        if not backfill["complete"]:
            show(f"  not complete  {backfill['error'] or 'it ended before'}")
        click.echo()
    what = f"{plural(report['records'], 'record')} in {plural(report['chunks'], 'chunk')}, {report['bytes']:,} bytes"
    show(f"{what}; nothing was sent, and no state was written")
    if not report["complete"]:
        show("not complete: it ended before every stream had caught up and every backfill was done")
    for letter in report["dead_letters"]:
        show(f"would be a dead letter: {letter['stream']}: event {letter['id']}: {letter['reason']}")
    if report["event_types"]:
        click.echo("\n records  event type")
    for each in report["event_types"]:
        show(f"{each['records']:8}  {each['name']}")
    if report["event_types"]:
        click.echo("\nThe first record of each type:")
    for each in report["event_types"]:
        click.echo(json_line(each["first"]))
