"""Members of several versions."""

from __future__ import annotations

import re
import shutil
import signal
import time
from pathlib import Path

from support.cluster import Cluster
from support.member import Member
from tools.group_trial.trial import Trial

import in_jumpcloud
from in_jumpcloud.state.postgresql.schema import VERSION

_SECONDS = 120.0
_MIGRATION = '{version}: "ALTER TABLE {{0}}.member ADD COLUMN of_trial_{version} text;",'


def versions(trial: Trial) -> None:
    """S17. Members are upgraded one after the other: both versions run together, as long as the tables allow it.

    The next version adds a column. The one after it cannot share its tables: a member of the first ends with a line.
    """
    following = _copy(trial.directory / "next", VERSION + 1, reads_from=None)
    breaking = _copy(trial.directory / "after", VERSION + 2, reads_from=VERSION + 2)
    with trial.group() as cluster:
        first, second, old = cluster.members
        for member in (first, second):
            _restart(trial, cluster, member, following)
        _restart(trial, cluster, old, None)  # it may still begin, not only continue
        seen = dict(cluster.query("SELECT name, version FROM member"))
        ((version,),) = cluster.query("SELECT version FROM identity")
        trial.expect(
            f"tables of version {version}, {len({*seen.values()})} versions",
            (version, len({*seen.values()})) == (VERSION + 1, 2),
        )
        time.sleep(_SECONDS if trial.seconds is None else trial.seconds)
        _restart(trial, cluster, first, breaking)
        old.signal(signal.SIGTERM)
        lines = _refusal(old)
        trial.expect(
            f"{len(lines)} lines of the old one: {' | '.join(lines)}", len(lines) == 1 and "newer than" in lines[0]
        )
        for member in (old, second):
            _restart(trial, cluster, member, breaking)


def _copy(directory: Path, version: int, *, reads_from: int | None) -> Path:
    """This program as a later version, whose tables differ by a column. Returns what to put into PYTHONPATH."""
    package = directory / "in_jumpcloud"
    shutil.copytree(Path(in_jumpcloud.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    _change(package / "__init__.py", r'__version__ = "[^"]*"', f'__version__ = "{version}.trial"')
    schema = package / "state" / "postgresql" / "schema.py"
    added = "".join(_MIGRATION.format(version=each) for each in range(VERSION, version))
    _change(schema, r"(_MIGRATIONS: [^{]*\{)", rf"\g<1>{added}")
    _change(schema, r"\nVERSION = \d+", f"\nVERSION = {version}")
    if reads_from:
        _change(schema, r"\n_READS_FROM = \d+", f"\n_READS_FROM = {reads_from}")
    return directory


def _change(path: Path, pattern: str, by: str) -> None:
    text, times = re.subn(pattern, by, path.read_text(), count=1)
    assert times == 1, (path, pattern)
    path.write_text(text)


def _restart(trial: Trial, cluster: Cluster, member: Member, version: Path | None) -> None:
    """Start a member again with another version, None for the one under test."""
    if member.is_alive:
        member.signal(signal.SIGTERM)
    member.command.environ = {"PYTHONPATH": str(version)} if version else {}
    member.start()
    trial.divided(cluster)


def _refusal(member: Member) -> list[str]:
    """Why a member cannot start; it ends by itself."""
    before = len(member.log)
    member.start()
    member.wait()
    return [line for line in member.log[before:].splitlines() if " info " not in line]
