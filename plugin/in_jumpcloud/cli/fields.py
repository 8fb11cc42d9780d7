"""`in-jumpcloud fields`: the fields of a record."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable

import click

from in_jumpcloud.cli import examples
from in_jumpcloud.ecs import fields

_COLUMNS = ("name", "type", "description")  # without the origin of a row
_INTRODUCTION = """\
The fields of a record, with their Elasticsearch types; made by `in-jumpcloud fields --format markdown`. Fields of an
event that are not in this table are kept {place}, as they were sent."""
_PLACES = {"extended": "under `jumpcloud.event`", "elastic": "under `jumpcloud.event`", "raw": "where they are"}


@click.command(
    "fields",
    epilog=examples(
        "in-jumpcloud fields",
        "in-jumpcloud fields --format csv > fields.csv",
        "in-jumpcloud fields --profile raw",
    ),
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "csv", "json", "markdown"]),
    default="table",
    show_default=True,
    help="markdown prints the page conf/fields.md.",
)
@click.option(
    "--profile",
    type=click.Choice(["extended", "elastic", "raw"]),
    default="extended",
    show_default=True,
    help="The value of ecs.profile.",
)
def command(output_format: str, profile: fields.Profile) -> None:
    """List the fields of a record: name, type, description."""
    rows = [row[: len(_COLUMNS)] for row in fields.of_profile(profile)]
    if output_format == "json":
        click.echo(json.dumps([dict(zip(_COLUMNS, row, strict=True)) for row in rows], indent=2, ensure_ascii=False))
    elif output_format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(rows)
    elif output_format == "markdown":
        click.echo(_markdown(rows, _PLACES[profile]))
    else:
        name_width, type_width = (max(len(row[column]) for row in rows) for column in (0, 1))
        for name, kind, description in rows:
            click.echo(f"{name:{name_width}}  {kind:{type_width}}  {description}".rstrip())


def _markdown(rows: Iterable[tuple[str, ...]], place: str) -> str:
    """A page with the record's own fields, then those of the event in it, each in alphabetical order."""
    lines = ["# Fields", "", _INTRODUCTION.format(place=place)]
    event_prefix = f"{fields.EVENT}."
    for title, of_event in (("The record", False), ("The event, as JumpCloud sends it", True)):
        chosen = [row for row in sorted(rows) if row[0].startswith(event_prefix) == of_event]
        if chosen:
            lines += ["", f"## {title}", "", "| field | type | description |", "|---|---|---|"]
        for name, kind, description in chosen:
            lines.append(f"| `{name}` | {kind} | {description.replace('|', '&#124;')} |")
    return "\n".join(lines)
