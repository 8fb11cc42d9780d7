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
