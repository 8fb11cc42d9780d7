"""What the errors of psycopg mean, by their SQLSTATE."""

from __future__ import annotations

import psycopg

from in_jumpcloud.errors import ConfigError, InJumpCloudError, Problem, StateCorrupt, StateUnavailable

RIGHTS_ADVICE = "let its user create the schema, or make it the owner of the schema and of its tables"
_UNAVAILABLE_ADVICE = {
    "25006": "it is a read-only replica; name the primary, or add target_session_attrs=read-write to state.url",
    "42501": RIGHTS_ADVICE,
    "53100": "free space on the disk of the server",
    "53300": "raise max_connections of the server, or use a pooler",
    "55P03": "another statement holds a lock; it is tried again",
}
"""https://www.postgresql.org/docs/current/errcodes-appendix.html"""
_CONFIGURATION = {"42501", "3D000"}
"""What only a person changes. It may pass once the state is in use: then it was right before."""
_ANY = b"any"
"""https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-TARGET-SESSION-ATTRS"""
_CORRUPT = ("3F", "42", "XX001", "XX002")
"""Missing schemas, tables and columns, and damage."""


class NotConnected(psycopg.OperationalError):
    """There is no connection: no server was reached, or the one that was refuses it."""


def one_line(error: psycopg.Error) -> str:
    """What the server says, without the statement; of an error that is not the server's, its text."""
    return " ".join((error.diag.message_primary or str(error)).split())


def translated(error: psycopg.Error, where: str, *, at_start: bool = False) -> InJumpCloudError:
    """StateCorrupt for damage, ConfigError at the start for what only a person changes, else StateUnavailable.

    An error of the connection has no code, so it may always pass, and only its text says what it is.
    """
    code = error.sqlstate or ""
    text = f"{where}: {one_line(error) or 'the connection was closed'}"
    advice = _UNAVAILABLE_ADVICE.get(code, _connection_advice(error) if isinstance(error, NotConnected) else "")
    if at_start and code in _CONFIGURATION:
        return ConfigError(Problem("state.url", text), advice=advice)
    if code.startswith(_CORRUPT) and code not in _CONFIGURATION:
        return StateCorrupt(text, advice="restore its tables, or set another state.schema")
    return StateUnavailable(text, advice=advice)


def _connection_advice(error: psycopg.Error) -> str:
    """By how far it came: https://www.postgresql.org/docs/current/libpq-status.html#LIBPQ-PQCONNECTIONUSEDPASSWORD."""
    connection = error.pgconn
    given = {option.keyword: option.val for option in connection.info} if connection else {}
    wanted = given.get(b"target_session_attrs") or _ANY
    if wanted != _ANY:  # libpq itself refuses a server that is not so
        return f"check state.url, and that a server runs that is as its target_session_attrs={wanted.decode()} asks"
    if connection and (connection.used_password or connection.needs_password):
        what = "the user, the password and the database in state.url, state.password"
        return f"check {what}, and how many connections the server allows"
    return "check state.url, and that the server runs and takes more connections from here"
