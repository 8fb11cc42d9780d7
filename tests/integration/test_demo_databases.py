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


def test_up_to_date() -> None:
    """The databases contain what networks.yaml says."""
    done = run(GEOIP, "--check")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("broken", [b"", None])
def test_out_of_date(copy: Path, broken: bytes | None) -> None:
    """The check fails if the source has changed or a database is damaged; it writes nothing."""
    if broken is None:
        source = copy / "networks.yaml"
        source.write_text(source.read_text(encoding="utf-8").replace("Example Broadband", "Other"), "utf-8")
    else:
        (copy / "demo-asn.mmdb").write_bytes(broken)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    done = run(copy, "--check")
    assert done.returncode == 1
    assert "demo-city.mmdb: up to date" in done.stdout
    assert "demo-asn.mmdb: out of date" in done.stdout
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_same_bytes(copy: Path) -> None:
    """Two builds from the same source give the same bytes, and replace a damaged database."""
    builds = []
    for _ in range(2):
        (copy / "demo-city.mmdb").write_bytes(b"broken")
        assert run(copy).returncode == 0
        builds.append([(copy / name).read_bytes() for name in ("demo-city.mmdb", "demo-asn.mmdb")])
    assert builds[0] == builds[1]
    assert run(copy, "--check").returncode == 0


def test_overlap(copy: Path) -> None:
    """Networks that overlap are refused, because the order of lines would decide."""
    with (copy / "networks.yaml").open("a", encoding="utf-8") as source:
        source.write("  192.0.2.5/32: [london, 64496]\n")
    done = run(copy)
    assert done.returncode == 1
    assert "192.0.2.5/32 overlaps" in done.stderr


def test_types_of_values() -> None:
    """Coordinates have double precision; radii and AS numbers are integers: strict readers require this."""
    with maxminddb.open_database(CITY) as cities, maxminddb.open_database(ASN) as systems:
        points: list[Any] = [record["location"] for _, record in cities if "location" in record]
        numbers: list[Any] = [record["autonomous_system_number"] for _, record in systems]
    assert {type(point[name]) for point in points for name in ("latitude", "longitude")} == {float}
    assert {type(point["accuracy_radius"]) for point in points} == {int}
    assert {type(number) for number in numbers} == {int}
    assert set(numbers) <= set(range(64496, 64512))


def test_all_found() -> None:
    """Every network is in both databases, on six continents."""
    with maxminddb.open_database(CITY) as reader:
        texts = [str(network[0]) for network, _ in reader]
    geoip = GeoIPLookup(CITY, ASN)
    found = [geoip.lookup(text) for text in texts]
    assert len(found) >= 30
    assert all(address and address.geo and address.as_ for address in found)
    continents = {address.geo.get("continent_name") for address in found if address and address.geo}
    assert continents >= {"Africa", "Asia", "Europe", "North America", "Oceania", "South America"}
