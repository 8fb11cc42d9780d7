"""`in-jumpcloud check`: tests the configuration against the real services."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import click

from in_jumpcloud.checks import local
from in_jumpcloud.checks.assumptions import check_assumptions
from in_jumpcloud.checks.fluent_bit import check_fluent_bit
from in_jumpcloud.checks.jumpcloud import check_jumpcloud
from in_jumpcloud.checks.receivers import check_receiver
from in_jumpcloud.checks.result import CONFIGURATION, RECEIVER, CheckResult, exit_code, failed, ok
from in_jumpcloud.checks.runner import Check, run_checks
from in_jumpcloud.checks.server import check_server
from in_jumpcloud.cli import examples, json_option, settings_options
from in_jumpcloud.cli.signals import stop_on_signals
from in_jumpcloud.config.environment import read_variables
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.locations import describe_config_file
from in_jumpcloud.config.schema import Config
from in_jumpcloud.errors import ConfigError
from in_jumpcloud.text import redact, shown

TIMEOUT_SECONDS = 26.0
"""For all checks together."""
_SLACK_SECONDS = 1.0
_COLOURS = {"ok": "green", "warning": "yellow", "FAILED": "red"}


@click.command(
    "check",
    epilog=examples(
        "in-jumpcloud check -c jumpcloud.yaml",
        "in-jumpcloud check -c jumpcloud.yaml --probe -o jumpcloud.region=eu",
        "in-jumpcloud check --fluent-bit fluent-bit.yaml -c jumpcloud.yaml",
        "in-jumpcloud check -c jumpcloud.yaml --json | jq '.checks[] | select(.result == \"failed\")'",
    ),
)
@settings_options()
@json_option
@click.option("--probe", is_flag=True, help="Send each receiver a message without records, and wait for its ack.")
@click.option(
    "--assumptions",
    is_flag=True,
    help="Test instead what delivery assumes of JumpCloud's API: read-only, in less than 30 requests.",
)
@click.option(
    "--fluent-bit",
    "fluent_bit",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Test instead a configuration of Fluent Bit: what loses or duplicates events, and what differs from ours.",
)
def command(
    path: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
    probe: bool,
    assumptions: bool,
    fluent_bit: Path | None,
) -> None:
    """Test the configuration against the real services.

    Checks the configuration, secrets, JumpCloud (network, clock, key, region, organizations), databases, the state (a
    file or a server) and receivers, and says what to do about each failure. Takes half a minute at most. Does not
    disturb a running plugin.

    Exit code: 0 nothing failed, 2 configuration, 3 key, 4 receiver, 1 anything else.
    """
    if fluent_bit:
        code = _report(_check_fluent_bit(fluent_bit, path, overrides), as_json=as_json)
    elif assumptions:
        code = _report(_check_assumptions(path, overrides), as_json=as_json)
    else:
        code = check(path, overrides, as_json=as_json, probe=probe)
    click.get_current_context().exit(code)


def check(
    path: Path | None, overrides: Sequence[str], *, as_json: bool, probe: bool, timeout_seconds: float = TIMEOUT_SECONDS
) -> int:
    """Run all checks within `timeout_seconds`, print the results, and return the exit code."""
    return _report(_run_checks(path, overrides, probe=probe, timeout_seconds=timeout_seconds), as_json=as_json)


def _report(found: Iterable[CheckResult], *, as_json: bool) -> int:
    logging.getLogger("in_jumpcloud").addHandler(logging.NullHandler())  # the results say the same
    results = []
    for result in found:
        results.append(result)
        if not as_json:
            _print_result(result)
    code = exit_code(results)
    if as_json:
        click.echo(json.dumps({"exit_code": code, "checks": [_as_json(each) for each in results]}, indent=2))
    return code


def _check_fluent_bit(file: Path, path: Path | None, overrides: Sequence[str]) -> Iterator[CheckResult]:
    """Check it. Without any configuration of ours there is nothing to compare it with."""
    is_configured = path or overrides or any(read_variables(os.environ))
    try:
        forward = load_config(path, overrides, needs_key=False).forward if is_configured else None
        yield from check_fluent_bit(file, forward, os.environ)
    except ConfigError as error:
        yield from (failed("configuration", str(problem), code=CONFIGURATION) for problem in error.problems)


def _check_assumptions(path: Path | None, overrides: Sequence[str]) -> Iterator[CheckResult]:
    """Test what delivery relies on.

    Raises:
        ConfigError, KeyRefused, Stopped: nothing can be tested.
    """
    settings = load_config(path, overrides)
    yield from check_assumptions(settings, stop_on_signals())


def _run_checks(
    path: Path | None, overrides: Sequence[str], *, probe: bool, timeout_seconds: float
) -> Iterator[CheckResult]:
    try:
        settings = load_config(path, overrides)
    except ConfigError as error:
        yield from (failed("configuration", str(problem), code=CONFIGURATION) for problem in error.problems)
        return
    yield ok("configuration", f"{describe_config_file(path)}: valid")
    stop = threading.Event()
    deadline = time.monotonic() + timeout_seconds
    timer = threading.Timer(timeout_seconds - _SLACK_SECONDS, stop.set)
    timer.daemon = True
    timer.start()
    try:
        yield from run_checks(_checks(path, settings, stop, deadline - _SLACK_SECONDS, probe=probe), deadline)
    finally:
        timer.cancel()
        stop.set()


def _checks(path: Path | None, settings: Config, stop: threading.Event, deadline: float, *, probe: bool) -> list[Check]:
    forward = settings.forward
    return [
        Check("secrets", partial(local.check_secrets, path, settings)),
        Check("JumpCloud", partial(check_jumpcloud, settings, stop, deadline)),
        Check("database", partial(local.check_databases, settings.geoip)),
        Check(
            "state",
            partial(check_server, settings) if settings.state.url else partial(local.check_state, settings.state),
        ),
        Check("dead letters", partial(local.check_dead_letters, settings)),
        *(
            Check(f"receiver {each}", partial(check_receiver, each, forward, stop, probe=probe), RECEIVER)
            for each in forward.servers
        ),
    ]


def _print_result(result: CheckResult) -> None:
    mark = click.style(f"{result.status:8}", fg=_COLOURS[result.status], bold=True)
    text = result.message + (f"; {result.advice}" if result.advice else "")
    color = False if os.environ.get("NO_COLOR") else None
    click.echo(f"{mark} {result.check:14} {shown(text)}", color=color)


def _as_json(result: CheckResult) -> dict[str, str | None]:
    return {
        "check": result.check,
        "result": result.status.lower(),
        "message": redact(result.message),
        "advice": redact(result.advice) or None,
    }
