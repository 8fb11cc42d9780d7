"""`in-jumpcloud template`: the index template of a store."""

from __future__ import annotations

import json
from typing import Any, Literal

import click

from in_jumpcloud.cli import examples
from in_jumpcloud.ecs.index_template import Dialect, TemplateOptions, index_template


def show(dialect: Dialect, options: TemplateOptions) -> None:
    """Print the index template as JSON."""
    click.echo(json.dumps(index_template(dialect, options), indent=2))


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
    help="The names that it applies to, such as jumpcloud-*, in place of those in conf/outputs. Repeatable.",
)
@click.option(
    "--data-stream/--no-data-stream", default=True, show_default=True, help="For data streams, or for indices."
)
@click.option(
    "--profile",
    type=click.Choice(["extended", "elastic"]),
    default="extended",
    show_default=True,
    help="The setting ecs.profile, which says what types there are.",
)
def command(store: Literal["elasticsearch", "opensearch"], **options: Any) -> None:
    """Print an index template for a store, with which it refuses no record. See conf/index-templates."""
    show(store, TemplateOptions(**options))
