"""Finds the databases that geoipupdate and distributions install."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import maxminddb

from in_jumpcloud.ecs.geoip_account import DEFAULT_DIRECTORY

DIRECTORIES = (DEFAULT_DIRECTORY, Path("/usr/share/GeoIP"))
"""Where they are."""
_NAMES = {
    "geoip.city": ("GeoIP2-Enterprise", "GeoIP2-City", "GeoLite2-City", "GeoIP2-Country", "GeoLite2-Country"),
    "geoip.asn": ("GeoIP2-ISP", "GeoLite2-ASN"),
}
"""Their names by the setting that uses one, the best first."""


def find_database(setting: str, directories: Sequence[Path] = DIRECTORIES) -> Path | None:
    """The best database for `geoip.city` or `geoip.asn` that can be opened."""
    candidates = (directory / f"{name}.mmdb" for name in _NAMES[setting] for directory in directories)
    return next(filter(_is_database, candidates), None)


def _is_database(path: Path) -> bool:
    try:
        maxminddb.open_database(path).close()
    except (OSError, ValueError, maxminddb.InvalidDatabaseError):
        return False
    return True
