"""Recognizes a write-ahead log (`-wal`) that is not of the database next to it.

A log stays when a process is killed, or when its database is deleted. SQLite replays whatever log it finds: with a copy
of the database that was put back, that makes a damaged file.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import sqlite3
import struct
from pathlib import Path

from in_jumpcloud.state.sqlite.files import path_errors, with_suffix

log = logging.getLogger(__name__)

# https://www.sqlite.org/fileformat2.html#walformat
_HEADER = struct.Struct(">8xI4x8s8x")
"""The size of a page, and the salt. Frames with another salt are left over from before, and not replayed."""
_FRAME = struct.Struct(">8x8s8x")
"""The salt. A page follows."""
_ID_CHARS = 32


def is_foreign(path: Path) -> bool:
    """Whether the log next to the database at `path` is of another database, or of a later time of this one.

    Each transaction writes its id and that of the one before. The log has all of them since its database was last
    complete, so it fits a database whose last one is among these, or is the one before the first of them.

    No process may have the database open.

    Raises:
        ConfigError, StateUnavailable: a file cannot be read.
    """
    with path_errors(path, "read"):
        log_path = with_suffix(path, "-wal")
        if not log_path.is_file() or log_path.stat().st_size < _HEADER.size:
            return False
        last = _last_commit(path)
        if last is None:
            return False
        with log_path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            page_size, salt = _HEADER.unpack_from(content)
            starts = range(_HEADER.size, len(content) - _FRAME.size, _FRAME.size + page_size)
            has_frames = False
            for start in starts:
                if _FRAME.unpack_from(content, start) != (salt,):
                    break
                has_frames = True
                if content.find(last, start, start + _FRAME.size + page_size) >= 0:
                    return False
            return has_frames


def set_aside(path: Path) -> None:
    """Rename the log next to the database at `path`, and warn.

    Raises:
        ConfigError, StateUnavailable: it cannot be renamed.
    """
    log_path = with_suffix(path, "-wal")
    with path_errors(path):
        unused = log_path.replace(with_suffix(log_path, ".unused"))
    log.warning(
        "%s: this log is of another copy of the state, so it is now %s and is not used: what was delivered since this "
        "copy was made may be delivered again",
        *(log_path, unused.name),
    )


def _last_commit(path: Path) -> bytes | None:
    """The id of the last transaction that the file has without its log.

    None without tables, with those of version 4, or in the middle of a checkpoint, which only its own log completes.
    """
    try:
        # "immutable" keeps SQLite from looking at the log.
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as database:
            (found,) = database.execute("SELECT id FROM last_commit").fetchone()
    except (sqlite3.Error, UnicodeDecodeError, TypeError):  # damaged; TypeError: no row
        return None
    return found.encode() if isinstance(found, str) and len(found) == _ID_CHARS else None
