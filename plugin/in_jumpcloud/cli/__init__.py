"""The command line: one module for each command. An error becomes a line on standard error, and an exit code.

Exit codes: 0 done; 1 failed; 2 usage or configuration; 3 key refused; 4 no receiver.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import click

from in_jumpcloud import __version__
from in_jumpcloud.config.locations import find_config_file
from in_jumpcloud.config.types import Duration
from in_jumpcloud.errors import InJumpCloudError
from in_jumpcloud.text import shown, shown_in_one, shown_lines

log = logging.getLogger(__name__)

NAME = "in-jumpcloud"
_Command = TypeVar("_Command", bound=Callable[..., Any])

_COMMANDS = {
    name: name.replace("-", "_")
    for name in (
        *("run", "init", "check", "config", "status", "health", "audit", "backfill", "dead-letters", "state"),
        *("fetch", "map", "fields", "template", "geoip", "simulate", "demo", "completion"),
    )
}
"""The module of each command, which defines it as `command`."""
_ALIASES = {"dead-letter": "dead-letters"}
"""Former names of commands. They work, and are not listed."""


class _LazyGroup(click.Group):
    """Imports the module of a command when it is used, so that no command waits for the imports of another."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the base calls it
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - the base calls it
        cmd_name = _ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"{__name__}.{_COMMANDS[cmd_name]}").command
        _hide_surplus_arguments(command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except InJumpCloudError as error:
            show_error(error)
            ctx.exit(error.exit_code)
        except click.ClickException as error:
            if _is_supervised():
                log.error("%s", error.format_message())  # noqa: TRY400 - no traceback
                ctx.exit(error.exit_code)
            error.message = shown_in_one(error.message)  # type: ignore[misc]  # click shows it
            raise
        except OSError as error:
            if error.errno not in _OUTPUT_ERRORS:
                raise
            _show_output_error(error)
            ctx.exit(1)
        else:
            return result


_OUTPUT_ERRORS = {errno.ENOSPC, errno.EBADF, errno.EIO, errno.EPIPE}


def _show_output_error(error: OSError) -> None:
    click.echo(f"{NAME}: cannot write to standard output: {error.strerror}", err=True)
    with contextlib.suppress(OSError):  # Python writes what is left in the buffer when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _ClosedOutput(io.RawIOBase):
    """Standard output of a process that was started without one."""

    def writable(self) -> bool:
        """It is not, and says so when it is written."""
        return True

    def write(self, data: object) -> int:  # noqa: ARG002 - the base calls it
        """Fail."""
        raise OSError(errno.EBADF, "it is closed")


def _hide_surplus_arguments(command: click.Command) -> None:
    """Click repeats arguments that are too many. One may be a secret, as in `-o jumpcloud.api_key VALUE`."""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _hide_surplus_arguments(each)
    elif not command.allow_extra_args and command.callback:
        command.allow_extra_args = True
        command.callback = _without_surplus(command.callback)


def _without_surplus(callback: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(callback)
    def checked(**options: Any) -> Any:
        if click.get_current_context().args:
            raise click.UsageError("there are more arguments than expected; -o takes KEY=VALUE without spaces")
        return callback(**options)

    return checked


class ParsedType(click.ParamType):  # type: ignore[type-arg]  # it is generic only in newer versions of click
    """The type of an option that `parse` reads; it raises ValueError with what it expects."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the value."""
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = ParsedType("DURATION", Duration.parse)


def settings_options() -> Callable[[_Command], _Command]:
    """`-c FILE` and `-o KEY=VALUE`, passed as `path` (None: no file) and `overrides`."""
    config = click.option(
        *("-c", "--config", "path"),
        metavar="FILE",
        default=lambda: find_config_file(os.environ),
        type=click.Path(dir_okay=False, path_type=Path),
        help="The configuration file. Default: $IN_JUMPCLOUD_CONFIG, ./jumpcloud.yaml, "
        "/etc/in-jumpcloud/jumpcloud.yaml; without one, the environment alone.",
    )
    override = click.option(
        *("-o", "overrides"),
        metavar="KEY=VALUE",
        multiple=True,
        help="Override a setting, such as -o jumpcloud.interval=1m. Repeatable.",
    )
    return lambda command: config(override(command))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def examples(*lines: str) -> str:
    """The epilog of a command's help: example command lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def show(line: object) -> None:
    """Print a line whose text may come from outside: without secrets, and without characters that mislead."""
    click.echo(shown(line))


def show_error(error: InJumpCloudError) -> None:
    """Print an error as one line, or as one for each problem of a configuration, on standard error."""
    for line in shown_lines(str(error)):
        if _is_supervised():
            log.error("%s", line)
        else:
            click.echo(f"{NAME}: {line}", err=True)


class _PlainFormatter(logging.Formatter):
    """For the log of commands that configure none."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(shown_lines(super().format(record)))


def _is_supervised() -> bool:
    """Whether the process that started this one reads JSON: `run --supervised`, however wrong the rest of it is."""
    return "--supervised" in sys.argv[1:]


def _log_json() -> None:
    from in_jumpcloud.config.schema import LogSettings  # noqa: PLC0415 - other commands need not wait for it
    from in_jumpcloud.monitoring.logs import configure_logging  # noqa: PLC0415

    try:
        os.fstat(sys.stdout.fileno())
    except (AttributeError, OSError):
        configure_logging(LogSettings(format="json"), sys.stderr)
    else:
        configure_logging(LogSettings(format="json"), sys.stdout)


def _show_unexpected(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, SystemExit):
        return
    if _is_supervised() and error:
        log.critical("unexpected error", exc_info=(kind, error, trace))
    else:
        click.echo("\n".join(shown_lines("".join(traceback.format_exception(kind, error, trace)))), err=True)


def _show_no_secrets() -> None:
    """Let everything that Python itself prints on standard error go through `shown_lines`."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_PlainFormatter())
    logging.lastResort = handler
    sys.excepthook = _show_unexpected
    threading.excepthook = lambda each: _show_unexpected(each.exc_type, each.exc_value, each.exc_traceback)


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "in-jumpcloud demo                    # try it without an account",
        "in-jumpcloud init                    # write jumpcloud.yaml",
        "in-jumpcloud check                   # test all of it",
        "in-jumpcloud run                     # or run -c FILE",
    )
    + "\n\n\b\nExit codes:\n  0 done, 1 failed, 2 usage or configuration, 3 key refused, 4 no receiver",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Send JumpCloud Directory Insights events to Fluent Bit: each event once, as ECS, with client.geo."""


def main() -> None:
    """Run the `in-jumpcloud` command."""
    _show_no_secrets()
    if _is_supervised():
        _log_json()
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(_ClosedOutput(), write_through=True)
    try:
        cli.main(prog_name=NAME)
    except OSError as error:  # from options such as --help, which are no command
        if error.errno not in _OUTPUT_ERRORS:
            raise
        _show_output_error(error)
        sys.exit(1)
