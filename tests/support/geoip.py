"""What the tests of look-ups share: databases of their own, and a clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmdb_writer import MMDBWriter
from netaddr import IPSet

from in_jumpcloud.ecs.geoip import GeoIPLookup

GEOIP = Path(__file__).resolve().parents[2] / "geoip"
CITY, ASN = GEOIP / "demo-city.mmdb", GEOIP / "demo-asn.mmdb"


def build(path: Path, records: dict[str, Any], kind: str = "Test-City", *, version: int = 6) -> Path:
    """Write a database of network → record to `path`, by rename as geoipupdate does."""
    writer = MMDBWriter(ip_version=version, database_type=kind, ipv4_compatible=version == 6)
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    new = path.with_suffix(".new")
    writer.to_db_file(str(new))
    return new.replace(path)


def named(name: str) -> dict[str, Any]:
    """A record that holds nothing but a city's name."""
    return {"city": {"names": {"en": name}}}


def city(geoip: GeoIPLookup, text: str) -> str | None:
    """The city of an address that must be valid; None where nothing is known."""
    found = geoip.lookup(text)
    assert found is not None
    return found.geo["city_name"] if found.geo else None


class Clock:
    """A clock that moves when told to."""

    now = 100.0

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now
