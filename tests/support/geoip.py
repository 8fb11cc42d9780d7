"""For tests of address lookups: databases written by the test, and a clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmdb_writer import MMDBWriter, TreeWriter
from netaddr import IPSet

from in_jumpcloud.ecs.geoip import GeoIPLookup

GEOIP = Path(__file__).resolve().parents[2] / "geoip"
CITY, ASN = GEOIP / "demo-city.mmdb", GEOIP / "demo-asn.mmdb"


def build(
    path: Path, records: dict[str, Any], kind: str = "Test-City", *, version: int = 6, built: float | None = None
) -> Path:
    """Write a database of network → record to `path`, built at `built` or now; by rename, like geoipupdate."""
    writer = MMDBWriter(ip_version=version, database_type=kind, ipv4_compatible=version == 6)
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    new = path.with_suffix(".new")
    metadata = writer._build_meta()
    TreeWriter(writer.tree, metadata | ({"build_epoch": int(built)} if built else {})).write(str(new))
    return new.replace(path)


def named(name: str) -> dict[str, Any]:
    """A record with a city's name only."""
    return {"city": {"names": {"en": name}}}


def city(geoip: GeoIPLookup, text: str) -> str | None:
    """The city of a valid address; None if nothing is known."""
    result = geoip.lookup(text)
    assert result is not None
    return result.geo["city_name"] if result.geo else None


class Clock:
    """A clock that only the test moves."""

    now = 100.0

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now
