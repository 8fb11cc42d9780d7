"""`in-jumpcloud completion`: completion for shells."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from in_jumpcloud.cli import NAME, cli, examples


@click.command(
    "completion",
    epilog=examples(
        "in-jumpcloud completion bash > /etc/bash_completion.d/in-jumpcloud",
        'in-jumpcloud completion zsh > "${fpath[1]}/_in-jumpcloud"',
        "in-jumpcloud completion fish > ~/.config/fish/completions/in-jumpcloud.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a completion script for SHELL."""
    completion = get_completion_class(shell)
    if completion:
        click.echo(completion(cli, {}, NAME, "_IN_JUMPCLOUD_COMPLETE").source())
