"""`in-jumpcloud template`: the index template of a store."""

from __future__ import annotations

import json

import click

from in_jumpcloud.ecs.template import Dialect, Options, index_template


def show(dialect: Dialect, options: Options) -> None:
    """Print the index template as JSON."""
    click.echo(json.dumps(index_template(dialect, options), indent=2))
