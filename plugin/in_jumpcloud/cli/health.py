"""`in-jumpcloud health`: what the running process says of itself, for the health check of a container."""

from __future__ import annotations

import http
import sys
from pathlib import Path

import click

from in_jumpcloud.cli import config_option, examples, overrides_option
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import HttpSettings
from in_jumpcloud.errors import Fatal
from in_jumpcloud.monitoring import client


def show(settings: HttpSettings, *, live: bool) -> None:
    """Print what the process says of its being ready, or, with `live`, of its being alive; exit code 1 where it is not.

    Raises:
        ConfigError: it listens nowhere.
        Failed: nobody answers, or somebody else.
    """
    path = "/healthz" if live else "/readyz"
    answer = client.get_page(settings.listen, path)
    if answer.status not in {http.HTTPStatus.OK, http.HTTPStatus.SERVICE_UNAVAILABLE}:
        raise Fatal(f"{settings.listen} answers {answer.status} to {path}; is it in-jumpcloud that listens there?")
    click.echo(answer.body.decode(errors="replace"), nl=False)
    if answer.status != http.HTTPStatus.OK:
        sys.exit(1)


@click.command(
    "health",
    epilog=examples(
        "in-jumpcloud health -c jumpcloud.yaml",
        "in-jumpcloud health -c jumpcloud.yaml --live",
    ),
)
@config_option()
@overrides_option
@click.option("--live", is_flag=True, help="Ask only whether its workers are alive: whether a restart may help.")
def command(path: Path, overrides: tuple[str, ...], live: bool) -> None:
    """Ask the running plugin whether it is ready, and say why not; exit code 1 where it is not. Needs no key."""
    show(load_config(path, overrides, needs_key=False).http, live=live)
