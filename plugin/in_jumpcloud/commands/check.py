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

from in_jumpcloud import config
from in_jumpcloud.checks import machine
from in_jumpcloud.checks.finding import CONFIGURATION, RECEIVER, Check, Finding, concurrently, exit_code, failed, ok
from in_jumpcloud.checks.fluent_bit import fluent_bit
from in_jumpcloud.checks.jumpcloud import jumpcloud
from in_jumpcloud.checks.receivers import receiver
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


def _findings(path: Path, overrides: Sequence[str], *, probe: bool, limit: float) -> Iterator[Finding]:
    try:
        settings = config.load(path, overrides)
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
        yield from concurrently(_checks(path, overrides, settings, stop, deadline - _SLACK, probe=probe), deadline)
    finally:
        timer.cancel()
        stop.set()


def _checks(
    path: Path,
    overrides: Sequence[str],
    settings: config.Config,
    stop: threading.Event,
    deadline: float,
    *,
    probe: bool,
) -> list[Check]:
    forward = settings.forward
    return [
        Check("secrets", partial(machine.secrets, path, overrides, settings)),
        Check("JumpCloud", partial(jumpcloud, settings, stop, deadline)),
        Check("database", partial(machine.databases, settings.geoip)),
        Check("state", partial(machine.state, settings.state)),
        Check("dead letters", partial(machine.dead_letters, settings.dead_letter)),
        *(
            Check(f"receiver {each}", partial(receiver, each, forward, stop, probe=probe), RECEIVER)
            for each in forward.servers
        ),
        *(Check("Fluent Bit", partial(fluent_bit, each.monitor)) for each in forward.servers if each.monitor),
    ]


def _show(finding: Finding) -> None:
    mark = click.style(f"{finding.mark:8}", fg=_COLOURS[finding.mark], bold=True)
    text = finding.found + (f"; {finding.advice}" if finding.advice else "")
    # Others' words are in it: nothing of them may steer a terminal.
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    click.echo(f"{mark} {finding.what:14} {printable}", color=False if os.environ.get("NO_COLOR") else None)


def _plain(finding: Finding) -> dict[str, str | None]:
    result = finding.mark.lower()
    return {"check": finding.what, "result": result, "found": finding.found, "advice": finding.advice or None}
