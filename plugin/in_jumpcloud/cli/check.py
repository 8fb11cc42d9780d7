"""`in-jumpcloud check`: try everything for real, and say what is wrong and what to do."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import click

from in_jumpcloud.checks import local
from in_jumpcloud.checks.fluent_bit import check_fluent_bit
from in_jumpcloud.checks.jumpcloud import check_jumpcloud
from in_jumpcloud.checks.receivers import check_receiver
from in_jumpcloud.checks.result import CONFIGURATION, RECEIVER, CheckResult, exit_code, failed, ok
from in_jumpcloud.checks.runner import Check, run_checks
from in_jumpcloud.cli import config_option, examples, overrides_option
from in_jumpcloud.config.loader import load_config
from in_jumpcloud.config.schema import Config
from in_jumpcloud.errors import ConfigError

LIMIT = 26.0
"""Seconds for the whole, however dead the other ends are."""
_SLACK = 1.0
_COLOURS = {"ok": "green", "warning": "yellow", "FAILED": "red"}


def check(path: Path, overrides: Sequence[str], *, as_json: bool, probe: bool, limit: float = LIMIT) -> int:
    """Print what is found, and return the exit code: 0 nothing failed, 2 configuration, 3 key, 4 receiver, 1 other."""
    logging.getLogger("in_jumpcloud").addHandler(logging.NullHandler())  # the findings say it
    findings = []
    for finding in _findings(path, overrides, probe=probe, limit=limit):
        findings.append(finding)
        if not as_json:
            _show(finding)
    code = exit_code(findings)
    if as_json:
        click.echo(json.dumps({"exit_code": code, "checks": [_plain(each) for each in findings]}, indent=2))
    return code


def _findings(path: Path, overrides: Sequence[str], *, probe: bool, limit: float) -> Iterator[CheckResult]:
    try:
        settings = load_config(path, overrides)
    except ConfigError as error:
        yield from (failed("configuration", line, code=CONFIGURATION) for line in str(error).splitlines())
        return
    yield ok("configuration", f"{path}: understood")
    stop = threading.Event()
    deadline = time.monotonic() + limit
    timer = threading.Timer(limit - _SLACK, stop.set)
    timer.daemon = True
    timer.start()
    try:
        yield from run_checks(_checks(path, overrides, settings, stop, deadline - _SLACK, probe=probe), deadline)
    finally:
        timer.cancel()
        stop.set()


def _checks(
    path: Path,
    overrides: Sequence[str],
    settings: Config,
    stop: threading.Event,
    deadline: float,
    *,
    probe: bool,
) -> list[Check]:
    forward = settings.forward
    return [
        Check("secrets", partial(local.check_secrets, path, overrides, settings)),
        Check("JumpCloud", partial(check_jumpcloud, settings, stop, deadline)),
        Check("database", partial(local.check_databases, settings.geoip)),
        Check("state", partial(local.check_state, settings.state)),
        Check("dead letters", partial(local.check_dead_letters, settings.dead_letter)),
        *(
            Check(f"receiver {each}", partial(check_receiver, each, forward, stop, probe=probe), RECEIVER)
            for each in forward.servers
        ),
        *(Check("Fluent Bit", partial(check_fluent_bit, each.monitor)) for each in forward.servers if each.monitor),
    ]


def _show(finding: CheckResult) -> None:
    mark = click.style(f"{finding.mark:8}", fg=_COLOURS[finding.mark], bold=True)
    text = finding.found + (f"; {finding.advice}" if finding.advice else "")
    # Others' words are in it: nothing of them may steer a terminal.
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    click.echo(f"{mark} {finding.what:14} {printable}", color=False if os.environ.get("NO_COLOR") else None)


def _plain(finding: CheckResult) -> dict[str, str | None]:
    result = finding.mark.lower()
    return {"check": finding.what, "result": result, "found": finding.found, "advice": finding.advice or None}


@click.command(
    "check",
    epilog=examples(
        "in-jumpcloud check -c jumpcloud.yaml",
        "in-jumpcloud check -c jumpcloud.yaml --probe -o jumpcloud.region=eu",
        "in-jumpcloud check -c jumpcloud.yaml --json | jq '.checks[] | select(.result == \"failed\")'",
    ),
)
@config_option()
@overrides_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--probe", is_flag=True, help="Send each receiver a message without records, and await its ack.")
def command(path: Path, overrides: tuple[str, ...], as_json: bool, probe: bool) -> None:
    """Try everything for real, and say what is wrong and what to do; within half a minute.

    Configuration, secrets, JumpCloud (way, clock, key, region, organizations), databases, state, receivers. A plugin
    that runs is not disturbed. Exit code 2: configuration, 3: key, 4: receiver, 1: something else; 0: nothing failed.
    """
    click.get_current_context().exit(check(path, overrides, as_json=as_json, probe=probe))
