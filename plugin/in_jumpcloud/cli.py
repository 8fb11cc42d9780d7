"""The door: commands and options. Errors become one clear line and an exit code.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 the key was refused; 4 no receiver.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from in_jumpcloud import __version__
from in_jumpcloud.errors import ConfigError, InJumpCloudError, KeyRefused, ReceiverDown

# The rooms are imported inside the commands: `--version` and `--help` must not wait for what they do not use.


class _Door(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InJumpCloudError as error:
            for line in str(error).splitlines():
                click.echo(f"in-jumpcloud: {line}", err=True)
            codes = {ConfigError: 2, KeyRefused: 3, ReceiverDown: 4}
            ctx.exit(next((code for kind, code in codes.items() if isinstance(error, kind)), 1))


_config = click.option(
    "-c",
    "--config",
    "path",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The configuration, such as conf/jumpcloud.yaml.",
)
_required_config = click.option(
    "-c",
    "--config",
    "path",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The configuration, such as conf/jumpcloud.yaml.",
)
_overrides = click.option(
    "-o",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Put a setting over the file's, such as -o jumpcloud.interval=1m. Repeatable.",
)


@click.group(cls=_Door, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """JumpCloud Directory Insights into Fluent Bit: every event once, as ECS, with client.geo."""


@cli.command()
@_required_config
@_overrides
@click.option("--once", is_flag=True, help="Bring every stream up to now, and end.")
def run(path: Path, overrides: tuple[str, ...], once: bool) -> None:
    """Run the plugin: poll JumpCloud, deliver to Fluent Bit, until it is asked to end (SIGTERM, Ctrl-C)."""
    from in_jumpcloud import config
    from in_jumpcloud.commands import run as command

    command.run(config.load(path, overrides), once=once)


@cli.command("map")
@_config
@_overrides
@click.argument("files", nargs=-1, type=click.Path(dir_okay=False, path_type=Path), metavar="[FILE]...")
def map_(path: Path | None, overrides: tuple[str, ...], files: tuple[Path, ...]) -> None:
    """Map raw events to ECS records, one JSON object a line. Offline: needs no key and no receiver.

    FILE holds a JSON array of events, or one event a line; without FILE standard input is read.
    """
    from in_jumpcloud import config
    from in_jumpcloud.commands import map as command

    command.map_events(config.load(path, overrides, offline=True), files)


@cli.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "markdown"]),
    default="table",
    show_default=True,
    help="markdown: the page conf/fields.md.",
)
def fields(form: str) -> None:
    """Show the fields that a record can have: name, type, description."""
    from in_jumpcloud.commands import fields as command

    command.show(form)


@cli.command()
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
def template(store: Literal["elasticsearch", "opensearch"], **options: Any) -> None:
    """Print an index template for a store, with which it refuses no record. See conf/index-templates."""
    from in_jumpcloud.commands import template as command
    from in_jumpcloud.ecs.template import Options

    command.show(store, Options(**options))


@cli.command()
@_required_config
@_overrides
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(path: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show how far each stream has come, what was counted, and what went wrong last. Needs no key.

    All of it is read from the state, whether or not the plugin runs.
    """
    from in_jumpcloud import config
    from in_jumpcloud.commands import status as command

    command.show(config.load(path, overrides, needs_key=False), as_json=as_json)


@cli.command()
@_required_config
@_overrides
@click.option("--since", default="24h", show_default=True, metavar="DURATION", help="How far back.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def audit(path: Path, overrides: tuple[str, ...], since: str, as_json: bool) -> None:
    """Compare JumpCloud's own counts with what was delivered, hour by hour; exit code 1 where they differ."""
    from in_jumpcloud import config
    from in_jumpcloud.commands import audit as command

    command.audit(config.load(path, overrides), since=since, as_json=as_json)


@cli.group("dead-letter")
def dead_letter() -> None:
    """See what the receiver refused for good, and try it again."""


@dead_letter.command("list")
@_required_config
@_overrides
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="json: one object a line, with the event as JumpCloud sent it.",
)
def list_(path: Path, overrides: tuple[str, ...], form: str) -> None:
    """Show each event that was refused: when, of which stream, its id, and why."""
    from in_jumpcloud import config
    from in_jumpcloud.commands import dead_letter as command

    command.show(config.load(path, overrides, needs_key=False), form)


@dead_letter.command()
@_required_config
@_overrides
def replay(path: Path, overrides: tuple[str, ...]) -> None:
    """Map each of them anew and deliver it. What is acknowledged is taken out of the file, the rest stays."""
    from in_jumpcloud import config
    from in_jumpcloud.commands import dead_letter as command

    command.replay(config.load(path, overrides, needs_key=False))


@cli.group()
def simulate() -> None:
    """Stand in for JumpCloud or for the receiver, to try things out without either."""


@simulate.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535))
@click.option("--api-key", default="simulated-key", show_default=True, help="The only key that is let in.")
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same events.")
@click.option("--per-minute", default=60.0, show_default=True, help="Events a minute.")
@click.option("--since", default="1d", show_default=True, help="How far back there are events.")
@click.option("--late", default=0.0, show_default=True, help="The share of events that appear late, 0 to 1.")
@click.option("--organization", "organizations", multiple=True, help="An organization's id; repeatable.")
@click.option(
    "--fault", "faults", multiple=True, metavar="KIND=PROBABILITY", help="Such as status:503=0.1; repeatable."
)
def api(**options: Any) -> None:
    """A Directory Insights API with realistic events."""
    from in_jumpcloud.commands import simulate as command

    command.api(**options)


@simulate.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=24224, show_default=True, type=click.IntRange(0, 65535))
@click.option("--unix", type=click.Path(path_type=Path), help="Listen at this unix socket instead.")
@click.option("--quiet", is_flag=True, help="Only count the records.")
@click.option("--shared-key", metavar="TEXT", help='Ask senders for this key; "" is one too.')
@click.option("--user", "users", multiple=True, metavar="NAME:PASSWORD", help="Ask for a user as well; repeatable.")
@click.option(
    "--self-hostname", default="localhost", show_default=True, help="The name told to those who know the key."
)
@click.option("--tls-cert", metavar="FILE", type=click.Path(path_type=Path), help="Speak TLS, with this certificate.")
@click.option("--tls-key", metavar="FILE", type=click.Path(path_type=Path), help="Its key, if it is in another file.")
@click.option(
    "--tls-client-ca", metavar="FILE", type=click.Path(path_type=Path), help="Ask senders for a certificate of this CA."
)
def receiver(**options: Any) -> None:
    """A forward receiver that acknowledges, and prints each record as a line of JSON."""
    from in_jumpcloud.commands import simulate as command

    command.receiver(**options)


@cli.command()
def demo() -> None:
    """See it work, without an account: simulated JumpCloud, the plugin, a receiver."""
    from in_jumpcloud.commands import demo as command

    command.demo()


def main() -> None:
    """The `in-jumpcloud` command."""
    cli.main(prog_name="in-jumpcloud")
