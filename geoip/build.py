"""Build demo-city.mmdb and demo-asn.mmdb from networks.yaml, in this directory.

The same source gives the same bytes at any time. `--check` writes nothing and exits with code 1 if a database differs
from the source.
"""

from __future__ import annotations

import argparse
import calendar
import sys
import tempfile
from pathlib import Path
from typing import Any

import maxminddb
import yaml
from mmdb_writer import MMDBWriter, TreeWriter
from netaddr import IPSet

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Build, or check. The exit code is 1 if a database is out of date."""
    parser = argparse.ArgumentParser(description="Build the demo databases from networks.yaml.")
    parser.add_argument("--check", action="store_true", help="write nothing; report whether they are up to date")
    check = parser.parse_args().check
    source = yaml.safe_load((HERE / "networks.yaml").read_text(encoding="utf-8"))
    code = 0
    for name, kind, description, records in (
        ("demo-city.mmdb", "in_jumpcloud-Demo-City", "Demo of cities, for trials and tests only", cities(source)),
        ("demo-asn.mmdb", "in_jumpcloud-Demo-ASN", "Demo of networks, for trials and tests only", systems(source)),
    ):
        path = HERE / name
        # In the same directory, so that it can be renamed: a reader may have the old file mapped.
        with tempfile.TemporaryDirectory(dir=None if check else HERE) as folder:
            new = Path(folder) / name
            write(new, kind, description, calendar.timegm(source["built"].timetuple()), records)
            if not check:
                new.replace(path)
                print(f"{name}: {len(records)} networks, {path.stat().st_size} bytes")
            elif content(path) == content(new):
                print(f"{name}: up to date")
            else:
                print(f"{name}: out of date, run python geoip/build.py")
                code = 1
    return code


def write(path: Path, kind: str, description: str, built: int, records: dict[str, dict[str, Any]]) -> None:
    """Write a database of `records` (network → record) with type `kind`, built at `built` epoch seconds.

    Raises:
        ValueError: two networks overlap.
    """
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True)
    networks = IPSet()
    for network, record in records.items():
        addresses = IPSet([network])
        if not networks.isdisjoint(addresses):
            raise ValueError(f"{network} overlaps a network listed before it")
        networks.update(addresses)
        writer.insert_network(addresses, record)
    # Write the tree with our metadata: MMDBWriter always uses the current time.
    metadata = {
        "binary_format_major_version": 2,
        "binary_format_minor_version": 0,
        "build_epoch": built,
        "database_type": kind,
        "description": {"en": description},
        "ip_version": 6,
        "languages": ["en"],
    }
    TreeWriter(writer.tree, metadata).write(str(path))


def content(path: Path) -> tuple[object, ...]:
    """The contents of a database, which do not depend on the version of the writer; empty if it cannot be read."""
    try:
        reader = maxminddb.open_database(path)
    except (OSError, maxminddb.InvalidDatabaseError):
        return ()
    with reader:
        meta = reader.metadata()
        head = (meta.database_type, meta.build_epoch, meta.ip_version, meta.description, meta.languages)
        return (*head, *((str(network), repr(record)) for network, record in reader))


def cities(source: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Network → record in the shape of MaxMind's City databases."""
    places = {name: city(place, source) for name, place in source["places"].items()}
    return {network: places[place] for network, (place, _) in source["networks"].items()}


def systems(source: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Network → record in the shape of MaxMind's ASN databases."""
    return {
        network: {"autonomous_system_number": number, "autonomous_system_organization": source["systems"][number]}
        for network, (_, number) in source["networks"].items()
    }


def city(place: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
    """The City record of one of `source["places"]`; parts that the place does not have are absent."""
    record: dict[str, Any] = {}
    if "city" in place:
        record["city"] = {"names": {"en": place["city"]}}
    if "country" in place:
        continent, name = source["countries"][place["country"]]
        record["continent"] = {"code": continent, "names": {"en": source["continents"][continent]}}
        record["country"] = {"iso_code": place["country"], "names": {"en": name}}
    if "at" in place:
        latitude, longitude = map(float, place["at"])
        record["location"] = {"accuracy_radius": place["radius"], "latitude": latitude, "longitude": longitude}
        if "zone" in place:
            record["location"]["time_zone"] = place["zone"]
    if "postal" in place:
        record["postal"] = {"code": place["postal"]}
    if "regions" in place:
        record["subdivisions"] = [{"iso_code": code, "names": {"en": name}} for code, name in place["regions"].items()]
    return record


if __name__ == "__main__":
    sys.exit(main())
