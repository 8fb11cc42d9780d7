"""`in-jumpcloud template`: index templates."""

from __future__ import annotations

import json
from typing import Any, Literal

import click

from in_jumpcloud.cli import examples
from in_jumpcloud.ecs.index_template import TemplateOptions, index_template


@click.command(
    "template",
    epilog=examples(
        "in-jumpcloud template elasticsearch > template.json",
        "in-jumpcloud template opensearch --index-pattern 'audit-*' --no-data-stream",
    ),
)
@click.argument("store", type=click.Choice(["elasticsearch", "opensearch"]))
@click.option(
    "--index-pattern",
    "patterns",
    metavar="PATTERN",
    multiple=True,
    help="Names to apply it to, such as jumpcloud-*, instead of those in conf/outputs. Repeatable.",
)
@click.option("--data-stream/--no-data-stream", default=True, show_default=True, help="For data streams or indices.")
@click.option(
    "--profile",
    type=click.Choice(["extended", "elastic", "raw"]),
    default="extended",
    show_default=True,
    help="The value of ecs.profile, which decides the types.",
)
def command(store: Literal["elasticsearch", "opensearch"], **options: Any) -> None:
    """Print an index template for a store.

    With it the store accepts every record. See conf/index-templates.
    """
    click.echo(json.dumps(index_template(store, TemplateOptions(**options)), indent=2))
