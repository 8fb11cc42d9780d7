"""`in-jumpcloud fields`: the fields that a record can have."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable

import click

from in_jumpcloud.cli import examples
from in_jumpcloud.ecs import fields

_COLUMNS = ("name", "type", "description")  # where the table knows a row from is of no use outside
_INTRODUCTION = """\
The fields of a record, with their Elasticsearch types; made by `in-jumpcloud fields --format markdown`. Fields of an
event that are not in this table are kept under `jumpcloud.event`, as they were sent."""


def show(form: str) -> None:
    """Print the field table as `table`, `csv`, `json`, or `markdown`, which is the page conf/fields.md."""
    rows = [row[: len(_COLUMNS)] for row in fields.table()]
    if form == "json":
        click.echo(json.dumps([dict(zip(_COLUMNS, row, strict=True)) for row in rows], indent=2, ensure_ascii=False))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(rows)
    elif form == "markdown":
        click.echo(_page(rows))
    else:
        name_width, type_width = (max(len(row[column]) for row in rows) for column in (0, 1))
        for name, kind, description in rows:
            click.echo(f"{name:{name_width}}  {kind:{type_width}}  {description}".rstrip())


def _page(rows: Iterable[tuple[str, ...]]) -> str:
    """The record's own fields, then those of the event in it, each in alphabetical order."""
    lines = ["# Fields", "", _INTRODUCTION]
    rows = sorted(rows)
    below = f"{fields.EVENT}."
    for title, inside in (("The record", False), ("The event, as JumpCloud sends it", True)):
        lines += ["", f"## {title}", "", "| field | type | description |", "|---|---|---|"]
        for name, kind, description in rows:
            if name.startswith(below) == inside:
                lines.append(f"| `{name}` | {kind} | {description.replace('|', '&#124;')} |")
    return "\n".join(lines)


@click.command(
    "fields",
    epilog=examples(
        "in-jumpcloud fields",
        "in-jumpcloud fields --format csv > fields.csv",
    ),
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "markdown"]),
    default="table",
    show_default=True,
    help="markdown: the page conf/fields.md.",
)
def command(form: str) -> None:
    """Show the fields that a record can have: name, type, description."""
    show(form)
