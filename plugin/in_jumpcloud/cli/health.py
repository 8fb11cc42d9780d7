"""`in-jumpcloud health`: the health of the running process, as the health check of a container."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path

import click

from in_jumpcloud.cli import examples, settings_options, show
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.errors import Fatal
from in_jumpcloud.monitoring import client


@click.command(
    "health",
    epilog=examples(
        "in-jumpcloud health -c jumpcloud.yaml",
        "in-jumpcloud health -c jumpcloud.yaml --live",
    ),
)
@settings_options()
@click.option("--live", is_flag=True, help="Only ask whether its workers are alive. If not, a restart may help.")
def command(path: Path | None, overrides: tuple[str, ...], live: bool) -> None:
    """Ask the running plugin whether it is ready.

    Prints why it is not. Exit code 1 if it is not ready. Needs no key.
    """
    listen = load_config(path, overrides, needs_key=False).http.listen
    page = "/healthz" if live else "/readyz"
    answer = client.get_page(listen, page)
    if answer.status not in {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE}:
        raise Fatal(f"{listen} answered {page} with status {answer.status}; check that in-jumpcloud listens there")
    for line in answer.body.decode(errors="replace").splitlines():
        show(line)
    if answer.status != HTTPStatus.OK:
        click.get_current_context().exit(1)
