"""The command line: each command is a file here. An error becomes one clear line and an exit code.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 the key was refused; 4 no receiver.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click

from in_jumpcloud import __version__
from in_jumpcloud.errors import InJumpCloudError

NAME = "in-jumpcloud"
_Command = TypeVar("_Command", bound=Callable[..., Any])

_COMMANDS = {
    name: name.replace("-", "_")
    for name in (
        *("run", "init", "check", "status", "health", "audit", "dead-letter", "map", "fields", "template"),
        *("simulate", "demo", "completion"),
    )
}
"""Each command and its module, whose `command` it is."""


class _LazyGroup(click.Group):
    """Imports a command's module only when it is asked for: a command does not wait for what others use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the base calls it
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - the base calls it
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"{__name__}.{_COMMANDS[cmd_name]}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InJumpCloudError as error:
            for line in str(error).splitlines():
                click.echo(f"{NAME}: {line}", err=True)
            ctx.exit(error.exit_code)


def config_option(*, required: bool = True) -> Callable[[_Command], _Command]:
    """`-c FILE`, handed over as `path`."""
    return click.option(
        "-c",
        "--config",
        "path",
        metavar="FILE",
        required=required,
        type=click.Path(dir_okay=False, path_type=Path),
        help="The configuration, such as conf/jumpcloud.yaml.",
    )


overrides_option = click.option(
    "-o",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Put a setting over the file's, such as -o jumpcloud.interval=1m. Repeatable.",
)


def examples(*lines: str) -> str:
    """What stands under a command's help, each on a line of its own."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "in-jumpcloud demo                    # see it work, without an account",
        "in-jumpcloud init                    # write jumpcloud.yaml",
        "in-jumpcloud check -c jumpcloud.yaml # try everything for real",
        "in-jumpcloud run -c jumpcloud.yaml",
    )
    + "\n\n\b\nExit codes:\n  0 done, 1 failed, 2 wrong usage or configuration,\n"
    "  3 the key was refused, 4 no receiver",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """JumpCloud Directory Insights into Fluent Bit: every event once, as ECS, with client.geo."""


def main() -> None:
    """The `in-jumpcloud` command."""
    cli.main(prog_name=NAME)
