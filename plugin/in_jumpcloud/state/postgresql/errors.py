"""What the errors of psycopg mean, by their SQLSTATE."""

from __future__ import annotations

import psycopg

from in_jumpcloud.errors import ConfigError, InJumpCloudError, Problem, StateCorrupt, StateUnavailable

_UNAVAILABLE_ADVICE = {
    "25006": "it is a read-only replica; name the primary, or add target_session_attrs=read-write to state.url",
    "42501": "let its user create tables in the schema, or use those that are there",
    "53100": "free space on the disk of the server",
    "53300": "raise max_connections of the server, or use a pooler",
    "55P03": "another statement holds a lock; it is tried again",
}
"""https://www.postgresql.org/docs/current/errcodes-appendix.html"""
_CONFIGURATION = {"42501", "3D000"}
"""What only a person changes. It may pass once the state is in use: then it was right before."""
_CORRUPT = ("3F", "42", "XX001", "XX002")
"""Missing schemas, tables and columns, and damage."""


def one_line(error: BaseException) -> str:
    """The text of an error, which may have several lines."""
    return " ".join(str(error).split())


def translated(error: psycopg.Error, where: str, *, at_start: bool = False) -> InJumpCloudError:
    """StateCorrupt for damage, ConfigError at the start for what only a person changes, else StateUnavailable.

    An error of the connection has no code, so it may always pass.
    """
    code = error.sqlstate or ""
    text = f"{where}: {one_line(error) or 'the connection was closed'}"
    advice = _UNAVAILABLE_ADVICE.get(code, "")
    if at_start and code in _CONFIGURATION:
        return ConfigError(Problem("state.url", text), advice=advice)
    if code.startswith(_CORRUPT) and code not in _CONFIGURATION:
        return StateCorrupt(text, advice="restore its tables, or set another state.schema")
    return StateUnavailable(text, advice=advice)
