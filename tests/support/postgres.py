"""The PostgreSQL server of tests."""

from __future__ import annotations

from in_jumpcloud.config.schema import StateSettings
from in_jumpcloud.config.types import DatabaseUrl
from in_jumpcloud.simulator.postgresql import Server, programs, started

__all__ = ["Server", "programs", "started"]

URL_VARIABLE = "POSTGRES_URL"
"""The URL of a server to use in place of our own, as a user who may create schemas."""


def state_settings(url: str, schema: str = "in_jumpcloud") -> StateSettings:
    """The settings of a state there."""
    return StateSettings(url=DatabaseUrl(url), schema=schema)


def state_options(url: str, schema: str) -> dict[str, object]:
    """The same, for Command.settings."""
    return {"state__path": None, "state__url": url, "state__schema": schema}


def to_version_1(schema: str) -> tuple[str, ...]:
    """The statements that make the tables of a schema those of version 1."""
    return (
        f'DROP TABLE IF EXISTS "{schema}".budget',
        f'ALTER TABLE "{schema}".rate_limit RENAME TO budget',
        f'ALTER TABLE "{schema}".member DROP COLUMN streams',
        f'DROP TABLE "{schema}".organization',
        f'UPDATE "{schema}".identity SET version = 1, reads_from = 1',  # noqa: S608 - our own
    )
