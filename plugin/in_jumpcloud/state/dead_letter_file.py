"""Moves the dead letters of an earlier version, a file with one JSON object a line, into the state."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path

from in_jumpcloud.errors import InJumpCloudError
from in_jumpcloud.insights.event import parse_event
from in_jumpcloud.state.database import Database
from in_jumpcloud.state.dead_letters import Refused, insert
from in_jumpcloud.timestamps import parse_rfc3339

log = logging.getLogger(__name__)

_DELIVERED = b"#"
"""The first byte of a line that a replay has delivered."""


def import_file(database: Database, path: Path) -> None:
    """Move the dead letters at `path` into the state, and rename the file to `.imported`. Never raises.

    The file is renamed before, so that a run that is killed in between resumes with it. Lines that cannot be parsed
    stay in the renamed file.
    """
    importing, imported = (path.with_name(f"{path.name}.{each}") for each in ("importing", "imported"))
    try:
        if path.exists():
            if not path.is_file():  # to read a pipe may block
                raise OSError(errno.EINVAL, "not a regular file")  # noqa: TRY301
            path.rename(importing)
        elif not importing.is_file():
            return
        count, unreadable = _insert_lines(database, importing.read_bytes().splitlines())
        importing.rename(imported)
    except (OSError, InJumpCloudError) as error:
        log.warning("dead_letter.path: %s: cannot be moved into the state: %s", path, error)
        return
    log.info("%s: moved %d dead letters into the state; the file is now %s", path, count, imported)
    if unreadable:
        log.warning("%s: %d lines are no dead letters; they stay in this file", imported, unreadable)


def _insert_lines(database: Database, lines: list[bytes]) -> tuple[int, int]:
    """Insert the dead letter of each line. Returns how many there were, and how many lines cannot be parsed."""
    count = unreadable = 0
    with database.transaction() as transaction:
        for line in lines:
            if not line.strip() or line.startswith(_DELIVERED):
                continue
            try:
                fields = json.loads(line)
                event = fields["event"].encode(errors="surrogateescape")
                time_ns = parse_rfc3339(fields["time"]) or 0
                key = parse_event(event).key
                refused = Refused(key, fields["id"], fields["reason"], time_ns // 1_000_000, "", event)
                insert(transaction, fields["stream"], "dead", [refused])
                count += 1
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                unreadable += 1
    return count, unreadable
