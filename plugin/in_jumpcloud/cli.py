"""The door: commands and options. Errors become one clear line and an exit code.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 the key was refused; 4 no receiver.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from in_jumpcloud import __version__
from in_jumpcloud.errors import InJumpCloudError

_NAME = "in-jumpcloud"
_Command = TypeVar("_Command", bound=Callable[..., Any])

# The rooms are imported inside the commands: `--version` and `--help` must not wait for what they do not use.


class _Door(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InJumpCloudError as error:
            for line in str(error).splitlines():
                click.echo(f"in-jumpcloud: {line}", err=True)
            ctx.exit(error.exit_code)


def _config(*, required: bool = True) -> Callable[[_Command], _Command]:
    return click.option(
        "-c",
        "--config",
        "path",
        metavar="FILE",
        required=required,
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


def _examples(*lines: str) -> str:
    """What stands under a command's help, each on a line of its own."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


@click.group(
    cls=_Door,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_examples(
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


@cli.command(
    epilog=_examples(
        "in-jumpcloud run -c jumpcloud.yaml",
        "in-jumpcloud run -c jumpcloud.yaml --once -o jumpcloud.start=1d",
    )
)
@_config()
@_overrides
@click.option("--once", is_flag=True, help="Bring every stream up to now, and end.")
def run(path: Path, overrides: tuple[str, ...], once: bool) -> None:
    """Run the plugin: poll JumpCloud, deliver to Fluent Bit, until it is asked to end (SIGTERM, Ctrl-C)."""
    from in_jumpcloud.commands import run as command

    command.run(path, overrides, once=once)


@cli.command(
    epilog=_examples(
        "in-jumpcloud init",
        "in-jumpcloud init /etc/in-jumpcloud/jumpcloud.yaml --region eu --organization 5f1a",
        "in-jumpcloud init --api-key-file /run/secrets/key --server collector.example.com:24224",
    )
)
@click.argument("path", metavar="[FILE]", default="jumpcloud.yaml", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--region", type=click.Choice(["us", "eu", "in"]), help="Where the tenant lives.")
@click.option("--organization", "organizations", multiple=True, metavar="ID", help="One of several; repeatable.")
@click.option("--provider-id", metavar="ID", help="Of a managed service provider.")
@click.option("--api-key-file", metavar="KEYFILE", type=click.Path(path_type=Path), help="Where the key lies.")
@click.option("--server", metavar="ADDRESS", help="The receiver: HOST:PORT, or the path of a unix socket.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init(path: Path, **options: Any) -> None:
    """Write a commented configuration to FILE (jumpcloud.yaml), with what can be found out already in it.

    A Fluent Bit on this machine, GeoLite2 databases and JUMPCLOUD_API_KEY are looked for. The key is not written.
    """
    from in_jumpcloud.commands import init as command

    command.init(path, **options)


@cli.command(
    epilog=_examples(
        "in-jumpcloud check -c jumpcloud.yaml",
        "in-jumpcloud check -c jumpcloud.yaml --probe -o jumpcloud.region=eu",
        "in-jumpcloud check -c jumpcloud.yaml --json | jq '.checks[] | select(.result == \"failed\")'",
    )
)
@_config()
@_overrides
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--probe", is_flag=True, help="Send each receiver a message without records, and await its ack.")
def check(path: Path, overrides: tuple[str, ...], as_json: bool, probe: bool) -> None:
    """Try everything for real, and say what is wrong and what to do; within half a minute.

    Configuration, secrets, JumpCloud (way, clock, key, region, organizations), databases, state, receivers. A plugin
    that runs is not disturbed. Exit code 2: configuration, 3: key, 4: receiver, 1: something else; 0: nothing failed.
    """
    from in_jumpcloud.commands import check as command

    click.get_current_context().exit(command.check(path, overrides, as_json=as_json, probe=probe))


@cli.command(
    "map",
    epilog=_examples(
        "in-jumpcloud map events.json | jq .",
        "in-jumpcloud map -c jumpcloud.yaml < events.ndjson > records.ndjson",
    ),
)
@_config(required=False)
@_overrides
@click.argument("files", nargs=-1, type=click.Path(dir_okay=False, path_type=Path), metavar="[FILE]...")
def map_(path: Path | None, overrides: tuple[str, ...], files: tuple[Path, ...]) -> None:
    """Map raw events to ECS records, one JSON object a line. Offline: needs no key and no receiver.

    FILE holds a JSON array of events, or one event a line; without FILE standard input is read.
    """
    from in_jumpcloud import config
    from in_jumpcloud.commands import map as command

    command.map_events(config.load(path, overrides, offline=True), files)


@cli.command(
    epilog=_examples(
        "in-jumpcloud fields",
        "in-jumpcloud fields --format csv > fields.csv",
    )
)
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


@cli.command(
    epilog=_examples(
        "in-jumpcloud template elasticsearch > template.json",
        "in-jumpcloud template opensearch --index-pattern 'audit-*' --no-data-stream",
    )
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
def template(store: Literal["elasticsearch", "opensearch"], **options: Any) -> None:
    """Print an index template for a store, with which it refuses no record. See conf/index-templates."""
    from in_jumpcloud.commands import template as command
    from in_jumpcloud.ecs.template import Options

    command.show(store, Options(**options))


@cli.command(
    epilog=_examples(
        "in-jumpcloud status -c jumpcloud.yaml",
        "in-jumpcloud status -c jumpcloud.yaml --json | jq '.streams[].lag_seconds'",
    )
)
@_config()
@_overrides
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(path: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show how far each stream has come, what was counted, and what went wrong last. Needs no key.

    All of it is read from the state, whether or not the plugin runs. Beside one that runs, and shows its status page,
    it tells the rates and the receivers too.
    """
    from in_jumpcloud import config
    from in_jumpcloud.commands import status as command

    command.show(config.load(path, overrides, needs_key=False), as_json=as_json)


@cli.command(
    epilog=_examples(
        "in-jumpcloud health -c jumpcloud.yaml",
        "in-jumpcloud health -c jumpcloud.yaml --live",
    )
)
@_config()
@_overrides
@click.option("--live", is_flag=True, help="Ask only whether its workers are alive: whether a restart may help.")
def health(path: Path, overrides: tuple[str, ...], live: bool) -> None:
    """Ask the running plugin whether it is ready, and say why not; exit code 1 where it is not. Needs no key."""
    from in_jumpcloud import config
    from in_jumpcloud.commands import health as command

    command.show(config.load(path, overrides, needs_key=False).http, live=live)


@cli.command(
    epilog=_examples(
        "in-jumpcloud audit -c jumpcloud.yaml",
        "in-jumpcloud audit -c jumpcloud.yaml --since 7d --json",
    )
)
@_config()
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


@dead_letter.command(
    "list",
    epilog=_examples(
        "in-jumpcloud dead-letter list -c jumpcloud.yaml",
        "in-jumpcloud dead-letter list -c jumpcloud.yaml --format json | jq -r .reason",
    ),
)
@_config()
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


@dead_letter.command(
    epilog=_examples(
        "in-jumpcloud dead-letter replay -c jumpcloud.yaml",
    )
)
@_config()
@_overrides
def replay(path: Path, overrides: tuple[str, ...]) -> None:
    """Map each of them anew and deliver it. What is acknowledged is taken out of the file, the rest stays."""
    from in_jumpcloud import config
    from in_jumpcloud.commands import dead_letter as command

    command.replay(config.load(path, overrides, needs_key=False))


@cli.group()
def simulate() -> None:
    """Stand in for JumpCloud or for the receiver, to try things out without either."""


@simulate.command(
    epilog=_examples(
        "in-jumpcloud simulate api --per-minute 600 --fault status:503=0.1",
        "in-jumpcloud run -c jumpcloud.yaml -o jumpcloud.url=http://127.0.0.1:8080",
    )
)
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


@simulate.command(
    epilog=_examples(
        "in-jumpcloud simulate receiver | jq .event.action",
        "in-jumpcloud simulate receiver --unix /tmp/forward.sock --shared-key secret",
    )
)
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


@cli.command(
    epilog=_examples(
        "in-jumpcloud demo",
        "FLUENT_BIT=/opt/fluent-bit/bin/fluent-bit in-jumpcloud demo",
    )
)
def demo() -> None:
    """See it work, without an account: simulated JumpCloud, the plugin, a receiver."""
    from in_jumpcloud.commands import demo as command

    command.demo()


@cli.command(
    epilog=_examples(
        "in-jumpcloud completion bash > /etc/bash_completion.d/in-jumpcloud",
        'in-jumpcloud completion zsh > "${fpath[1]}/_in-jumpcloud"',
        "in-jumpcloud completion fish > ~/.config/fish/completions/in-jumpcloud.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that lets SHELL complete commands and options."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind:
        click.echo(kind(cli, {}, _NAME, "_IN_JUMPCLOUD_COMPLETE").source())


def main() -> None:
    """The `in-jumpcloud` command."""
    cli.main(prog_name=_NAME)
