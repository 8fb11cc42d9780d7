"""`in-jumpcloud fields`: the fields that a record can have."""

from __future__ import annotations

import csv
import json
import sys

import click

from in_jumpcloud.ecs import fields


def show(form: str) -> None:
    """Print the field table as `table`, `csv` or `json`."""
    rows = fields.table()
    if form == "json":
        click.echo(json.dumps([row._asdict() for row in rows], indent=2, ensure_ascii=False))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(fields.Field._fields)
        writer.writerows(rows)
    else:
        name_width, type_width = (max(len(row[column]) for row in rows) for column in (0, 1))
        for row in rows:
            click.echo(f"{row.name:{name_width}}  {row.type:{type_width}}  {row.description}".rstrip())
