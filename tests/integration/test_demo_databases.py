"""The files in geoip/ and the script that makes them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import maxminddb
import pytest
from support.geoip import ASN, CITY, GEOIP

from in_jumpcloud.ecs.geoip import GeoIPLookup


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the build script in `folder`, with warnings as errors."""
    command = [sys.executable, "-W", "error", str(folder / "build.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of geoip/ that the test may change."""
    return Path(shutil.copytree(GEOIP, tmp_path / "geoip"))


def test_up_to_date(copy: Path) -> None:
    """The databases contain what networks.yaml says. The check fails if one does not, and writes nothing."""
    done = run(GEOIP, "--check")
    assert (done.returncode, done.stderr) == (0, "")

    source = copy / "networks.yaml"
    changed = source.read_text(encoding="utf-8").replace("Example Broadband", "Other")
    for path, content in ((copy / "demo-asn.mmdb", b""), (source, changed.encode())):
        whole = path.read_bytes()
        path.write_bytes(content)
        before = {path.name: path.read_bytes() for path in copy.iterdir()}
        done = run(copy, "--check")
        assert done.returncode == 1
        assert "demo-city.mmdb: up to date" in done.stdout
        assert "demo-asn.mmdb: out of date" in done.stdout
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
        path.write_bytes(whole)

    for name in ("demo-city.mmdb", "demo-asn.mmdb"):  # a build replaces damaged databases by the same bytes
        (copy / name).write_bytes(b"broken")
    assert run(copy).returncode == 0
    assert [(copy / name).read_bytes() for name in (CITY.name, ASN.name)] == [CITY.read_bytes(), ASN.read_bytes()]


def test_overlap(copy: Path) -> None:
    """Networks that overlap are refused, because the order of lines would decide."""
    with (copy / "networks.yaml").open("a", encoding="utf-8") as source:
        source.write("  192.0.2.5/32: [london, 64496]\n")
    done = run(copy)
    assert done.returncode == 1
    assert "192.0.2.5/32 overlaps" in done.stderr


def test_contents() -> None:
    """Every network is in both databases, on six continents. Coordinates are floats; radii and AS numbers integers."""
    with maxminddb.open_database(CITY) as cities, maxminddb.open_database(ASN) as systems:
        texts = [str(network[0]) for network, _ in cities]
        points: list[Any] = [record["location"] for _, record in cities if "location" in record]
        numbers: list[Any] = [record["autonomous_system_number"] for _, record in systems]
    assert {type(point[name]) for point in points for name in ("latitude", "longitude")} == {float}
    assert {type(each) for each in (*numbers, *(point["accuracy_radius"] for point in points))} == {int}
    assert set(numbers) <= set(range(64496, 64512))
    geoip = GeoIPLookup(CITY, ASN)
    found = [geoip.lookup(text) for text in texts]
    assert len(found) >= 30
    assert all(address and address.geo and address.as_ for address in found)
    continents = {address.geo.get("continent_name") for address in found if address and address.geo}
    assert continents >= {"Africa", "Asia", "Europe", "North America", "Oceania", "South America"}
