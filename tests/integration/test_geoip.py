"""Look-ups of addresses in real database files: made here by mmdb_writer, and the demo ones."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import maxminddb
import pytest
from support.geoip import ASN, CITY, Clock, build, city, named

from in_jumpcloud.ecs.geoip import GeoIPLookup, GeoResult
from in_jumpcloud.errors import ConfigError

NOTHING = GeoResult(None, None)
LONDON = {
    "city_name": "London",
    "continent_name": "Europe",
    "country_iso_code": "GB",
    "country_name": "United Kingdom",
    "location": {"lat": 51.5142, "lon": -0.0931},
    "region_iso_code": "GB-ENG",
    "region_name": "England",
}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What look-ups log, from INFO up."""
    caplog.set_level(logging.INFO, logger="in_jumpcloud.geoip")
    return caplog


@pytest.fixture(scope="module")
def anywhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that knows every address, local ones too."""
    # The writer takes a network into one that is there already, so IPv4, which lies at ::/96, comes last.
    records = {"8000::/1": named("Six"), "::/1": named("Six"), "0.0.0.0/1": named("Four"), "128.0.0.0/1": named("Four")}
    return build(tmp_path_factory.mktemp("any") / "any.mmdb", records)


class TestAnswers:
    """What is said about an address."""

    def test_seed(self) -> None:
        """The address of the documented example event gets exactly the geo of that event, key order included."""
        found = GeoIPLookup(CITY, ASN).lookup("81.2.69.144")
        assert found is not None
        assert json.dumps(found.geo) == json.dumps(LONDON)
        assert found.as_ == {"number": 64496, "organization": {"name": "Example Broadband Ltd"}}

    def test_extended(self) -> None:
        """On request geo also has continent code, postal code and time zone, after the documented fields."""
        found = GeoIPLookup(CITY, None, extended=True).lookup("81.2.69.144")
        assert found is not None
        more = {"continent_code": "EU", "postal_code": "EC2V", "timezone": "Europe/London"}
        assert json.dumps(found.geo) == json.dumps(LONDON | more)

    def test_last_subdivision(self) -> None:
        """Of several subdivisions the last, narrowest one is the region."""
        found = GeoIPLookup(CITY, None).lookup("2.125.160.216")
        assert found is not None
        assert found.geo is not None
        assert (found.geo["region_iso_code"], found.geo["region_name"]) == ("GB-WBK", "West Berkshire")

    @pytest.mark.parametrize(
        ("text", "geo"),
        [
            ("192.0.2.200", {"continent_name": "Oceania", "country_iso_code": "NZ", "country_name": "New Zealand"}),
            ("192.0.2.230", {"location": {"lat": -48.8767, "lon": -123.3933}}),
        ],
        ids=["country only", "point only"],
    )
    def test_absent_parts(self, text: str, geo: dict[str, Any]) -> None:
        """What a record does not hold is left out."""
        assert GeoIPLookup(CITY, None).lookup(text) == GeoResult(geo, None)

    def test_country_database(self, tmp_path: Path) -> None:
        """A Country database serves for geo."""
        record = {"continent": {"names": {"en": "Europe"}}, "country": {"iso_code": "SE", "names": {"en": "Sweden"}}}
        path = build(tmp_path / "c.mmdb", {"192.0.2.0/24": record}, "GeoLite2-Country")
        geo = {"continent_name": "Europe", "country_iso_code": "SE", "country_name": "Sweden"}
        assert GeoIPLookup(path, None).lookup("192.0.2.1") == GeoResult(geo, None)

    @pytest.mark.parametrize("kind", ["GeoIP2-Enterprise", "DBIP-City-Lite", "GeoIP2-City"])
    def test_types_for_city(self, tmp_path: Path, kind: str) -> None:
        """City databases of other publishers and editions are taken."""
        path = build(tmp_path / "c.mmdb", {"192.0.2.0/24": named("X")}, kind)
        assert city(GeoIPLookup(path, None), "192.0.2.1") == "X"

    @pytest.mark.parametrize("kind", ["GeoIP2-ISP", "DBIP-ASN-Lite (compat=GeoLite2-ASN)"])
    def test_types_for_asn(self, tmp_path: Path, kind: str) -> None:
        """An ISP database serves for the autonomous system, and so does another publisher's."""
        path = build(tmp_path / "a.mmdb", {"192.0.2.0/24": {"autonomous_system_number": 64500}}, kind)
        assert GeoIPLookup(None, path).lookup("192.0.2.1") == GeoResult(None, {"number": 64500})

    def test_system_name_only(self, tmp_path: Path) -> None:
        """A record without a number still gives the organization."""
        path = build(tmp_path / "a.mmdb", {"192.0.2.0/24": {"autonomous_system_organization": "X"}}, "ASN")
        assert GeoIPLookup(None, path).lookup("192.0.2.1") == GeoResult(None, {"organization": {"name": "X"}})

    def test_unknown_address(self) -> None:
        """An address that no database holds is valid and has nothing."""
        assert GeoIPLookup(CITY, ASN).lookup("8.8.8.8") == NOTHING

    def test_no_databases(self) -> None:
        """With both databases off, validity is still told."""
        geoip = GeoIPLookup(None, None)
        assert geoip.lookup("81.2.69.144") == NOTHING
        assert geoip.lookup("nonsense") is None

    def test_closed(self) -> None:
        """After close nothing is found, not even what was known before, and nothing is raised."""
        geoip = GeoIPLookup(CITY, None, check_every=0)
        assert city(geoip, "81.2.69.144") == "London"
        geoip.close()
        assert geoip.lookup("81.2.69.144") == NOTHING


class TestText:
    """What counts as an address."""

    @pytest.mark.parametrize(
        "text",
        [
            *("", "nonsense", "192.0.2", "192.0.2.256", "192.0.02.1", "192.0.2.1 ", "192.0.2.1:443", "192.0.2.0/24"),
            *("[2001:db8::1]", "2001:db8::1%eth0", "fe80::1%1", "2001:db8::g", "\u0661.2.3.4", "\ud800", "1" * 10**6),
        ],
    )
    def test_invalid(self, anywhere: Path, text: str) -> None:
        """What is no plain address, one with a scope id included, is told apart: None, the second time too."""
        geoip = GeoIPLookup(anywhere, None)
        assert geoip.lookup(text) is None
        assert geoip.lookup(text) is None

    @pytest.mark.parametrize("value", [None, 0, 3232235777, b"\xc0\x00\x02\x01", ["192.0.2.1"], {}, math.nan])
    def test_not_text(self, anywhere: Path, value: Any) -> None:
        """Other values than text are no addresses, and nothing is raised."""
        assert GeoIPLookup(anywhere, None).lookup(value) is None

    @pytest.mark.parametrize(
        "text",
        [
            *("10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255"),
            *("127.0.0.1", "127.255.255.255", "169.254.0.0", "169.254.255.255", "0.0.0.0", "::", "::1"),  # noqa: S104
            *("fc00::", "fdff:ffff::1", "fe80::", "febf:ffff::1", "::ffff:10.1.2.3", "::ffff:127.0.0.1"),
        ],
    )
    def test_local(self, anywhere: Path, text: str) -> None:
        """Private, loopback, link-local and unspecified addresses are valid but not looked up."""
        assert GeoIPLookup(anywhere, None).lookup(text) == NOTHING

    @pytest.mark.parametrize(
        "text",
        [
            *("9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0"),
            *("128.0.0.0", "169.253.255.255", "169.255.0.0", "0.0.0.1", "192.0.2.1", "100.64.0.1"),
            *("fbff::1", "fe00::1", "fe7f::1", "fec0::1", "2001:db8::1"),
        ],
    )
    def test_not_local(self, anywhere: Path, text: str) -> None:
        """Addresses just outside of those ranges are looked up, and documentation networks too."""
        assert city(GeoIPLookup(anywhere, None), text) == ("Six" if ":" in text else "Four")

    @pytest.mark.parametrize("text", ["::ffff:81.2.69.144", "::FFFF:5102:4590", f"{'0000:' * 5}ffff:81.2.69.144"])
    def test_mapped(self, text: str) -> None:
        """An IPv4-mapped IPv6 address is looked up as IPv4, however it is written."""
        assert city(GeoIPLookup(CITY, None), text) == "London"

    def test_longest(self, anywhere: Path) -> None:
        """The longest text that is an address, 45 characters, is looked up."""
        text = f"{'0000:' * 5}ffff:198.168.100.100"
        assert len(text) == 45
        assert city(GeoIPLookup(anywhere, None), text) == "Four"

    def test_ipv6(self) -> None:
        """IPv6 addresses are found, however they are written."""
        geoip = GeoIPLookup(CITY, None)
        assert city(geoip, "2001:db8:4000::1") == city(geoip, "2001:0DB8:4000:0000:0000:0000:0000:0001") == "Tokyo"

    def test_ipv4_only(self, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
        """In a database of IPv4 alone, IPv6 is a miss without a warning, and IPv4-mapped is found."""
        geoip = GeoIPLookup(build(tmp_path / "4.mmdb", {"192.0.2.0/24": named("Four")}, version=4), None)
        assert geoip.lookup("2001:db8::1") == NOTHING
        assert city(geoip, "192.0.2.1") == city(geoip, "::ffff:192.0.2.1") == "Four"
        assert not log.records


class TestOddRecords:
    """Databases that do not hold what they should."""

    @pytest.mark.parametrize(
        "record",
        [
            "text",
            [1, 2],
            {"city": "London", "country": 7, "continent": [], "location": "here", "subdivisions": {"a": 1}},
            {"city": {"names": "London"}, "country": {"iso_code": 44, "names": {"en": 1}}, "subdivisions": ["ENG"]},
            {"city": {"names": {"de": "Wien"}}, "country": {"iso_code": ""}, "subdivisions": [{"iso_code": "ENG"}]},
            {"location": {"latitude": "51.5", "longitude": "-0.09"}},
            {"location": {"latitude": 51.5}},
            {"location": {"latitude": True, "longitude": 1.5}},
            {"location": {"latitude": math.nan, "longitude": 1.5}},
            {"location": {"latitude": 1.5, "longitude": math.inf}},
            {"location": {"latitude": 90.5, "longitude": 1.5}},
            {"location": {"latitude": 1.5, "longitude": -180.5}},
        ],
    )
    def test_unusable(self, tmp_path: Path, record: Any) -> None:
        """Values of unexpected types, and points that are not on the globe, are left out; nothing is raised."""
        geoip = GeoIPLookup(build(tmp_path / "odd.mmdb", {"192.0.2.0/24": record}), None, extended=True)
        assert geoip.lookup("192.0.2.1") == NOTHING

    def test_sound_part(self, tmp_path: Path) -> None:
        """One odd part does not cost the others; a region without a country has a name but no code."""
        record = named("Oslo") | {"country": "Norway", "subdivisions": [{"iso_code": "03", "names": {"en": "Oslo"}}]}
        geoip = GeoIPLookup(build(tmp_path / "odd.mmdb", {"192.0.2.0/24": record}), None)
        assert geoip.lookup("192.0.2.1") == GeoResult({"city_name": "Oslo", "region_name": "Oslo"}, None)

    def test_whole_degrees(self, tmp_path: Path) -> None:
        """A position given in whole degrees becomes floats, up to the poles and the date line."""
        record = {"location": {"latitude": -90, "longitude": 180}}
        found = GeoIPLookup(build(tmp_path / "odd.mmdb", {"192.0.2.0/24": record}), None).lookup("192.0.2.1")
        assert repr(found) == "GeoResult(geo={'location': {'lat': -90.0, 'lon': 180.0}}, as_=None)"

    @pytest.mark.parametrize("number", ["64500", True, 64500.5, 2**32, -1])
    def test_system(self, tmp_path: Path, number: Any) -> None:
        """What is no AS number is left out."""
        record = {"autonomous_system_number": number, "autonomous_system_organization": ["X"]}
        geoip = GeoIPLookup(None, build(tmp_path / "odd.mmdb", {"192.0.2.0/24": record}, "ASN"))
        assert geoip.lookup("192.0.2.1") == NOTHING

    def test_corrupt(self, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
        """A database that is damaged inside gives misses, and one warning a minute that says so."""
        path = build(tmp_path / "c.mmdb", {"192.0.2.0/24": named("Somewhere long enough")})
        whole = path.read_bytes()
        start, end = whole.index(b"\0" * 16) + 16, whole.rindex(b"\xab\xcd\xefMaxMind.com")
        path.write_bytes(whole[:start] + b"\xff" * (end - start) + whole[end:])
        clock = Clock()
        geoip = GeoIPLookup(path, None, clock=clock)
        assert [geoip.lookup(f"192.0.2.{last}") for last in range(3)] == [NOTHING] * 3
        assert [record.levelname for record in log.records] == ["WARNING"]
        assert f"geoip.city: {path} is damaged" in log.messages[0]
        clock.now += 61
        assert geoip.lookup("192.0.2.9") == NOTHING
        assert len(log.records) == 2


class TestConstruction:
    """Databases that cannot be used from the start."""

    @staticmethod
    def refusal(city: Path | None, asn: Path | None) -> str:
        """The message of the ConfigError that this raises, which has to be one line."""
        with pytest.raises(ConfigError) as caught:
            GeoIPLookup(city, asn)
        message = str(caught.value)
        assert "\n" not in message
        assert "geoip/README.md" in message
        return message

    @pytest.mark.parametrize("setting", ["geoip.city", "geoip.asn"])
    def test_missing(self, tmp_path: Path, setting: str) -> None:
        """A missing file is named with its setting, and the message says how to go on without it."""
        path = tmp_path / "none.mmdb"
        message = self.refusal(path, None) if setting == "geoip.city" else self.refusal(None, path)
        assert message.startswith(f"{setting}: {path}: there is no such file; ")
        assert f"set {setting} to null" in message

    def test_directory(self, tmp_path: Path) -> None:
        """A directory is not taken for a database."""
        assert "there is no such file" in self.refusal(tmp_path, None)

    def test_unreadable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that this process may not read is told apart from a broken one."""
        path = build(tmp_path / "c.mmdb", {"192.0.2.0/24": named("X")})

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(maxminddb, "open_database", refuse)
        assert "it cannot be read (Permission denied)" in self.refusal(path, None)

    @pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
    def test_truncated(self, tmp_path: Path, keep: float) -> None:
        """A file that was cut off, even at its last bytes, is refused."""
        whole = CITY.read_bytes()
        path = tmp_path / "cut.mmdb"
        path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
        assert "it is not a MaxMind database, or it is cut off" in self.refusal(path, None)

    def test_not_a_database(self, tmp_path: Path) -> None:
        """A file of something else is refused."""
        path = tmp_path / "page.mmdb"
        path.write_text("<html>Too many requests</html>")
        assert "it is not a MaxMind database" in self.refusal(None, path)

    @pytest.mark.parametrize("kind", ["GeoLite2-ASN", "GeoIP2-Anonymous-IP", "ipinfo generic_country_free.mmdb"])
    def test_wrong_type_for_city(self, tmp_path: Path, kind: str) -> None:
        """A database of another type than City or Country is refused, with its type and those that would do."""
        message = self.refusal(build(tmp_path / "x.mmdb", {"192.0.2.0/24": named("X")}, kind), None)
        assert f"it is a database of type {kind!r}, and one of type City or Country or Enterprise is needed" in message

    def test_wrong_type_for_asn(self) -> None:
        """A City database does not serve for autonomous systems."""
        message = self.refusal(None, CITY)
        assert "type 'in_jumpcloud-Demo-City', and one of type ASN or ISP is needed" in message


class TestExtension:
    """maxminddb with and without its C half."""

    SCRIPT = """
import logging, pathlib, sys
if sys.argv[2] == "hidden":
    sys.modules["maxminddb.extension"] = None
from in_jumpcloud.ecs.geoip import GeoIPLookup
logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
for _ in range(2):
    print(GeoIPLookup(pathlib.Path(sys.argv[1]), None).lookup("81.2.69.144").geo["city_name"])
"""

    @pytest.mark.parametrize("how", ["hidden", "present"])
    def test_warning(self, how: str) -> None:
        """Without the C extension look-ups work and one warning per process says they are slow; with it, none."""
        if how == "present":
            pytest.importorskip("maxminddb.extension", exc_type=ImportError)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", self.SCRIPT, str(CITY), how],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stdout.split() == ["London", "London"]
        warnings = done.stderr.count("WARNING in_jumpcloud.geoip maxminddb lacks its C extension")
        assert warnings == (1 if how == "hidden" else 0)
