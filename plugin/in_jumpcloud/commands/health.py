"""`in-jumpcloud health`: what the running process says of itself, for the health check of a container."""

from __future__ import annotations

import http
import sys

import click

from in_jumpcloud import config
from in_jumpcloud.errors import Failed
from in_jumpcloud.watch import client


def show(settings: config.Http, *, live: bool) -> None:
    """Print what the process says of its being ready, or, with `live`, of its being alive; exit code 1 where it is not.

    Raises:
        ConfigError: it listens nowhere.
        Failed: nobody answers, or somebody else.
    """
    path = "/healthz" if live else "/readyz"
    answer = client.ask(settings.listen, path)
    if answer.status not in {http.HTTPStatus.OK, http.HTTPStatus.SERVICE_UNAVAILABLE}:
        raise Failed(f"{settings.listen} answers {answer.status} to {path}; is it in-jumpcloud that listens there?")
    click.echo(answer.body.decode(errors="replace"), nl=False)
    if answer.status != http.HTTPStatus.OK:
        sys.exit(1)
