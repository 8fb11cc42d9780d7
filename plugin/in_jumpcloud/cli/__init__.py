"""The command line: one module for each command. An error becomes a line on standard error, and an exit code.

Exit codes: 0 done; 1 failed; 2 usage or configuration; 3 key refused; 4 no receiver.
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
"""The module of each command, which defines it as `command`."""


class _LazyGroup(click.Group):
    """Imports the module of a command when it is used, so that no command waits for the imports of another."""

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
    """`-c FILE`, passed as `path`."""
    return click.option(
        "-c",
        "--config",
        "path",
        metavar="FILE",
        required=required,
        type=click.Path(dir_okay=False, path_type=Path),
        help="The configuration file.",
    )


overrides_option = click.option(
    "-o",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a setting, such as -o jumpcloud.interval=1m. Repeatable.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def examples(*lines: str) -> str:
    """The epilog of a command's help: example command lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def printable(text: str) -> str:
    """`text` without characters that could control a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "in-jumpcloud demo                    # try it without an account",
        "in-jumpcloud init                    # write jumpcloud.yaml",
        "in-jumpcloud check -c jumpcloud.yaml # test all of it",
        "in-jumpcloud run -c jumpcloud.yaml",
    )
    + "\n\n\b\nExit codes:\n  0 done, 1 failed, 2 usage or configuration, 3 key refused, 4 no receiver",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Send JumpCloud Directory Insights events to Fluent Bit: each event once, as ECS, with client.geo."""


def main() -> None:
    """Run the `in-jumpcloud` command."""
    cli.main(prog_name=NAME)
